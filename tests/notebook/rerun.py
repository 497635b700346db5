"""Every cell twice, then every section once more after the end: no harm, and the same results.

It takes minutes, so it is run by name, in the notebook's quick form:
SLM_QUICK=1 pytest tests/notebook/rerun.py"""

import json
import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[2] / "Small_Language_Model.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
# What these print depends on the clock, or on whether something was there already.
BY_THE_CLOCK = {
    *("load", "tales", "cost-picture", "same", "train"),
    *("write-equal", "tune", "ask-tune", "size-table", "serve-ask"),
}


def sections():
    """The code cells of each section, by the heading before them."""
    found = {}
    heading = "before the first section"
    for cell in CELLS:
        text = "".join(cell["source"])
        numbered = re.search(r"^## \d+ · .*$", text, re.MULTILINE)
        if cell["cell_type"] == "markdown" and numbered:
            heading = numbered.group()
        elif cell["cell_type"] == "code":
            found.setdefault(heading, []).append(cell)
    return found


def results(cell):
    """All that a cell gave: its printed text and its pictures."""
    printed = "".join(output.get("text", "") for output in cell["outputs"])
    shown = [str(sorted(output["data"].items())) for output in cell["outputs"] if "data" in output]
    return [printed, *shown]


def plan():
    """(cell, is a repetition) in the order of execution."""
    steps = []
    for cells in sections().values():
        for cell in cells:
            steps += [(cell, False), (cell, True)]
    for cells in reversed(list(sections().values())):
        steps += [(cell, True) for cell in cells]
    return steps


def test_cells_run_twice_and_sections_again(tmp_path):
    os.environ["SLM_QUICK"] = "1"
    steps = plan()
    cells = [nbformat.v4.new_code_cell("".join(cell["source"])) for cell, _ in steps]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    package = str(NOTEBOOK.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    client = nbclient.NotebookClient(notebook, timeout=900, resources=resources)
    client.execute()

    first = {}
    for (cell, repeated), executed in zip(steps, notebook.cells, strict=True):
        if not repeated:
            first[cell["id"]] = results(executed)
        elif cell["id"] not in BY_THE_CLOCK:
            assert results(executed) == first[cell["id"]], cell["id"]
