"""The mini-transformer, and its key-value cache."""

from slm.model.kv_cache import KVCache
from slm.model.transformer import (
    MLP,
    Attention,
    Block,
    Decoder,
    Transformer,
    attend,
    evaluating,
    rotary_tables,
    rotate,
)
from slm.settings import ModelConfig

__all__ = [
    "MLP",
    "Attention",
    "Block",
    "Decoder",
    "KVCache",
    "ModelConfig",
    "Transformer",
    "attend",
    "evaluating",
    "rotary_tables",
    "rotate",
]
