"""From logits to stories."""

from slm.generation.decoder import FastDecoder
from slm.generation.sampling import draw, next_token_probabilities
from slm.generation.text_generation import generate, generate_ids, stream
from slm.settings import SamplingConfig

__all__ = [
    "FastDecoder",
    "SamplingConfig",
    "draw",
    "generate",
    "generate_ids",
    "next_token_probabilities",
    "stream",
]
