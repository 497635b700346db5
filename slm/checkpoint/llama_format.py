"""The format of a Hugging Face Llama: the content of config.json, and which tensors there are.

A model that loads must compute what transformers computes. So every key of a config.json is either
understood, or known to change nothing, or a reason to refuse the model.
"""

import torch

from slm.model.rope_scaling import LinearScaling, Llama3Scaling, ScaledModelConfig
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer
from slm.tokenizer.pretrained import PretrainedTokenizer

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

# What transformers assumes where config.json says nothing, for keys that are understood.
HF_DEFAULTS = {
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "slm_dropout": 0.0,
}
ROPE_THETA = 10_000.0

# Keys that would change what is computed, and the values of a plain Llama. A missing key or null is
# fine too.
PLAIN_VALUES = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "quantization_config": (),
    "is_decoder": (True, False),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "pruned_heads": ({},),
    "architectures": (["LlamaForCausalLM"], ["LLaMAForCausalLM"]),
}

# Keys that do not change what is computed.
IGNORED_KEYS = {
    # Who saved it, and how.
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attn_implementation",
    "dtype",
    "is_llama_config",
    "model_type",
    "slm_tokenizer",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    # Training.
    "attention_dropout",
    "chunk_size_feed_forward",
    "embd_pdrop",
    "finetuning_task",
    "gradient_checkpointing",
    "initializer_range",
    "pretraining_tp",
    "resid_pdrop",
    # Classification.
    "id2label",
    "label2id",
    "problem_type",
    "task_specific_params",
    # Inputs and outputs.
    "max_sequence_length",
    "max_window_layers",  # of sliding windows, which are refused
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "return_dict",
    "return_dict_in_generate",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "use_cache",
    # Special tokens, which the tokenizer reads.
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "pad_token_id",
    "prefix",
    "sep_token_id",
    "unk_token_id",
    # How to generate.
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
}

# Keys that are read by a function of their own below.
UNDERSTOOD = {*LLAMA_NAMES.values(), "head_dim", "quantization", "rope_scaling", "rope_parameters"}

MAX_CONTEXT_LENGTH = 2**20  # tokens: the rotary tables of more would take gigabytes


def to_llama_config(model: Transformer, tokenizer: Tokenizer, dtype: torch.dtype) -> dict:
    """The content of config.json for a model whose weights are saved in `dtype`."""
    config = model.config
    settings = {key: getattr(config, field) for field, key in LLAMA_NAMES.items()}
    hf_config = {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": _one_or_list(tokenizer.end_ids),
        **settings,
        "architectures": ["LlamaForCausalLM"],
        "head_dim": config.head_dim,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if config.rope_scaling is not None:
        hf_config["rope_scaling"] = _to_rope_scaling(config.rope_scaling)
    hf_config.update(_tokenizer_entries(tokenizer))
    quantization = getattr(model, "quantization", None)
    if quantization is not None:  # no other library reads such weights: say so by the type
        hf_config["model_type"] = "slm-quantized"
        hf_config["quantization"] = quantization
    return hf_config


def _tokenizer_entries(tokenizer: Tokenizer | PretrainedTokenizer) -> dict:
    """The entries of config.json about the tokenizer.

    "prefix" is the text that transformers' pipeline puts before a prompt. It is left out where the
    tokenizer adds that token itself.
    """
    prefix = {"prefix": tokenizer.decode([tokenizer.bos_id])}
    if not isinstance(tokenizer, PretrainedTokenizer):
        return prefix
    return {} if tokenizer.adds_bos else prefix | {"slm_tokenizer": "pretrained"}


def to_generation_config(model: Transformer, tokenizer: Tokenizer) -> dict:
    """The content of generation_config.json: transformers then samples as this package does."""
    sampling = SamplingConfig()
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": _one_or_list(tokenizer.end_ids),
        "pad_token_id": tokenizer.eot_id,
        "max_new_tokens": min(sampling.max_new_tokens, model.config.context_length),
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": 0,  # all tokens: transformers would otherwise keep the 50 likeliest
        "min_p": sampling.min_p,
    }


