"""Scaled rotary positions, which some third-party Llamas use to read longer texts.

A model that this package trains has none. One that `slm.load_model` loads may have been trained
further on longer texts, with lower rotary frequencies; it works only with those.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from slm.settings import ModelConfig
from slm.utils.settings_checks import check


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: all positions are divided by a factor.

    (Chen et al. 2023, arXiv:2306.15595.) Raises ValueError for a factor that is not above 0.
    """

    factor: float

    def __post_init__(self):
        check(self, "factor")

    def scale(self, frequencies: Tensor) -> Tensor:
        """Frequencies in radians per token, `(D/2,)`, to slower ones."""
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """The scaling of Llama 3.1 (Dubey et al. 2024, arXiv:2407.21783).

    Waves much shorter than the original context stay unchanged, the frequency of those longer than
    it is divided by a factor, and in between there is a smooth transition. Raises ValueError for
    invalid numbers.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        check(self, "factor", "low_freq_factor", "high_freq_factor")
        check(self, "original_max_position_embeddings", whole=True, low=1)
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must be above low_freq_factor ({self.low_freq_factor}), "
                f"not {self.high_freq_factor}."
            )

    def scale(self, frequencies: Tensor) -> Tensor:
        """Frequencies in radians per token, `(D/2,)`, to those of the longer context."""
        wavelengths = 2 * math.pi / frequencies  # (D/2,), in tokens
        waves_in_context = self.original_max_position_embeddings / wavelengths
        width = self.high_freq_factor - self.low_freq_factor
        kept = ((waves_in_context - self.low_freq_factor) / width).clamp(0, 1)  # 0: slowed fully
        return torch.lerp(frequencies / self.factor, frequencies, kept)


@dataclass(frozen=True)
class ScaledModelConfig(ModelConfig):
    """The settings of a model whose rotary positions are scaled."""

    rope_scaling: LinearScaling | Llama3Scaling | None = None
