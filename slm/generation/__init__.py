"""Generating stories: decoding, sampling and text."""

from slm.generation.decoder import IncrementalDecoder
from slm.generation.sampling import draw, next_token_probabilities
from slm.generation.text_generation import generate, generate_ids, stream
from slm.settings import SamplingConfig

__all__ = [
    "IncrementalDecoder",
    "SamplingConfig",
    "draw",
    "generate",
    "generate_ids",
    "next_token_probabilities",
    "stream",
]
