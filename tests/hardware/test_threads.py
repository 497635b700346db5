from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from slm.generation.decoder import IncrementalDecoder
from slm.hardware import threads
from slm.hardware.threads import AdaptiveThreads, FreeCores, threads_for_step


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def adaptive(free, seconds=3.0):
    """Such as sees these numbers of free cores, one at each call, some seconds apart."""
    times = iter(range(1000))
    cores = iter(free)
    return AdaptiveThreads(lambda: next(cores), lambda: next(times) * seconds)


def test_there_are_as_many_threads_as_free_cores(four_threads):
    counts = []
    with adaptive([4.0, 3.8, 2.9, 1.4, 0.2, 2.0, 4.0, 7.5, None]) as adapt:
        for _ in range(9):
            adapt()
            counts.append(torch.get_num_threads())
    assert counts == [4, 4, 3, 1, 1, 2, 4, 4, 4]


def test_afterwards_there_are_as_many_threads_as_before(four_threads):
    with pytest.raises(RuntimeError), adaptive([1.0]) as adapt:
        adapt()
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 4


def test_it_is_not_checked_at_every_step(four_threads):
    adapt = adaptive([1.0], seconds=0.5)  # a second number would be asked for too soon
    for _ in range(3):
        adapt()
    assert torch.get_num_threads() == 4
    adapt()
    assert torch.get_num_threads() == 1


def test_free_cores_are_those_used_and_those_that_idle(monkeypatch):
    clock = {"idle": 100.0, "own": 7.0, "time": 50.0}
    monkeypatch.setattr(
        threads.psutil, "cpu_times", lambda percpu: [SimpleNamespace(idle=clock["idle"])]
    )
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setattr(threads.time, "process_time", lambda: clock["own"])
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock["time"])
    free = FreeCores()
    clock.update(idle=101.0, own=10.0, time=52.0)
    assert free() == pytest.approx((1 + 3) / 2)
    assert free() is None  # no time has passed


def test_what_this_machine_says_is_possible():
    free = FreeCores()
    sum(range(3_000_000))
    assert 0 < free() < 2 * (torch.get_num_threads() + 512)


def test_a_small_decode_step_takes_one_thread_and_others_all(four_threads):
    with threads_for_step(weights=1_000_000, rows=1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    for weights, rows in ((1_000_000, 16), (100_000_000, 1)):
        with threads_for_step(weights, rows):
            assert torch.get_num_threads() == 4


def test_stories_are_decoded_with_one_thread_and_training_keeps_its_own(
    four_threads, random_model, monkeypatch
):
    model = random_model()
    decoder = IncrementalDecoder(model)
    seen = []
    attention = F.scaled_dot_product_attention

    def recorded_attention(*arguments, **settings):
        seen.append(torch.get_num_threads())
        return attention(*arguments, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded_attention)
    for rows in ([[1, 2]], [[1, 2]] * 16):
        cache = decoder.new_cache(len(rows))
        cache.lengths = [1] * len(rows)
        decoder.step(rows, cache)
    layers = model.config.n_layers
    assert seen == [1] * layers + [4] * layers
    assert torch.get_num_threads() == 4
