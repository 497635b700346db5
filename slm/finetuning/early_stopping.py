"""Early stopping: the weights that did best on the held-out set are the ones to keep."""

import copy

from torch import nn


class EarlyStopping:
    """Remembers the weights with the best score, and asks to stop when `patience` runs out.

    `best_epoch` is counted from 1; 0 stands for the model as it was at the beginning.
    """

    def __init__(self, model: nn.Module, score: float, patience: int):
        self.model = model
        self.patience = patience
        self.scores: list[float] = []  # on the held-out set, after each epoch
        self.best_score = score
        self.best_epoch = 0
        self.epochs_without_improvement = 0
        self._best_weights = copy.deepcopy(model.state_dict())

    def update(self, score: float) -> None:
        """Add the score after one more epoch; the lower, the better."""
        self.scores.append(score)
        if score < self.best_score:
            self.best_score = score
            self.best_epoch = len(self.scores)
            self._best_weights = copy.deepcopy(self.model.state_dict())
        if score <= self.best_score:
            self.epochs_without_improvement = 0
        else:
            self.epochs_without_improvement += 1

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` epochs were all worse than the best one."""
        return self.epochs_without_improvement >= self.patience

    @property
    def best(self) -> str:
        """What did best, in words."""
        if self.best_epoch == 0:
            return "the model as it was"
        return f"epoch {self.best_epoch}"

    @property
    def latest_score(self) -> str:
        """The score of the latest epoch, in words; nothing before there is one."""
        if not self.scores:
            return ""
        return f"epoch {len(self.scores)}: {self.scores[-1]:.2f} nats per token held out"

    def restore_best(self) -> None:
        """Give the model its best weights back."""
        self.model.load_state_dict(self._best_weights)
