"""The folder of a run: whose it is, what it was at when last saved, and the next save."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.amp import GradScaler

from slm.batches import Batches, digest
from slm.checkpoint.saving import save_model
from slm.hardware.processes import ProcessGroup
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.budget import Budget
from slm.training.history import History
from slm.training.optimizer import Optimizers
from slm.training.resume import read_state, restore_state, save_state
from slm.utils.files import write

BUDGET_SETTINGS = {"steps", "tokens", "minutes"}
CHANGEABLE_WITH_BUDGET = BUDGET_SETTINGS | {"teachers", "distillation"}


@dataclass
class TrainingState:
    """All that changes from step to step, and so all that resuming a run needs."""

    model: Transformer
    optimizers: Optimizers
    batches: Batches
    scaler: GradScaler
    history: History
    progress: float = 0.0  # of the budget, from 0 to 1


@dataclass(frozen=True)
class SavedState:
    """What a run's folder holds of its state: tensors, and facts as JSON has them."""

    tensors: dict[str, Tensor]
    settings: dict
    history: History
    batches: int
    progress: float

    def restore(self, state: TrainingState) -> None:
        """Set a run to where it was when this was saved."""
        restore_state(self.tensors, state.model, state.optimizers)
        state.batches.state = self.batches
        state.history = self.history
        state.progress = self.progress


class RunFolder:
    """The folder of a run with certain settings."""

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.settings = settings
        self.state_file = path / "training.safetensors"

    def clear(self) -> None:
        """Forget the run that was here, so that a crash of the new one never brings it back."""
        self.state_file.unlink(missing_ok=True)

    def read(self, budget: Budget) -> SavedState | None:
        """The state that was saved here, if any; its progress is that of `budget`.

        Raises ValueError if it is damaged or of a run with other settings. A larger budget is the
        same run taken further, if wanted with other teachers.
        """
        if not self.state_file.exists():
            return None
        tensors, facts = read_state(self.state_file)
        history = History.from_dict(facts["history"])
        progress = facts["share"]
        changed = {
            name: value
            for name, value in self.settings.items()
            if value != facts["settings"].get(name)
        }
        if changed:
            last = history.steps[-1]
            progress = budget.progress(last.step, last.seconds)
            larger = bool(changed.keys() & BUDGET_SETTINGS) and progress < 1
            if not larger or changed.keys() - CHANGEABLE_WITH_BUDGET:
                raise ValueError(
                    f"{self.path} holds a run with other {', '.join(changed)}: "
                    "name another folder, or give fresh=True to replace it."
                )
        return SavedState(tensors, facts["settings"], history, facts["batches"], progress)

    def save(self, state: TrainingState, tokenizer: Tokenizer) -> None:
        """Save the state of a run, its model and its history."""
        history = asdict(state.history)
        facts = {
            "settings": self.settings,
            "batches": state.batches.state,
            "share": state.progress,
            "history": history,
        }
        save_state(self.state_file, state.model, state.optimizers, facts)
        save_model(self.path, state.model, tokenizer)
        write(self.path / "history.json", json.dumps(history, indent=1).encode())


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
    processes: ProcessGroup,
    fresh: bool,
) -> None:
    """Resume the run in the folder, or begin one; seed PyTorch's generator, which dropout uses."""
    saved = None if fresh else folder.read(budget)
    if saved:
        saved.restore(state)
        if processes.is_first:
            what = "Resuming the run" if state.progress < 1 else "Loaded the finished run"
            steps = f"{len(state.history.steps):,} steps"
            print(f"{what} in {folder.path} ({steps}); fresh=True trains anew.")
    else:
        if processes.is_first:
            folder.clear()
        torch.manual_seed(config.seed)
    if not processes.is_first:  # each process drops other numbers
        torch.manual_seed((config.seed + processes.rank) * 2**32 + state.batches.state)
