"""A folder becomes a model: one of ours, or any small Llama."""

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from slm.checkpoint.hub import fetch_model
from slm.checkpoint.llama_format import LLAMA, LLAMA_NAMES, UNSAID
from slm.model.transformer import Transformer
from slm.quantization.matrix import quantize
from slm.settings import ModelConfig
from slm.tokenizer.byte_pair import END_OF_TEXT, Tokenizer, load_tokenizer
from slm.utils.files import ASSETS


def load_model(folder_or_name: str | Path) -> tuple[Transformer, Tokenizer]:
    """Load a model, in float32 on the CPU, and its tokenizer from a folder, or one in the package
    by name; or any small Llama, also from the hub by its name, "owner/model". Raises
    FileNotFoundError or ValueError where there is no whole model of this kind."""
    folder = Path(folder_or_name).expanduser()
    if not folder.exists() and (ASSETS / folder / "config.json").exists():
        folder = ASSETS / folder
    elif len(folder.parts) == 2 and not folder.parent.exists():
        folder = fetch_model(folder.as_posix())
    for path in (folder / "config.json", folder / "model.safetensors"):
        if not path.is_file():
            mend = "name a folder that slm.save_model or slm.train has written"
            raise FileNotFoundError(f"There is no model at {path}: {mend}.")
    try:
        llama = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        llama = UNSAID | llama | llama.get("rope_parameters", {}) | llama.get("quantization", {})
        for name, wanted in (LLAMA | {"rope_type": "default"}).items():
            if llama.get(name) != wanted:
                raise ValueError(f"its {name} is {llama.get(name)!r}, not {wanted!r}")
        config = ModelConfig(**{field: llama[name] for field, name in LLAMA_NAMES.items()})
        model = Transformer(config)
        if "bits" in llama:
            how = llama["bits"], llama["group_size"]
            model = quantize(model, *how)
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        if config.tie_embeddings:
            weights.pop("lm_head.weight", None)  # the same table again
        model.load_state_dict(weights)
        ours = llama.get("prefix") == END_OF_TEXT
        if ours:
            tokenizer = load_tokenizer(folder)
        else:
            from slm.tokenizer.pretrained import ForeignTokenizer

            tokenizer = ForeignTokenizer(folder)
        model.check_tokenizer(tokenizer)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as why:
        what = f"no {why} in config.json" if isinstance(why, KeyError) else why
        reason = " ".join(str(what).split())[:300]
        raise ValueError(f"The model in {folder} is damaged or of another kind: {reason}") from None
    return model.eval(), tokenizer
