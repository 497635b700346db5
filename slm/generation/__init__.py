"""From logits to stories."""

from slm.generation.sampling import draw, next_token_probabilities
from slm.generation.text_generation import generate, generate_tokens, stream
from slm.settings import SamplingConfig

__all__ = [
    "SamplingConfig",
    "draw",
    "generate",
    "generate_tokens",
    "next_token_probabilities",
    "stream",
]
