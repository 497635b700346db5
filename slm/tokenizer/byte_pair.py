"""Text to token ids and back. Byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) joins the
most frequent pair of neighbours, again and again. GPT-2 (Radford et al. 2019) starts from the 256
bytes, so that no text is unknown, and splits by a pattern, so that no token spans two words."""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import tiktoken

from slm.utils.files import ASSETS, write

END_OF_TEXT = "<|endoftext|>"
# The same splits as GPT-2's own pattern, in the faster form that tiktoken uses.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_BUNDLED = ASSETS / "stories"
# In files, as GPT-2 has it, a byte is one visible character: itself, or the next from U+0100 on.
SHOW = {byte: 256 + i for i, byte in enumerate([*range(33), *range(127, 161), 173])}
HIDE = {shown: byte for byte, shown in SHOW.items()}


class Tokenizer:
    """Text to ids and back, by a `tiktoken.Encoding`, its `encoding`; see `load_tokenizer`.
    `ranks` has each token's id, in the order of merging. `dtype` is the smallest NumPy type for
    ids, `digest` a short hash of all that decides them. An id of no token raises ValueError."""

    def __init__(self, name: str, ranks: dict[bytes, int], eot_id: int):
        self.name, self.vocab_size, self.bos_id, self.eot_id = name, len(ranks) + 1, eot_id, eot_id
        special = {"special_tokens": {END_OF_TEXT: eot_id}}
        self.encoding = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, **special)
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 65_536 else np.uint32)
        self._ranks, self._tokens = ranks, sorted(ranks, key=ranks.get)
        self._tokens.insert(eot_id, END_OF_TEXT.encode())
        self.digest = hashlib.sha256(repr((eot_id, self._tokens)).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; "<|endoftext|>" in it is text like any other, never `eot_id`."""
        return self.encoding.encode_ordinary(text)

    def encode_many(self, texts: Sequence[str]) -> np.ndarray:
        """What `encode` gives for each of `texts`, with `eot_id` after it, as one array; faster."""
        text = END_OF_TEXT.join([*texts, ""])
        with suppress(UnicodeEncodeError):  # a lone surrogate, which `encode` alone can mend
            if text.count(END_OF_TEXT) == len(texts):  # else it is in one of them, as text
                return self.encoding.encode_to_numpy(text, allowed_special="all").astype(self.dtype)
        return np.array([i for x in texts for i in (*self.encode(x), self.eot_id)], self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of all `ids`: `eot_id` gives "<|endoftext|>", a cut-off character gives U+FFFD."""
        return b"".join(self._bytes(ids)).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """What `decode` gives, bit by bit as `ids` arrive, but never half a character."""
        return codecs.iterdecode(self._bytes(ids), "utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        r"""One string per token, for looking at: bytes of half a character show as `\xe2`."""
        return [token.decode("utf-8", "backslashreplace") for token in self._bytes(ids)]

    def _bytes(self, ids: Iterable[int]) -> Iterator[bytes]:
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"No token has the id {i}: give ids below {self.vocab_size:,}.")
            yield self._tokens[i]

    def save(self, folder: str | Path) -> None:
        """Write the two files that `load_tokenizer(folder)` and Hugging Face's libraries read."""
        content = json.loads((_BUNDLED / "tokenizer.json").read_bytes())
        content["added_tokens"][0]["id"] = self.eot_id
        vocab = {t.decode("latin-1").translate(SHOW): i for i, t in enumerate(self._tokens)}
        content["model"] |= {"vocab": vocab, "merges": _merges(self._ranks)}  # all else stays
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        write(Path(folder) / "tokenizer.json", text.encode())
        write(Path(folder) / (name := "tokenizer_config.json"), (_BUNDLED / name).read_bytes())


def load_tokenizer(name_or_path: str | Path = "stories") -> Tokenizer:
    """The bundled "stories", OpenAI's "gpt2", or a saved one: a folder or its `tokenizer.json`.
    Raises ConnectionError without "gpt2", FileNotFoundError without a file, ValueError for one that
    is damaged or holds another kind of tokenizer."""
    if name_or_path == "gpt2":
        try:
            gpt2 = tiktoken.get_encoding("gpt2")
        except (OSError, ValueError):
            mend = "connect once, set TIKTOKEN_CACHE_DIR to a folder that has it, or use 'stories'"
            raise ConnectionError(f"GPT-2's tokenizer cannot be downloaded: {mend}.") from None
        return Tokenizer("gpt2", gpt2._mergeable_ranks, gpt2.eot_token)
    path = _BUNDLED if name_or_path == "stories" else Path(name_or_path).expanduser()
    path = path if path.suffix == ".json" else path / "tokenizer.json"
    mend = "use 'stories', 'gpt2', or a folder that Tokenizer.save wrote"
    try:
        return Tokenizer(path.absolute().parent.name, *_parse(json.loads(path.read_bytes())))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"There is no tokenizer at {path}: {mend}.") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = error if type(error) is ValueError else "not whole, or no byte-level BPE"
        raise ValueError(f"{path} cannot be used ({reason}): {mend}.") from None


def _parse(data: dict) -> tuple[dict[bytes, int], int]:
    """Ranks and end-of-text id; ValueError where tiktoken would panic or give other ids."""
    model, split = data["model"], {"use_regex": True} | data["pre_tokenizer"]
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    if split["type"] != "ByteLevel" or split["add_prefix_space"] or not split["use_regex"]:
        raise ValueError("it splits text in another way than GPT-2")
    if [*added] != [END_OF_TEXT] or data.get("normalizer"):
        raise ValueError(f"its one special token must be {END_OF_TEXT}, and its normalizer null")
    vocab = sorted((model["vocab"] | added).items(), key=lambda item: item[1])
    ranks = {t.translate(HIDE).encode("latin-1"): i for t, i in vocab if t not in added}
    if [i for _, i in vocab] != [*range(len(vocab))] or sum(len(t) == 1 for t in ranks) < 256:
        raise ValueError("its ids have a gap, come twice, or leave out some of the 256 bytes")
    if [m if isinstance(m, str) else " ".join(m) for m in model["merges"]] != _merges(ranks):
        raise ValueError("its merges and its tokens do not fit together")
    return ranks, added[END_OF_TEXT]


def _merges(ranks: dict[bytes, int]) -> list[str]:
    """The two halves of each longer token: what the merges before it make of its bytes."""
    merges = [[bytes([byte]) for byte in t] for t in sorted(ranks, key=ranks.get) if len(t) != 1]
    for parts in merges:
        while len(parts) > 2:
            i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 2**32))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [" ".join(part.decode("latin-1").translate(SHOW) for part in m) for m in merges]
