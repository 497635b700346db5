"""The settings of a run: they name its folder, and say whether a saved run is the same run."""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

from slm.batches import digest
from slm.settings import ModelConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer

# These change where and how fast a run goes and how often it is measured, not what it learns.
CHANGEABLE = {"compile", "device", "evaluations", "evaluation_stories"}
BUDGET_SETTINGS = {"steps", "tokens", "minutes"}
# A run that is taken further, with a larger budget, may have other teachers from there on.
CHANGEABLE_WITH_BUDGET = BUDGET_SETTINGS | {"teachers", "distillation"}
DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}


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


def changed_settings(settings: dict, saved: dict) -> list[str]:
    """The names of the settings in which a saved run is another run than ours, in their order."""
    saved = DEFAULTS | saved  # an earlier version may have had fewer settings
    changed = [name for name in settings if settings[name] != saved.get(name)]
    return [name for name in changed if name not in CHANGEABLE]