def from_llama_config(hf_config: dict) -> ModelConfig:
    """The model's settings, from the content of config.json.

    Raises ValueError where one is missing, or where this package cannot compute such a model.
    """
    expected_type = "slm-quantized" if hf_config.get("quantization") else "llama"
    if hf_config.get("model_type") != expected_type:
        raise ValueError(f"its model_type is {hf_config.get('model_type')!r}, not 'llama'")
    _refuse_unknown_keys(hf_config)
    values = HF_DEFAULTS | hf_config
    rope = _rope_parameters(hf_config)
    values["rope_theta"] = rope.get("rope_theta", hf_config.get("rope_theta", ROPE_THETA))
    missing = [key for key in LLAMA_NAMES.values() if key not in values]
    if missing:
        raise ValueError(f"there is no {missing[0]} in config.json")
    settings = {field: values[key] for field, key in LLAMA_NAMES.items()}
    scaling = _rope_scaling(rope, settings["context_length"])
    if scaling is None:
        config = ModelConfig(**settings)
    else:
        config = ScaledModelConfig(**settings, rope_scaling=scaling)
    if hf_config.get("head_dim") not in (None, config.head_dim):
        head_dim = f"its head_dim is {hf_config['head_dim']!r}"
        supported = f"hidden_size / num_attention_heads ({config.head_dim})"
        raise ValueError(f"{head_dim}, and only {supported} is supported")
    if config.context_length > MAX_CONTEXT_LENGTH:
        length = f"its max_position_embeddings is {config.context_length:,}"
        raise ValueError(f"{length}, and at most {MAX_CONTEXT_LENGTH:,} are supported")
    return config


def _refuse_unknown_keys(hf_config: dict) -> None:
    """Raise ValueError for a key, or a value of one, that may change what the model computes."""
    for key, value in hf_config.items():
        if value is None or key in IGNORED_KEYS or key in UNDERSTOOD:
            continue
        if key == "layer_types" and _all_attend_to_everything(value):
            continue
        if key not in PLAIN_VALUES:
            raise ValueError(f"its config.json has {key}, which is not supported")
        if not any(_same(value, plain) for plain in PLAIN_VALUES[key]):
            raise ValueError(f"its {key} is {value!r}, which is not supported")


def _all_attend_to_everything(layer_types: object) -> bool:
    return isinstance(layer_types, list) and all(kind == "full_attention" for kind in layer_types)


def _same(value: object, plain: object) -> bool:
    """Whether two values are equal in JSON, where True and 1 differ."""
    return value == plain and isinstance(value, bool) == isinstance(plain, bool)


def _rope_parameters(hf_config: dict) -> dict:
    """The entry about rotary positions: rope_scaling in transformers 4, rope_parameters in 5."""
    old = hf_config.get("rope_scaling") or {}
    new = hf_config.get("rope_parameters") or {}
    for rope in (old, new):
        if not isinstance(rope, dict):
            raise ValueError(f"its rotary positions cannot be understood: {rope!r}")
    if old and new and old != new:
        raise ValueError("its rope_scaling and rope_parameters contradict each other")
    return old or new


def _rope_scaling(rope: dict, context_length: int) -> LinearScaling | Llama3Scaling | None:
    """How rotary positions are scaled. Raises ValueError for a kind that is not supported."""
    rope = {key: value for key, value in rope.items() if value is not None}
    kind = rope.pop("rope_type", rope.get("type", "default"))
    rope.pop("type", None)
    rope.pop("rope_theta", None)
    if rope.pop("partial_rotary_factor", 1) != 1:
        raise ValueError("it turns only a part of each head (partial_rotary_factor)")
    try:
        if kind == "default" and not rope:
            return None
        if kind == "linear":
            return LinearScaling(**rope)
        if kind == "llama3":
            return Llama3Scaling(**{"original_max_position_embeddings": context_length, **rope})
    except TypeError:  # too many or too few of them
        kind = f"{kind} with {', '.join(map(str, rope)) or 'nothing else'}"
    raise ValueError(f"its rotary positions are scaled in a way that is not supported ({kind})")


def _to_rope_scaling(scaling: LinearScaling | Llama3Scaling) -> dict:
    kind = "linear" if isinstance(scaling, LinearScaling) else "llama3"
    return {"rope_type": kind, **vars(scaling)}


def _one_or_list(ids: tuple[int, ...]) -> int | list[int]:
    return ids[0] if len(ids) == 1 else list(ids)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Llama that is not quantized."""
    C = config.d_model
    M = config.d_ff
    V = config.vocab_size
    kv_width = config.n_kv_heads * config.head_dim
    layer_shapes = {
        "input_layernorm.weight": (C,),
        "self_attn.q_proj.weight": (C, C),
        "self_attn.k_proj.weight": (kv_width, C),
        "self_attn.v_proj.weight": (kv_width, C),
        "self_attn.o_proj.weight": (C, C),
        "post_attention_layernorm.weight": (C,),
        "mlp.gate_proj.weight": (M, C),
        "mlp.up_proj.weight": (M, C),
        "mlp.down_proj.weight": (C, M),
    }
    shapes = {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,)}
    for layer in range(config.n_layers):
        for name, shape in layer_shapes.items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (V, C)
    return shapes
