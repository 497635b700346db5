"""Byte-level tokenizers as their tokenizer.json describes them, for programs that imitate them.

Each of these programs has the rules for splitting and merging text in its own code. A
tokenizer.json is matched with the rules below; one that matches none would give other ids there.
"""

import json
from dataclasses import dataclass

from slm.tokenizer.byte_pair import Tokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": LLAMA3_PATTERN},
    "behavior": "Isolated",
    "invert": False,
}
DIGITS = {"type": "Digits", "individual_digits": True}


@dataclass(frozen=True)
class ByteLevelRules:
    """How a byte-level tokenizer splits a text, and whether a whole word is taken without merging
    where it is a token.
    """

    splits: tuple[dict, ...]
    ignore_merges: bool


# By the names that llama.cpp has for them.
BYTE_LEVEL_RULES = {
    "gpt-2": ByteLevelRules((BYTE_LEVEL,), ignore_merges=False),
    "smollm": ByteLevelRules((DIGITS, BYTE_LEVEL), ignore_merges=False),
    "llama-bpe": ByteLevelRules(
        (LLAMA3_SPLIT, BYTE_LEVEL | {"use_regex": False}), ignore_merges=True
    ),
}


def read_tokenizer_json(tokenizer: Tokenizer) -> dict:
    """The content of the tokenizer.json that the tokenizer saves."""
    return json.loads(tokenizer.files()["tokenizer.json"])


def split_steps(content: dict) -> list[dict]:
    """The steps that split a text before merging, without what changes no ids."""
    split = content.get("pre_tokenizer")
    if split is None:
        return []
    steps = []
    for step in split["pretokenizers"] if split["type"] == "Sequence" else [split]:
        if step["type"] == "ByteLevel":
            step = {"use_regex": True} | step  # old files leave it out
        steps.append({key: value for key, value in step.items() if key != "trim_offsets"})
    return steps


def byte_level_rules(content: dict) -> str:
    """The name of the rules in `BYTE_LEVEL_RULES` by which a tokenizer.json splits text.

    Raises ValueError, with the reason, where there are none.
    """
    if content.get("normalizer") is not None:
        raise ValueError("it changes a text before splitting it (its normalizer)")
    ignore_merges = bool(content["model"].get("ignore_merges"))
    steps = tuple(split_steps(content))
    for name, rules in BYTE_LEVEL_RULES.items():
        if steps == rules.splits and ignore_merges == rules.ignore_merges:
            return name
    raise ValueError(f"it splits text in another way than {', '.join(BYTE_LEVEL_RULES)}")
