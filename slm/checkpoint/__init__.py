"""Saving models to folders, and loading them."""

from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model

__all__ = [
    "load_model",
    "save_model",
]
