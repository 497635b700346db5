import re
import sys

import pytest
import torch

import slm
from slm.exercises import EXERCISES, feedback
from slm.exercises.checking import EMPTY


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_its_own_check(name):
    result = feedback(name, EXERCISES[name].reference)
    assert result.right
    assert "right" in result.message


@pytest.mark.parametrize("name", EXERCISES)
def test_three_usual_mistakes_fail_each_with_advice_of_its_own(name):
    exercise = EXERCISES[name]
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        result = feedback(name, mistake.function)
        assert not result.right
        assert mistake.advice in result.message
        assert result.message.startswith("not yet. With (")


@pytest.mark.parametrize("name", EXERCISES)
def test_an_answer_of_another_kind_gets_the_hint(name):
    result = feedback(name, lambda *arguments: 12345.0)
    assert not result.right
    assert EXERCISES[name].hint in result.message


@pytest.mark.parametrize("name", EXERCISES)
def test_an_answer_not_yet_written_is_said_to_be_so(name):
    def empty(*arguments):
        pass

    def dots(*arguments):
        return ...

    def not_implemented(*arguments):
        raise NotImplementedError

    for answer in (empty, dots, not_implemented):
        assert feedback(name, answer).message == EMPTY


def test_what_goes_wrong_inside_is_told():
    result = feedback("softmax", lambda scores: scores.no_such_thing)
    assert not result.right
    assert "it stops with" in result.message
    assert "e to each score" in result.message


def test_the_function_is_wanted_not_its_result():
    result = feedback("softmax", torch.ones(3))
    assert "give the function itself" in result.message


def test_answers_in_other_number_types_are_fine():
    result = feedback("step", lambda weight, gradient, rate: torch.tensor(weight - rate * gradient))
    assert result.right
    result = feedback("schedule", lambda step, *rest: EXERCISES["schedule"].reference(step, *rest))
    assert result.right


def test_an_answer_cannot_change_the_inputs():
    def greedy(pieces, pair):
        joined = EXERCISES["merge"].reference(pieces, pair)
        pieces.clear()
        return joined

    assert feedback("merge", greedy).right
    assert feedback("merge", greedy).right


def test_the_place_is_named_and_the_right_value_is_not():
    message = feedback("softmax", lambda scores: torch.full_like(scores, 0.25)).message
    assert "the first wrong number is at [0]: 0.25" in message
    assert "0.09" not in message


def test_an_unknown_exercise_is_refused_by_name():
    with pytest.raises(ValueError, match=re.escape("'softmin'")):
        slm.check("softmin", max)


def test_check_prints_one_line(capsys):
    slm.check("softmax", EXERCISES["softmax"].reference)
    slm.check("softmax", lambda scores: scores)
    right, wrong = capsys.readouterr().out.splitlines()
    assert right.startswith("✓ softmax: right.")
    assert wrong.startswith("✗ softmax: not yet.")


def test_an_answer_that_never_stops_is_told_so(capsys):
    def merge(pieces, pair):
        joined = []
        place = 0
        while place < len(pieces):
            joined.append(pieces[place])
        return joined

    slm.check("merge", merge)
    assert "it does not stop" in capsys.readouterr().out
    assert sys.gettrace() is None or "coverage" in sys.modules
