"""A model becomes a folder: a Hugging Face model, with no conversion step."""

import json
from pathlib import Path

import safetensors.torch
import torch

from slm.checkpoint.llama_format import LLAMA, LLAMA_NAMES
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import write


def save_model(
    folder: str | Path, model: Transformer, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32
) -> Path:
    """Save a model and its tokenizer as a folder that transformers loads as it is, each file whole
    or not at all; in `dtype` torch.float16 it takes half the room, and loses next to nothing.
    Raises ValueError where model and tokenizer do not belong together."""
    model.check_tokenizer(tokenizer)
    folder, config, eot = Path(folder), model.config, tokenizer.eot_id
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": eot}
    llama = LLAMA | ends | {name: getattr(config, field) for field, name in LLAMA_NAMES.items()}
    llama |= {"architectures": ["LlamaForCausalLM"], "head_dim": config.head_dim}
    llama |= {"dtype": str(dtype).removeprefix("torch.")}
    llama |= {"prefix": tokenizer.decode([tokenizer.bos_id])}  # put before prompts by transformers
    generation = ends | {"pad_token_id": eot, "max_new_tokens": min(400, config.context_length)}
    generation |= {"do_sample": True, "temperature": 0.8, "top_k": 0, "min_p": 0.05}
    weights = {name: value.to("cpu", dtype) for name, value in model.state_dict().items()}
    if how := getattr(model, "quantization", None):  # by slm.quantize: its codes stay as they are
        weights = model.state_dict()
        llama |= {"model_type": "slm-quantized", "quantization": how}
    weights = safetensors.torch.save(weights, {"format": "pt"})
    tokenizer.save(folder)
    write(folder / "config.json", json.dumps(llama, indent=2).encode())
    write(folder / "generation_config.json", json.dumps(generation, indent=2).encode())
    write(folder / "model.safetensors", weights)
    return folder
