"""Fine-tuning as a job: how far it has come, how long it will take, and an early end."""

import time
from dataclasses import dataclass
from pathlib import Path

import slm
from slm.finetuning.result import FineTuned
from slm.model.transformer import Transformer
from slm.page.jobs import Job
from slm.page.models import LoadedModel
from slm.page.writing_job import CUT_OFF, StoryWriter
from slm.settings import FineTuneConfig
from slm.stories.cleaning import clean_stories
from slm.stories.loading import load_stories
from slm.stories.opening import commonest_opening

ORDINARY_STORIES = 2_000  # what `slm.finetune` takes by itself, against forgetting
SAMPLES = 2
SAMPLE_TOKENS = 80


class CancelledError(Exception):
    """Fine-tuning was stopped before there was anything to save."""


@dataclass(frozen=True)
class Progress:
    """How far fine-tuning has come."""

    share: float  # of all steps
    scores: tuple[float, ...]  # in nats per token on the stories held out, after each epoch
    seconds_left: float | None  # at most, since it may end early; None where not known yet


@dataclass(frozen=True)
class Sample:
    """What a model writes after an opening, before and after it has been fine-tuned."""

    opening: str
    before: str
    after: str


class TuningJob(Job):
    """Fine-tune a model on stories, and save it in a folder."""

    def __init__(self, chosen: LoadedModel, stories: list[str], folder: Path):
        super().__init__()
        self.folder = folder
        self.progress: Progress | None = None  # None until the first step is done
        self.is_practice = False  # whether made-up stories stand in for TinyStories
        self.was_cancelled = False
        self.result: FineTuned | None = None
        self.samples: list[Sample] = []
        self._chosen = chosen
        self._stories = stories
        self._first_step: tuple[float, float] | None = None  # when it was done, and its share

    def work(self) -> None:
        """Fine-tune and save, and write samples."""
        ordinary = load_stories(n=ORDINARY_STORIES)
        self.is_practice = ordinary.is_practice
        try:
            self.result = slm.finetune(
                self._chosen.model,
                self._chosen.tokenizer,
                self._stories,
                ordinary=ordinary,
                folder=self.folder,
                callback=self.after_step,
            )
        except CancelledError:
            self.was_cancelled = True
            return
        tuned = self.result.model
        self.samples = [
            Sample(opening, self._write(self._chosen.model, opening), self._write(tuned, opening))
            for opening in first_openings(self._stories)
        ]

    def _write(self, model: Transformer, opening: str) -> str:
        """A short story, with … where it is cut off."""
        settings = {"max_new_tokens": SAMPLE_TOKENS, "seed": FineTuneConfig().seed}
        writer = StoryWriter(model, self._chosen.tokenizer, opening, settings)
        story = "".join(writer.pieces())
        return f"{story} …" if writer.ending == CUT_OFF else story

    def after_step(self, share: float, scores: list[float]) -> bool:
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


def first_openings(stories: list[str]) -> list[str]:
    """The first words of the first stories that do not begin alike."""
    kept, _ = clean_stories(stories)
    openings = dict.fromkeys(commonest_opening([story]) for story in kept)
    return list(openings)[:SAMPLES]
