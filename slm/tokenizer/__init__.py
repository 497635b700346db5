"""Text to token ids and back."""

from slm.tokenizer.byte_pair import END_OF_TEXT, PATTERN, Tokenizer, load_tokenizer
from slm.tokenizer.pretrained import PretrainedTokenizer
from slm.tokenizer.training import train_tokenizer

__all__ = [
    "END_OF_TEXT",
    "PATTERN",
    "PretrainedTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "train_tokenizer",
]
