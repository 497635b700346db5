"""config.json as Hugging Face's Llama has it, and what our settings are called there."""

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
