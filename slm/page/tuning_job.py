"""Fine-tuning as a job: how far it has come, how long it will take, and an early end."""

import time
from dataclasses import dataclass
from pathlib import Path

import slm
from slm.finetuning.result import FineTuned
from slm.page.jobs import Job
from slm.page.models import LoadedModel
from slm.stories.loading import load_stories

ORDINARY_STORIES = 2_000  # what `slm.finetune` takes by itself, against forgetting


class CancelledError(Exception):
    """Fine-tuning was stopped before there was anything to save."""


@dataclass(frozen=True)
class Progress:
    """How far fine-tuning has come."""

    share: float  # of all steps
    scores: tuple[float, ...]  # in nats per token on the stories held out, after each epoch
    seconds_left: float | None  # at most, since it may end early; None where not known yet


class TuningJob(Job):
    """Fine-tune a model on texts, and save it in a folder."""

    def __init__(self, chosen: LoadedModel, texts: list[str], folder: Path):
        super().__init__()
        self.folder = folder
        self.progress: Progress | None = None  # None until the first step is done
        self.is_practice = False  # whether made-up stories stand in for TinyStories
        self.was_cancelled = False
        self.result: FineTuned | None = None
        self._chosen = chosen
        self._texts = texts
        self._first_step: tuple[float, float] | None = None  # when it was done, and its share

    def work(self) -> None:
        """Fine-tune and save."""
        ordinary = load_stories(n=ORDINARY_STORIES)
        self.is_practice = ordinary.is_practice
        try:
            self.result = slm.finetune(
                self._chosen.model,
                self._chosen.tokenizer,
                self._texts,
                ordinary=ordinary,
                folder=self.folder,
                callback=self._after_step,
            )
        except CancelledError:
            self.was_cancelled = True

    def _after_step(self, share: float, scores: list[float]) -> bool:
        """Note the progress after a step; whether to stop now."""
        now = time.monotonic()
        seconds_left = None
        if self._first_step is None:
            self._first_step = now, share
        else:
            began, share_then = self._first_step
            seconds_left = (now - began) / (share - share_then) * (1 - share)
        self.progress = Progress(share, tuple(scores), seconds_left)
        if self.should_stop and not scores:
            raise CancelledError
        return self.should_stop
