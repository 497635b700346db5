from dataclasses import replace

import pytest
import torch

from slm.hardware.memory import (
    bytes_per_row,
    explain_out_of_memory,
    fixed_bytes,
    rows_at_once,
)
from slm.settings import ModelConfig, TrainConfig

STEP = TrainConfig(steps=1, batch_size=12)
CONFIG = ModelConfig(vocab_size=300, context_length=100, n_layers=2, n_heads=1, d_model=32, d_ff=32)
ROW = 100 * (2 * (40 * 32 + 10 * 32) + 12 * 300)  # bytes, on a GPU


@pytest.fixture
def free(monkeypatch):
    """Let so many rows fit into a GPU's memory, or into the processor's."""

    def set_free(rows: float, device: str = "cuda", step: TrainConfig = STEP) -> None:
        size = (fixed_bytes(CONFIG) + rows * bytes_per_row(STEP, CONFIG, device)) / 0.8 + 1
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(size), 80e9))
        if device == "cpu":
            monkeypatch.setattr("slm.hardware.memory.available_memory", lambda _: int(size))

    return set_free


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize(
    ("rows_that_fit", "at_once"), [(1000, 12), (12.4, 12), (11.9, 6), (1, 1), (5.1, 4), (0.9, 1)]
)
def test_as_many_rows_are_read_at_once_as_fit_and_divide_the_step(
    free, device, rows_that_fit, at_once
):
    free(rows_that_fit, device)
    assert rows_at_once(device, STEP, CONFIG) == at_once


def test_where_memory_cannot_be_found_out_all_rows_are_read_at_once():
    assert rows_at_once("mps", STEP, CONFIG) == 12


def test_a_batch_of_absurd_size_is_no_matter(free):
    free(7.5, "cpu")
    assert rows_at_once("cpu", replace(STEP, batch_size=7 * 10**5), CONFIG) == 7


def test_what_a_row_takes_on_a_gpu_is_what_was_measured():
    assert bytes_per_row(STEP, CONFIG, "cuda") == ROW


def test_several_gpus_share_a_steps_rows_evenly(free):
    free(2.1)
    assert rows_at_once("cuda", STEP, CONFIG, world_size=3) == 6
    assert rows_at_once("cuda", STEP, CONFIG, world_size=2) == 4


def test_a_teachers_scores_take_room_too(free):
    free(12.4)
    assert rows_at_once("cuda", replace(STEP, teachers="stories"), CONFIG) == 6


@pytest.mark.parametrize(
    ("absurd", "named"),
    [
        ({"n_layers": 10**9}, "n_layers"),
        ({"d_model": 2 * 10**8, "d_ff": 10**8}, "d_model"),
        ({"context_length": 10**9}, "context_length"),
    ],
)
def test_what_cannot_fit_is_refused_by_the_largest_setting_that_does(monkeypatch, absurd, named):
    monkeypatch.setattr("slm.hardware.memory.available_memory", lambda _: 8 * 10**9)
    with pytest.raises(ValueError, match=rf"needs at least .* GB.*set {named} to at most") as said:
        rows_at_once("cpu", STEP, replace(CONFIG, **absurd))
    largest = int(str(said.value).split("at most ")[1].rstrip(".").replace(",", ""))
    fits = {named: largest} | ({"d_ff": None} if named == "d_model" else {})
    assert rows_at_once("cpu", STEP, replace(CONFIG, **fits)) >= 1
    with pytest.raises(ValueError, match="at most"):
        rows_at_once("cpu", STEP, replace(CONFIG, **fits | {named: largest + 2}))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_an_allocators_error_becomes_one_sentence(error):
    sentence = r"^There is not enough .*memory for this: give less\.$"
    with pytest.raises(ValueError, match=sentence), explain_out_of_memory("give less"):
        raise error


def test_a_real_allocators_error_becomes_one_sentence():
    sentence = "^There is not enough memory"
    with pytest.raises(ValueError, match=sentence), explain_out_of_memory("give less"):
        torch.empty(2**60)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory("give less"):
        raise RuntimeError("shapes do not fit")
