"""Learn how a language model works by training one that writes stories on your own laptop."""

from importlib import import_module

from slm.checkpoint import load_model, save_model
from slm.evaluation import evaluate
from slm.generation import SamplingConfig, generate, stream
from slm.model import ModelConfig, Transformer
from slm.optimization import TrainConfig
from slm.stories import load_stories
from slm.tokenizer import load_tokenizer
from slm.training import train

__all__ = ["ModelConfig", "SamplingConfig", "TrainConfig", "Transformer", "attention_maps"]
__all__ += ["evaluate", "generate", "load_model", "load_stories", "load_tokenizer", "plots"]
__all__ += ["OPENINGS", "NGram", "save_model", "stream", "train", "train_tokenizer"]
__all__ += ["export_gguf", "export_onnx", "finetune", "model_card", "push_to_hub", "quantize"]
__all__ += ["size_table"]
__all__ += ["distinct", "longest_copies", "repetition", "story_report"]
OPTIONAL = {"attention_maps": "slm.attention", "train_tokenizer": "slm.bpe"}
OPTIONAL |= {"NGram": "slm.baselines", "OPENINGS": "slm.openings", "story_report": "slm.report"}
OPTIONAL |= {"finetune": "slm.finetuning", "quantize": "slm.quantization"}
OPTIONAL["size_table"] = "slm.quantization"
OPTIONAL |= dict.fromkeys(("export_gguf", "export_onnx", "model_card", "push_to_hub"), "slm.export")
OPTIONAL |= dict.fromkeys(("distinct", "longest_copies", "repetition"), "slm.originality")


def __getattr__(name: str):
    """Import what is optional when it is first asked for."""
    if name == "plots":
        return import_module("slm.plots")
    if name in OPTIONAL:
        return getattr(import_module(OPTIONAL[name]), name)
    raise AttributeError(f"module 'slm' has no attribute {name!r}")
