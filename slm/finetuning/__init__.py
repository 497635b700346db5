"""Fine-tuning a trained model on stories of your own."""

from slm.finetuning.loop import finetune
from slm.finetuning.own_stories import own_stories, split_long
from slm.finetuning.result import FineTuned
from slm.settings import FineTuneConfig

__all__ = [
    "FineTuneConfig",
    "FineTuned",
    "finetune",
    "own_stories",
    "split_long",
]
