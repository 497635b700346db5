"""GGUF: one file for llama.cpp, Ollama and LM Studio."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from slm.checkpoint.loading import load_model
from slm.export.requirements import not_quantized
from slm.tokenizer.byte_pair import END_OF_TEXT, Tokenizer
from slm.utils.files import write
from slm.utils.validation import check_choice

GGUF_TYPES = ("f32", "f16", "q8_0", "q4_0")


# The same draws as ours: only what min-p cuts off, nothing held down.
MODELFILE = """FROM ./{name}
TEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"
PARAMETER stop "{end}"
PARAMETER num_ctx {length}
PARAMETER temperature 0.8
PARAMETER top_k 0
PARAMETER top_p 1.0
PARAMETER min_p 0.05
PARAMETER repeat_penalty 1.0
"""


def export_gguf(folder: str | Path, file: str | Path, type: str = "f16") -> Path:
    """Write a saved model as one GGUF file, for llama.cpp, Ollama and LM Studio, and beside it a
    Modelfile for Ollama; give the file's path. `type` is that of the matrices: "f32", "f16",
    "q8_0" (8 bits in groups of 32) or "q4_0" (4 bits). The end-of-text token is put before a
    prompt and ends a story, as here. Raises ImportError without the library gguf, ValueError for
    another type or a model of which the rows of the matrices cannot be grouped."""
    check_choice("type", type, *GGUF_TYPES)
    try:
        import gguf
    except ImportError:
        raise ImportError("This needs the library gguf: pip install gguf") from None
    model, tokenizer = load_model(folder)
    config, file = not_quantized(model).config, Path(file)
    if type[0] == "q" and (config.d_model % 32 or config.d_ff % 32):
        widths = f"d_model ({config.d_model}) and d_ff ({config.d_ff})"
        raise ValueError(f"{type} wants multiples of 32 for {widths}: use 'f16'.")
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part")
    writer = gguf.GGUFWriter(beside, "llama")
    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[kinds[type]])
    writer.add_name(file.stem)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.n_layers)
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # Here the pairs that turn together are D / 2 rows apart, there they stand side by side.
            halves = array.reshape(-1, 2, config.head_dim // 2, config.d_model)
            array = halves.swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType[type.upper() if array.ndim == 2 else "F32"]
        array = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(names.get_name(name, (".weight",)), array, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    text = MODELFILE.format(name=file.name, end=END_OF_TEXT, length=config.context_length)
    write(file.with_name("Modelfile"), text.encode())
    return file


def _add_tokenizer(writer, tokenizer: Tokenizer) -> None:
    with TemporaryDirectory() as folder:
        tokenizer.save(folder)
        saved = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    eot, size = tokenizer.eot_id, tokenizer.vocab_size
    tokens = {i: token for token, i in saved["vocab"].items()} | {eot: END_OF_TEXT}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # how text is split before merging
    writer.add_token_list([tokens[i] for i in range(size)])
    writer.add_token_types([3 if i == eot else 1 for i in range(size)])  # control, normal
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in saved["merges"]]
    writer.add_token_merges(pairs)
    writer.add_bos_token_id(eot)
    writer.add_eos_token_id(eot)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
