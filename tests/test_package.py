import ast
import os
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import slm
from slm.cli.main import main

PACKAGE = Path(slm.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
SLOW = ["matplotlib", "datasets", "transformers", "IPython"]
SLOW += ["pandas", "pyarrow", "fastapi", "streamlit"]
STAYING = {
    *("load_stories", "load_tokenizer", "train_tokenizer"),
    *("ModelConfig", "Transformer", "attention_maps", "TrainConfig", "train"),
    *("SamplingConfig", "stream", "generate", "save_model", "load_model", "plots"),
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def ending(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return ast.unparse(node).rpartition(".")[2]


def public(node: ast.AST) -> list[ast.AST]:
    """A module's public functions and classes, with the classes' public methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [item for item in node.body if isinstance(item, kinds) and item.name[0] != "_"]
    found = [item for item in found if "setter" not in map(ending, item.decorator_list)]
    classes = [item for item in found if isinstance(item, ast.ClassDef)]
    return found + [method for item in classes for method in public(item)]


def violations(source: str) -> list[str]:
    """Calls that read or write text in whatever encoding the computer happens to prefer."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name, owner = ending(call.func), ast.unparse(call.func).rpartition(".")[0]
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        named = "encoding" in keywords
        if name == "read_text":
            named |= len(call.args) > 0
        elif name == "write_text":
            named |= len(call.args) > 1
        elif name == "open" and owner not in ("hub", "Image", "os"):  # bytes always
            modes = [*call.args, *keywords.values()]
            modes = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
            named |= any(re.fullmatch("[rwaxbt+]*b[rwaxbt+]*", str(mode)) for mode in modes)
        else:
            continue
        if not named:
            found.append(ast.unparse(call))
    return found


# Importing


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> tuple[subprocess.CompletedProcess, list[Path]]:
    """`import slm`, and with it all that training needs, in a home and a folder of its own; the
    modules go to standard error."""
    home = tmp_path_factory.mktemp("home")
    code = "import sys, slm; slm.train; sys.stderr.write('\\n'.join(sys.modules))"
    folders = {name: str(home) for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "TMPDIR")}
    own = {"PYTHONPATH": str(PACKAGE.parent), "SLM_CACHE": str(home / "cache")}
    run = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", code],
        env=os.environ | folders | own,
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run, list(home.rglob("*"))


@pytest.mark.parametrize("name", SLOW)
def test_importing_slm_does_not_import(imported, name):
    modules = imported[0].stderr.split()
    assert "slm.training" in modules
    assert name not in modules


def test_importing_slm_prints_nothing_and_makes_no_files(imported):
    assert imported[0].stdout == ""
    assert imported[1] == []


# The parts, and which of them import which


def module_name(path: str) -> str:
    """`training/loop.py` is `slm.training.loop`, and `training/__init__.py` is `slm.training`."""
    parts = ["slm", *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(sources: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports, wherever in it an import stands: in a function, or
    for the types alone."""
    graph = {}
    for name, source in sources.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & sources.keys()
            elif isinstance(node, ast.ImportFrom):
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= members & sources.keys() or {node.module} & sources.keys()
    return graph


def imports_of_parts(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same for the parts of the package, `slm.training` and the like."""
    parts: dict[str, set[str]] = {}
    for name, found in graph.items():
        part = ".".join(name.split(".")[:2])
        others = {".".join(other.split(".")[:2]) for other in found}
        parts.setdefault(part, set()).update(others - {part})
    return parts


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def imports_from_strings(source: str) -> list[str]:
    """What imports a module whose name is a value, so that neither readers nor tools see it."""
    names = {"import_module", "__import__", "exec", "eval", "run_module", "run_path"}
    return [
        ast.unparse(call)
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and ending(call.func) in names
        and ast.unparse(call.func).rpartition(".")[0] in ("", "importlib", "runpy", "builtins")
    ]


def test_neither_modules_nor_parts_import_each_other_in_a_circle():
    sources = {module_name(name): path.read_text("utf-8") for name, path in SOURCES.items()}
    graph = imports(sources)
    assert "slm.generation.decoder" in graph["slm.generation.text_generation"]
    assert "slm.training.run_folder" in graph["slm.cli.commands"]  # within a function
    assert circle(graph) == []
    assert circle(imports_of_parts(graph)) == []


def layers_in_readme() -> list[list[str]]:
    """The rows of README's map of imports, from the bottom of the package up."""
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    block = text.split("Imports go one way", 1)[1].split("```text\n", 1)[1].split("```", 1)[0]
    return [line.split() for line in block.splitlines()]


def test_imports_go_one_way_as_the_readme_draws_it():
    row_of = {f"slm.{part}": row for row, parts in enumerate(layers_in_readme()) for part in parts}
    sources = {module_name(name): path.read_text("utf-8") for name, path in SOURCES.items()}
    graph = imports_of_parts(imports(sources))
    parts = set(graph) - {"slm", "slm.__main__", "slm.assets"}
    assert set(row_of) == parts
    upwards = [
        (part, other)
        for part in parts
        for other in graph[part] - {"slm"}
        if row_of[other] >= row_of[part]
    ]
    assert upwards == []


@pytest.mark.parametrize(
    "back",
    [
        "import slm.a",
        "from slm import a",
        "from slm.a import name",
        "def f():\n    from slm.a import name",
        "if TYPE_CHECKING:\n    from slm.a import name",
    ],
)
def test_a_circle_would_be_found(back):
    sources = {"slm": "", "slm.a": "import slm.b.inner", "slm.b": "", "slm.b.inner": back}
    assert {"slm.a", "slm.b.inner"} <= set(circle(imports(sources)))
    parts = imports_of_parts(imports(sources | {"slm.b.inner": "", "slm.b": back}))
    assert {"slm.a", "slm.b"} <= set(circle(parts))
    assert circle(imports(sources | {"slm.b.inner": ""})) == []


@pytest.mark.parametrize("name", SOURCES)
def test_no_import_is_made_of_a_string(name):
    assert imports_from_strings(SOURCES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import_module('slm.' + name)", 1),
        ("importlib.import_module(name)", 1),
        ("__import__('slm.export')", 1),
        ("exec(f'import {name}')", 1),
        ("import slm.export", 0),
        ("model.eval()", 0),
    ],
)
def test_an_import_of_a_string_would_be_found(source, count):
    assert len(imports_from_strings(source)) == count


# Names


def test_installing_gives_the_command_slm():
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["scripts"] == {"slm": f"{main.__module__}:{main.__name__}"}


@pytest.mark.parametrize("name", slm.__all__)
def test_every_public_name_exists(name):
    assert getattr(slm, name).__doc__


def test_the_names_that_notebooks_use_stay():
    assert STAYING - set(slm.__all__) == set()
    assert len(set(slm.__all__)) == len(slm.__all__)


def test_plots_are_there_without_being_imported():
    code = "import slm; print(slm.plots.__name__)"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["slm.plots"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="plot_everything"):
        _ = slm.plot_everything


# Style


@pytest.mark.parametrize("name", SOURCES)
def test_whatever_is_public_is_explained(name):
    module = tree(SOURCES[name])
    assert ast.get_docstring(module)
    assert [item.name for item in public(module) if not ast.get_docstring(item)] == []


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_read_or_written_in_a_form_that_can_hold_code(name):
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree(SOURCES[name])):
        if isinstance(node, ast.Import):
            assert not unsafe & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            assert (node.module or "").partition(".")[0] not in unsafe
            assert node.module != "torch" or not names & {"load", "save"}
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"


@pytest.mark.parametrize("name", SOURCES)
def test_text_files_name_their_encoding(name):
    assert violations(SOURCES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("path.read_text()", 1),
        ("path.read_text(encoding='utf-8')", 0),
        ("path.read_text('utf-8')", 0),
        ("path.write_text(text)", 1),
        ("path.write_text(text, encoding='utf-8')", 0),
        ("open(path)", 1),
        ("open(path, 'w')", 1),
        ("open('web', 'rt')", 1),
        ("open(path, 'wb')", 0),
        ("path.open()", 1),
        ("path.open('rb')", 0),
        ("path.open(encoding='utf-8')", 0),
    ],
)
def test_a_missing_encoding_would_be_found(source, count):
    assert len(violations(source)) == count
