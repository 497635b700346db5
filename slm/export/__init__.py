"""Hand a model to others: llama.cpp, ONNX, one HTML file, the hub."""

from slm.export.gguf import GGUF_TYPES, export_gguf
from slm.export.html import export_html
from slm.export.hub import push_to_hub
from slm.export.model_card import model_card
from slm.export.onnx import export_onnx

__all__ = [
    "GGUF_TYPES",
    "export_gguf",
    "export_html",
    "export_onnx",
    "model_card",
    "push_to_hub",
]
