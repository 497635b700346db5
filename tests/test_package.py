import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import slm

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


# Names


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
