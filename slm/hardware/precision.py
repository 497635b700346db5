"""The number type that suits a device."""

import torch


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
