"""Third-party tokenizers: the tokenizer.json of a Hugging Face folder."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import tokenizers

from slm.tokenizer.byte_pair import encode_each, unicode_to_bytes
from slm.tokenizer.detokenizer import REPLACEMENT_CHARACTER, IncrementalDetokenizer
from slm.tokenizer.saving import save_tokenizer
from slm.utils.files import expand_home

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MAX_BYTES = 200_000_000  # of tokenizer.json: the largest known ones have a fifth of it
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # as SentencePiece writes a single byte


class PretrainedTokenizer:
    """A Hugging Face folder's tokenizer, with the methods of this package's `Tokenizer`.

    The ids of a text's beginning and end are read from the folder's other files.

    A text begins after `bos_id` and ends with `eot_id`, as the model was trained; each of `end_ids`
    ends one that is generated. `adds_bos` says whether the tokenizer puts `bos_id` before a text by
    itself when transformers calls it. Raises FileNotFoundError without a tokenizer.json, ValueError
    where it is damaged, does not fit the model or names no end.
    """

    def __init__(self, folder: str | Path):
        folder = expand_home(folder)
        self.name = folder.absolute().name
        self._files = _read_files(folder)
        self._inner = _parse(self._files["tokenizer.json"], folder)

        config = _read_json(folder / "config.json")
        generation = _read_json(folder / "generation_config.json")
        self.vocab_size = config.get("vocab_size")  # the model's: some rows may belong to no token
        _check_vocabulary(self._inner, self.vocab_size)
        ends = _ids(config, "eos_token_id", default=2)
        more_ends = _ids(generation, "eos_token_id")
        self.end_ids = tuple(dict.fromkeys(ends + more_ends))
        if not self.end_ids:
            raise ValueError(f"{folder} names no eos_token_id in config.json: stories cannot end.")
        self.eot_id = self.end_ids[0]
        self.bos_id = (_ids(config, "bos_token_id", default=1) or [self.eot_id])[0]
        for i in (self.bos_id, *self.end_ids):
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"its text begins or ends with the id {i}, which no token has")
        self.adds_bos = self.bos_id in self._inner.encode("").ids

        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 65_536 else np.uint32)
        facts = repr((self.bos_id, self.end_ids, self.vocab_size)).encode()
        self.digest = sha256(self._files["tokenizer.json"] + facts).hexdigest()[:16]
        self._word = self.encode("a")  # an ordinary beginning: see `pieces`

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without those that begin and end it.

        The names of special tokens, such as "</s>", are text like any other.
        """
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> np.ndarray:
        """What `encode` gives for each of `texts`, with `eot_id` after it, as one array."""
        return encode_each(self, texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all `ids`, special tokens included, as `decode` of transformers gives it.

        Raises ValueError for an id that is no row of the model's table.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"No token has the id {i}: give ids below {self.vocab_size:,}.")
        return self._inner.decode(ids, skip_special_tokens=False)

    def decode_stream(self, ids: Iterable[int], before: Iterable[int] = ()) -> Iterator[str]:
        """The text of `ids` piece by piece as they arrive, but never half a character.

        Where a token's text depends on the one before it (a space between two words, none before
        the first), the ids `before`, as of a prompt, decide how the first of `ids` begins.
        """
        detokenizer = IncrementalDetokenizer(self, before)
        for i in ids:
            piece = detokenizer.add(int(i))
            if piece:
                yield piece
        rest = detokenizer.flush()
        if rest:
            yield rest

    def joins_next(self, token_id: int) -> bool:
        """Whether a token is decoded together with those after it, whatever they are.

        Bytes are read together until none follows, and all of them count as broken where one is. A
        row of the table without a token changes nothing about that.
        """
        name = self._inner.id_to_token(token_id)
        return name is None or _BYTE_TOKEN.fullmatch(name) is not None

    def pieces(self, ids: Iterable[int]) -> list[str]:
        r"""One string per token, for display: its text within a sentence. Bytes of half a character
        appear as `\xe2`.
        """
        return [self._piece(int(i)) for i in ids]

    def _piece(self, i: int) -> str:
        text = self._continuation(self._word, [i])
        if REPLACEMENT_CHARACTER not in text:
            return text
        name = self._inner.id_to_token(i)
        byte = _BYTE_TOKEN.fullmatch(name)
        try:
            content = bytes.fromhex(byte[1]) if byte else unicode_to_bytes(name)
        except ValueError:  # not the alphabet of byte-level tokenizers
            return text
        return content.decode("utf-8", "backslashreplace")

    def _continuation(self, context: list[int], new: list[int]) -> str:
        """The text of `new` ids where they follow others."""
        before = self.decode(context)
        return self.decode([*context, *new])[len(before) :]

    def save(self, folder: str | Path) -> None:
        """Write the files that it was loaded from.

        Where tokenizer_config.json lacks what transformers needs to generate several texts at once,
        it is added: a token for padding, and which inputs the model takes. Raises ValueError where
        the folder holds a model with another tokenizer.
        """
        save_tokenizer(folder, self.files())

    def files(self) -> dict[str, bytes]:
        """The content of the files that `save` writes, by name."""
        files = dict(self._files)
        if "tokenizer_config.json" in files:
            files["tokenizer_config.json"] = self._completed(files["tokenizer_config.json"])
        return files

    def _completed(self, content: bytes) -> bytes:
        """tokenizer_config.json with a token for padding that is a row of the model's table."""
        config = _parse_json(content, "tokenizer_config.json")
        pad = config.get("pad_token")
        pad_name = pad.get("content") if isinstance(pad, dict) else pad
        pad_id = self._inner.token_to_id(pad_name) if isinstance(pad_name, str) else None
        changes = {}
        if pad_id is None or pad_id >= self.vocab_size:
            changes["pad_token"] = self._inner.id_to_token(self.eot_id)
        if "model_input_names" not in config:
            changes["model_input_names"] = ["input_ids", "attention_mask"]
        if config.get("tokenizer_class") == "TokenizersBackend":
            # transformers 5's name: 4 does not know it, and both know this one.
            changes["tokenizer_class"] = "PreTrainedTokenizerFast"
        if not changes:
            return content
        return json.dumps(config | changes, indent=2, ensure_ascii=False).encode()


def _read_files(folder: Path) -> dict[str, bytes]:
    """The content of each file that there is of the tokenizer, by name."""
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"There is no tokenizer.json in {folder}: save it with one.")
    files = {}
    for path in (folder / name for name in FILES):
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.name} has over {MAX_BYTES / 1e6:.0f} MB: it is no tokenizer's")
        files[path.name] = path.read_bytes()
    return files


