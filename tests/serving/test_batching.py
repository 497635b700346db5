import threading

import pytest
import torch

from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import generate_ids
from slm.serving.batching import Batcher, QueueFull
from slm.serving.model_runner import ModelRunner
from slm.serving.sampler import tokens_with_logprobs
from slm.serving.sequence import Sequence
from slm.settings import SamplingConfig

PROMPTS = [[279, 5, 6, 7], [279], [279, 40, 41, 42, 43, 44, 45, 46], [279, 9, 9]]


@pytest.fixture
def batcher(random_model):
    made = []

    def make(model=None, **how) -> Batcher:
        made.append(Batcher(model or random_model(), (279,), **how))
        return made[-1]

    yield make
    for some in made:
        some.close(finish=False)


class Recorder:
    """Keeps what it is told of one sequence."""

    def __init__(self):
        self.prompt, self.tokens, self.errors = [], [], []
        self.began, self.ended = threading.Event(), threading.Event()

    def on_prompt(self, sequence, tokens):
        self.prompt = tokens

    def on_token(self, sequence, token):
        self.tokens.append(token)
        self.began.set()
        if token.finish_reason:
            self.ended.set()

    def on_error(self, sequence, error):
        self.errors.append(error)
        self.ended.set()

    def wait(self):
        assert self.ended.wait(60)
        if self.errors:
            raise self.errors[0]
        return self.tokens


def sequence(ids, recorder=None, *, max_new_tokens=400, more=None, **settings):
    sampling = SamplingConfig(**settings)
    return Sequence(ids, sampling, recorder or Recorder(), max_new_tokens, **(more or {}))


def write(batcher, *requests):
    """Have stories written, all at once; the tokens of each."""
    recorders = [Recorder() for _ in requests]
    for (ids, settings), recorder in zip(requests, recorders, strict=True):
        batcher.submit(sequence(ids, recorder, **settings))
    return [recorder.wait() for recorder in recorders]


def alone(model, ids, settings):
    steps = generate_ids(IncrementalDecoder(model), [ids], SamplingConfig(**settings), [279])
    return [new_ids[0] for new_ids in steps]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 3},
        {"temperature": 1.2, "top_p": 0.9, "top_k": 50, "seed": 4},
        {"repetition_penalty": 1.5, "seed": 5},
        {"dry_multiplier": 3.0, "seed": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [2, 8])
def test_each_story_is_written_as_it_would_be_alone(settings, most, batcher, random_model):
    model = random_model()  # of 32 tokens' context, which these outgrow
    counts = [60, 5, 33, 21]
    requests = [
        (ids, settings | {"max_new_tokens": n}) for ids, n in zip(PROMPTS, counts, strict=True)
    ]
    for (ids, how), tokens in zip(requests, write(batcher(model, max_batch_size=most), *requests)):
        expected = alone(model, ids, how)
        assert [token.id for token in tokens] == expected
        assert tokens[-1].finish_reason == ("stop" if expected[-1] == 279 else "length")
        assert all(token.finish_reason is None for token in tokens[:-1])


def test_stories_with_different_settings_do_not_disturb_each_other(batcher, random_model):
    model = random_model()
    settings = [{"temperature": 0}, {"seed": 1}, {"seed": 2, "top_k": 3}, {"seed": 1}]
    requests = [
        ([279, 5], how | {"max_new_tokens": 10 + 3 * i}) for i, how in enumerate(settings * 3)
    ]
    for (ids, how), tokens in zip(requests, write(batcher(model, max_batch_size=5), *requests)):
        assert [token.id for token in tokens] == alone(model, ids, how)


def test_a_prompt_longer_than_the_context_is_read_from_its_end(batcher, random_model):
    model, ids = random_model(), [279, *range(50)]
    how = {"temperature": 0, "max_new_tokens": 5}
    [tokens] = write(batcher(model), (ids, how))
    assert [token.id for token in tokens] == alone(model, ids, how)


