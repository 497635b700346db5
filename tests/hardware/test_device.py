import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slm.hardware.device import pick_device
from slm.hardware.memory import keep_freed_memory
from slm.hardware.precision import pick_precision


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "expected"),
    [
        (True, True, "auto", "cuda"),
        (False, True, "auto", "mps"),
        (False, False, "auto", "cpu"),
        (True, True, "cpu", "cpu"),
        (False, True, "mps", "mps"),
    ],
)
def test_the_best_device_is_picked_unless_one_is_named(monkeypatch, cuda, mps, asked, expected):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr("slm.hardware.device.computes_rightly", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device(asked) == expected


@pytest.mark.parametrize(
    ("device", "cuda", "cpu", "native", "expected"),
    [
        ("cuda", (7, 5), "AVX512", True, torch.float16),  # a T4 has bfloat16 only in software
        ("cuda", (8, 0), "AVX2", False, torch.bfloat16),
        ("cuda", (9, 0), "AVX2", False, torch.bfloat16),
        ("cpu", (9, 0), "AVX2", False, torch.float32),
        ("cpu", (9, 0), "AVX2", True, torch.float32),
        ("cpu", (9, 0), "AVX512", False, torch.float32),
        ("cpu", (9, 0), "DEFAULT", True, torch.float32),
        ("cpu", (7, 5), "AVX512", True, torch.bfloat16),
        ("mps", (9, 0), "AVX512", True, torch.float32),
    ],
)
def test_the_fastest_number_type_of_the_hardware_is_picked_unless_one_is_named(
    monkeypatch, device, cuda, cpu, native, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: cuda)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert pick_precision("auto", device) is expected
    for name in ("float32", "bfloat16", "float16"):
        assert pick_precision(name, device) is getattr(torch, name)


PRECISION = """
import sys
sys.path.insert(0, "tests/training")
from test_optimizer import make_batches, make_config, make_model
from slm.training.optimizer import make_optimizers
from slm.training.step import make_scaler, train_step

for precision in ("auto", "bfloat16"):
    model, config = make_model(), make_config(precision=precision)
    layer = model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda _, x, y: print(y.dtype))
    optimizers, scaler = make_optimizers(model, config), make_scaler(config, "cpu")
    train_step(model, make_batches(2), optimizers, config, 0.01, scaler)
    print(*{weight.dtype for weight in model.parameters()})
"""


def test_on_an_older_processor_a_step_is_computed_in_float32():
    run = subprocess.run(
        [sys.executable, "-c", PRECISION],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    chosen = ["torch.float32", "torch.float32", "torch.bfloat16", "torch.float32"]
    assert run.stdout.split() == chosen


# Memory


def test_without_the_c_librarys_setting_memory_is_left_as_it_is(monkeypatch):
    for error in (AttributeError, OSError, TypeError):  # macOS and musl, no library, Windows

        def refuse(*_, error=error):
            raise error

        monkeypatch.setattr(ctypes, "CDLL", refuse)
        assert keep_freed_memory() is None


FAULTS = """
import resource
import sys

import torch
from slm.hardware.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc's")
def test_freed_memory_is_used_again_without_being_cleared():
    faults = {}
    for what in ("keep", "leave"):
        command = [sys.executable, "-c", FAULTS, what]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[what] = int(run.stdout)
    pages = 4 * 12_000_000 / 4096  # of one such tensor
    assert faults["keep"] < 4 * pages
    assert faults["leave"] > 10 * pages


def test_a_gpu_that_cannot_be_used_or_computes_wrongly_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == "cpu"  # there is none, whatever it says
    assert "MPS" in capsys.readouterr().out
    wrong = lambda self, place: self + 0.1 * (place != "cpu")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", wrong)
    assert pick_device("auto") == "cpu"


def test_each_process_on_a_machine_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (pick_device("auto"), pick_device("cpu"), taken) == ("cuda", "cpu", [3])
