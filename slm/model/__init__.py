"""The transformer and its key-value cache."""

from slm.model.kv_cache import KVCache
from slm.model.size import parameter_count
from slm.model.transformer import (
    MLP,
    Attention,
    Backbone,
    Block,
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
    "Backbone",
    "Block",
    "KVCache",
    "ModelConfig",
    "Transformer",
    "attend",
    "evaluating",
    "parameter_count",
    "rotary_tables",
    "rotate",
]
