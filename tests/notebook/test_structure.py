"""What can be seen from the notebook's file alone: that it was executed, and that it reads well."""

import ast
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from slm.exercises import EXERCISES

NOTEBOOK = Path(__file__).parents[2] / "Small_Language_Model.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
TEXT = [cell for cell in CELLS if cell["cell_type"] == "markdown"]
MARKERS = re.compile(
    r"At the end|Part|Predict|Change|Check|In your head|How to use|Shift|Notice|a loss that"
)
MACHINE_PATHS = re.compile(r"/(?:tmp|home|root|work|Users|usr|opt)/|[A-Z]:\\\\|site-packages")


def source(cell):
    return "".join(cell["source"])


def tree(cell):
    """A cell's Python, with %pip and its like made into calls."""
    return ast.parse(TransformerManager().transform_cell(source(cell)))


def text_outputs(cell):
    """All text that a cell printed or showed."""
    for output in cell["outputs"]:
        yield "".join(output.get("text", ""))
        yield "".join(output.get("data", {}).get("text/plain", ""))


def pictures(cell):
    return [output for output in cell["outputs"] if "image/png" in output.get("data", {})]


def paragraphs():
    """The running text of all text cells: no tables, lists, code or formulas."""
    for cell in TEXT:
        text = re.sub(r"```.*?```", "", source(cell), flags=re.DOTALL)
        text = re.sub(r"</?(?:details|summary)>", "\n\n", text)
        for paragraph in re.split(r"\n\s*\n", text):
            if (
                paragraph.strip()
                and paragraph.lstrip()[0] not in "|#-["
                and "\n1. " not in paragraph
            ):
                yield paragraph


def test_every_code_cell_was_executed_in_order():
    counts = [cell["execution_count"] for cell in CODE]
    assert counts == list(range(1, len(CODE) + 1))


def test_no_cell_failed():
    kinds = [output["output_type"] for cell in CODE for output in cell["outputs"]]
    assert "error" not in kinds


def test_nothing_tells_on_whose_machine_it_ran():
    for cell in CODE:
        for text in text_outputs(cell):
            assert not MACHINE_PATHS.search(text), (cell["id"], text)
            assert "Warning" not in text, (cell["id"], text)


def test_the_package_is_used_by_its_public_doors():
    allowed = re.compile(r"^(?:import slm|from slm(?:\.[a-z_]+)? import .*)$")
    for cell in CODE:
        for line in source(cell).splitlines():
            if re.match(r"(?:import|from) slm", line):
                assert allowed.match(line), (cell["id"], line)


def test_there_are_at_least_25_pictures_each_with_a_text_for_those_who_cannot_see_it():
    shown = [picture for cell in CODE for picture in pictures(cell)]
    assert len(shown) >= 25
    for picture in shown:
        assert len(picture["metadata"]["image/png"]["alt"]) > 20


def test_cells_are_short():
    lengths = [len(source(cell).splitlines()) for cell in CODE]
    assert statistics.median(lengths) <= 9
    assert max(lengths) <= 60


def test_the_whole_model_by_hand_has_at_most_60_lines():
    (whole,) = [cell for cell in CODE if "class HandMade" in source(cell)]
    lines = source(whole).splitlines()
    assert len(lines) <= 60


@pytest.mark.parametrize("paragraph", list(paragraphs()), ids=lambda text: text.strip()[:30])
def test_paragraphs_have_fewer_than_60_words(paragraph):
    assert len(paragraph.split()) < 60


def test_lines_of_text_are_not_broken_in_the_middle_of_sentences():
    for paragraph in paragraphs():
        assert len(paragraph.strip().splitlines()) == 1, paragraph


def test_every_term_is_in_the_glossary():
    (glossary,) = [source(cell) for cell in TEXT if source(cell).startswith("# Glossary")]
    rest = [
        source(cell) for cell in TEXT if not source(cell).startswith(("# G", "# For", "# What"))
    ]
    known = {term.lower() for term in re.findall(r"\*\*(.+?)\*\*", glossary)}
    for text in rest:
        for term in re.findall(r"\*\*(.+?)\*\*", text):
            if MARKERS.search(term) or term.strip(".: ") == "":
                continue
            plain = term.lower().strip(".:")
            variants = {plain, plain.removesuffix("s"), plain.removesuffix("es")}
            assert variants & known, f"{term!r} is not in the glossary"


def assigned(statement):
    """Names that a statement gives a meaning to, loops left out."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(name.asname or name.name).split(".")[0] for name in statement.names}
    if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        nodes = [node for target in targets for node in ast.walk(target)]
        return {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    found = set()
    for part in ("body", "orelse", "finalbody"):
        for inner in getattr(statement, part, []):
            found |= assigned(inner)
    for item in getattr(statement, "items", []):
        if isinstance(item.optional_vars, ast.Name):
            found.add(item.optional_vars.id)
    return found


def looped(statement):
    """Names of the variables of loops outside functions."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return set()
    found = set()
    if isinstance(statement, ast.For):
        found |= {node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name)}
    for part in ("body", "orelse"):
        for inner in getattr(statement, part, []):
            found |= looped(inner)
    return found


def test_no_name_means_two_things():
    homes = defaultdict(set)
    loops = set()
    for cell in CODE:
        for statement in tree(cell).body:
            loops |= looped(statement)
            for name in assigned(statement):
                homes[name].add(cell["id"])
    twice = {name: cells for name, cells in homes.items() if len(cells) > 1}
    twice.pop("_", None)
    assert not twice
    assert loops & set(homes) <= {"_"}


def test_every_exercise_stands_in_the_notebook_with_a_hint_and_a_solution():
    checked = re.findall(r'slm\.check\("(.+?)"', "\n".join(map(source, CODE)))
    assert sorted(checked) == sorted(EXERCISES)
    assert len(checked) >= 15
    text = "\n".join(map(source, TEXT))
    assert text.count("<summary>Solution</summary>") == len(checked)
    assert text.count("<summary>Hint</summary>") == len(checked)
    numbers = re.findall(r"\*\*Check (\d+)\.\*\*", text)
    assert numbers == [str(number) for number in range(1, len(checked) + 1)]


def test_folded_parts_are_closed_and_set_off_by_blank_lines():
    for cell in TEXT:
        text = source(cell)
        assert text.count("<details>") == text.count("</details>")
        assert len(re.findall(r"</summary>\n\n", text)) == text.count("</summary>")
        assert len(re.findall(r"\n\n</details>", text)) == text.count("</details>")


def test_cells_have_ids_of_their_own():
    ids = [cell["id"] for cell in CELLS]
    assert len(set(ids)) == len(ids)