def _parse(content: bytes, folder: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer, as it is for one text: not padded, not cut off, and with the names
    of special tokens read as text.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        tokenizer.encode("a")  # some damage shows only now
    except BaseException as error:  # the library raises nothing narrower for a damaged file
        # Where the library, which is written in Rust, panics, that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer in {folder} is damaged: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _check_vocabulary(tokenizer: tokenizers.Tokenizer, vocab_size: object) -> None:
    """Raise ValueError where a text may have a token that is no row of the model's table. Only a
    special one, as "[PAD]", may lie beyond: no text has it, unless it stands for unknown text.
    """
    if not isinstance(vocab_size, int):
        raise ValueError(f"its vocab_size is {vocab_size!r}, which is no whole number")
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unknown = getattr(tokenizer.model, "unk_token", None)
    for name, i in tokenizer.get_vocab().items():
        if i >= vocab_size and (i not in special or name == unknown):
            rows = f"the model has {vocab_size:,} tokens"
            raise ValueError(f"its tokenizer's token {name!r} has the id {i:,}, and {rows}")


def _read_json(path: Path) -> dict:
    return _parse_json(path.read_bytes(), path.name) if path.is_file() else {}


def _parse_json(content: bytes, name: str) -> dict:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read ({error})") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{name} holds no JSON object")
    return parsed


def _ids(config: dict, key: str, default: int | None = None) -> list[int]:
    """The ids that an entry names: one, several or none; `default` where there is no entry."""
    value = config.get(key, default)
    ids = value if isinstance(value, list) else [value]
    ids = [i for i in ids if i is not None]
    if not all(type(i) is int for i in ids):
        raise ValueError(f"its {key} is {value!r}, which is no id of a token")
    return ids
