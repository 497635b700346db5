"""The folder of a fine-tuned model: claimed before training, and what is saved in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from slm.checkpoint.replacing import check_replaceable
from slm.checkpoint.saving import save_model_as
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.folder_marker import (
    FINE_TUNED,
    check_kind,
    claim_folder,
    lock_folder,
    remove_if_empty,
)
from slm.utils.printing import say
from slm.utils.write_errors import explain_write_errors


@contextmanager
def claim_and_lock(folder: Path | None, model: Transformer, tokenizer: Tokenizer) -> Iterator[None]:
    """Make the folder, if one is named, one for fine-tuned models, and keep other processes out.

    A new folder is removed again if nothing was saved in it. Raises ValueError if the folder holds
    anything else than a fine-tuned model of the same shape and tokenizer.
    """
    if folder is None:
        yield
        return
    with explain_write_errors(folder):
        was_there = folder.exists()
        check_kind(folder, FINE_TUNED)
        will_be_replaced = check_replaceable(folder, model, tokenizer)
        claim_folder(folder, FINE_TUNED)
    try:
        with lock_folder(folder):
            if will_be_replaced:
                say(f"{folder} holds a fine-tuned model already: the new one will replace it.")
            yield
    finally:
        if not was_there:
            remove_if_empty(folder)


def try_to_save(
    folder: Path, model: Transformer, tokenizer: Tokenizer, adapter: nn.Module | None
) -> bool:
    """Save the model and LoRA's adapter; False, and a message, where that fails."""
    try:
        save_model_as(FINE_TUNED, folder, model, tokenizer)
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of a model that was replaced
        if adapter:
            # Embeddings are not adapted: without this, peft would look for them in the base model.
            adapter.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    except (OSError, SafetensorError) as error:
        say(f"The model could not be saved in {folder}. {error}")
        return False
    return True
