"""Tokenizers of models that others have made: a Hugging Face folder's tokenizer.json."""

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from slm.utils.files import write


class ForeignTokenizer:
    """What `slm.Tokenizer` is, around a tokenizer of another kind: a Hugging Face folder's
    `tokenizer.json`. A text begins after `bos_id` and ends with `eot_id`, as the model learnt it.
    Raises FileNotFoundError without that file, ValueError where it is damaged or has no end."""

    def __init__(self, folder: str | Path):
        self.name, self._files = Path(folder).absolute().name, {}
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (Path(folder) / name).is_file():
                self._files[name] = (Path(folder) / name).read_bytes()
        if "tokenizer.json" not in self._files:
            raise FileNotFoundError(f"There is no tokenizer.json in {folder}: save it with one.")
        try:
            self._inner = HuggingFaceTokenizer.from_str(self._files["tokenizer.json"].decode())
        except Exception as error:  # whatever the library makes of a damaged file
            raise ValueError(f"The tokenizer in {folder} is damaged: {error}") from None
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        ends = config.get("eos_token_id")
        self.eot_id = ends[0] if isinstance(ends, list) and ends else ends
        if not isinstance(self.eot_id, int):
            raise ValueError(f"{folder} names no eos_token_id in config.json: stories cannot end.")
        begin = config.get("bos_token_id")
        self.bos_id = begin if isinstance(begin, int) else self.eot_id
        self.vocab_size = config["vocab_size"]  # the model's: some rows may belong to no token
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 65_536 else np.uint32)
        self.digest = sha256(self._files["tokenizer.json"]).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without those that begin and end it."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> np.ndarray:
        """What `encode` gives for each of `texts`, with `eot_id` after it, as one array."""
        return np.array([i for x in texts for i in (*self.encode(x), self.eot_id)], self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all `ids`."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text bit by bit, as `ids` arrive, but never half a character."""
        known, said = [], ""
        for i in ids:
            known.append(int(i))
            text = self._inner.decode(known, skip_special_tokens=False)
            if not text.endswith("\ufffd"):
                yield text[len(said) :]
                said = text
        if known and len(text) > len(said):
            yield text[len(said) :]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One string per token, for looking at."""
        return [self._inner.decode([int(i)], skip_special_tokens=False) for i in ids]

    def save(self, folder: str | Path) -> None:
        """Write the files that it was made of."""
        for name, content in self._files.items():
            write(Path(folder) / name, content)
