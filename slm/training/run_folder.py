"""The folder of a run: what is saved in it, and how it is saved."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model_as
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.history import History, Run
from slm.training.state import TrainingState
from slm.training.state_file import read_metadata, save_state
from slm.utils.files import write
from slm.utils.folder_marker import RUN, claim_folder, folder_kind, lock_folder
from slm.utils.printing import say

BYTES_PER_WEIGHT = 16  # in a run's files: the model 4; its state 4, and up to two moments of 4


class SaveError(OSError):
    """The end of a run could not be saved: `reason` says why. The run, with its model, is `run`."""

    def __init__(self, reason: str, run: Run):
        super().__init__(
            f"{reason} The trained model is not lost yet: it is this error's run.model; make room, "
            "or save it elsewhere by slm.save_model."
        )
        self.reason = reason
        self.run = run


class RunFolder:
    """The folder of a run with certain settings.

    `saved_steps` is how many steps the folder's state has; None if none is known.
    """

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.settings = settings
        self.state_file = path / "training.safetensors"
        self.saved_steps: int | None = None
        self._failing = False  # whether the latest save failed

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder while training in it. Here it shows whether it can be written.

        Raises ValueError if it holds something else than a run or another process trains in it, and
        OSError if it cannot be written; but a run that is finished can be loaded from there.
        """
        with ExitStack() as stack:
            try:
                self._check_unclaimed()
                claim_folder(self.path, RUN)
                stack.enter_context(lock_folder(self.path))
            except OSError as error:
                if not self._is_finished():
                    raise OSError(
                        f"The run cannot be saved in {self.path} ({error.strerror or error}): "
                        "name a folder that can be written."
                    ) from None
            yield

    def _check_unclaimed(self) -> None:
        """Raise ValueError for files of something else, as of a project, that a run would replace.

        What this package saved has a marker, or the files of an earlier version.
        """
        if folder_kind(self.path) is not None:
            return
        for name in ("config.json", "history.json"):
            if (self.path / name).exists():
                raise ValueError(
                    f"{self.path / name} does not belong to a training run: name another folder."
                )

    def _is_finished(self) -> bool:
        try:
            is_there = self.state_file.exists()
        except OSError:  # as for a name that is too long
            return False
        return is_there and read_metadata(self.state_file)["share"] >= 1

    def clear(self) -> None:
        """Remove the run that was here, so that a crash of the new one never brings it back.

        Its model goes with it: half of the one and half of the other would be neither.
        """
        for name in (self.state_file.name, "model.safetensors", "history.json"):
            (self.path / name).unlink(missing_ok=True)

    def save(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        """Save the model, the history and, last, the state of a run.

        In this order a state that says "finished" has its model beside it, wherever the process
        ends. Raises ValueError, and saves nothing, if a weight is no longer a finite number.
        """
        metadata = {
            "settings": self.settings,
            "batches": state.batches.stories_drawn,
            "unfinished": state.batches.unfinished,
            "scaler": state.scaler.state_dict(),
            "share": state.progress,  # so named since the first version of the file
            "history": asdict(state.history),
        }
        self._save_model(state, tokenizer)
        save_state(self.state_file, state.model, state.optimizers, metadata)
        self.saved_steps = len(state.history.steps)

    def try_to_save(self, state: TrainingState, tokenizer: Tokenizer) -> str | None:
        """Save; if that fails, return a sentence that says so.

        None if all went well, and if the save before failed too: that was said already.
        """
        try:
            self.save(state, tokenizer)
        except (OSError, MemoryError) as error:
            if self._failing:
                return None
            self._failing = True
            return self._failure(error, state)
        self._failing = False
        return None

    def save_end(self, state: TrainingState, run: Run) -> None:
        """Save a run that has ended; a SaveError, which carries the run, if that fails."""
        try:
            self.save(state, run.tokenizer)
        except (OSError, MemoryError) as error:
            raise SaveError(self._failure(error, state), run) from None

    def save_after_error(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        """Save the steps since the last save, as what came after a step raised an exception.

        Whatever fails here is said, not raised: the exception is what the caller has to see.
        """
        steps = len(state.history.steps)
        if self.saved_steps == steps:
            return
        try:
            failure = self.try_to_save(state, tokenizer)
        except ValueError as error:  # a weight is no longer a finite number
            failure = str(error)
        except RuntimeError as error:  # PyTorch's: no memory, or a GPU that has failed
            failure = self._failure(error, state)
        if failure:
            say(failure)
        elif self.saved_steps == steps:
            say(f"An error ended training after step {steps:,}, which is saved in {self.path}.")

    def _failure(self, error: Exception, state: TrainingState) -> str:
        """A sentence: what could not be saved and why, how large it is, and what is safe."""
        weights = sum(weight.numel() for weight in state.model.parameters())
        megabytes = BYTES_PER_WEIGHT * weights / 1e6
        safe = f"step {self.saved_steps:,} is" if self.saved_steps else "nothing yet is"
        return (
            f"Step {len(state.history.steps):,} could not be saved in {self.path} "
            f"({_reason(error)}; it takes about {megabytes:,.0f} MB): {safe} safe there."
        )

    def _save_model(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        save_model_as(RUN, self.path, state.model, tokenizer)
        write(self.path / "history.json", _history_file(state.history))

    def repair_model(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        """Write a finished run's model and history again if they are not those of its state.

        Versions that saved the state first left such folders when their process was killed.
        """
        if self._is_whole(state, tokenizer):
            return
        found = f"The model in {self.path} was not that of its finished run"
        try:
            self._save_model(state, tokenizer)
        except OSError as error:  # what was loaded is the run's own model all the same
            say(f"{found}, and could not be written again ({error}).")
            return
        say(f"{found}: it was written again.")

    def _is_whole(self, state: TrainingState, tokenizer: Tokenizer) -> bool:
        try:
            history = (self.path / "history.json").read_bytes()
            model, its_tokenizer = load_model(self.path)
        except (OSError, ValueError):
            return False
        weights = model.state_dict()
        return (
            history == _history_file(state.history)
            and its_tokenizer.digest == tokenizer.digest
            and all(
                torch.equal(weights[name], weight.cpu())
                for name, weight in state.model.state_dict().items()
            )
        )


def _reason(error: Exception) -> str:
    """Why a file could not be written, in a few words."""
    number = getattr(error, "errno", None)  # a MemoryError has none
    if number:
        return os.strerror(number)
    return str(error) or type(error).__name__


def _history_file(history: History) -> bytes:
    return json.dumps(asdict(history), indent=1).encode()
