"""The solutions that are folded away in the notebook pass; typical wrong answers do not."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from slm.exercises import EXERCISES, feedback

NOTEBOOK = Path(__file__).parents[2] / "Small_Language_Model.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
SOLUTION = re.compile(r"<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)


def exercises_in_the_notebook():
    """For each exercise: its name, the name of the function, its solution and its empty cell."""
    found = []
    for text, code in pairwise(CELLS):
        solution = SOLUTION.search("".join(text["source"]))
        if solution:
            stub = "".join(code["source"])
            name, function = re.search(r'slm\.check\("(.+?)", (\w+)\)', stub).groups()
            found.append((name, function, solution.group(1), stub.partition("\n\n\nslm.check")[0]))
    return found


def defined(code, function):
    namespace = {"torch": torch, "math": math}
    exec(code, namespace)
    return namespace[function]


@pytest.mark.parametrize(
    ("name", "function", "solution", "stub"),
    exercises_in_the_notebook(),
    ids=lambda text: text[:20],
)
def test_the_solution_passes_and_the_empty_cell_does_not(name, function, solution, stub):
    assert feedback(name, defined(solution, function)).right
    empty = feedback(name, defined(stub, function))
    assert not empty.right
    assert "returns nothing yet" in empty.message


def test_every_exercise_has_a_solution_in_the_notebook():
    assert sorted(name for name, *_ in exercises_in_the_notebook()) == sorted(EXERCISES)


def test_nothing_that_is_said_of_a_wrong_answer_gives_the_solution_away():
    for name, exercise in EXERCISES.items():
        for mistake in exercise.mistakes:
            message = feedback(name, mistake.function).message
            assert "return " not in message
            assert len(message) < 500


# Wrong answers as learners write them, beside those that the checks know by themselves.
WRONG = {
    "merge": ["[a + b for a, b in zip(pieces, pieces[1:])]", "pieces", "[''.join(pieces)]"],
    "pairs": ["(tokens[:-1], tokens[:-1])", "(tokens[1:], tokens[1:])", "tokens[1:]"],
    "softmax": ["scores / scores.max()", "scores.sigmoid()", "scores.exp() / len(scores)"],
    "causal mask": ["scores.triu()", "scores * 0", "scores.masked_fill(scores < 0, -1e9)"],
    "backward": ["x @ matrix", "matrix * 0", "torch.outer(x, x @ matrix)"],
    "temperature": ["logits.softmax(-1) ** temperature", "logits.softmax(-1)", "logits * 0"],
}
ARGUMENTS = {
    "merge": "pieces, pair",
    "pairs": "tokens",
    "softmax": "scores",
    "causal mask": "scores",
    "backward": "x, matrix, came",
    "temperature": "logits, temperature",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_of_other_kinds_get_the_place_and_a_hint(name):
    for expression in WRONG[name]:
        code = f"def answer({ARGUMENTS[name]}):\n    return {expression}"
        result = feedback(name, defined(code, "answer"))
        assert not result.right
        assert result.message.startswith(("not yet. With (", "with ("))
