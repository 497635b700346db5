"""The transformer's arithmetic a second time, for decoding: the same results, faster.

With one token at a time, a model this small does so little arithmetic that the time depends on the
number of operations. So there are fewer and larger ones here than in slm/model/transformer.py. The
letters of the shapes are explained there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.hardware.threads import threads_for_step
from slm.model.kv_cache import KVCache
from slm.model.size import parameter_count
from slm.model.transformer import Block, Transformer, evaluating
from slm.quantization.matrix import QuantizedMatrix

Product = Callable[[Tensor], Tensor]  # (B, columns) to (B, rows)


class FusedLinear:
    """Several linear layers as one matrix: `x * factor` times all of them, side by side."""

    def __init__(self, layers: Sequence[nn.Module], factor: Tensor | float):
        weight = torch.cat([layer.weight for layer in layers])  # (rows of all, columns)
        self.matrix = (weight * factor).T.contiguous()  # (columns, rows of all)

    def __call__(self, x: Tensor) -> Tensor:
        """`(B, columns)` to `(B, rows of all)`."""
        return x @ self.matrix


def fuse(layers: Sequence[nn.Module], factor: Tensor | float = 1.0) -> Product:
    """One function for the products of `x * factor` with several layers, side by side."""
    if isinstance(layers[0], QuantizedMatrix):
        return QuantizedMatrix.fuse(layers, factor)
    return FusedLinear(layers, factor)


@dataclass(frozen=True)
class FusedBlock:
    """The four products of one block of the model."""

    qkv: Product  # queries, keys and values
    attention_output: Product
    gate_up: Product
    down: Product


@dataclass(frozen=True)
class StepPositions:
    """Where the next token of each row stands, and what follows from it.

    `index` and `mask` are None where all rows have the same length: no row then needs its own.
    """

    index: Tensor | None  # the positions, (B,)
    cos: Tensor  # these turn the heads, (H + 2 G, 1, D) or (B, H + 2 G, 1, D)
    sin: Tensor  # likewise
    mask: Tensor | None  # which tokens the next one sees, (B, 1, 1, S)


class IncrementalDecoder:
    """Decodes a batch of rows, which may differ in length, one token at a time.

    `prefill` reads whole prompts with the model itself; `step` reads the newest token of each row
    with the fused products. The logits are the model's up to rounding. The weights are copied when
    the decoder is made: later changes to the model do not reach it.

    What does not fit the context is forgotten: of a longer prompt the last `context_length` tokens
    are read, and when a row fills the context, the newer half of it is read again.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer):
        config = model.config
        self.model = model
        self.n_heads = config.n_heads
        self.n_kv_heads = config.n_kv_heads
        self.head_dim = config.head_dim
        self.n_weights = parameter_count(config)
        # RMSNorm of x is  x / sqrt(|x|^2 + C eps) * sqrt(C) * weight.  The root and the weight can
        # be multiplied into the matrices that follow, once and for all; `_norm` does the rest.
        root = config.d_model**0.5
        self.blocks = [self._fuse_block(block, root) for block in model.model.layers]
        output = model.output_embeddings
        self.score = fuse([output], model.model.norm.weight * root)
        self.norm_floor = output.weight.new_tensor(config.norm_eps**0.5 * root)  # sqrt(C eps)
        # `rotate` turns the pair (a, b) by adding (-b, a) times the sine. The sign is put into the
        # sine here, so that adding (b, a) is enough: x rolled by half of its length.
        cos, sin = model.model.tables  # (T, D) each
        sign = sin.new_tensor([-1, 1]).repeat_interleave(config.head_dim // 2)  # (D,)
        self.device = cos.device
        self.cos = cos
        self.signed_sin = sin * sign
        # Queries and keys are turned; values are "turned" by an angle of zero.
        heads = torch.arange(config.n_heads + 2 * config.n_kv_heads, device=self.device)
        self.is_turned = (heads < config.n_heads + config.n_kv_heads).view(-1, 1, 1)

    def _fuse_block(self, block: Block, root: float) -> FusedBlock:
        attention = block.self_attn
        mlp = block.mlp
        before_attention = block.input_layernorm.weight * root  # (C,)
        before_mlp = block.post_attention_layernorm.weight * root  # (C,)
        return FusedBlock(
            qkv=fuse([attention.q_proj, attention.k_proj, attention.v_proj], before_attention),
            attention_output=fuse([attention.o_proj]),
            gate_up=fuse([mlp.gate_proj, mlp.up_proj], before_mlp),
            down=fuse([mlp.down_proj]),
        )

    def new_cache(self, rows: int) -> KVCache:
        """A key-value cache with room for `rows` rows, none of them in use yet."""
        cache = KVCache(self.model.config, rows, like=self.cos)
        cache.clear()
        return cache

    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Read each row's prompt, of at least one id, into an empty cache.

        Returns the logits `(B, V)` of the token after each prompt.
        """
        logits = self.read_rows(range(len(prompts)), prompts, cache)
        return torch.stack([row[-1] for row in logits])

    def read_rows(
        self, rows: Sequence[int], prompts: Sequence[Sequence[int]], cache: KVCache
    ) -> list[Tensor]:
        """Read prompts into some rows of the cache, in place of what these rows held.

        A row after the last one in use is added. Returns, for each prompt, the logits `(T, V)` of
        the token after each of its T tokens.
        """
        context_length = self.model.config.context_length
        prompts = [torch.tensor(prompt[-context_length:]) for prompt in prompts]
        lengths = [len(prompt) for prompt in prompts]
        # Shorter prompts are padded after their end, which causal attention never sees.
        ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self.device)  # (B, T)
        new = KVCache(self.model.config, len(prompts), like=self.cos, max_tokens=max(lengths))
        with evaluating(self.model):
            logits = self.model(ids, new)  # (B, T, V)
        cache.set_rows(rows, new, lengths)
        return [row[:length] for row, length in zip(logits, lengths, strict=True)]

    def step(self, rows: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Read the newest id of each row; return the logits `(B, V)` of the next one.

        `rows` are all ids of each row; the cache holds all but the newest.
        """
        self._make_room(rows, cache)
        with threads_for_step(self.n_weights, len(rows)):
            return self._read_newest([row[-1] for row in rows], cache)

    def _make_room(self, rows: Sequence[Sequence[int]], cache: KVCache) -> None:
        """Of each row that fills the context, keep only the newer half in the cache."""
        context_length = self.model.config.context_length
        full = [row for row, length in enumerate(cache.lengths) if length == context_length]
        if not full:
            return
        half = max(context_length // 2, 1)
        self.read_rows(full, [rows[row][-half:] for row in full], cache)
        for row in full:
            cache.truncate(row, half - 1)  # the newest id is read by the step itself

    @torch.inference_mode()
    def _read_newest(self, newest: Sequence[int], cache: KVCache) -> Tensor:
        """From the newest id of each row to the logits `(B, V)` of the next one."""
        H, G, D = self.n_heads, self.n_kv_heads, self.head_dim
        ids = torch.tensor(newest, device=self.device)  # (B,)
        positions = self._positions(cache)
        x = self.model.model.embed_tokens(ids)  # (B, C)
        for number, block in enumerate(self.blocks):
            heads = block.qkv(self._norm(x)).view(-1, H + 2 * G, 1, D)  # (B, H + 2 G, 1, D)
            swapped = heads.roll(D // 2, dims=-1)  # (b, a) for (a, b)
            heads = torch.addcmul(heads * positions.cos, swapped, positions.sin)
            queries = heads.narrow(1, 0, H)  # (B, H, 1, D)
            keys_values = heads.narrow(1, H, 2 * G)  # (B, 2 G, 1, D)
            keys, values = cache.extend(number, keys_values, positions.index)  # (B, G, S, D)
            y = F.scaled_dot_product_attention(
                queries, keys, values, positions.mask, enable_gqa=G < H
            )  # (B, H, 1, D)
            x = x + block.attention_output(y.flatten(1))  # (B, C)
            gate, up = block.gate_up(self._norm(x)).chunk(2, dim=-1)  # (B, M) each
            x = x + block.down(F.silu(gate) * up)  # (B, C)
        cache.advance(1)
        return self.score(self._norm(x))  # (B, V)

    def _positions(self, cache: KVCache) -> StepPositions:
        longest = max(cache.lengths)
        if cache.same_length:
            index = None
            mask = None
            cos = self.cos[longest]  # (D,)
            sin = self.signed_sin[longest]  # (D,)
        else:
            index = torch.tensor(cache.lengths, device=self.device)  # (B,)
            everywhere = torch.arange(longest + 1, device=self.device)  # (S,)
            mask = (everywhere <= index.unsqueeze(1)).view(-1, 1, 1, longest + 1)
            cos = self.cos[index, None, None]  # (B, 1, 1, D)
            sin = self.signed_sin[index, None, None]  # (B, 1, 1, D)
        cos = torch.where(self.is_turned, cos, 1.0)  # (H + 2 G, 1, D) or (B, H + 2 G, 1, D)
        sin = self.is_turned * sin
        return StepPositions(index, cos, sin, mask)

    def _norm(self, x: Tensor) -> Tensor:
        """The part of RMSNorm that is not in the matrices: `x / sqrt(|x|^2 + C eps)`, `(B, C)`."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (B, 1)
        return x / torch.hypot(length, self.norm_floor)
