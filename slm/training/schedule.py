"""The learning-rate schedule: warm-up, then down to the final rate in a straight line."""

from slm.settings import TrainConfig


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """Share of the peak learning rate at `progress` (0 to 1): up in a line, then down in a line."""
    if progress < config.warmup:
        return progress / config.warmup
    falling = (progress - config.warmup) / max(1 - config.warmup, 1e-9)
    return 1 - (1 - config.final_learning_rate) * min(falling, 1.0)
