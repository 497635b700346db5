"""Tokenizers that others have trained: the tokenizer.json of a Hugging Face folder."""

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import tokenizers

from slm.utils.files import write

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class PretrainedTokenizer:
    """What `slm.Tokenizer` is, around a tokenizer of another kind: a Hugging Face folder's
    `tokenizer.json`. A text begins after `bos_id` and ends with `eot_id`, as the model learnt it.
    Raises FileNotFoundError without that file, ValueError where it is damaged or has no end."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.name = folder.absolute().name
        paths = [folder / name for name in FILES]
        self._files = {path.name: path.read_bytes() for path in paths if path.is_file()}
        if "tokenizer.json" not in self._files:
            raise FileNotFoundError(f"There is no tokenizer.json in {folder}: save it with one.")
        try:
            self._inner = tokenizers.Tokenizer.from_str(self._files["tokenizer.json"].decode())
        except Exception as error:  # the library raises nothing narrower for a damaged file
            raise ValueError(f"The tokenizer in {folder} is damaged: {error}") from None
        self.digest = sha256(self._files["tokenizer.json"]).hexdigest()[:16]

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.eot_id = _first(config.get("eos_token_id"))
        if not isinstance(self.eot_id, int):
            raise ValueError(f"{folder} names no eos_token_id in config.json: stories cannot end.")
        bos_id = config.get("bos_token_id")
        self.bos_id = bos_id if isinstance(bos_id, int) else self.eot_id
        self.vocab_size = config["vocab_size"]  # the model's: some rows may belong to no token
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 65_536 else np.uint32)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without those that begin and end it."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> np.ndarray:
        """What `encode` gives for each of `texts`, with `eot_id` after it, as one array."""
        ids = []
        for text in texts:
            ids.extend(self.encode(text))
            ids.append(self.eot_id)
        return np.array(ids, self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all `ids`."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text bit by bit, as `ids` arrive, but never half a character."""
        known: list[int] = []
        text = done = ""
        for i in ids:
            known.append(int(i))
            text = self._inner.decode(known, skip_special_tokens=False)
            if not text.endswith("\ufffd"):
                yield text[len(done) :]
                done = text
        if len(text) > len(done):
            yield text[len(done) :]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One string per token, for display."""
        return [self._inner.decode([int(i)], skip_special_tokens=False) for i in ids]

    def save(self, folder: str | Path) -> None:
        """Write the files that it was made of."""
        for name, content in self._files.items():
            write(Path(folder) / name, content)


def _first(value):
    return value[0] if isinstance(value, list) and value else value


ForeignTokenizer = PretrainedTokenizer  # its earlier name
