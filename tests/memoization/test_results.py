import json
import math
import os
import subprocess
import sys
from functools import cache, partial, wraps
from pathlib import Path

import pytest
import torch

import slm
from slm.memoization import results

ROOT = str(Path(slm.__file__).parents[1])
# Runs cells as a notebook does: each is compiled from a name that says nothing about its place.
RUN_CELLS = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(sys.stdin):
    shell.run_cell(cell).raise_error()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def counted(path: Path, number: int = 1, scale: float = 1.0, *, sign: int = 1) -> float:
    """A result, and a line in a file for each time that it was computed."""
    with path.open("a", encoding="utf-8") as file:
        file.write("computed\n")
    return sign * number * scale


def times(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def files() -> list[Path]:
    return sorted(Path("runs/notebook").iterdir())


def test_a_result_is_computed_once(tmp_path):
    log = tmp_path / "log"
    assert slm.recall(counted, log, 2) == slm.recall(counted, log, 2) == 2
    assert times(log) == 1
    assert [file.name.partition("-")[0] for file in files()] == ["counted"]


def test_other_arguments_are_another_call(tmp_path):
    log = tmp_path / "log"
    different = [(1,), (2,), (1.0,), (1, 2.0), (True,)]
    assert [slm.recall(counted, log, *one) for one in different] == [1, 2, 1.0, 2.0, 1]
    assert slm.recall(counted, log, sign=-1) == -1
    assert times(log) == 6


def test_the_same_call_may_be_written_in_several_ways(tmp_path):
    log = tmp_path / "log"
    slm.recall(counted, log)
    slm.recall(counted, log, 1)
    slm.recall(counted, log, sign=1, scale=1.0)
    slm.recall(counted, scale=1.0, path=log, number=1, sign=1)
    assert times(log) == 1


def test_every_name_may_be_an_argument(tmp_path):
    def call(function, file, name):
        return [function, file, name]

    assert slm.recall(call, function=1, file=2, name=3) == [1, 2, 3]


def test_two_functions_with_the_same_source_do_not_share_a_result():
    def make(number):
        def inner():
            return number

        return inner

    assert [slm.recall(make(number)) for number in (1, 2, 1)] == [1, 2, 1]
    assert len(files()) == 2


@pytest.mark.parametrize(
    "function",
    [partial(counted, Path("log"), 2), lambda: 2, "ab".__len__],
    ids=["partial", "lambda", "method"],
)
def test_whatever_can_be_called_can_be_recalled(function):
    assert slm.recall(function) == slm.recall(function) == 2
    assert len(files()) == 1


def test_a_result_is_the_same_whether_computed_or_loaded():
    def mixed():
        return {1: (1, 2), "text": "\ud800 é", "none": None, False: [math.inf, -math.inf, 0.1]}

    expected = {"1": [1, 2], "text": "\ud800 é", "none": None, "false": [math.inf, -math.inf, 0.1]}
    assert slm.recall(mixed) == expected
    assert slm.recall(mixed) == expected


def test_not_a_number_survives():
    def nothing():
        return [math.nan]

    assert math.isnan(slm.recall(nothing)[0])
    assert math.isnan(slm.recall(nothing)[0])


def test_a_changed_result_leaves_the_saved_one_alone():
    def numbers():
        return [1]

    slm.recall(numbers).append(2)
    assert slm.recall(numbers) == [1]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"result"', b'{"result": 12', b"[]", b"12", b"null", b"{}", b"\xff\xfe", b"\0" * 20],
)
def test_a_damaged_file_is_computed_again(tmp_path, content):
    log = tmp_path / "log"
    slm.recall(counted, log)
    files()[0].write_bytes(content)
    assert slm.recall(counted, log) == 1
    assert slm.recall(counted, log) == 1
    assert times(log) == 2


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (torch.ones(2), "Object of type Tensor is not JSON serializable"),
        ([{"a": {1}}], "Object of type set is not JSON serializable"),
        ({(1, 2): 3}, "keys must be str, int, float, bool or None, not tuple"),
        ({1: 2, "1": 3}, "two keys of a dict become one text"),
    ],
)
def test_what_json_cannot_hold_is_not_saved_and_not_lost(result, reason, capsys):
    def give():
        return result

    assert slm.recall(give) is result
    printed = capsys.readouterr().out
    assert printed == f"The result of give() is not saved for next time ({reason}).\n"
    assert not Path("runs").exists()


def test_a_result_within_itself_is_not_lost(capsys):
    def loop():
        numbers = [1]
        numbers.append(numbers)
        return numbers

    assert slm.recall(loop)[0] == 1
    assert "loop() is not saved" in capsys.readouterr().out


CHANGES_ITSELF = {
    "a generator": "G = torch.Generator().manual_seed(0)\n"
    "def f(): return torch.rand(2, generator=G).tolist()",
    "a counter": "N = 0\ndef f():\n global N\n N += 1\n return [N]",
    "a default": "def f(a=[]):\n a.append(1)\n return (len(a),)",
    "an open end": "N = [1]\ndef f():\n N[0] = iter('ab')\n N[0] = (i for i in 'ab')\n return [1]",
}


@pytest.mark.parametrize("kind", CHANGES_ITSELF)
def test_a_call_that_changes_its_own_inputs_is_not_saved(kind, capsys):
    notebook = {"__name__": "__main__", "torch": torch}
    exec(CHANGES_ITSELF[kind], notebook)
    first = slm.recall(notebook["f"])
    assert isinstance(first, list)  # as JSON gives it back
    reason = "(the call changes f's own inputs)"
    assert capsys.readouterr().out == f"The result of f() is not saved for next time {reason}.\n"
    assert not Path("runs").exists()


