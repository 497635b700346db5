"""Every setting there is: of the model, training, sampling, fine-tuning and the server.

Settings are small frozen dataclasses; a wrong value is refused in a sentence that names the field.
The command line makes an option of each field, with the comment beside it as its line of help.
"""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

from slm.utils.settings_checks import check, check_choice, show_value, split_settings

MAX_ROWS = 1_000_000  # of one step: with more, the first step would not end in a day
MAX_EPOCHS = 1_000_000
BUDGETS = ("steps", "tokens", "minutes", "schedule")
Preset = Literal["tiny", "small", "full"]
Optimizer = Literal["muon", "adamw"]
Precision = Literal["auto", "bfloat16", "float16", "float32"]
Device = Literal["auto", "cuda", "mps", "cpu"]


def _default_d_ff(d_model: int) -> int:
    """Numbers inside of SwiGLU: 8/3 of the width, rounded up to a multiple of 32. With its three
    matrices it then has as many weights as an MLP of two with 4 times the width (Shazeer 2020,
    arXiv:2002.05202)."""
    multiples = (8 * d_model + 95) // (3 * 32)  # rounded up, exactly for any whole number
    return multiples * 32


@dataclass(frozen=True)
class ModelConfig:
    """The size and shape of a transformer.

    Raises ValueError, with a suggested fix, for a transformer that cannot be built.
    """

    vocab_size: int = 4096  # V: number of different tokens
    context_length: int = 256  # T: the most tokens that the model reads at once
    n_layers: int = 4  # number of blocks
    n_heads: int = 2  # H: attention heads in a block
    n_kv_heads: int | None = None  # G: heads of keys and values, shared by H / G queries; None: H
    d_model: int = 128  # C: numbers per token in the residual stream
    d_ff: int | None = None  # hidden width of the MLP; None: 8/3 of d_model, in steps of 32
    rope_theta: float = 10_000.0  # base of the rotary wavelengths, in tokens
    norm_eps: float = 1e-5  # keeps RMSNorm from dividing by zero
    tie_embeddings: bool = True  # whether one table reads tokens in and scores them
    dropout: float = 0.0  # share of each block's output dropped while training

    # Not a setting: only third-party models have it (slm/model/rope_scaling.py). As a field it
    # would be among the settings by which a run is known, and runs saved before would be lost.
    rope_scaling = None

    def __post_init__(self):
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_ff is None and isinstance(self.d_model, Integral):
            object.__setattr__(self, "d_ff", _default_d_ff(int(self.d_model)))
        check(self, "vocab_size", "context_length", "n_layers", whole=True, low=1)
        check(self, "n_heads", "n_kv_heads", "d_model", "d_ff", whole=True, low=1)
        check(self, "rope_theta", low=1)
        check(self, "norm_eps")
        check(self, "dropout", low=0, high=0.9)
        check_choice("tie_embeddings", self.tie_embeddings, True, False)
        if self.d_model % (2 * self.n_heads):
            heads = f"d_model ({self.d_model}) must give n_heads ({self.n_heads}) an even width"
            raise ValueError(f"{heads}: set d_model to a multiple of {2 * self.n_heads}.")
        if self.n_heads % self.n_kv_heads:
            heads = f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads})"
            raise ValueError(f"{heads}: set it to a divisor, or to None for one per head.")

    @property
    def head_dim(self) -> int:
        """D: numbers per head."""
        return self.d_model // self.n_heads


@dataclass(frozen=True)
class TrainConfig:
    """How to train, and for how long: by exactly one of steps, tokens, minutes and schedule.

    Raises ValueError, naming the field, for values that make no sense.
    """

    steps: int | None = None  # budget in updates of the weights
    tokens: int | None = None  # budget in tokens read
    minutes: float | None = None  # budget in minutes by the clock, evaluations included
    schedule: tuple[float, ...] | None = None  # the learning rate of each step, to replay a run
    batch_size: int = 12  # rows of context_length tokens read at once
    grad_accumulation: int = 1  # batches read for one step
    optimizer: Optimizer = "muon"  # of the matrices; all other weights have AdamW
    learning_rate: float = 0.01  # the highest, reached after the warm-up
    warmup: float = 0.03  # share of the run in which the learning rate rises to its peak
    final_learning_rate: float = 0.0  # where it falls to by the end, as a share of the peak
    weight_decay: float = 0.1  # share of a matrix, times the learning rate, taken off each step
    grad_clip: float = 1.0  # longest gradient that is used at full length
    precision: Precision = "auto"  # of the matrix products; auto: the fastest the hardware has
    device: Device = "auto"  # auto: the first of the others that there is
    compile: bool | Literal["auto"] = "auto"  # torch.compile; auto: only on a GPU
    evaluations: int = 10  # number of evaluations, evenly over the run; each saves it
    evaluation_stories: int = 100  # validation stories scored each time
    seed: int = 0  # of the weights, the order of the stories and dropout
    teachers: str | None = None  # trained models to learn from (teachers), "one" or "one,another"
    distillation: float = 0.5  # share of the loss that compares with the teachers' predictions

    def __post_init__(self):
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            names = " and ".join(given) or "none"
            raise ValueError(f"Give one of {', '.join(BUDGETS)}; given: {names}.")
        check(self, "steps", "tokens", "evaluations", "evaluation_stories", whole=True, low=1)
        check(self, "batch_size", "grad_accumulation", whole=True, low=1, high=MAX_ROWS)
        check(self, "minutes", "learning_rate", "grad_clip")
        check(self, "warmup", "final_learning_rate", "weight_decay", "distillation", low=0, high=1)
        check(self, "seed", whole=True, low=0)
        check_choice("optimizer", self.optimizer, *get_args(Optimizer))
        check_choice("precision", self.precision, *get_args(Precision))
        check_choice("compile", self.compile, True, False, "auto")
        check_choice("device", self.device, *get_args(Device))
        if self.schedule is not None:
            object.__setattr__(self, "schedule", _learning_rates(self.schedule))


