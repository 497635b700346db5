"""A folder and back: what is saved here is a Hugging Face model, with no conversion step."""

import json
from importlib import import_module
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slm.files import write
from slm.model import ModelConfig, Transformer
from slm.optimization import Optimizers
from slm.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer

BUNDLED = Path(__file__).parent / "assets"
# ModelConfig's fields, as Hugging Face's Llama has them in config.json; it has no dropout.
LLAMA_NAMES = {"vocab_size": "vocab_size", "context_length": "max_position_embeddings"}
LLAMA_NAMES |= {"n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
LLAMA_NAMES |= {"n_kv_heads": "num_key_value_heads", "d_model": "hidden_size"}
LLAMA_NAMES |= {"d_ff": "intermediate_size", "rope_theta": "rope_theta", "norm_eps": "rms_norm_eps"}
LLAMA_NAMES |= {"tie_embeddings": "tie_word_embeddings", "dropout": "slm_dropout"}
LLAMA = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
UNSAID = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_theta": 10_000.0}
UNSAID |= {"num_key_value_heads": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
UNSAID |= {"rope_type": "default", "slm_dropout": 0.0}


def save_model(
    folder: str | Path, model: Transformer, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32
) -> Path:
    """Save a model and its tokenizer as a folder that transformers loads as it is, each file whole
    or not at all; in `dtype` torch.float16 it takes half the room, and loses next to nothing.
    Raises ValueError where model and tokenizer do not belong together."""
    model.check_tokenizer(tokenizer)
    folder, config, eot = Path(folder), model.config, tokenizer.eot_id
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": eot}
    llama = LLAMA | ends | {name: getattr(config, field) for field, name in LLAMA_NAMES.items()}
    llama |= {"architectures": ["LlamaForCausalLM"], "head_dim": config.head_dim}
    llama |= {"dtype": str(dtype).removeprefix("torch.")}
    llama |= {"prefix": tokenizer.decode([tokenizer.bos_id])}  # put before prompts by transformers
    generation = ends | {"pad_token_id": eot, "max_new_tokens": min(400, config.context_length)}
    generation |= {"do_sample": True, "temperature": 0.8, "top_k": 0, "min_p": 0.05}
    weights = {name: value.to("cpu", dtype) for name, value in model.state_dict().items()}
    if how := getattr(model, "quantization", None):  # by slm.quantize: its codes stay as they are
        weights = model.state_dict()
        llama |= {"model_type": "slm-quantized", "quantization": how}
    weights = safetensors.torch.save(weights, {"format": "pt"})
    tokenizer.save(folder)
    write(folder / "config.json", json.dumps(llama, indent=2).encode())
    write(folder / "generation_config.json", json.dumps(generation, indent=2).encode())
    write(folder / "model.safetensors", weights)
    return folder


def load_model(folder_or_name: str | Path) -> tuple[Transformer, Tokenizer]:
    """Load a model, in float32 on the CPU, and its tokenizer from a folder, or one in the package
    by name; or any small Llama, also from the hub by its name, "owner/model". Raises
    FileNotFoundError or ValueError where there is no whole model of this kind."""
    folder = Path(folder_or_name).expanduser()
    if not folder.exists() and (BUNDLED / folder / "config.json").exists():
        folder = BUNDLED / folder
    elif len(folder.parts) == 2 and not folder.parent.exists():
        folder = import_module("slm.foreign").fetch_model(folder.as_posix())
    for path in (folder / "config.json", folder / "model.safetensors"):
        if not path.is_file():
            mend = "name a folder that slm.save_model or slm.train has written"
            raise FileNotFoundError(f"There is no model at {path}: {mend}.")
    try:
        llama = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        llama = UNSAID | llama | llama.get("rope_parameters", {}) | llama.get("quantization", {})
        for name, wanted in (LLAMA | {"rope_type": "default"}).items():
            if llama.get(name) != wanted:
                raise ValueError(f"its {name} is {llama.get(name)!r}, not {wanted!r}")
        config = ModelConfig(**{field: llama[name] for field, name in LLAMA_NAMES.items()})
        model = Transformer(config)
        if "bits" in llama:
            how = llama["bits"], llama["group_size"]
            model = import_module("slm.quantization").quantize(model, *how)
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        if config.tie_embeddings:
            weights.pop("lm_head.weight", None)  # the same table again
        model.load_state_dict(weights)
        ours = llama.get("prefix") == END_OF_TEXT
        load = load_tokenizer if ours else import_module("slm.foreign").ForeignTokenizer
        tokenizer = load(folder)
        model.check_tokenizer(tokenizer)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as why:
        what = f"no {why} in config.json" if isinstance(why, KeyError) else why
        reason = " ".join(str(what).split())[:300]
        raise ValueError(f"The model in {folder} is damaged or of another kind: {reason}") from None
    return model.eval(), tokenizer


def save_state(path: Path, model: Transformer, optimizers: Optimizers, facts: dict) -> None:
    """Keep, in one safetensors file, all that continuing a run needs; `facts` must fit JSON."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for weight, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{weight}/{name}": x for name, x in state.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    write(path, safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the facts that `save_state` kept; ValueError where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): train anew with fresh=True.") from None


def restore_state(tensors: dict[str, Tensor], model: Transformer, optimizers: Optimizers) -> None:
    """Put model, optimizers and random states back to what `save_state` saw."""
    model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key in [key for key in tensors if key.startswith(f"optimizer/{number}/")]:
            weight, name = key.split("/")[2:]
            state.setdefault(int(weight), {})[name] = tensors[key]
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
