"""GGUF: one file for llama.cpp, Ollama and LM Studio."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from slm.checkpoint.loading import load_model
from slm.export.gguf_tokenizer import add_tokenizer
from slm.export.requirements import missing_library, require_unquantized
from slm.export.temporary_file import temporary_file
from slm.model.rope_scaling import LinearScaling, Llama3Scaling
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, SamplingConfig
from slm.utils.files import expand_home, write
from slm.utils.printing import say
from slm.utils.settings_checks import check_choice
from slm.utils.write_errors import explain_write_errors

if TYPE_CHECKING:
    from gguf import GGUFWriter

GGUF_TYPES = ("f32", "f16", "q8_0", "q4_0")
GROUP_SIZE = 32  # weights that share a scale in q8_0 and q4_0

# The sampling parameters are slm.generate's: llama.cpp's own defaults penalise repetition.
MODELFILE = """FROM ./{name}
TEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"
PARAMETER stop "{end}"
PARAMETER num_ctx {length}
PARAMETER temperature {temperature}
PARAMETER top_k 0
PARAMETER top_p 1.0
PARAMETER min_p {min_p}
PARAMETER repeat_penalty {repetition_penalty}
"""


def export_gguf(folder: str | Path, file: str | Path, type: str = "f16") -> Path:
    """Write a saved model as one GGUF file, for llama.cpp, Ollama and LM Studio; return its path.

    A Modelfile for Ollama is written beside it; if another model's is there, as NAME.Modelfile,
    with a message. `type` is that of the matrices: "f32", "f16", "q8_0" (8 bits in groups of 32) or
    "q4_0" (4 bits). llama.cpp puts the token that begins a story before each prompt, as
    `slm.generate` does.

    Raises ImportError without the library gguf, and ValueError for another type, a model whose
    matrices cannot be divided into groups, or a tokenizer that llama.cpp cannot reproduce.
    """
    check_choice("type", type, *GGUF_TYPES)
    try:
        import gguf
    except ImportError:
        raise missing_library("gguf") from None
    model, tokenizer = load_model(folder)
    require_unquantized(model)
    _check_groups(model.config, type)

    file = expand_home(file)
    with temporary_file(file) as partial:
        writer = gguf.GGUFWriter(partial, "llama")
        _add_settings(writer, model.config, type, name=file.stem)
        add_tokenizer(writer, tokenizer)
        _add_weights(writer, model, type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    sampling = SamplingConfig()
    modelfile = MODELFILE.format(
        temperature=sampling.temperature,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        name=file.name,
        end=tokenizer.decode([tokenizer.eot_id]),
        length=model.config.context_length,
    )
    path = _modelfile_path(file)
    with explain_write_errors(path):
        write(path, modelfile.encode())
    return file


def _modelfile_path(file: Path) -> Path:
    """Where the Modelfile is written: beside `file`, and never in place of another model's."""
    path = file.with_name("Modelfile")
    if not path.is_file():
        return path
    first_line = path.read_bytes().partition(b"\n")[0]
    if first_line == f"FROM ./{file.name}".encode():
        return path
    own_path = file.with_suffix(".Modelfile")
    say(f"{path} is another model's: the new one's is {own_path}.")
    return own_path


def _check_groups(config: ModelConfig, type: str) -> None:
    """Raise ValueError where the rows of a matrix cannot be cut into groups."""
    uneven = config.d_model % GROUP_SIZE or config.d_ff % GROUP_SIZE
    if type in ("q8_0", "q4_0") and uneven:
        widths = f"d_model ({config.d_model}) and d_ff ({config.d_ff})"
        raise ValueError(f"{type} wants multiples of {GROUP_SIZE} for {widths}: use 'f16'.")


def _add_settings(writer: "GGUFWriter", config: ModelConfig, type: str, name: str) -> None:
    import gguf

    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    }
    writer.add_file_type(file_types[type])
    writer.add_name(name)
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
    if isinstance(config.rope_scaling, LinearScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)


def _add_weights(writer: "GGUFWriter", model: Transformer, type: str) -> None:
    """All tensors under llama.cpp's names: matrices in `type`, the weights of norms in f32."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.n_layers)
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _interleave(array, model.config.head_dim)
        kind = gguf.GGMLQuantizationType[type.upper() if array.ndim == 2 else "F32"]
        array = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(names.get_name(name, (".weight",)), array, raw_dtype=kind)
    if isinstance(model.config.rope_scaling, Llama3Scaling):
        writer.add_tensor("rope_freqs.weight", _frequency_factors(model.config))


def _frequency_factors(config: ModelConfig) -> np.ndarray:
    """What llama.cpp divides each rotary frequency by, `(D / 2,)`."""
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim  # (D / 2,)
    frequencies = config.rope_theta**-exponents  # (D / 2,)
    return (frequencies / config.rope_scaling.scale(frequencies)).numpy()


def _interleave(matrix: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of queries or keys, `(H D, C)`, in llama.cpp's order: here the two numbers that rotary
    positions turn together are D / 2 rows apart, there they stand side by side.
    """
    halves = matrix.reshape(-1, 2, head_dim // 2, matrix.shape[1])  # (H, 2, D / 2, C)
    return halves.swapaxes(1, 2).reshape(matrix.shape)
