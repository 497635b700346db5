"""Resuming: the run in a folder goes on where it was saved, or a new one begins there."""

import torch

from slm.training.budget import Budget
from slm.training.history import History
from slm.training.run_folder import RunFolder
from slm.training.run_settings import BUDGET_SETTINGS, CHANGEABLE_WITH_BUDGET, changed_settings
from slm.training.setup import TrainingSetup
from slm.training.state import TrainingState
from slm.training.state_file import damage_error, read_metadata, read_tensors, restore_tensors
from slm.utils.printing import say


def open_run(folder: RunFolder, state: TrainingState, setup: TrainingSetup, fresh: bool) -> None:
    """Resume the run in the folder, or begin one; seed PyTorch's generator, which dropout uses."""
    seed = setup.config.seed
    processes = setup.processes
    if not fresh and resume(folder, state, setup.budget):
        if processes.is_first:
            _report_resumed(folder, state)
            if state.progress >= 1:
                folder.repair_model(state, setup.tokenizer)
    else:
        if processes.is_first:
            folder.clear()
        torch.manual_seed(seed)
    if not processes.is_first:
        # Dropout must not set the same numbers to zero in every process, nor after each resumption.
        seed = (seed + processes.rank) * 2**32 + state.batches.stories_drawn
        torch.manual_seed(seed % 2**63)


def resume(folder: RunFolder, state: TrainingState, budget: Budget) -> bool:
    """Set `state` to what was saved in the folder; False if nothing was saved.

    Its progress is that of `budget`: a larger one takes the same run further, if wanted with other
    teachers. Raises ValueError if what was saved is damaged, or a run with other settings.
    """
    if not folder.state_file.exists():
        return False
    metadata = read_metadata(folder.state_file)
    # First: a model of other settings would make sound tensors look damaged.
    progress = _progress_under(budget, folder, metadata)
    tensors = read_tensors(folder.state_file, state.model, state.optimizers)
    try:
        state.batches.unfinished = metadata.get("unfinished", [])
    except ValueError as error:
        raise damage_error(folder.state_file, error) from None
    state.batches.stories_drawn = metadata["batches"]
    restore_tensors(tensors, state.model, state.optimizers)
    if metadata.get("scaler") and state.scaler.is_enabled():
        state.scaler.load_state_dict(metadata["scaler"])
    state.history = History.from_dict(metadata["history"])
    state.progress = progress
    folder.saved_steps = len(state.history.steps)
    return True


def _progress_under(budget: Budget, folder: RunFolder, metadata: dict) -> float:
    """The progress of a saved run under our budget; ValueError if its other settings differ."""
    changed = changed_settings(folder.settings, metadata["settings"])
    if not changed:
        return metadata["share"]
    last = History.from_dict(metadata["history"]).steps[-1]
    progress = budget.progress(last.step, last.seconds)
    has_larger_budget = not BUDGET_SETTINGS.isdisjoint(changed) and progress < 1
    if has_larger_budget and CHANGEABLE_WITH_BUDGET.issuperset(changed):
        return progress
    raise ValueError(
        f"{folder.path} holds a run with other {', '.join(changed)}: "
        "name another folder, or give fresh=True to replace it."
    )


def _report_resumed(folder: RunFolder, state: TrainingState) -> None:
    """Print what was found in the folder."""
    found = "Resuming the run" if state.progress < 1 else "Loaded the finished run"
    steps = f"{len(state.history.steps):,} steps"
    say(f"{found} in {folder.path} ({steps}); fresh=True starts over.")