@torch.no_grad()
def test_probabilities_are_those_of_the_model(batcher, random_model):
    model, recorder = random_model(), Recorder()
    more = {"logprobs": 3, "prompt_logprobs": True}
    batcher(model).submit(sequence([279, 5, 6], recorder, seed=0, max_new_tokens=4, more=more))
    tokens = recorder.wait()
    ids = [279, 5, 6, *(token.id for token in tokens)]
    logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
    for place, token in enumerate([*recorder.prompt, *tokens], start=1):
        assert token.id == ids[place]
        assert token.logprob == pytest.approx(logprobs[place - 1, token.id].item(), abs=1e-3)
        values, likeliest = logprobs[place - 1].topk(3)
        assert [i for i, _ in token.top_logprobs] == likeliest.tolist()
        assert [p for _, p in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-3)


def test_a_sequence_of_no_new_tokens_ends_after_its_prompt(batcher, random_model):
    recorder = Recorder()
    more = {"logprobs": 0, "prompt_logprobs": True}
    batcher(random_model()).submit(sequence([279, 5, 6], recorder, max_new_tokens=0, more=more))
    [last] = recorder.wait()
    assert last.finish_reason == "length"
    assert [token.id for token in recorder.prompt] == [5, 6]


def test_a_cancelled_story_stops_at_once_and_makes_room(batcher, random_model):
    one, recorder = batcher(random_model(), max_batch_size=1), Recorder()
    one.end_ids = (-1,)  # so that it never ends by itself
    long = sequence([279], recorder, max_new_tokens=10**6)
    one.submit(long)
    assert recorder.began.wait(30)
    long.cancel()
    write(one, ([279], {"max_new_tokens": 3, "seed": 0}))
    assert one.busy == 0


def test_where_too_many_wait_the_next_is_turned_away(batcher, random_model):
    full = batcher(random_model(), max_batch_size=1, max_waiting=2)
    full.end_ids = (-1,)
    recorder = Recorder()
    full.submit(sequence([279], recorder, max_new_tokens=10**6))
    assert recorder.began.wait(30)
    with pytest.raises(QueueFull):
        full.submit(*(sequence([279], max_new_tokens=10**6) for _ in range(3)))
    assert full.busy == 1  # none of the three
    full.submit(*(sequence([279], max_new_tokens=10**6) for _ in range(2)))
    with pytest.raises(QueueFull):
        full.submit(sequence([279], max_new_tokens=10**6))


def test_an_error_ends_the_stories_it_concerns_and_not_the_thread(batcher, random_model):
    model = random_model()
    some, good = batcher(model), {"temperature": 0, "max_new_tokens": 3}
    with pytest.raises(IndexError):
        write(some, ([279, 99_999], good))
    assert [token.id for token in write(some, ([279, 5], good))[0]] == alone(model, [279, 5], good)


@pytest.mark.parametrize("fields", [{"logprobs": 2}, {"logprobs": 2, "prompt_logprobs": True}])
def test_log_probabilities_that_fail_end_their_own_story_only(
    fields, batcher, random_model, monkeypatch
):
    def fail_where_asked(ids, logits, top):
        if top is not None:
            raise RuntimeError("out of memory")
        return tokens_with_logprobs(ids, logits, top)

    monkeypatch.setattr("slm.serving.batching.tokens_with_logprobs", fail_where_asked)
    model = random_model()
    some, good = batcher(model), {"temperature": 0, "max_new_tokens": 3}
    failing = Recorder()
    some.submit(sequence([279, 5], failing, more=fields, **good))
    [tokens] = write(some, ([279, 5], good))
    assert [token.id for token in tokens] == alone(model, [279, 5], good)
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.wait()
    assert some.busy == 0


def test_a_listener_that_fails_does_not_disturb_the_others(batcher, random_model):
    class Failing(Recorder):
        def on_token(self, sequence, token):
            raise RuntimeError("nobody is there")

    model = random_model()
    some, how = batcher(model), {"temperature": 0, "max_new_tokens": 30}
    failing = [Failing(), Failing()]
    some.submit(*(sequence([279, 5], recorder, **how) for recorder in failing))
    [tokens] = write(some, ([279, 5], how))
    assert [token.id for token in tokens] == alone(model, [279, 5], how)
    for recorder in failing:
        with pytest.raises(RuntimeError, match="nobody is there"):
            recorder.wait()
    assert some.busy == 0


