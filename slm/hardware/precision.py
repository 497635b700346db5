"""The number type that suits a device."""

import torch


def pick_precision(precision: str, device: str) -> torch.dtype:
    """The number type that is asked for; with "auto" the fastest that the hardware has itself.

    That is bfloat16 where it is not emulated. Where it is, float16 on a GPU (such as a T4) and
    float32 on a processor.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability() >= (8, 0)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if device == "cpu" and _processor_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def _processor_has_bfloat16() -> bool:
    # ATEN_CPU_CAPABILITY may restrict PyTorch to older instructions than the processor has.
    allowed = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return allowed and torch.cpu._is_avx512_bf16_supported()
