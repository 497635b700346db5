"""The mini-transformer: a Llama-style decoder, to be read from top to bottom.

Modules and weights are named as in Hugging Face's Llama, so that a saved model is a Hugging Face
model. Shapes stand at line ends:

    B  rows in a batch             H  query heads
    T  tokens per row              G  heads of keys and values, shared by H / G query heads each
    S  tokens that can be seen     D  numbers per head, C / H
    C  numbers per token           V  tokens in the vocabulary
    M  hidden width of the MLP

A row is one story, or in training several, one after another (see slm/batches.py).

The same architecture is described in three more places, and a change here must be repeated there:
slm/generation/decoder.py (the same arithmetic, faster, one token at a time; a test compares both),
slm/checkpoint/llama_format.py (names and shapes of the tensors) and slm/model/size.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.kv_cache import KVCache
from slm.model.size import check_memory
from slm.settings import ModelConfig
from slm.utils.settings_checks import check_number


def rotary_tables(config: ModelConfig) -> Tensor:
    """The cosines and sines `(2, T, D)` of rotary positions (Su et al. 2021, arXiv:2104.09864).

    Pair i of a head's numbers turns by theta^(-2i/D) radians per token, so that the angle between a
    query and a key depends on their distance alone.
    """
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim  # (D/2,): 2i/D of pair i
    frequencies = config.rope_theta**-exponents  # (D/2,)
    if config.rope_scaling is not None:
        frequencies = config.rope_scaling.scale(frequencies)
    positions = torch.arange(config.context_length)  # (T,)
    angles = torch.outer(positions, frequencies)  # (T, D/2)
    angles = torch.cat((angles, angles), dim=-1)  # (T, D)
    return torch.stack((angles.cos(), angles.sin()))  # (2, T, D)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of the numbers in `x` `(B, H, T, D)` by its position's angle."""
    cos = cos.to(x.dtype)  # (T, D)
    sin = sin.to(x.dtype)  # (T, D)
    first, second = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
    return x * cos + torch.cat((-second, first), dim=-1) * sin  # (B, H, T, D)


def causal_mask(new_tokens: int, all_tokens: int, device: torch.device | str) -> Tensor:
    """Which tokens each new token sees, `(T, S)`: the cached ones, itself and new ones before it.

    It is needed where several tokens continue what a cache holds.
    """
    seen = torch.ones(new_tokens, all_tokens, dtype=torch.bool, device=device)  # (T, S)
    return seen.tril(all_tokens - new_tokens)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of queries `(B, H, T, D)` to keys and values `(B, G, T, D)`, written out.

    In bfloat16 on a CPU and over short texts this is twice as fast as PyTorch's fused kernel.
    """
    B, H, T, D = q.shape
    queries_per_key = H // k.shape[1]
    if queries_per_key > 1:
        k = k.repeat_interleave(queries_per_key, dim=1)  # (B, H, T, D)
        v = v.repeat_interleave(queries_per_key, dim=1)  # (B, H, T, D)
    q = q.reshape(B * H, T, D)
    k = k.reshape(B * H, T, D)
    v = v.reshape(B * H, T, D)
    future = torch.full((T, T), float("-inf"), dtype=q.dtype).triu(1)  # -inf above the diagonal
    scores = torch.baddbmm(future, q, k.mT, alpha=D**-0.5)  # (B H, T, T)
    weights = scores.softmax(-1)  # (B H, T, T)
    return (weights @ v).view(B, H, T, D)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of queries `(B, H, T, D)` to keys and values `(B, G, S, D)` by the fastest kernel.

    `mask` `(T, S)` says which tokens each query sees. Without it, attention is causal where T and S
    are equal, and a single query sees all S tokens.
    """
    T, S = q.shape[2], k.shape[2]
    if mask is None and q.dtype == torch.bfloat16 and q.device.type == "cpu" and T == S <= 512:
        return attend(q, k, v)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None and T == S,
        enable_gqa=k.shape[1] < q.shape[1],
    )


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762).

    Each token gathers what it needs from itself and from the tokens before it. Several query heads
    may share one head of keys and values (grouped-query attention, Ainslie et al. 2023,
    arXiv:2305.13245).
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer  # the number of its block: its place in the cache
        self.head_dim = config.head_dim
        kv_width = config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def split_heads(self, x: Tensor) -> Tensor:
        """`(B, T, heads D)` to `(B, heads, T, D)`."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `(B, H, T, D)`, keys and values `(B, G, T, D)` of `x` `(B, T, C)`."""
        q = self.split_heads(self.q_proj(x))  # (B, H, T, D)
        k = self.split_heads(self.k_proj(x))  # (B, G, T, D)
        v = self.split_heads(self.v_proj(x))  # (B, G, T, D)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`; with a cache, `x` continues what the cache holds."""
        q, k, v = self.project(x, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.layer, torch.cat((k, v), dim=1))  # (B, G, S, D) each
        y = causal_attention(q, k, v, mask)  # (B, H, T, D)
        y = y.transpose(1, 2).flatten(2)  # (B, T, C)
        return self.o_proj(y)


