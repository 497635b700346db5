"""The device to compute on."""

import os

import torch

from slm.hardware.mps_check import computes_rightly


def pick_device(device: str = "auto") -> str:
    """The device that is asked for, or the best there is. Of several GPUs, each process that
    `torchrun` starts takes its own. A Mac's GPU that computes wrongly is left out; it is said."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = next(filter(there.get, there), "cpu") if device == "auto" else device
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if device == "mps" and not computes_rightly(device):
        print("This Mac's GPU (MPS) computes wrongly with this PyTorch: using the processor.")
        return "cpu"
    return device
