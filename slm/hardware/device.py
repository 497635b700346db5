"""The device to compute on."""

import os

import torch

from slm.hardware.mps_check import computes_rightly


def pick_device(device: str = "auto") -> str:
    """The device that is asked for; with "auto" a GPU if there is one, else the processor.

    Of several GPUs, each process that `torchrun` starts takes its own. A Mac's GPU that computes
    wrong results is not used, with a message. Raises ValueError for a GPU that is not there.
    """
    if device == "auto":
        device = _fastest_device()
    _check_available(device)
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if device == "mps" and not computes_rightly(device):
        print("This Mac's GPU (MPS) computes wrongly with this PyTorch: using the processor.")
        return "cpu"
    return device


def _check_available(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        kind = "NVIDIA or AMD GPU"
    elif device == "mps" and not torch.backends.mps.is_available():
        kind = "Mac's GPU"
    else:
        return
    raise ValueError(
        f"device is {device!r}, but PyTorch finds no {kind} here: set device to 'auto' or 'cpu'."
    )


def _fastest_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"
