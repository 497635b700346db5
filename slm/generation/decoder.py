"""The transformer's arithmetic once more, for decoding: the same numbers from fewer and larger
operations. One token at a time, a model this small does so little arithmetic that the number of
operations is what the time depends on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.kv_cache import KVCache
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
    """The four products of one layer of the model."""

    qkv: Product  # queries, keys and values
    attention_output: Product
    gate_up: Product
    down: Product


class FastDecoder:
    """Decodes a batch of rows, which may be differently long, one token at a time.

    `prefill` reads whole prompts with the model itself; `step` reads the newest token of each row
    with the fused products. The logits are the model's up to rounding; they are those of the
    weights as they were when the decoder was made.

    What does not fit the context is forgotten: of a longer prompt the last `context_length` tokens
    are read, and where a row fills the context its newer half is read again."""

    @torch.no_grad()
    def __init__(self, model: Transformer):
        config = model.config
        self.model = model
        self.n_heads = config.n_heads
        self.n_kv_heads = config.n_kv_heads
        self.head_dim = config.head_dim
        # RMSNorm of x is  x / sqrt(|x|^2 + C eps) * sqrt(C) * weight.  The root and the weight can
        # be multiplied into the matrices that follow, once and for all; see `_norm` for the rest.
        root = config.d_model**0.5
        self.blocks = [self._fuse_block(block, root) for block in model.model.layers]
        output = model.output_embeddings
        self.score = fuse([output], model.model.norm.weight * root)
        self.norm_floor = output.weight.new_tensor(config.norm_eps**0.5 * root)  # sqrt(C eps)
        # `rotate` turns the pair (a, b) by adding (-b, a) times the sine. The sign is put into the
        # sine here, so that (b, a) will do: x rolled by half of its length.
        cos, sin = model.model.tables  # (T, D) each
        sign = sin.new_tensor([-1, 1]).repeat_interleave(config.head_dim // 2)  # (D,)
        self.device = cos.device
        self.cos = cos
        self.signed_sin = sin * sign
        # Queries and keys are turned, values are not: they are turned by an angle of zero.
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
        """A key-value cache with room for so many rows, of which none is in use yet."""
        cache = KVCache(self.model.config, rows, like=self.cos)
        cache.clear()
        return cache

    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Read each row's prompt, of at least one id, into an empty cache; return the logits
        `(B, V)` of what follows."""
        logits = self.read_rows(range(len(prompts)), prompts, cache)
        return torch.stack([row[-1] for row in logits])

    def read_rows(
        self, rows: Sequence[int], prompts: Sequence[Sequence[int]], cache: KVCache
    ) -> list[Tensor]:
        """Let some rows of the cache hold these prompts, whatever they held before. A row behind
        the last one is added. Returns for each prompt the logits `(T, V)` of what follows each of
        the T tokens that were read."""
        context_length = self.model.config.context_length
        prompts = [torch.tensor(prompt[-context_length:]) for prompt in prompts]
        lengths = [len(prompt) for prompt in prompts]
        # Shorter prompts are padded behind their end, where causal attention does not see it.
        ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self.device)  # (B, T)
        new = KVCache(self.model.config, len(prompts), like=self.cos, capacity=max(lengths))
        with evaluating(self.model):
            logits = self.model(ids, new)  # (B, T, V)
        cache.set_rows(rows, new, lengths)
        return [row[:length] for row, length in zip(logits, lengths, strict=True)]

    def step(self, rows: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Read the newest id of each row; return the logits `(B, V)` of what follows. Given are all
        ids of each row, of which the cache holds all but the newest."""
        self._make_room(rows, cache)
        return self._read_newest([row[-1] for row in rows], cache)

    def _make_room(self, rows: Sequence[Sequence[int]], cache: KVCache) -> None:
        """Where a row fills the context, let the cache hold its newer half alone."""
        context_length = self.model.config.context_length
        full = [row for row, length in enumerate(cache.lengths) if length == context_length]
        if not full:
            return
        half = max(context_length // 2, 1)
        self.read_rows(full, [rows[row][-half:] for row in full], cache)
        for row in full:
            cache.lengths[row] -= 1  # the newest id is read by the step itself

    @torch.inference_mode()
    def _read_newest(self, newest: Sequence[int], cache: KVCache) -> Tensor:
        """One more id of each row to the logits `(B, V)` of what follows."""
        H, G, D = self.n_heads, self.n_kv_heads, self.head_dim
        ids = torch.tensor(newest, device=self.device)  # (B,)
        positions, cos, sin, mask = self._positions(cache)
        x = self.model.model.embed_tokens(ids)  # (B, C)
        for number, block in enumerate(self.blocks):
            heads = block.qkv(self._norm(x)).view(-1, H + 2 * G, 1, D)  # (B, H + 2 G, 1, D)
            heads = torch.addcmul(heads * cos, heads.roll(D // 2, dims=-1), sin)
            queries = heads.narrow(1, 0, H)  # (B, H, 1, D)
            keys_values = heads.narrow(1, H, 2 * G)  # (B, 2 G, 1, D)
            keys, values = cache.extend(number, keys_values, positions)  # (B, G, S, D)
            y = F.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=G < H)
            x = x + block.attention_output(y.flatten(1))  # (B, C)
            gate, up = block.gate_up(self._norm(x)).chunk(2, dim=-1)  # (B, F) each
            x = x + block.down(F.silu(gate) * up)  # (B, C)
        cache.advance(1)
        return self.score(self._norm(x))  # (B, V)

    def _positions(self, cache: KVCache) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Where the next token of each row stands: the positions `(B,)`, the cosines and sines
        `(1 or B, H + 2 G, 1, D)` that turn its heads, and which tokens it sees, `(B, 1, 1, S)`.
        Positions and mask are None where all rows are equally long, as none needs its own."""
        longest = max(cache.lengths)
        if cache.same_length:
            positions = None
            mask = None
            cos = self.cos[longest]  # (D,)
            sin = self.signed_sin[longest]  # (D,)
        else:
            positions = torch.tensor(cache.lengths, device=self.device)  # (B,)
            everywhere = torch.arange(longest + 1, device=self.device)  # (S,)
            mask = (everywhere <= positions.unsqueeze(1)).view(-1, 1, 1, longest + 1)
            cos = self.cos[positions, None, None]  # (B, 1, 1, D)
            sin = self.signed_sin[positions, None, None]  # (B, 1, 1, D)
        cos = torch.where(self.is_turned, cos, 1.0)  # (1 or B, H + 2 G, 1, D)
        sin = self.is_turned * sin
        return positions, cos, sin, mask

    def _norm(self, x: Tensor) -> Tensor:
        """What of RMSNorm is not in the matrices: `x` over the hypotenuse of |x| and
        sqrt(C eps), `(B, C)`."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (B, 1)
        return x / torch.hypot(length, self.norm_floor)
