"""Models as others publish them: small Llamas with tokenizers built as Llama 2, Llama 3 and SmolLM
build theirs, by the library tokenizers."""

import json
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slm.stories.practice import practice_stories

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _begins_with(token: str, number: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, number)]
    )


def llama2_tokenizer(metaspace: bool = False) -> PreTrainedTokenizerFast:
    """SentencePiece's pieces: spaces are part of the words, unknown characters fall back to bytes.
    Newer conversions have Metaspace where older ones have a normalizer."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    learner = Tokenizer(models.BPE())  # words apart, or pieces would span them
    learner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    learner.train_from_iterator(practice_stories(50), trainers.BpeTrainer(vocab_size=400))
    learned = json.loads(learner.to_str())["model"]
    content = json.loads(tokenizer.to_str())
    pieces = ["<unk>", "<s>", "</s>", *BYTES]
    merged = ["".join(pair) for pair in learned["merges"]]
    characters = [piece for piece in learned["vocab"] if piece not in merged]
    pieces += [*merged, *characters]  # as SentencePiece orders them
    vocab = {piece: i for i, piece in enumerate(pieces)}
    content["model"]["vocab"] = vocab
    content["model"]["merges"] = [  # all pairs that form a piece, as its conversion lists them
        [piece[:place], piece[place:]]
        for piece in merged
        for place in range(1, len(piece))
        if piece[:place] in vocab and piece[place:] in vocab
    ]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = _begins_with("<s>", 1)
    special = [AddedToken(x, normalized=False, special=True) for x in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces, split by a pattern of its own; whole words are taken without merging."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(practice_stories(50), trainer)
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(x, normalized=False) for x in special])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _begins_with("<|begin_of_text|>", begin)]
    )
    ends = dict(bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **ends, model_input_names=["input_ids", "attention_mask"]
    )


def smollm_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces as GPT-2's, every digit a piece of its own, special tokens first; nothing
    is put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(practice_stories(50), trainer)
    ends = dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)


TOKENIZERS = {
    "llama-2": llama2_tokenizer,
    "llama-2 with Metaspace": lambda: llama2_tokenizer(metaspace=True),
    "llama-3": llama3_tokenizer,
    "smollm": smollm_tokenizer,
}


def publish(folder: Path, tokenizer: PreTrainedTokenizerFast, **changes) -> Path:
    """A small Llama with random weights and this tokenizer, saved by transformers."""
    torch.manual_seed(0)
    config = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(LlamaConfig(**config | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes) -> None:
    """Change entries of a JSON file; one that becomes `...` is left out."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(content), encoding="utf-8")
