"""LoRA (Hu et al. 2021, arXiv:2106.09685): the weights are frozen, small matrices are trained."""

import torch
from torch import nn

from slm.model.transformer import Transformer
from slm.settings import FineTuneConfig
from slm.training.optimizer import Optimizers

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def add_lora(model: Transformer, config: FineTuneConfig) -> tuple[nn.Module, Optimizers]:
    """Put LoRA's matrices beside those of the blocks.

    Returns peft's model around `model`, and an optimizer of the small matrices alone. Raises
    ImportError, which says how to install it, where the library peft is missing, and ValueError for
    small matrices that would be larger than the model's.
    """
    width = model.config.d_model
    if config.lora_rank > width:
        raise ValueError(
            f"lora_rank is {config.lora_rank:,}, and the model's matrices have {width:,} columns: "
            "give a few, as 8."
        )
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("LoRA needs the library peft: pip install peft") from None
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,  # the products of the small matrices count double
        target_modules=MATRICES,
    )
    torch.manual_seed(config.seed)  # peft draws the small matrices from the global state
    adapter = get_peft_model(model, lora)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return adapter, [torch.optim.AdamW(weights, weight_decay=0.0)]
