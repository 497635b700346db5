"""LoRA (Hu et al. 2021, arXiv:2106.09685): the weights stay, small matrices beside them learn."""

import torch

from slm.model.transformer import Transformer
from slm.settings import FineTuneConfig
from slm.training.optimizer import Optimizers


def add_lora(model: Transformer, config: FineTuneConfig) -> tuple[object, Optimizers]:
    """Put LoRA's matrices beside those of the blocks: peft's model around it, and an optimizer of
    them alone. ImportError, with the mend, where peft is not installed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("LoRA needs the library peft: pip install peft") from None
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    how = dict(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=names)
    adapter = get_peft_model(model, LoraConfig(**how))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return adapter, [torch.optim.AdamW([{"params": weights}], weight_decay=0.0)]
