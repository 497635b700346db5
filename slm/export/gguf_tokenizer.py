"""A tokenizer as GGUF describes it: llama.cpp must make the same ids of a text as we do.

llama.cpp has the rules for splitting and merging text in its own code, by name. A tokenizer.json is
matched with these rules; one that matches none is refused, since it would give other ids. Those of
byte-level tokenizers stand in byte_level.py.
"""

from typing import TYPE_CHECKING

from slm.export.byte_level import byte_level_rules, read_tokenizer_json, split_steps
from slm.tokenizer.byte_pair import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

# llama.cpp's numbers for the kinds of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

BYTE_NAMES = {f"<0x{byte:02X}>" for byte in range(256)}  # as SentencePiece has them
SPACE = "▁"  # SentencePiece's sign for it
REPLACE_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND_SPACE = {"type": "Prepend", "prepend": SPACE}


def add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer) -> None:
    """Write tokens, merges and special tokens. Raises ValueError for a tokenizer that llama.cpp
    would not imitate.
    """
    content = read_tokenizer_json(tokenizer)
    model = content["model"]
    if model.get("type") != "BPE":
        raise _unsupported(f"it is no byte pair encoding but {model.get('type')}")
    _check_added_tokens(content)
    tokens, types = _tokens(content, tokenizer.vocab_size)
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    if split_steps(content):
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


def _byte_level_name(content: dict) -> str:
    """llama.cpp's name for the way in which a byte-level tokenizer splits text."""
    try:
        return byte_level_rules(content)
    except ValueError as error:
        raise _unsupported(str(error)) from None


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
