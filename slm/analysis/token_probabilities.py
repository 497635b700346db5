"""How probable each token of a text was to the model, and which tokens it attended to."""

from dataclasses import dataclass

import torch

from slm.analysis.attention import attention_maps
from slm.model.transformer import Transformer, evaluating
from slm.tokenizer.byte_pair import Tokenizer


@dataclass(frozen=True)
class TokenProbability:
    """A token of a text, and the probability that the model gave it before it came."""

    piece: str
    probability: float
    likeliest: tuple[tuple[str, float], ...]  # what might have come, with its probability, in order


def token_probabilities(
    model: Transformer, tokenizer: Tokenizer, text: str, n_likeliest: int = 8
) -> list[TokenProbability]:
    """The probability of each token of a text, and the tokens that the model expected most.

    Tokens beyond the context length are left out.
    """
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    ids = ids[: model.config.context_length + 1]
    inputs = ids[:-1]
    targets = ids[1:]
    if not targets:
        return []
    device = model.device
    with evaluating(model):
        logits = model(torch.tensor([inputs], device=device))[0]  # (T, V)
    probabilities = logits.float().cpu().softmax(-1)  # (T, V)
    n_likeliest = min(n_likeliest, model.config.vocab_size)
    top_probabilities, top_ids = probabilities.topk(n_likeliest)  # (T, n_likeliest), twice
    result = []
    for position, (target, piece) in enumerate(zip(targets, tokenizer.pieces(targets))):
        names = tokenizer.pieces(top_ids[position].tolist())
        likeliest = tuple(zip(names, top_probabilities[position].tolist()))
        probability = probabilities[position, target].item()
        result.append(TokenProbability(piece, probability, likeliest))
    return result


def mean_attention(
    model: Transformer, tokenizer: Tokenizer, text: str, position: int
) -> list[float]:
    """How much the token at a position, counted from 0, attends to each token up to itself.

    It is the mean over all heads of all layers. The weight on the beginning-of-text token, where
    heads with nothing to attend to rest (Xiao et al. 2023, arXiv:2309.17453), is left out, and the
    others are scaled to add up to 1.
    """
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    ids = ids[: model.config.context_length]
    device = model.device
    maps = attention_maps(model, torch.tensor(ids, device=device)).cpu()  # (L, H, T, T)
    mean = maps.mean((0, 1))  # (T, T)
    weights = mean[position + 1, 1 : position + 2]  # (position + 1,); column 0 is the beginning
    return (weights / weights.sum().clamp(min=1e-9)).tolist()
