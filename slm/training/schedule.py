"""The learning-rate schedule: a linear warm-up, then a linear decay."""

from slm.settings import TrainConfig


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """The share of the peak learning rate at `progress`, from 0 (start) to 1 (end of the run).

    It rises from 0 to 1 during the first `config.warmup` of the run, then falls to
    `config.final_learning_rate`.
    """
    if progress < config.warmup:
        return progress / config.warmup
    decay = (progress - config.warmup) / max(1 - config.warmup, 1e-9)  # from 0 to 1
    return 1 - (1 - config.final_learning_rate) * min(decay, 1.0)
