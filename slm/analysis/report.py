"""One page about a model: how good, how original, and what it writes."""

from pathlib import Path

from slm.analysis.report_measurements import measure
from slm.model.transformer import Transformer
from slm.stories.cleaning import Stories
from slm.stories.loading import load_stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import write
from slm.utils.write_errors import explain_write_errors


def story_report(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: Stories | None = None,
    *,
    name: str = "this model",
    file: str | Path = "story_report.html",
    samples: int = 100,
    evaluation_stories: int = 300,
    seed: int = 0,
) -> Path:
    """Write one HTML page about a model, whole in itself, and give its path.

    It has the score on validation stories beside those of n-gram models, the loss by position, the
    hardest words, how often `samples` stories at temperature 0.8 stop, repeat themselves and copy
    the training text, and a story for each of `slm.OPENINGS`, what is copied in it marked.
    `stories` are those it was trained on and those to measure by (default: `slm.load_stories()`).
    Raises ValueError where model and tokenizer do not fit."""
    from slm.analysis.report_page import make_page  # draws pictures: it loads matplotlib

    model.check_vocabulary(tokenizer.vocab_size)
    report = measure(
        model, tokenizer, stories or load_stories(), name, samples, evaluation_stories, seed
    )
    page = make_page(report)
    with explain_write_errors(file):
        write(Path(file), page.encode("utf-8", "replace"))
    return Path(file)
