from dataclasses import replace

import pytest
import torch

from slm.hardware.memory import rows_at_once
from slm.settings import ModelConfig, TrainConfig

STEP = TrainConfig(steps=1, batch_size=12)
CONFIG = ModelConfig(vocab_size=300, context_length=100, n_layers=2, n_heads=1, d_model=32, d_ff=32)
ROW = 100 * (2 * (40 * 32 + 10 * 32) + 12 * 300)  # bytes


@pytest.mark.parametrize(
    ("rows_that_fit", "at_once"), [(1000, 12), (12.4, 12), (11.9, 6), (1, 1), (5.1, 4), (0, 1)]
)
def test_as_many_rows_are_read_at_once_as_fit_and_divide_the_step(
    monkeypatch, rows_that_fit, at_once
):
    free = rows_that_fit * ROW / 0.8 + 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80e9))
    assert rows_at_once("cuda", STEP, CONFIG) == at_once
    assert rows_at_once("cpu", STEP, CONFIG) == 12


def test_several_gpus_share_a_steps_rows_evenly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2.1 * ROW / 0.8, 80e9))
    assert rows_at_once("cuda", STEP, CONFIG, world_size=3) == 6
    assert rows_at_once("cuda", STEP, CONFIG, world_size=2) == 4


def test_a_teachers_scores_take_room_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12.4 * ROW / 0.8, 80e9))
    assert rows_at_once("cuda", replace(STEP, teachers="stories"), CONFIG) == 6
