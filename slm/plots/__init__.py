"""Pictures of data, tokens, the model, its training and its stories; each call returns a Figure."""

from slm.plots.attention import attention_map, attention_maps, attention_steps
from slm.plots.charts import bars, grid, histogram, lines, word_grid
from slm.plots.data import openings, story_lengths
from slm.plots.diagram import architecture
from slm.plots.generation import loss_by_position, next_token, scores
from slm.plots.learning import rounding, schedule, slope, surprise
from slm.plots.live import LiveCurve
from slm.plots.model import embedding_map, parameters, vectors
from slm.plots.positions import rotary, rotary_distance
from slm.plots.tokenization import batch, bigrams, confidence, merges, tokens
from slm.plots.training import loss_curve, story_and_curve, story_strip

__all__ = [
    "LiveCurve",
    "architecture",
    "attention_map",
    "attention_maps",
    "attention_steps",
    "bars",
    "batch",
    "bigrams",
    "confidence",
    "embedding_map",
    "grid",
    "histogram",
    "lines",
    "loss_by_position",
    "loss_curve",
    "merges",
    "next_token",
    "openings",
    "parameters",
    "rotary",
    "rotary_distance",
    "rounding",
    "schedule",
    "scores",
    "slope",
    "story_and_curve",
    "story_lengths",
    "story_strip",
    "surprise",
    "tokens",
    "vectors",
    "word_grid",
]