def _learning_rates(schedule: object) -> tuple[float, ...]:
    """A schedule as a tuple; ValueError if it does not hold a learning rate for each step."""
    try:
        rates = tuple(float(rate) for rate in schedule)
    except (TypeError, ValueError):
        rates = ()
    are_rates = all(0 <= rate < math.inf for rate in rates)
    if rates and are_rates and not isinstance(schedule, str | bytes | dict):
        return rates
    given = show_value(schedule)
    raise ValueError(f"schedule must hold a learning rate of 0 or more for each step, not {given}.")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen.

    Raises ValueError, naming the field, for values that make no sense.
    """

    max_new_tokens: int = 400  # the story is cut off after this many tokens
    temperature: float = 0.8  # below 1 plays safe, above 1 takes risks; 0: always the likeliest
    top_k: int | None = None  # keep the k likeliest tokens
    top_p: float | None = None  # keep the fewest likeliest tokens that reach this probability
    min_p: float | None = 0.05  # keep tokens at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # above 1: tokens that have occurred become less likely
    dry_multiplier: float = 0.0  # above 0: runs of tokens become less likely to come again
    seed: int | None = None  # the same seed writes the same story; None: another each time

    def __post_init__(self):
        check(self, "max_new_tokens", "top_k", whole=True, low=1)
        check(self, "temperature", "dry_multiplier", low=0)
        check(self, "top_p", "min_p", low=0, high=1)
        check(self, "repetition_penalty", low=0.01, high=100)  # beyond, logits overflow
        check(self, "seed", whole=True, low=0)


@dataclass(frozen=True)
class FineTuneConfig:
    """How to fine-tune.

    Raises ValueError, naming the field, for values that make no sense.
    """

    epochs: int = 20  # how often your stories are read, at most
    patience: int = 3  # epochs without a better score on those held out, after which it stops
    learning_rate: float = 0.001  # the highest, reached after the warm-up
    replay: float = 0.25  # share of each batch from ordinary stories, against forgetting
    held_out: float = 0.1  # share of your stories that are held out to score it
    batch_size: int = 8  # rows of context_length tokens
    lora_rank: int | None = None  # of the two narrow matrices beside each; None: train all weights
    device: Device = "auto"  # auto: the first of the others that there is
    seed: int = 0  # of what is held out, the order and dropout

    def __post_init__(self):
        check(self, "patience", "lora_rank", whole=True, low=1)
        check(self, "epochs", whole=True, low=1, high=MAX_EPOCHS)
        check(self, "batch_size", whole=True, low=1, high=MAX_ROWS)
        check(self, "seed", whole=True, low=0)
        check(self, "learning_rate")
        check(self, "held_out", high=0.5)
        check(self, "replay", low=0, high=0.9)


@dataclass(frozen=True)
class ServerLimits:
    """What one request to the server may ask for, and how many are served at once."""

    stories: int = 32  # written at the same time; and asked for in one request
    waiting: int = 64  # that may wait for their turn
    prompt: int = 20_000  # characters of one prompt
    tokens: int = 2_000  # new ones of one story
    body: int = 1_000_000  # bytes of a request
    connections: int = 900  # open at the same time; each may hold a body in memory
    cache_megabytes: float = 2_000.0  # of the key-value cache, which grows with use
    unread: int = 256  # tokens of a streamed story that are written ahead of a slow reader
    header_seconds: float = 10.0  # in which a request's headers must have come
    body_seconds: float = 30.0  # in which its body must have come
    read_seconds: float = 30.0  # in which a client must read on, once what is unread fills buffers
    idle_seconds: float = 5.0  # that a connection may rest between two requests

    def __post_init__(self):
        check(self, "stories", "tokens", "body", "connections", "unread", whole=True, low=1)
        check(self, "waiting", "prompt", whole=True, low=0)
        check(self, "cache_megabytes", "header_seconds", "body_seconds")
        check(self, "read_seconds", "idle_seconds")


# One dial: each preset is a budget and what fits it. Any field may be given directly instead.
PRESETS = {
    # A first story, on two cores: the configurations' own defaults.
    "tiny": {"minutes": 5.0},
    # Hours, on two cores.
    "small": {
        "minutes": 120,
        "n_layers": 6,
        "n_heads": 4,
        "d_model": 256,
        "context_length": 512,
    },
    # All of TinyStories: for a GPU.
    "full": {
        "tokens": 2_000_000_000,
        "n_layers": 8,
        "n_heads": 8,
        "d_model": 512,
        "context_length": 512,
        "batch_size": 128,
        "learning_rate": 0.005,
    },
}


def configure(preset: str = "tiny", **settings) -> tuple[ModelConfig, TrainConfig]:
    """A preset's configurations, with any of their fields given directly instead.

    Raises ValueError for an unknown preset, an unknown setting or a value that makes no sense.
    """
    check_choice("preset", preset, *PRESETS)
    values = dict(PRESETS[preset])
    if any(settings.get(name) is not None for name in BUDGETS):  # in place of the preset's
        values = {name: value for name, value in values.items() if name not in BUDGETS}
    model, training = split_settings(values | settings, ModelConfig, TrainConfig)
    return ModelConfig(**model), TrainConfig(**training)
