import pytest
import torch
from torch import nn

from slm.finetuning.early_stopping import EarlyStopping


def run(scores: list[float], first: float = 5.0, patience: int = 2) -> tuple[EarlyStopping, int]:
    """Epochs with these scores, each of which sets the weights to its own number."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 0.0)
    stopping = EarlyStopping(model, first, patience)
    for epoch, score in enumerate(scores, start=1):
        nn.init.constant_(model.weight, float(epoch))
        stopping.update(score)
        if stopping.should_stop:
            break
    stopping.restore_best()
    return stopping, epoch


@pytest.mark.parametrize(
    ("scores", "ends", "best"),
    [
        ([4, 3, 2, 1], 4, 4),  # always better: never stopped
        ([4, 3, 3.5, 3.6, 1], 4, 2),  # two worse in a row
        ([4, 4.5, 3, 3.5, 2], 5, 5),  # worse, but not twice in a row
        ([6, 7, 1], 2, 0),  # fine-tuning only did harm
        ([4, 4, 4, 5, 5, 1], 5, 1),  # no worse is no reason to stop
    ],
)
def test_training_stops_after_patience_and_the_best_weights_come_back(scores, ends, best):
    stopping, epoch = run(scores)
    assert (epoch, stopping.best_epoch) == (ends, best)
    assert stopping.model.weight.item() == best
    assert stopping.best_score == min([5.0, *scores[:ends]])


def test_the_remembered_weights_are_a_copy():
    stopping, _ = run([1.0])
    with torch.no_grad():
        stopping.model.weight.add_(7)
    stopping.restore_best()
    assert stopping.model.weight.item() == 1
