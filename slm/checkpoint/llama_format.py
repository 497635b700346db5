"""config.json as Hugging Face's Llama has it, and what our settings are called there."""

import torch

from slm.model.transformer import Transformer
from slm.settings import ModelConfig
from slm.tokenizer.byte_pair import Tokenizer

# Fields of ModelConfig, and the keys of config.json that hold them. Llama has no dropout.
LLAMA_NAMES = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "dropout": "slm_dropout",
}

# What is the same in every model that this package can compute.
REQUIRED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_type": "default",
}

# What transformers assumes where config.json says nothing.
DEFAULTS = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "slm_dropout": 0.0,
}


def to_llama_config(model: Transformer, tokenizer: Tokenizer, dtype: torch.dtype) -> dict:
    """The content of config.json for a model whose weights are saved in `dtype`."""
    config = model.config
    settings = {key: getattr(config, field) for field, key in LLAMA_NAMES.items()}
    llama = {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eot_id,
        **settings,
        "architectures": ["LlamaForCausalLM"],
        "head_dim": config.head_dim,
        "dtype": str(dtype).removeprefix("torch."),
        # The text that transformers' pipeline puts before a prompt.
        "prefix": tokenizer.decode([tokenizer.bos_id]),
    }
    quantization = getattr(model, "quantization", None)
    if quantization is not None:  # no other library reads such weights: say so by the type
        llama["model_type"] = "slm-quantized"
        llama["quantization"] = quantization
    return llama


def to_generation_config(model: Transformer, tokenizer: Tokenizer) -> dict:
    """The content of generation_config.json: transformers then samples as this package does."""
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eot_id,
        "pad_token_id": tokenizer.eot_id,
        "max_new_tokens": min(400, model.config.context_length),
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 0,
        "min_p": 0.05,
    }


def from_llama_config(llama: dict) -> ModelConfig:
    """The model's settings from the content of config.json. Raises ValueError where they are not
    those of a Llama that this package can compute, or where one is missing."""
    rope = llama.get("rope_parameters") or {}
    quantization = llama.get("quantization") or {}
    values = DEFAULTS | llama | rope | quantization
    for key, required in REQUIRED.items():
        if values.get(key) != required:
            raise ValueError(f"its {key} is {values.get(key)!r}, not {required!r}")
    missing = [key for key in LLAMA_NAMES.values() if key not in values]
    if missing:
        raise ValueError(f"there is no {missing[0]} in config.json")
    return ModelConfig(**{field: values[key] for field, key in LLAMA_NAMES.items()})
