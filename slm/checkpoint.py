"""A folder and back: what is saved here is a Hugging Face model, with no conversion step."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from slm.files import writing
from slm.model import ModelConfig, Transformer
from slm.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer

BUNDLED = Path(__file__).parent / "assets"
LLAMA_NAMES = {  # ModelConfig's fields, as Hugging Face's Llama has them in config.json
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "dtype": "float32",
    "prefix": END_OF_TEXT,  # what transformers' text-generation pipeline puts before a prompt
}


def save_model(folder: str | Path, model: Transformer, tokenizer: Tokenizer) -> Path:
    """Save a model and its tokenizer as a folder that transformers loads as it is.

    Each file in it is written whole or not at all. Raises ValueError where model and tokenizer do
    not belong together.
    """
    folder, config = Path(folder), model.config
    model.check_tokenizer(tokenizer)
    ends = {"bos_token_id": tokenizer.eot_id, "eos_token_id": tokenizer.eot_id}
    llama = LLAMA | ends | {name: getattr(config, field) for field, name in LLAMA_NAMES.items()}
    llama |= {"head_dim": config.head_dim, "slm_dropout": config.dropout}
    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 0}
    sampling["max_new_tokens"] = min(400, config.context_length)
    generation = ends | {"pad_token_id": tokenizer.eot_id} | sampling
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    tokenizer.save(folder)
    for name, content in (
        ("config.json", json.dumps(llama, indent=2).encode()),
        ("generation_config.json", json.dumps(generation, indent=2).encode()),
        ("model.safetensors", safetensors.torch.save(weights, {"format": "pt"})),
    ):
        with writing(folder / name) as file:
            file.write(content)
    return folder


def load_model(folder_or_name: str | Path) -> tuple[Transformer, Tokenizer]:
    """Load a model and its tokenizer from a folder, or one in the package by its name.

    The model comes in float32, on the CPU, ready to write. Raises FileNotFoundError or ValueError,
    naming what is wrong and the mend, where the folder holds no whole model of this kind.
    """
    folder = Path(folder_or_name).expanduser()
    if not folder.exists() and (BUNDLED / folder / "config.json").exists():
        folder = BUNDLED / folder
    for path in (folder / "config.json", folder / "model.safetensors"):
        if not path.is_file():
            mend = "name a folder that slm.save_model or slm.train has written"
            raise FileNotFoundError(f"There is no model at {path}: {mend}.")
    try:
        llama = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        llama = {"rope_type": "default", **llama, **llama.get("rope_parameters", {})}
        wanted = LLAMA | {"rope_type": "default"}
        for name in ("model_type", "hidden_act", "attention_bias", "mlp_bias", "rope_type"):
            if llama.get(name) != wanted[name]:
                raise ValueError(f"its {name} is {llama.get(name)!r}, not {wanted[name]!r}")
        fields = {field: llama[name] for field, name in LLAMA_NAMES.items()}
        model = Transformer(ModelConfig(**fields, dropout=llama.get("slm_dropout", 0.0)))
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        tokenizer = load_tokenizer(folder)
        model.check_tokenizer(tokenizer)
    except (
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        SafetensorError,
    ) as error:
        what = f"no {error} in config.json" if isinstance(error, KeyError) else error
        reason = " ".join(str(what).split())[:300]
        raise ValueError(f"The model in {folder} is damaged or of another kind: {reason}") from None
    return model.eval(), tokenizer


def save_state(
    path: Path, model: Transformer, optimizers: list[torch.optim.Optimizer], facts: dict
) -> None:
    """Keep, in one safetensors file, all that continuing a run needs; `facts` must fit JSON."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for weight, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{weight}/{name}": x for name, x in state.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    with writing(path) as file:
        file.write(safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts that `save_state` kept; ValueError where the file is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): train anew with fresh=True.") from None


def restore_state(
    tensors: dict[str, Tensor], model: Transformer, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Put model, optimizers and random states back to what `save_state` saw."""

    def within(part: str) -> dict[str, Tensor]:
        return {k.removeprefix(part): x for k, x in tensors.items() if k.startswith(part)}

    model.load_state_dict(within("model/"))
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in within(f"optimizer/{number}/").items():
            weight, name = key.split("/")
            state.setdefault(int(weight), {})[name] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
