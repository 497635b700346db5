"""A tokenizer as the story-teller's page reads it: tokenizer.js must make the same ids of texts."""

from slm.export.byte_level import byte_level_rules, read_tokenizer_json
from slm.tokenizer.byte_pair import Tokenizer, bytes_to_unicode

RULES = ("gpt-2", "smollm")  # ways of splitting text that tokenizer.js has
ALL_BYTES = {bytes_to_unicode(bytes([byte])) for byte in range(256)}
# Entries of a tokenizer.json that would change the ids, where they are not empty.
REFUSED = ("byte_fallback", "continuing_subword_prefix", "dropout", "end_of_word_suffix")


def describe_tokenizer(tokenizer: Tokenizer) -> dict:
    """What tokenizer.js needs: tokens and merges as in a tokenizer.json, and special ids.

    Raises ValueError, with the reason, for a tokenizer that it would not imitate.
    """
    content = read_tokenizer_json(tokenizer)
    model = content["model"]
    _check(content)
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return {
        "vocab": model["vocab"] | added,
        "merges": merges,
        "splits": byte_level_rules(content),
        "bos_id": tokenizer.bos_id,
        "end_ids": list(tokenizer.end_ids),
    }


def _check(content: dict) -> None:
    model = content["model"]
    if model.get("type") != "BPE":
        raise _unsupported(f"it is a {model.get('type')} tokenizer, not byte pair encoding")
    if not set(model["vocab"]) >= ALL_BYTES:
        raise _unsupported("its vocabulary lacks some of the 256 bytes")
    for key in REFUSED:
        if model.get(key):
            raise _unsupported(f"its {key} is {model[key]!r}")
    if not all(token.get("special") for token in content["added_tokens"]):
        raise _unsupported("it has added tokens that are not special")
    try:
        name = byte_level_rules(content)
    except ValueError as error:
        raise _unsupported(str(error)) from None
    if name not in RULES:
        raise _unsupported(f"it splits text as {name} does")


def _unsupported(reason: str) -> ValueError:
    return ValueError(f"The page cannot imitate this model's tokenizer: {reason}.")
