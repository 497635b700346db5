"""The tensors of a folder: which there are, whether they fit the model, and loading them.

The headers of the files are compared with what the model needs before any memory is allocated.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slm.checkpoint.llama_format import tensor_shapes
from slm.model.transformer import Transformer
from slm.settings import ModelConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # names the file of each tensor, where there are several
LARGEST_WEIGHT = 1e10  # far beyond those of any trained model
FLOATS = {"F64", "F32", "F16", "BF16"}  # the kinds of numbers that weights may be


def weight_files(folder: Path) -> list[Path]:
    """The folder's files of tensors: model.safetensors, or those that its index names.

    Raises FileNotFoundError for one that is missing, ValueError for an index that is damaged.
    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [existing_file(folder / WEIGHTS)]
    try:
        index = json.loads((folder / INDEX).read_bytes())
        names = sorted(set(index["weight_map"].values()))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{INDEX} cannot be read ({error!r})") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{INDEX} names {name!r}, which is no file of this folder")
    if not names:
        raise ValueError(f"{INDEX} names no files")
    return [existing_file(folder / name) for name in names]


def existing_file(path: Path) -> Path:
    """The path of a model's file. Raises FileNotFoundError where there is none."""
    if not path.is_file():
        hint = "name a folder that slm.save_model or slm.train has written"
        raise FileNotFoundError(f"There is no model at {path}: {hint}.")
    return path


class StoredWeights:
    """The tensors of a folder's files, as their headers describe them; nothing is loaded yet.

    Raises ValueError where a file is damaged, or two have the same tensor.
    """

    def __init__(self, files: list[Path]):
        self._files: dict[str, Path] = {}  # tensor to file
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}  # as safetensors writes them: "F32"
        for path in files:
            try:
                self._read_header(path)
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path.name} cannot be read ({error})") from None

    def _read_header(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name in self._files:
                    raise ValueError(f"the tensor {name} is in two files")
                part = file.get_slice(name)
                self._files[name] = path
                self.shapes[name] = tuple(part.get_shape())
                self.dtypes[name] = part.get_dtype()

    def load(self) -> dict[str, Tensor]:
        """All tensors by name. Raises ValueError for one with a number that is not finite."""
        tensors = {}
        for path in sorted(set(self._files.values())):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensors[name] = file.get_tensor(name)
        check_finite(tensors)
        return tensors

    def check(self, config: ModelConfig, quantization: dict | None) -> None:
        """Raise ValueError, naming the tensor, where these are not the tensors of such a model."""
        if config.n_layers > len(self.shapes):  # before a list of 10^9 layers is made
            count = f"{len(self.shapes):,} tensors"
            raise ValueError(f"its {config.n_layers:,} layers do not fit the file's {count}")
        expected = tensor_shapes(config)
        if quantization is not None:
            expected = _quantized_shapes(expected, quantization)
        unused = set(self.shapes) - set(expected)
        unused = {name for name in unused if not _is_ignored(name, config)}
        for name in sorted(expected):
            if name not in self.shapes:
                raise ValueError(f"its weights lack {name}")
        if unused:
            first = min(unused)
            raise ValueError(f"Unexpected key in its weights: {first}, which such a model has not")
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                sizes = f"{self.shapes[name]} and not {shape}"
                raise ValueError(f"size mismatch for {name}: it is {sizes}, as config.json says")
            if self.dtypes[name] not in _dtypes(name):
                raise ValueError(f"{name} has numbers of the kind {self.dtypes[name]}")


def _is_ignored(name: str, config: ModelConfig) -> bool:
    """Whether transformers ignores a tensor too.

    Old files hold the rotary frequencies, and some hold the shared table twice.
    """
    repeated_table = name == "lm_head.weight" and config.tie_embeddings
    return repeated_table or name.endswith(".self_attn.rotary_emb.inv_freq")


def _dtypes(name: str) -> set[str]:
    return {"I8", "U8"} if name.endswith(".codes") else FLOATS


def _quantized_shapes(
    shapes: dict[str, tuple[int, ...]], quantization: dict
) -> dict[str, tuple[int, ...]]:
    """Names and shapes after `slm.quantize`: each matrix becomes codes and scales."""
    quantized = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            quantized[name] = shape
            continue
        rows, columns = shape
        is_table = name in ("model.embed_tokens.weight", "lm_head.weight")  # always in 8 bits
        bits = 8 if is_table else quantization["bits"]
        group_size = None if is_table else quantization["group_size"]
        matrix = name.removesuffix(".weight")
        quantized[f"{matrix}.codes"] = (rows, columns if bits == 8 else columns // 2)
        quantized[f"{matrix}.scales"] = (rows, columns // (group_size or columns))
    return quantized


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError, naming the tensor, where a number is NaN, infinite or much too large.

    Results computed with such a large number would be infinite.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all():
            raise ValueError(f"the weights {name} hold numbers that are NaN or infinite")
        largest = tensor.abs().max().item()
        if largest > LARGEST_WEIGHT:
            raise ValueError(f"the weights {name} hold a number as large as {largest:.0e}")


def load_tensors(model: Transformer, tensors: dict[str, Tensor]) -> None:
    """Copy the tensors into the model. Raises ValueError where they do not fit."""
    if model.config.tie_embeddings and "lm_head.weight" in tensors:
        repeated = tensors["lm_head.weight"]
        if not torch.equal(repeated, tensors["model.embed_tokens.weight"]):
            raise ValueError("its lm_head.weight is not the shared table that config.json promises")
    wanted = {name: tensors[name] for name in model.state_dict()}
    model.load_state_dict(wanted)
