"""Learn how a language model works by training one that writes stories on your own laptop."""

__all__ = [
    "OPENINGS",
    "FineTuneConfig",
    "ModelConfig",
    "NGram",
    "SamplingConfig",
    "TrainConfig",
    "Transformer",
    "attention_maps",
    "check",
    "distinct",
    "evaluate",
    "export_gguf",
    "export_html",
    "export_onnx",
    "finetune",
    "generate",
    "load_model",
    "load_stories",
    "load_tokenizer",
    "longest_copies",
    "model_card",
    "plots",
    "push_to_hub",
    "quantize",
    "recall",
    "repetition",
    "save_model",
    "size_table",
    "story_report",
    "stream",
    "train",
    "train_tokenizer",
]

_ANALYSIS = {
    "NGram",
    "OPENINGS",
    "attention_maps",
    "distinct",
    "longest_copies",
    "repetition",
    "size_table",
    "story_report",
}


def __getattr__(name: str):
    """Import a public name when it is first used, so that `slm --help` need not load PyTorch."""
    if name in ("FineTuneConfig", "ModelConfig", "SamplingConfig", "TrainConfig"):
        from slm import settings as module
    elif name == "load_stories":
        from slm import stories as module
    elif name in ("load_tokenizer", "train_tokenizer"):
        from slm import tokenizer as module
    elif name == "Transformer":
        from slm import model as module
    elif name == "train":
        from slm import training as module
    elif name == "evaluate":
        from slm import evaluation as module
    elif name in ("generate", "stream"):
        from slm import generation as module
    elif name in ("load_model", "save_model"):
        from slm import checkpoint as module
    elif name in _ANALYSIS:
        from slm import analysis as module
    elif name == "finetune":
        from slm import finetuning as module
    elif name == "quantize":
        from slm import quantization as module
    elif name in ("export_gguf", "export_html", "export_onnx", "model_card", "push_to_hub"):
        from slm import export as module
    elif name == "check":
        from slm import exercises as module
    elif name == "recall":
        from slm import memoization as module
    elif name == "model":
        import slm.model as module

        return module
    elif name == "plots":
        import slm.plots as module

        return module
    else:
        raise AttributeError(f"module 'slm' has no attribute {name!r}")
    return getattr(module, name)


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
