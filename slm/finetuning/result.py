"""What fine-tuning gives: the new model, its scores and stories before and after."""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

from slm.evaluation import Evaluation
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import Tokenizer

LABELS = {"yours": "your held-out stories", "ordinary": "ordinary stories"}


@dataclass(frozen=True)
class FineTuned:
    """The new model, with its scores and stories before and after; printed, these are compared."""

    model: Transformer = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    before: dict[str, Evaluation]  # by "yours", those held out, and "ordinary"
    after: dict[str, Evaluation]
    samples: list[tuple[str, str]] = field(repr=False)  # a story before, and after
    epochs: list[float]  # nats per token on your held-out stories after each epoch
    folder: Path | None

    def __str__(self) -> str:
        lines = [f"{'bits per byte':<22}{'before':>8}{'after':>8}"]
        for name, label in LABELS.items():
            before = self.before[name].bits_per_byte
            after = self.after[name].bits_per_byte
            lines.append(f"{label:<22}{before:8.3f}{after:8.3f}")
        for before, after in self.samples:
            lines.append(fill(f"before: {before}", 100, subsequent_indent="    "))
            lines.append(fill(f"after: {after}", 100, subsequent_indent="    "))
        return "\n".join(lines)
