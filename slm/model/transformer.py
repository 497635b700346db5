"""The mini-transformer: a Llama-style decoder, to be read once from top to bottom.
Shapes stand at line ends: B stories at once, T tokens each, C numbers per token (`d_model`),
H heads of D = C / H numbers, G groups of keys and values, V words in the vocabulary. All is named
as in Hugging Face's Llama, so a saved model is a Hugging Face model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.kv_cache import KVCache
from slm.settings import ModelConfig
from slm.tokenizer.byte_pair import Tokenizer


def rotary_tables(config: ModelConfig) -> Tensor:
    """The cosines and sines `(2, T, D)` of rotary positions (Su et al. 2021, arXiv:2104.09864):
    pair i of a head's numbers turns by theta^(-2i/D) radians per token, so that a query and a key
    meet at an angle given by their distance alone."""
    pairs = torch.arange(0, config.head_dim, 2) / config.head_dim  # (D/2,)
    frequencies = config.rope_theta**-pairs  # (D/2,)
    if config.rope_scaling is not None:
        frequencies = config.rope_scaling.scale(frequencies)
    angles = torch.outer(torch.arange(config.context_length), frequencies)
    angles = torch.cat((angles, angles), dim=-1)  # (T, D)
    return torch.stack((angles.cos(), angles.sin()))  # (2, T, D)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of the numbers in `x` `(B, H, T, D)` by its position's angle."""
    cos, sin, (first, second) = cos.to(x.dtype), sin.to(x.dtype), x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin  # (B, H, T, D)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of queries `(B, H, T, D)` to keys and values `(B, G, T, D)`, written out: in
    bfloat16 on a CPU, and over short texts, twice as fast as PyTorch's fused kernel."""
    B, H, T, D = q.shape
    if k.shape[1] < H:
        k, v = (part.repeat_interleave(H // part.shape[1], dim=1) for part in (k, v))
    q, k, v = (part.reshape(B * H, T, D) for part in (q, k, v))
    future = torch.full((T, T), float("-inf"), dtype=q.dtype).triu(1)
    weights = torch.baddbmm(future, q, k.mT, alpha=D**-0.5).softmax(-1)  # (B H, T, T)
    return (weights @ v).view(B, H, T, D)


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762): each token gathers what it
    needs from itself and those before it. Several query heads may share one head of keys and values
    (grouped queries, Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.grouped = config.n_kv_heads < config.n_heads
        kv_width = config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `(B, H, T, D)`, keys and values `(B, G, T, D)` of `x` `(B, T, C)`."""
        flat = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # (B, T, H D or G D)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in flat)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None = None) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`; with a cache, `x` continues what the cache holds."""
        q, k, v = self.project(x, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.layer, torch.cat((k, v), 1))  # (B, G, S, D), S tokens so far
        T, S, mask = q.shape[2], k.shape[2], None
        if 1 < T < S:  # new tokens see the cached ones and, of themselves, those not later
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        fused, options = F.scaled_dot_product_attention, {"enable_gqa": self.grouped}
        short = T == S <= 512 and q.dtype == torch.bfloat16 and x.device.type == "cpu"
        y = attend(q, k, v) if short else fused(q, k, v, mask, is_causal=T == S, **options)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, H, T, D) to (B, T, C)


class MLP(nn.Module):
    """Works on each token alone: widen, gate, narrow (SwiGLU, Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer: attention, then the MLP, each normed (RMSNorm, Zhang & Sennrich 2019,
    arXiv:1910.07467) on the way in and added to the residual stream on the way out."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None = None) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, cache))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """Token ids to the last layer's normed output: everything but the scores."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.register_buffer("tables", rotary_tables(config), persistent=False)  # (2, T, D)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """`(B, T)` to `(B, T, C)`."""
        start = cache.length if cache else 0
        cos, sin = self.positions(start, start + ids.shape[1])
        x = self.embed_tokens(ids)  # (B, T, C)
        for layer in self.layers:
            x = layer(x, cos, sin, cache)
        if cache:
            cache.length += ids.shape[1]
        return self.norm(x)

    def positions(self, start: int, end: int) -> Tensor:
        """Cosines and sines, `(2, T, D)`, of the places from `start` up to `end`."""
        if end > (most := self.tables.shape[1]):
            raise ValueError(f"{end} tokens are more than context_length: give {most}.")
        return self.tables[:, start:end]


class Transformer(nn.Module):
    """The whole model, its weights drawn by `seed`: `model(ids)` scores which token comes next."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # PyTorch draws weights that are drawn anew below
            self.model = Decoder(config)
            if not config.tie_embeddings:
                self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            # What writes to the residual stream starts at zero: at first, each block passes its
            # input on unchanged (Fixup, Zhang et al. 2019, arXiv:1901.09321).
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.02, generator=generator)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Token ids `(B, T)`, which continue what the cache holds, to logits `(B, T, V)`: scores of
        each possible next token. Raises ValueError for more than `context_length` tokens."""
        if cache and cache.next_token and ids.shape[1] == 1:
            return cache.next_token(ids[:, 0], cache).unsqueeze(1)  # (B, 1, V)
        x = self.model(ids, cache)  # (B, T, C)
        table = self.model.embed_tokens if self.config.tie_embeddings else self.lm_head
        return F.linear(x, table.weight)  # (B, T, V)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise ValueError where a tokenizer knows more or fewer tokens than the model."""
        if tokenizer.vocab_size != self.config.vocab_size:
            sizes = f"{self.config.vocab_size:,} tokens and the tokenizer {tokenizer.vocab_size:,}"
            raise ValueError(f"The model knows {sizes}: use the one it was trained with.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Dropout is off and no gradients are kept inside; afterwards the model is as it was."""
    was_training = model.training
    try:
        with torch.no_grad():
            yield model.eval() if was_training else model  # walking all modules takes time
    finally:
        if was_training:
            model.train()