def test_a_call_that_changes_its_own_inputs_goes_on_as_without_recall():
    notebook = {"__name__": "__main__"}
    exec(CHANGES_ITSELF["a counter"], notebook)
    assert [slm.recall(notebook["f"]) for _ in range(3)] == [[1], [2], [3]]


def test_a_decorator_may_take_other_arguments_than_its_function():
    def seeded(function):
        @wraps(function)
        def call(*arguments, extra=0):
            return function(0, *arguments, extra)

        return call

    @seeded
    def listed(seed, number, extra):
        return [seed, number, extra]

    assert slm.recall(listed, 3) == slm.recall(listed, 3) == [0, 3, 0]
    assert slm.recall(listed, 3, extra=1) == [0, 3, 1]


def test_a_cached_function_is_recalled(tmp_path):
    log = tmp_path / "log"
    cached = cache(counted)
    assert slm.recall(cached, log, 2) == slm.recall(cached, log, number=2) == 2
    assert times(log) == 1
    assert len(files()) == 1


def test_a_builtin_without_a_signature_is_refused():
    with pytest.raises(ValueError, match=r"^max\(\) does not say which arguments it takes"):
        slm.recall(max, [1, 2])
    assert slm.recall(len, [1, 2]) == 2


def test_the_sources_of_the_package_count(tmp_path, monkeypatch):
    log = tmp_path / "log"
    for folder, text in (("before", "A = 1"), ("after", "A = 2"), ("again", "A = 1")):
        source = tmp_path / folder / "inner" / "module.py"
        source.parent.mkdir(parents=True)
        source.write_text(text, encoding="utf-8")
        monkeypatch.setattr(results, "PACKAGE", tmp_path / folder)
        slm.recall(counted, log)
    assert times(log) == 2


def test_an_argument_that_nobody_can_compare_is_refused_before_computing(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ValueError, match=r"counted\(\) depends on its argument number \(gen"):
        slm.recall(counted, log, (i for i in "ab"))
    assert not log.exists()


def test_wrong_arguments_are_the_errors_that_they_are_without_it(tmp_path):
    with pytest.raises(TypeError, match="missing a required argument: 'path'"):
        slm.recall(counted)


def test_an_error_is_not_saved():
    def fail():
        raise RuntimeError("no luck")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no luck"):
            slm.recall(fail)


def test_where_nothing_can_be_written_the_result_is_not_lost(capsys):
    Path("runs").write_text("a file where a folder must be", encoding="utf-8")
    assert slm.recall(counted, Path("log"), 3) == 3
    assert "counted() is not saved" in capsys.readouterr().out


def test_the_folder_is_that_of_the_notebook():
    assert Path("runs/notebook") == results.FOLDER


def run_cells(*cells: str) -> list:
    """What cells print in a notebook of their own, from a kernel that starts with them."""
    run = subprocess.run(
        [sys.executable, "-c", RUN_CELLS],
        input=json.dumps(cells),
        env=os.environ | {"PYTHONPATH": ROOT, "IPYTHONDIR": str(Path("ipython").resolve())},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.split()


IMPORTS = "import slm, torch\nfrom dataclasses import dataclass\nfrom pathlib import Path"
SETTINGS = "SEED = 0\nMEANS = torch.tensor([1.0, 2.0])"
CLASSES = """
@dataclass
class Plain:
    number: int = 1
    def value(self):
        return self.number + SEED

class Double(Plain):
    def value(self):
        return 2 * super().value()
"""
EXPERIMENT = """
def helper(kind, number):
    return kind(number).value() + MEANS.sum().item()

def experiment(number, kind=Plain):
    print("computed")
    return helper(kind, number)
"""
CALL = "print(slm.recall(experiment, 3, kind=Double))"


def test_in_a_notebook_a_cell_that_changes_counts():
    printed = run_cells(
        *(IMPORTS, SETTINGS, CLASSES, EXPERIMENT, CALL, CALL),
        *("UNRELATED = 1", EXPERIMENT, CALL),  # the same cells once more
        *(CLASSES.replace("2 *", "3 *"), EXPERIMENT, CALL),
        *(CLASSES, EXPERIMENT, CALL),  # as before
        *("SEED = 1", CALL),
        *("SEED = 0\nMEANS[0] = 2.0", CALL, CALL),
    )
    first = ["computed", "9.0", "9.0", "9.0"]
    assert printed == [
        *first,
        "computed",
        "12.0",
        "9.0",
        "computed",
        "11.0",
        "computed",
        "10.0",
        "10.0",
    ]


def test_another_kernel_finds_what_the_first_one_computed():
    cells = [IMPORTS, SETTINGS, CLASSES, EXPERIMENT, CALL]
    assert run_cells(*cells) == ["computed", "9.0"]
    assert run_cells(*cells) == ["9.0"]
    assert run_cells(IMPORTS, "# moved", CLASSES, SETTINGS, EXPERIMENT, CALL) == ["9.0"]


def test_functions_that_were_typed_without_a_file_are_recalled_too():
    code = "import slm\ndef f():\n print('computed')\n return 1\nslm.recall(f)\nslm.recall(f)"
    for expected in ("computed\n", ""):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
        )
        assert (run.returncode, run.stdout) == (0, expected), run.stderr
