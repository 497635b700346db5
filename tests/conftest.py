import signal

import pytest
import torch

from slm.model.transformer import Transformer
from slm.settings import ModelConfig
from slm.tokenizer.training import train_tokenizer

torch.set_num_threads(1)  # the models here are so small that a second thread only costs time
# Where pytest runs in the background, or under nohup, it ignores what some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
TALE = "Once upon a time there was a cat. The cat saw the other cat, and then they sat on the mat. "


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test out of the real cache folder, and out of other tests'."""
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer of 280 tokens: most characters beyond ASCII take several."""
    return train_tokenizer([TALE] * 2, 280)


@pytest.fixture(scope="session")
def random_model():
    """Make a small model of which every weight is random, so that no part of it is idle."""

    def make(seed: int = 1, **fields) -> Transformer:
        size = dict(vocab_size=280, context_length=32, n_layers=2, n_heads=4, d_model=32)
        model = Transformer(ModelConfig(**size | fields)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(2 - weight.dim(), 0.3, generator=generator)  # norms around 1
        return model

    return make
