"""The model card: the README.md of a saved model, as the hub shows it."""

import json
from pathlib import Path

from slm.checkpoint.loading import find_model, load_model
from slm.model.size import parameter_count
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import write
from slm.utils.write_errors import explain_write_errors

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

or `transformers.pipeline("text-generation", "{folder}")`. A prompt is put after {beginning}, as \
each story was in training.

## Training

{training}

## Intended use and limits

It is for learning how language models work. It knows what its stories told it and nothing else: \
it can not answer questions, may contradict itself within a few sentences, and has all the habits \
of its training text.
"""


def model_card(folder: str | Path, title: str | None = None, training: str | None = None) -> Path:
    """Write the README.md of a saved model, as the hub shows it, and return its path.

    It says what the model is, how it was trained (from the run's `history.json`, where there is
    one, or in words of your own), and its limits. Raises what `load_model` raises.
    """
    folder = find_model(folder)
    model, tokenizer = load_model(folder)
    folder_name = folder.resolve().name
    text = CARD.format(
        **vars(model.config),
        title=title or folder_name,
        folder=folder_name,
        parameters=parameter_count(model.config),
        beginning=_beginning(tokenizer),
        training=training or _training(folder / "history.json") or "Not recorded.",
    )
    with explain_write_errors(folder / "README.md"):
        write(folder / "README.md", text.encode())
    return folder / "README.md"


def _beginning(tokenizer: Tokenizer) -> str:
    """The token before each story, in words."""
    if tokenizer.bos_id == tokenizer.eot_id:
        return "an end-of-text token"
    return f"the token `{tokenizer.decode([tokenizer.bos_id])}`"


def _training(path: Path) -> str | None:
    """How a run went, in a sentence or two; None where there is no history of it."""
    if not path.exists():
        return None
    history = json.loads(path.read_text(encoding="utf-8"))
    last_step = history["steps"][-1]
    minutes = last_step["seconds"] / 60
    size = f"{last_step['step']:,} steps over {last_step['tokens']:,} tokens"
    text = f"{size}, in {minutes:,.0f} minutes."
    if history["evaluations"]:
        score = history["evaluations"][-1]
        bits = f"{score['bits_per_byte']:.3f} bits per byte"
        nats = f"{score['nats_per_token']:.3f} nats a token"
        text += f" On validation stories: {bits}, {nats}."
    return text
