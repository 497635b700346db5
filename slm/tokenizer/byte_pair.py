"""Text to token ids and back, by byte pair encoding.

Byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) merges the most frequent pair of
neighbours into a new token, repeatedly. GPT-2 (Radford et al. 2019) starts from the 256 bytes,
so that no text is unknown, and first splits the text by a pattern, so that no token spans two
words.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import tiktoken

from slm.tokenizer.saving import save_tokenizer
from slm.utils.files import ASSETS, check_path

END_OF_TEXT = "<|endoftext|>"
# The same splits as GPT-2's own pattern, in the faster form that tiktoken uses.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

_BUNDLED = ASSETS / "stories"
LONGEST_TOKEN = 1_000  # bytes; GPT-2's longest has 128
LARGEST_FILE = 50_000_000  # bytes of a tokenizer.json; GPT-2's has 1.4 million
_NEVER = 2**32  # the rank of a pair that is no token: after all others

# A tokenizer.json writes each byte of a token as one visible character, as GPT-2 does: as the
# character of that number, where it is visible, else as the next one from U+0100 on.
_INVISIBLE_BYTES = [*range(33), *range(127, 161), 173]
_BYTE_TO_UNICODE = {byte: 256 + i for i, byte in enumerate(_INVISIBLE_BYTES)}
_UNICODE_TO_BYTE = {character: byte for byte, character in _BYTE_TO_UNICODE.items()}


def bytes_to_unicode(token: bytes) -> str:
    """A token's bytes as the visible characters that stand for them in a tokenizer.json."""
    return token.decode("latin-1").translate(_BYTE_TO_UNICODE)


def unicode_to_bytes(characters: str) -> bytes:
    """The bytes that the visible characters stand for; ValueError where one stands for none."""
    return characters.translate(_UNICODE_TO_BYTE).encode("latin-1")


