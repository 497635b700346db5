"""What a run trains with, settled before it begins: settings, tokenizer, budget and hardware."""

from dataclasses import dataclass, replace
from pathlib import Path

from slm.hardware.device import pick_device
from slm.hardware.memory import rows_at_once
from slm.hardware.processes import ProcessGroup
from slm.settings import ModelConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.arguments import as_tokenizer, check_stories, configure_for
from slm.training.budget import Budget


@dataclass(frozen=True)
class TrainingSetup:
    """All that is the same at every step of a run; what changes is in `TrainingState`."""

    model_config: ModelConfig
    config: TrainConfig
    step_config: TrainConfig  # the same, with micro-batches that fit into memory
    tokenizer: Tokenizer
    budget: Budget
    processes: ProcessGroup
    device: str


def prepare(
    stories: Stories, preset: str, tokenizer: str | Path | Tokenizer, settings: dict
) -> TrainingSetup:
    """Check the arguments of `slm.train`, and choose the hardware.

    Raises ValueError for arguments that make no sense, or that need more memory than there is.
    """
    check_stories(stories)
    tokenizer = as_tokenizer(tokenizer)
    model_config, config = configure_for(tokenizer, preset, settings)
    processes = ProcessGroup.join()
    device = pick_device(config.device)
    return TrainingSetup(
        model_config=model_config,
        config=config,
        step_config=fit_into_memory(config, model_config, device, processes),
        tokenizer=tokenizer,
        budget=Budget.of(config, model_config.context_length),
        processes=processes,
        device=device,
    )


def fit_into_memory(
    config: TrainConfig, model_config: ModelConfig, device: str, processes: ProcessGroup
) -> TrainConfig:
    """The configuration with micro-batches that fit into memory.

    A step that does not fit is taken in more, smaller micro-batches, with as many rows in all.
    Raises ValueError if not even one row fits.
    """
    rows = rows_at_once(device, config, model_config, processes.world_size)
    rows = int(processes.broadcast(rows))  # the others may have more or less memory free
    micro_batches = config.grad_accumulation * config.batch_size // rows
    return replace(config, batch_size=rows, grad_accumulation=micro_batches)
