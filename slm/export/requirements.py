"""What an export needs: weights that are not quantized, and optional libraries."""

from slm.model.transformer import Transformer


def require_unquantized(model: Transformer) -> None:
    """Raise ValueError for a quantized model."""
    if hasattr(model, "quantization"):
        raise ValueError("A quantized model cannot be exported: export the one it was made from.")


def missing_library(name: str) -> ImportError:
    """The error to raise where an optional library is not installed."""
    return ImportError(f"This needs the library {name}: pip install {name}")
