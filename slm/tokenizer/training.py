"""Training a tokenizer on stories of your own (optional: one comes with the package)."""

from collections.abc import Iterable

from slm.tokenizer.byte_pair import Tokenizer, unicode_to_bytes


def train_tokenizer(stories: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Learn `vocab_size` tokens, the last of them end-of-text, from `stories`.

    There are fewer where no pair is left that occurs twice. Raises ValueError for a `vocab_size`
    below 257, or no stories.
    """
    from tokenizers import ByteLevelBPETokenizer

    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}: give at least 257 (256 bytes, end of text).")
    stories = [stories] if isinstance(stories, str) else list(stories)
    if not stories:
        raise ValueError("There are no stories to learn from: give at least one.")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(stories, vocab_size - 1, show_progress=False)
    ranks = {unicode_to_bytes(token): i for token, i in trainer.get_vocab().items()}
    return Tokenizer("trained", ranks, eot_id=len(ranks))