class Tokenizer:
    """Text to ids and back, by a `tiktoken.Encoding`, its `encoding`; see `load_tokenizer`.

    `ranks` has each token's id; of two possible merges, that of the lower id comes first. `dtype`
    is the smallest NumPy type for ids, `digest` a short hash of all that decides them. An id that
    belongs to no token raises ValueError.
    """

    def __init__(self, name: str, ranks: dict[bytes, int], eot_id: int):
        self.name = name
        self.vocab_size = len(ranks) + 1  # and end-of-text
        self.eot_id = eot_id  # after each story
        self.bos_id = eot_id  # before each story: GPT-2 has one token for both
        self.encoding = tiktoken.Encoding(
            name,
            pat_str=PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: eot_id},
        )
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)
        self._ranks = ranks
        self._tokens = sorted(ranks, key=ranks.get)  # by id
        self._tokens.insert(eot_id, END_OF_TEXT.encode())
        contents = repr((eot_id, self._tokens))
        self.digest = hashlib.sha256(contents.encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; "<|endoftext|>" in it is text like any other, never `eot_id`."""
        return self.encoding.encode_ordinary(text)

    def encode_many(self, texts: Sequence[str]) -> np.ndarray:
        """What `encode` gives for each of `texts`, with `eot_id` after it, as one array; faster."""
        joined = "".join(text + END_OF_TEXT for text in texts)
        # Only if no text has the marker within itself, every marker is the end of a text.
        if joined.count(END_OF_TEXT) == len(texts):
            try:
                ids = self.encoding.encode_to_numpy(joined, allowed_special="all")
            except UnicodeEncodeError:
                pass  # a lone surrogate, which only `encode` can replace
            else:
                return ids.astype(self.dtype)
        return encode_each(self, texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of all `ids`: `eot_id` gives "<|endoftext|>", a cut-off character gives U+FFFD."""
        return b"".join(self._token_bytes(ids)).decode("utf-8", "replace")

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a text: one, here."""
        return (self.eot_id,)

    def decode_stream(self, ids: Iterable[int], before: Iterable[int] = ()) -> Iterator[str]:
        """What `decode` gives, piece by piece as `ids` arrive, but never half a character.

        The ids `before` them make no difference here; with other kinds of tokenizers they may.
        """
        return codecs.iterdecode(self._token_bytes(ids), "utf-8", "replace")

    def joins_next(self, token_id: int) -> bool:
        """Whether a token is decoded together with those after it, whatever they are: none is."""
        return False

    def pieces(self, ids: Iterable[int]) -> list[str]:
        r"""One string per token, to be shown: bytes of half a character appear as `\xe2`."""
        return [token.decode("utf-8", "backslashreplace") for token in self._token_bytes(ids)]

    def _token_bytes(self, ids: Iterable[int]) -> Iterator[bytes]:
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"No token has the id {token_id}: give ids below {self.vocab_size:,}."
                )
            yield self._tokens[token_id]

    def save(self, folder: str | Path) -> None:
        """Write the two files that `load_tokenizer(folder)` and Hugging Face's libraries read.

        Raises ValueError where the folder holds a model with another tokenizer, and OSError, in a
        sentence, where it cannot be written.
        """
        save_tokenizer(folder, self.files())

    def files(self) -> dict[str, bytes]:
        """The content of the files that `save` writes, by name."""
        # All that does not depend on the vocabulary stays as it is in the bundled tokenizer.
        content = json.loads((_BUNDLED / "tokenizer.json").read_bytes())
        content["added_tokens"][0]["id"] = self.eot_id
        vocab = {bytes_to_unicode(token): i for i, token in enumerate(self._tokens)}
        content["model"]["vocab"] = vocab
        content["model"]["merges"] = _merges(self._ranks)
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        return {
            "tokenizer.json": text.encode(),
            "tokenizer_config.json": (_BUNDLED / "tokenizer_config.json").read_bytes(),
        }


def encode_each(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """The ids of texts, each encoded by itself and with `eot_id` after it, as one array."""
    ids = []
    for text in texts:
        ids.extend(tokenizer.encode(text))
        ids.append(tokenizer.eot_id)
    return np.array(ids, tokenizer.dtype)


def load_tokenizer(name_or_path: str | Path = "stories") -> Tokenizer:
    """The bundled "stories", OpenAI's "gpt2", or a saved one: a folder or its `tokenizer.json`.

    Raises ConnectionError without "gpt2", FileNotFoundError without a file, ValueError for one that
    is damaged or holds another kind of tokenizer.
    """
    if name_or_path == "gpt2":
        return _load_gpt2()
    check_path(name_or_path)
    hint = "use 'stories', 'gpt2', or a folder that Tokenizer.save wrote"
    path = _BUNDLED if name_or_path == "stories" else Path(name_or_path)
    if path.suffix != ".json":
        path = path / "tokenizer.json"
    try:
        path = path.expanduser()
    except RuntimeError:  # there is no such user, or no home directory
        raise FileNotFoundError(f"There is no tokenizer at {path}: {hint}.") from None
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        ranks, eot_id = _parse(path.read_bytes())
        return Tokenizer(path.absolute().parent.name, ranks, eot_id)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"There is no tokenizer at {path}: {hint}.") from None
    except (OSError, RecursionError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = "not whole, or no byte-level BPE"
        if type(error) is ValueError:  # `_parse`'s own; its subclasses are Python's
            reason = str(error)
        if isinstance(error, OSError):
            reason = error.strerror
        raise ValueError(f"{path} cannot be used ({reason}): {hint}.") from None


def _load_gpt2() -> Tokenizer:
    try:
        gpt2 = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError):
        raise ConnectionError(
            "GPT-2's tokenizer cannot be downloaded: connect once, set TIKTOKEN_CACHE_DIR to a "
            "folder that has it, or use 'stories'."
        ) from None
    return Tokenizer("gpt2", gpt2._mergeable_ranks, gpt2.eot_token)


def _parse(content: bytes) -> tuple[dict[bytes, int], int]:
    """Ranks and end-of-text id of a tokenizer.json.

    Raises ValueError where tiktoken would panic, or give other ids than Hugging Face's library.
    """
    data = json.loads(content)
    model = data["model"]
    split = {"use_regex": True} | data["pre_tokenizer"]
    if split["type"] != "ByteLevel" or split["add_prefix_space"] or not split["use_regex"]:
        raise ValueError("it splits text in another way than GPT-2")
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    if list(added) != [END_OF_TEXT] or data.get("normalizer"):
        raise ValueError(f"its one special token must be {END_OF_TEXT}, and its normalizer null")
    vocab = model["vocab"] | added
    if any(type(token_id) is not int for token_id in vocab.values()):
        raise TypeError("an id is no whole number")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError("its ids have a gap or come twice")
    by_id = sorted(vocab, key=vocab.get)
    ranks = {unicode_to_bytes(token): vocab[token] for token in by_id if token not in added}
    single_bytes = [token for token in ranks if len(token) == 1]
    if len(single_bytes) < 256:
        raise ValueError("it leaves out some of the 256 bytes")
    if len(ranks) + 1 < len(vocab) or b"" in ranks:
        raise ValueError("some of its tokens are empty or come twice")
    if max(map(len, ranks)) > LONGEST_TOKEN:
        raise ValueError(f"it has a token of more than {LONGEST_TOKEN:,} bytes")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if merges != _merges(ranks):
        raise ValueError("its merges and its tokens do not fit together")
    return ranks, added[END_OF_TEXT]


def _merges(ranks: dict[bytes, int]) -> list[str]:
    """The merge that gives each longer token, in the order of ids, as "left right"."""
    merges = []
    for token in sorted(ranks, key=ranks.get):
        if len(token) != 1:
            halves = [bytes_to_unicode(part) for part in _last_two_parts(token, ranks)]
            merges.append(" ".join(halves))
    return merges


def _last_two_parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Byte pair encoding of a token's own bytes, up to the last merge, which gives the token."""
    parts = [bytes([byte]) for byte in token]
    pair_ranks = [ranks.get(left + right, _NEVER) for left, right in pairwise(parts)]
    while len(parts) > 2:
        i = pair_ranks.index(min(pair_ranks))  # the first of those that come first
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del pair_ranks[i]
        # Only the pairs on both sides of the new part have changed.
        for left in range(max(i - 1, 0), min(i + 1, len(pair_ranks))):
            pair_ranks[left] = ranks.get(parts[left] + parts[left + 1], _NEVER)
    return parts
