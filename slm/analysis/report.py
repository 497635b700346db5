"""One page about a model: how good, how original, and what it writes."""

import errno
from pathlib import Path
from tempfile import TemporaryFile

from slm.analysis.report_measurements import measure
from slm.model.transformer import Transformer
from slm.stories.cleaning import Stories
from slm.stories.loading import load_stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import expand_home, write
from slm.utils.settings_checks import check_number
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
    """Write a self-contained HTML page about a model, and return its path.

    It shows the score on validation stories beside those of n-gram models, the loss by position,
    the hardest words, how often `samples` stories at temperature 0.8 stop, repeat themselves and
    copy the training text, and a story for each of `slm.OPENINGS` with the copied parts marked.
    `stories` are those that the model was trained on, and the held-out ones that it is measured on
    (default: `slm.load_stories()`).

    Raises ValueError where model and tokenizer do not belong together, and for stories that are not
    divided into these two; and OSError, before anything is measured, where the file cannot be
    written.
    """
    from slm.analysis.report_page import make_page  # draws pictures: it loads matplotlib

    if stories is not None and not isinstance(stories, Stories):
        raise ValueError(
            "Give stories as slm.load_stories() does: some are held out to measure by."
        )
    file = expand_home(file)
    check_number("samples", samples, whole=True, low=1)
    check_number("evaluation_stories", evaluation_stories, whole=True, low=1)
    model.check_vocabulary(tokenizer.vocab_size)
    _check_writable(file)
    report = measure(
        model, tokenizer, stories or load_stories(), name, samples, evaluation_stories, seed
    )
    page = make_page(report)
    with explain_write_errors(file):
        write(file, page.encode("utf-8", "replace"))
    return file


def _check_writable(file: Path) -> None:
    """Raise OSError, in a sentence, where a file cannot be written."""
    with explain_write_errors(file):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=file.parent):
            pass
