"""A tokenizer as GGUF describes it: llama.cpp must make the same ids of a text as we do.

llama.cpp has the rules for splitting and merging text in its own code, by name. A tokenizer.json is
matched with these rules; one that matches none is refused, since it would give other ids.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from slm.tokenizer.byte_pair import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

# llama.cpp's numbers for the kinds of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

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


# By llama.cpp's name for them.
BYTE_LEVEL_RULES = {
    "gpt-2": ByteLevelRules((BYTE_LEVEL,), ignore_merges=False),
    "smollm": ByteLevelRules((DIGITS, BYTE_LEVEL), ignore_merges=False),
    "llama-bpe": ByteLevelRules(
        (LLAMA3_SPLIT, BYTE_LEVEL | {"use_regex": False}), ignore_merges=True
    ),
}

BYTE_NAMES = {f"<0x{byte:02X}>" for byte in range(256)}  # as SentencePiece has them
SPACE = "▁"  # SentencePiece's sign for it
REPLACE_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND_SPACE = {"type": "Prepend", "prepend": SPACE}


def add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer) -> None:
    """Write tokens, merges and special tokens. Raises ValueError for a tokenizer that llama.cpp
    would not imitate.
    """
    content = _tokenizer_json(tokenizer)
    model = content["model"]
    if model.get("type") != "BPE":
        raise _unsupported(f"it is no byte pair encoding but {model.get('type')}")
    _check_added_tokens(content)
    tokens, types = _tokens(content, tokenizer.vocab_size)
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    if _splits(content):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_byte_level_name(content))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_add_space_prefix(False)
    else:
        _check_sentencepiece(model["vocab"], merges)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_token_types(types)
        writer.add_unk_token_id(model["vocab"][model["unk_token"]])
        writer.add_add_space_prefix(_prepends_space(content))
    _add_special_tokens(writer, tokenizer)


def _tokenizer_json(tokenizer: Tokenizer) -> dict:
    """The content of the tokenizer.json that the tokenizer saves."""
    with TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))


def _unsupported(reason: str) -> ValueError:
    return ValueError(f"llama.cpp cannot imitate this model's tokenizer: {reason}.")


def _tokens(content: dict, vocab_size: int) -> tuple[list[str], list[int]]:
    """Name and kind of each row of the model's table."""
    names = {i: name for name, i in content["model"]["vocab"].items()}
    added = {token["id"]: token for token in content["added_tokens"]}
    tokens, types = [], []
    for i in range(vocab_size):
        name = added[i]["content"] if i in added else names.get(i)
        if name is None:
            tokens.append(f"[UNUSED{i}]")
            types.append(UNUSED)
            continue
        tokens.append(name)
        if name == content["model"].get("unk_token"):
            types.append(UNKNOWN)
        elif i in added:
            types.append(CONTROL if added[i].get("special") else USER_DEFINED)
        elif content["model"].get("byte_fallback") and name in BYTE_NAMES:
            types.append(BYTE)
        else:
            types.append(NORMAL)
    return tokens, types


def _check_added_tokens(content: dict) -> None:
    """Raise ValueError for an added token that llama.cpp would find in other places of a text.

    It finds them wherever they are written, before the text is changed in any way. Special ones do
    not matter: they are in no text.
    """
    for token in content["added_tokens"]:
        if token.get("special"):
            continue
        has_conditions = token.get("lstrip") or token.get("rstrip") or token.get("single_word")
        is_found_later = content.get("normalizer") is not None and token.get("normalized")
        if has_conditions or is_found_later:
            raise _unsupported(f"it finds the added token {token['content']!r} by rules of its own")


def _splits(content: dict) -> list[dict]:
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


def _byte_level_name(content: dict) -> str:
    """llama.cpp's name for the way in which a byte-level tokenizer splits text."""
    if content.get("normalizer") is not None:
        raise _unsupported("it changes a text before splitting it (its normalizer)")
    ignore_merges = bool(content["model"].get("ignore_merges"))
    steps = tuple(_splits(content))
    for name, rules in BYTE_LEVEL_RULES.items():
        if steps == rules.splits and ignore_merges == rules.ignore_merges:
            return name
    raise _unsupported(f"it splits text in another way than {', '.join(BYTE_LEVEL_RULES)}")


def _prepends_space(content: dict) -> bool:
    """Whether a space is put before a text, as by SentencePiece."""
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if steps == [PREPEND_SPACE, REPLACE_SPACES]:
        return True
    if steps == [REPLACE_SPACES]:
        return False
    raise _unsupported("it changes a text in another way than SentencePiece (its normalizer)")


def _check_sentencepiece(vocab: dict[str, int], merges: list[list[str]]) -> None:
    """Raise ValueError where the merges are not SentencePiece's. llama.cpp has no list of merges:
    of neighbours that form a token together, it merges those with the best score first.
    """
    if not set(vocab) >= BYTE_NAMES:
        raise _unsupported("it has no tokens for the 256 bytes")
    finished = set()
    previous = None
    for left, right in merges:
        token = left + right
        if token != previous and token in finished:
            raise _unsupported("the order of its merges is not one of tokens")
        finished.add(token)
        previous = token
    listed = {tuple(pair) for pair in merges}
    for token in finished:
        for place in range(1, len(token)):
            pair = token[:place], token[place:]
            if pair[0] in vocab and pair[1] in vocab and pair not in listed:
                raise _unsupported(f"it never merges {pair[0]!r} and {pair[1]!r} to a token it has")


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """The score of each token: the earlier it is merged, the higher."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _add_special_tokens(writer: "GGUFWriter", tokenizer: Tokenizer) -> None:
    """The token before a text, and those that end one: llama.cpp has room for three."""
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_add_bos_token(True)
    add_end = [writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id]
    if len(tokenizer.end_ids) > len(add_end):
        raise _unsupported(f"{len(tokenizer.end_ids)} of its tokens end a text, and 3 are possible")
    for add, end_id in zip(add_end, tokenizer.end_ids):
        add(end_id)