class MLP(nn.Module):
    """Works on each token alone: widen, gate, narrow (SwiGLU, Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`."""
        gate = F.silu(self.gate_proj(x))  # (B, T, M)
        return self.down_proj(gate * self.up_proj(x))


class Block(nn.Module):
    """One layer: attention, then the MLP.

    The input of each is normalised (RMSNorm, Zhang & Sennrich 2019, arXiv:1910.07467), and its
    output is added to the residual stream.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, cache, mask))
        x = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return x


class Backbone(nn.Module):
    """Everything but the logits: token ids to the normalised output of the last block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.register_buffer("tables", rotary_tables(config), persistent=False)  # (2, T, D)

    def rotary_slice(self, start: int, end: int) -> Tensor:
        """The rotary cosines and sines `(2, T, D)` of the positions from `start` up to `end`.

        Raises ValueError beyond `context_length`.
        """
        context_length = self.tables.shape[1]
        if end > context_length:
            raise ValueError(
                f"{end} tokens are more than context_length: give at most {context_length}."
            )
        return self.tables[:, start:end]

    positions = rotary_slice  # an earlier name

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """`(B, T)` to `(B, T, C)`."""
        new_tokens = ids.shape[1]
        start = 0 if cache is None else cache.length
        end = start + new_tokens
        cos, sin = self.rotary_slice(start, end)  # (T, D) each
        mask = None
        if start > 0 and new_tokens > 1:
            mask = causal_mask(new_tokens, end, ids.device)  # (T, S)
        x = self.embed_tokens(ids)  # (B, T, C)
        for layer in self.layers:
            x = layer(x, cos, sin, cache, mask)
        if cache is not None:
            cache.advance(new_tokens)
        return self.norm(x)


class Transformer(nn.Module):
    """The whole model, its weights drawn by `seed`: `model(ids)` scores which token comes next.

    Raises ValueError for a `seed` below 0, and, naming the largest setting that fits, for a model
    that memory cannot hold.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        check_number("seed", seed, whole=True, low=0)
        check_memory(config)
        self.config = config
        # PyTorch fills new layers from its global generator, whose state must not change here; the
        # values are overwritten below.
        with torch.random.fork_rng(devices=[]):
            self.model = Backbone(config)
            if not config.tie_embeddings:
                self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.draw_weights(seed)

    def draw_weights(self, seed: int) -> None:
        """Draw all matrices, but those set to zero; the weights of the norms stay as they are."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                # What writes to the residual stream starts at zero: at first, each block passes
                # its input on unchanged (Fixup, Zhang et al. 2019, arXiv:1901.09321).
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.02, generator=generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the ids must be."""
        return self.model.tables.device

    @property
    def output_embeddings(self) -> nn.Module:
        """The module whose weight `(V, C)` scores the tokens.

        With tied embeddings (Press & Wolf 2017, arXiv:1608.05859) it is the table that reads them.
        """
        return self.model.embed_tokens if self.config.tie_embeddings else self.lm_head

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Token ids `(B, T)` to logits `(B, T, V)`: scores of each possible next token.

        With a cache, the ids continue what it holds. Raises ValueError for more than
        `context_length` tokens.
        """
        x = self.model(ids, cache)  # (B, T, C)
        return F.linear(x, self.output_embeddings.weight)  # (B, T, V)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError where a tokenizer has more or fewer tokens than the model."""
        if vocab_size != self.config.vocab_size:
            sizes = f"{self.config.vocab_size:,} tokens and the tokenizer {vocab_size:,}"
            raise ValueError(f"The model knows {sizes}: use the one it was trained with.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Switch dropout off and compute no gradients; afterwards the model is as it was."""
    was_training = model.training
    try:
        if was_training:  # only then: visiting all modules takes time
            model.eval()
        with torch.no_grad():
            yield model
    finally:
        if was_training:
            model.train()
