"""What tests of several modules compare with: Hugging Face's Llama with our weights."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = [
    {},
    {"n_kv_heads": 2, "rope_theta": 300.0},
    {"n_kv_heads": 1, "tie_embeddings": False, "norm_eps": 0.1},
    {"tie_embeddings": False, "n_layers": 3, "d_ff": 40, "rope_theta": 500_000},
]


def some_ids(*shape, below=280):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(0))


def llama(model):
    """Hugging Face's Llama, which does its attention step by step, with the same weights."""
    ours = model.config
    config = LlamaConfig(
        vocab_size=ours.vocab_size,
        max_position_embeddings=ours.context_length,
        num_hidden_layers=ours.n_layers,
        num_attention_heads=ours.n_heads,
        num_key_value_heads=ours.n_kv_heads,
        hidden_size=ours.d_model,
        intermediate_size=ours.d_ff,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        rms_norm_eps=ours.norm_eps,
        tie_word_embeddings=ours.tie_embeddings,
        attn_implementation="eager",
    )
    theirs = LlamaForCausalLM(config).eval()
    missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert missing == ["lm_head.weight"] * ours.tie_embeddings
    assert unexpected == []
    return theirs


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
