"""What an export asks of a model."""

from slm.model.transformer import Transformer


def not_quantized(model: Transformer) -> Transformer:
    """The model, unless it is quantized: then ValueError."""
    if hasattr(model, "quantization"):
        raise ValueError("A quantized model cannot be exported: export the one it was made from.")
    return model