def test_closing_finishes_what_was_begun_and_begins_nothing_more(random_model):
    some, recorder = Batcher(random_model(), (-1,), max_batch_size=2), Recorder()
    for _ in range(5):
        some.submit(sequence([279], recorder, max_new_tokens=20))
    some.close()
    assert len(recorder.tokens) == 5 * 20
    with pytest.raises(QueueFull, match="shutting down"):
        some.submit(sequence([279]))


def test_closing_without_finishing_is_quick(random_model):
    some = Batcher(random_model(), (-1,), max_batch_size=2)
    recorders = [Recorder() for _ in range(5)]
    some.submit(*(sequence([279], recorder, max_new_tokens=10**6) for recorder in recorders))
    assert recorders[0].began.wait(30)
    some.close(finish=False)
    assert some.busy == 0
    assert all(len(recorder.tokens) < 10**6 for recorder in recorders)


def test_what_was_cancelled_while_another_prompt_was_read_is_not_read_itself(batcher, monkeypatch):
    reading, may_go_on = threading.Event(), threading.Event()
    prompts = []
    made = batcher(max_batch_size=4)
    add_row = ModelRunner.add_row

    def slow_add_row(runner, ids):
        prompts.append(list(ids))
        reading.set()
        assert may_go_on.wait(60)
        return add_row(runner, ids)

    monkeypatch.setattr(ModelRunner, "add_row", slow_add_row)
    first = Recorder()
    made.submit(sequence([279, 1], first, max_new_tokens=2))
    assert reading.wait(60)
    others = [sequence([279, number], max_new_tokens=2) for number in range(2, 5)]
    made.submit(*others)
    made.cancel(others)
    last = Recorder()
    made.submit(sequence([279, 5], last, max_new_tokens=2))
    may_go_on.set()
    first.wait()
    last.wait()
    assert prompts == [[279, 1], [279, 5]]


def record_order(monkeypatch) -> list[str]:
    """A list that grows by "p" for each prompt that is read, and by "s" for each decode step."""
    happened = []
    add_row = ModelRunner.add_row
    step = ModelRunner.step

    def recorded_add_row(runner, ids):
        happened.append("p")
        return add_row(runner, ids)

    def recorded_step(runner, rows):
        happened.append("s")
        return step(runner, rows)

    monkeypatch.setattr(ModelRunner, "add_row", recorded_add_row)
    monkeypatch.setattr(ModelRunner, "step", recorded_step)
    return happened


def test_however_many_prompts_wait_those_in_the_batch_have_their_decode_steps(batcher, monkeypatch):
    """Sequences of one token are over when their prompt is read, so there is always room."""
    happened = record_order(monkeypatch)
    made = batcher(max_batch_size=2, max_waiting=1000)
    made.end_ids = (-1,)
    long = Recorder()
    prompt = [279, *range(31)]
    short = [sequence(prompt, max_new_tokens=1) for _ in range(200)]
    made.submit(sequence([279], long, max_new_tokens=40), *short)
    long.wait()
    steps = happened.count("s")
    prompts_meanwhile = "".join(happened).rstrip("p").count("p")
    assert steps >= 39
    first_batch = 2
    assert prompts_meanwhile <= first_batch + 2 * (steps + 1)  # 32 tokens each, 64 for a step


def test_an_empty_batch_is_filled_before_its_first_decode_step(batcher, monkeypatch):
    """Then those that came together are equally long, and are written together to the end."""
    happened = record_order(monkeypatch)
    made = batcher(max_batch_size=8)
    made.end_ids = (-1,)
    recorders = [Recorder() for _ in range(8)]
    prompt = [279, *range(31)]
    made.submit(*[sequence(prompt, recorder, max_new_tokens=3) for recorder in recorders])
    for recorder in recorders:
        recorder.wait()
    assert "".join(happened) == "ppppppppss"
