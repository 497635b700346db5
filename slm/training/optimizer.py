"""The optimizers: Muon for the blocks' matrices, AdamW for all other weights."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from slm.hardware.precision import pick_precision
from slm.model.transformer import Transformer
from slm.settings import TrainConfig

Optimizers = list[torch.optim.Optimizer]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Turn every singular value of `(..., rows, columns)` matrices to about 1, by the Newton-Schulz
    iteration of Jordan et al. 2024: only matrix products, so that it is fast, also in bfloat16."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.775 * gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), in
    steps as long as AdamW's (Liu et al. 2025, arXiv:2502.16982): torch.optim.Muon, but for all
    matrices of a shape at once, and in `dtype`, as emulated bfloat16 is 4 to 20 times slower."""

    def __init__(self, weights: Iterable[Tensor], weight_decay: float, dtype: torch.dtype):
        self.dtype = dtype
        super().__init__(weights, {"lr": 0.0, "momentum": 0.9, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            alike, beta = defaultdict(list), group["momentum"]
            for weight in group["params"]:
                alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                ahead = []
                for weight in weights:
                    if not self.state[weight]:
                        self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                    momentum = self.state[weight]["momentum_buffer"].lerp_(weight.grad, 1 - beta)
                    ahead.append(weight.grad.lerp(momentum, beta).to(self.dtype))
                for weight, update in zip(weights, orthogonalize(torch.stack(ahead))):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(update, alpha=0.2 * max(shape) ** 0.5 * group["lr"])


def make_optimizers(model: Transformer, config: TrainConfig) -> Optimizers:
    """Muon for the blocks' matrices and AdamW for embeddings and norms; or AdamW for all."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    inner, adamw = set(map(id, matrices)), {"betas": (0.8, 0.95), "eps": 1e-10, "fused": True}
    others = [weight for weight in model.parameters() if id(weight) not in inner]
    # A word's vector learns only when the word comes by: so twice the rate.
    rest = torch.optim.AdamW([{"params": others, "scale": 2.0}], weight_decay=0.0, **adamw)
    if config.optimizer == "adamw":
        group = {"params": matrices, "scale": 0.2}  # steps along the gradient must be shorter
        return [torch.optim.AdamW([group], weight_decay=config.weight_decay, **adamw), rest]
    dtype = pick_precision(config.precision, matrices[0].device.type)
    dtype = torch.float32 if dtype == torch.float16 else dtype  # float16 would overflow
    return [Muon(matrices, config.weight_decay, dtype), rest]
