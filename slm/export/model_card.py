"""The model card: the README.md of a saved model, as the hub shows it."""

import json
from pathlib import Path

from slm.checkpoint.loading import load_model
from slm.utils.files import write

CARD = """---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [small-language-model, tinystories]
---

# {title}

A small language model that writes stories: a Llama of {parameters:,} parameters ({n_layers} \
layers of width {d_model}, {n_heads} heads), with a vocabulary of {vocab_size:,} tokens and a \
context of {context_length}. It was made with the package `slm`.

```python
import slm

model, tokenizer = slm.load_model("{folder}")
print(slm.generate(model, tokenizer, "Once upon a time"))
```

or `transformers.pipeline("text-generation", "{folder}")`. A prompt is put after an end-of-text \
token, as each story was in training.

## Training

{training}

## Intended use and limits

It is for learning how language models work. It knows what its stories told it and nothing else: \
it can not answer questions, may contradict itself within a few sentences, and has all the habits \
of its training text.
"""


def model_card(folder: str | Path, title: str | None = None, training: str | None = None) -> Path:
    """Write the README.md of a saved model, as the hub shows it: what it is, how it was trained
    (from the run's `history.json`, where there is one, or in words of your own), and its limits."""
    folder = Path(folder)
    model, _ = load_model(folder)
    if training is None and (folder / "history.json").exists():
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        last, scores = history["steps"][-1], history["evaluations"]
        training = f"{last['step']:,} steps over {last['tokens']:,} tokens, in "
        training += f"{last['seconds'] / 60:,.0f} minutes."
        if scores:
            bits, nats = scores[-1]["bits_per_byte"], scores[-1]["nats_per_token"]
            training += (
                f" On validation stories: {bits:.3f} bits per byte, {nats:.3f} nats a token."
            )
    facts = vars(model.config) | {"parameters": sum(x.numel() for x in model.parameters())}
    facts |= {"title": title or folder.resolve().name, "folder": folder.resolve().name}
    text = CARD.format(**facts, training=training or "Not recorded.")
    write(folder / "README.md", text.encode())
    return folder / "README.md"
