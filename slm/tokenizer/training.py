"""Training a tokenizer on stories of your own (optional: one comes with the package)."""

import re
from collections.abc import Iterable, Iterator
from numbers import Integral
from pathlib import Path

from slm.stories.cleaning import Stories
from slm.stories.files import as_texts
from slm.tokenizer.byte_pair import Tokenizer, unicode_to_bytes
from slm.utils.settings_checks import show_value

FEWEST_TOKENS = 257  # the 256 bytes and end-of-text
MOST_TOKENS = 1_000_000
LONGEST_RUN = 200  # characters without a space between them, or of nothing but spaces
_BEGINNING_OF_LONG_RUN = re.compile(rf"\S{{{LONGEST_RUN}}}(?=\S)|\s{{{LONGEST_RUN}}}(?=\s)")


def train_tokenizer(
    stories: Iterable[str] | Stories | str | Path, vocab_size: int = 4096
) -> Tokenizer:
    """Learn `vocab_size` tokens, the last of them end-of-text, from the texts in `stories`.

    Of `Stories` those to train on are taken, of a path what is there; a plain string is one text.
    There are fewer tokens where no pair is left that occurs twice. Raises ValueError for a
    `vocab_size` below 257, or no stories.
    """
    from tokenizers import ByteLevelBPETokenizer

    whole = isinstance(vocab_size, Integral) and not isinstance(vocab_size, bool)
    if not whole or not FEWEST_TOKENS <= vocab_size <= MOST_TOKENS:
        given = show_value(vocab_size)
        raise ValueError(
            f"vocab_size is {given}: give at least {FEWEST_TOKENS} (256 bytes, end of text) and at "
            f"most {MOST_TOKENS:,}, a whole number."
        )
    if isinstance(stories, Stories):
        texts = stories.train
    elif isinstance(stories, str):
        texts = [stories]
    else:
        texts = as_texts(stories)
    if not texts:
        raise ValueError("There are no stories to learn from: give at least one.")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(_cut_long_runs(texts), int(vocab_size) - 1, show_progress=False)
    ranks = {unicode_to_bytes(token): i for token, i in trainer.get_vocab().items()}
    return Tokenizer("trained", ranks, eot_id=len(ranks))


def _cut_long_runs(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut within runs that are longer than any word.

    To the trainer a run without spaces is one word, and it takes a time that grows with the square
    of a word's length. A page of Chinese without punctuation is such a run.
    """
    for text in texts:
        text = text.encode("utf-8", "replace").decode()  # without lone surrogates
        start = 0
        for run in _BEGINNING_OF_LONG_RUN.finditer(text):
            yield text[start : run.end()]
            start = run.end()
        yield text[start:]
