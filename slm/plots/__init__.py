"""Pictures of data, tokens, the model, its training and its stories; each call returns a Figure."""

from slm.plots.data import story_lengths
from slm.plots.diagram import architecture
from slm.plots.generation import loss_by_position, next_token, scores
from slm.plots.live import LiveCurve
from slm.plots.model import attention_maps, attention_steps, embedding_map, parameters, rotary
from slm.plots.tokenization import batch, bigrams, confidence, tokens
from slm.plots.training import loss_curve, schedule, story_and_curve, story_strip

__all__ = [
    "LiveCurve",
    "architecture",
    "attention_maps",
    "attention_steps",
    "batch",
    "bigrams",
    "confidence",
    "embedding_map",
    "loss_by_position",
    "loss_curve",
    "next_token",
    "parameters",
    "rotary",
    "schedule",
    "scores",
    "story_and_curve",
    "story_lengths",
    "story_strip",
    "tokens",
]
