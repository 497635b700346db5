"""The folder of a run: whose it is, what it was at when last saved, and the next save."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch.amp import GradScaler

from slm.batches import Batches, digest
from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model_as
from slm.hardware.processes import ProcessGroup
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.budget import Budget
from slm.training.history import History, Run, Step
from slm.training.optimizer import Optimizers
from slm.training.resume import damaged, read_facts, read_state, restore_state, save_state
from slm.utils.files import write
from slm.utils.folder_marker import RUN, claim_folder, lock_folder
from slm.utils.printing import say

BUDGET_SETTINGS = {"steps", "tokens", "minutes"}
CHANGEABLE_WITH_BUDGET = BUDGET_SETTINGS | {"teachers", "distillation"}
# These change where and how fast a run goes and how often it is measured, not what it learns.
CHANGEABLE = {"compile", "device", "evaluations", "evaluation_stories"}
DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}


@dataclass
class TrainingState:
    """All that changes from step to step, and so all that resuming a run needs."""

    model: Transformer
    optimizers: Optimizers
    batches: Batches
    scaler: GradScaler
    history: History
    progress: float = 0.0  # of the budget, from 0 to 1


class SaveError(OSError):
    """The end of a run could not be saved. The run itself, with its model, is `run`."""

    run: Run


class RunFolder:
    """The folder of a run with certain settings.

    `saved_steps` is how many steps the folder's state has; None if none is known.
    """

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.settings = settings
        self.state_file = path / "training.safetensors"
        self.saved_steps: int | None = None
        self._failing = False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder while training in it. Here it shows whether it can be written.

        Raises ValueError if it holds something else than a run or another process trains in it, and
        OSError if it cannot be written; but a run that is finished can be loaded from there.
        """
        with ExitStack() as stack:
            try:
                claim_folder(self.path, RUN)
                stack.enter_context(lock_folder(self.path))
            except OSError as error:
                if not self._is_finished():
                    raise OSError(
                        f"The run cannot be saved in {self.path} ({error.strerror or error}): "
                        "name a folder that can be written."
                    ) from None
            yield

    def _is_finished(self) -> bool:
        return self.state_file.exists() and read_facts(self.state_file)["share"] >= 1

    def clear(self) -> None:
        """Remove the run that was here, so that a crash of the new one never brings it back.

        Its model goes with it: half of the one and half of the other would be neither.
        """
        for name in (self.state_file.name, "model.safetensors", "history.json"):
            (self.path / name).unlink(missing_ok=True)

    def resume(self, state: TrainingState, budget: Budget) -> bool:
        """Set a run to where it was when saved here; False if nothing was saved.

        Its progress is that of `budget`: a larger one takes the same run further, if wanted with
        other teachers. Raises ValueError if what is here is damaged, or a run with other settings.
        """
        if not self.state_file.exists():
            return False
        facts = read_facts(self.state_file)
        history = History.from_dict(facts["history"])
        progress = self._check_settings(facts, history.steps[-1], budget)
        tensors, facts = read_state(self.state_file, state.model, state.optimizers)
        try:
            state.batches.unfinished = facts.get("unfinished", [])
        except ValueError as error:
            raise damaged(self.state_file, error) from None
        restore_state(tensors, state.model, state.optimizers)
        if facts.get("scaler") and state.scaler.is_enabled():
            state.scaler.load_state_dict(facts["scaler"])
        state.batches.state = facts["batches"]
        state.history = history
        state.progress = progress
        self.saved_steps = len(history.steps)
        return True

    def _check_settings(self, facts: dict, last: Step, budget: Budget) -> float:
        """The progress of a run that was saved; ValueError if it is another run than ours."""
        saved = DEFAULTS | facts["settings"]  # an earlier version may have had fewer settings
        changed = [name for name in self.settings if self.settings[name] != saved.get(name)]
        changed = set(changed) - CHANGEABLE
        if not changed:
            return facts["share"]
        progress = budget.progress(last.step, last.seconds)
        is_larger = bool(changed & BUDGET_SETTINGS) and progress < 1
        if is_larger and changed <= CHANGEABLE_WITH_BUDGET:
            return progress
        names = ", ".join(name for name in self.settings if name in changed)
        raise ValueError(
            f"{self.path} holds a run with other {names}: "
            "name another folder, or give fresh=True to replace it."
        )

    def save(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        """Save the model, the history and, last, the state of a run.

        In this order a state that says "finished" has its model beside it, wherever the process
        ends. Raises ValueError, and saves nothing, if a weight is no longer a finite number.
        """
        check_weights(state.model)
        history = asdict(state.history)
        facts = {
            "settings": self.settings,
            "batches": state.batches.state,
            "unfinished": state.batches.unfinished,
            "scaler": state.scaler.state_dict(),
            "share": state.progress,
            "history": history,
        }
        self._save_model(state, tokenizer)
        save_state(self.state_file, state.model, state.optimizers, facts)
        self.saved_steps = len(state.history.steps)

    def try_to_save(self, state: TrainingState, tokenizer: Tokenizer) -> str:
        """Save; if that fails, return a sentence that says so, the first time, and go on."""
        try:
            self.save(state, tokenizer)
        except (OSError, MemoryError) as error:
            is_first_failure = not self._failing
            self._failing = True
            return self._failure(error, state) if is_first_failure else ""
        self._failing = False
        return ""

    def save_end(self, state: TrainingState, run: Run) -> None:
        """Save a run that has ended; a SaveError, which carries the run, if that fails."""
        try:
            self.save(state, run.tokenizer)
        except (OSError, MemoryError) as error:
            failure = SaveError(
                f"{self._failure(error, state)} The trained model is not lost yet: it is this "
                "error's run.model; make room, or save it elsewhere by slm.save_model."
            )
            failure.run = run
            raise failure from None

    def _failure(self, error: Exception, state: TrainingState) -> str:
        """What could not be saved and why, how many bytes it takes, and what is safe."""
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else error or type(error).__name__
        size = 4 * sum(weight.numel() for weight in state.model.parameters())
        safe = f"step {self.saved_steps:,} is" if self.saved_steps else "nothing yet is"
        return (
            f"Step {len(state.history.steps):,} could not be saved in {self.path} ({reason}; it "
            f"takes about {4 * size / 1e6:,.0f} MB): {safe} safe there."
        )

    def _save_model(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        save_model_as(RUN, self.path, state.model, tokenizer)
        write(self.path / "history.json", _history_file(state.history))

    def mend(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        """Write a finished run's model and history anew if they are not those of its state.

        Versions that saved the state first left such folders when their process was killed.
        """
        if not self._is_whole(state, tokenizer):
            say(f"The model in {self.path} was not that of its finished run: written anew.")
            self._save_model(state, tokenizer)

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


def check_weights(model: Transformer) -> None:
    """Raise ValueError, which names it, if a tensor has numbers that are not finite."""
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise ValueError(
                f"The weights in {name} are no longer finite numbers: "
                "train with a lower learning_rate."
            )


def _history_file(history: History) -> bytes:
    return json.dumps(asdict(history), indent=1).encode()


def run_settings(
    model_config: ModelConfig, config: TrainConfig, tokenizer: Tokenizer, stories: Stories
) -> dict:
    """All that decides how a run goes, as JSON has it: two runs with the same settings are one."""
    settings = {
        **asdict(model_config),
        **asdict(config),
        "tokenizer": tokenizer.digest,
        "stories": [digest(stories.train), digest(stories.validation)],
    }
    # 5 and 5.0 are the same setting, and so are (5,) and [5].
    return json.loads(json.dumps(settings, default=str), parse_int=float)


def default_folder(preset: str, settings: dict) -> Path:
    """A folder of its own for every run, below runs/."""
    text = json.dumps(settings, sort_keys=True)
    return Path("runs") / f"{preset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def open_run(
    folder: RunFolder,
    state: TrainingState,
    config: TrainConfig,
    budget: Budget,
    tokenizer: Tokenizer,
    processes: ProcessGroup,
    fresh: bool,
) -> None:
    """Resume the run in the folder, or begin one; seed PyTorch's generator, which dropout uses."""
    if not fresh and folder.resume(state, budget):
        if processes.is_first:
            what = "Resuming the run" if state.progress < 1 else "Loaded the finished run"
            steps = f"{len(state.history.steps):,} steps"
            say(f"{what} in {folder.path} ({steps}); fresh=True trains anew.")
            if state.progress >= 1:
                folder.mend(state, tokenizer)
    else:
        if processes.is_first:
            folder.clear()
        torch.manual_seed(config.seed)
    if not processes.is_first:  # each process drops other numbers
        torch.manual_seed((config.seed + processes.rank) * 2**32 + state.batches.state)
