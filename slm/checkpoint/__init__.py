"""A model becomes a folder, and a folder a model."""

from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model

__all__ = [
    "load_model",
    "save_model",
]
