"""What fine-tuning gives: the new model, its scores and stories before and after."""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

from slm.evaluation import Evaluation
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import Tokenizer


@dataclass(frozen=True)
class FineTuned:
    """The new model, and what has changed: its scores and stories before and after. Printed, they
    stand side by side."""

    model: Transformer = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    before: dict[str, Evaluation]  # by "yours", those held out, and "ordinary"
    after: dict[str, Evaluation]
    samples: list[tuple[str, str]] = field(repr=False)  # a story before, and after
    epochs: list[float]  # nats per token on those held out after each epoch
    folder: Path | None

    def __str__(self) -> str:
        rows = [f"{'bits per byte':<22}{'before':>8}{'after':>8}"]
        for name, told in (("yours", "your held-out stories"), ("ordinary", "ordinary stories")):
            bits = [scores[name].bits_per_byte for scores in (self.before, self.after)]
            rows.append(f"{told:<22}{bits[0]:8.3f}{bits[1]:8.3f}")
        for pair in self.samples:
            for when, text in zip(("before", "after"), pair, strict=True):
                rows.append(fill(f"{when}: {text}", 100, subsequent_indent="    "))
        return "\n".join(rows)
