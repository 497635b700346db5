"""Evaluation while fine-tuning: a score on the held-out stories after each epoch."""

from slm.evaluation import evaluate
from slm.finetuning.early_stopping import EarlyStopping
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.progress import StopRequest
from slm.training.state import TrainingState


class EvaluateEpoch:
    """A callback of the training loop: scores the model after each epoch, and stops early."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        held_out: list[str],
        steps_per_epoch: int,
        early_stopping: EarlyStopping,
        stop: StopRequest,
    ):
        self.tokenizer = tokenizer
        self.held_out = held_out
        self.steps_per_epoch = steps_per_epoch
        self.early_stopping = early_stopping
        self.stop = stop

    def __call__(self, state: TrainingState) -> None:
        """Score the model if the step that was just taken was the last one of an epoch."""
        if len(state.history.steps) % self.steps_per_epoch:
            return
        score = evaluate(state.model, self.tokenizer, self.held_out).nats_per_token
        self.early_stopping.update(score)
        if self.early_stopping.should_stop:
            self.stop.requested = True
