"""What there is to compute with: a device, the number types that suit it, and memory."""

import ctypes
import os
from contextlib import suppress
from importlib import import_module

import torch


def pick_device(device: str = "auto") -> str:
    """The device that is asked for, or the best there is. Of several GPUs, each process that
    `torchrun` starts takes its own. A Mac's GPU that computes wrongly is left out; it is said."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = next(filter(there.get, there), "cpu") if device == "auto" else device
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if device == "mps" and not import_module("slm.mps").computes_rightly(device):
        print("This Mac's GPU (MPS) computes wrongly with this PyTorch: using the processor.")
        return "cpu"
    return device


def pick_precision(precision: str, device: str) -> torch.dtype:
    """The number type that is asked for. "auto" is bfloat16 where the hardware itself has it; where
    it is emulated, float16 on a GPU, as on a T4, and float32 on a processor."""
    if precision != "auto":
        return getattr(torch, precision)
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    modern = torch.backends.cpu.get_cpu_capability() == "AVX512"  # or less, by ATEN_CPU_CAPABILITY
    modern = device == "cpu" and modern and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if modern else torch.float32


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for the next step's tensors. Else glibc gives
    it back to Linux, which clears every page anew, a fifth of a step. Other systems: no change."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0), (-8, 1)):
            mallopt(option, value)  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX
