"""Evaluation while training: a score on the validation stories and a sample, then a save."""

import math
from textwrap import shorten

from slm.evaluation import evaluate
from slm.generation.text_generation import generate
from slm.model.transformer import Transformer
from slm.settings import TrainConfig
from slm.stories.opening import commonest_opening
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.history import History, Step, StepEvaluation
from slm.training.progress import ProgressBar
from slm.training.run_folder import RunFolder
from slm.training.setup import TrainingSetup
from slm.training.state import TrainingState
from slm.utils.printing import say


class EvaluateAndSave:
    """A callback of the training loop: evaluates the model, evenly over the run, and saves it."""

    def __init__(
        self,
        state: TrainingState,
        setup: TrainingSetup,
        stories: list[str],
        folder: RunFolder,
        bar: ProgressBar,
    ):
        self.tokenizer = setup.tokenizer
        self.config = setup.config
        self.budget = setup.budget
        self.stories = stories
        self.folder = folder
        self.bar = bar
        # A run that was taken further may have been evaluated more often than it now would be.
        due = self.budget.evaluations_due(self.config, len(state.history.steps), state.progress)
        self.evaluations_made = min(due, len(state.history.evaluations))

    def __call__(self, state: TrainingState) -> None:
        """Evaluate and save if an evaluation is due after the step that was just taken."""
        step = state.history.steps[-1]
        due = self.budget.evaluations_due(self.config, step.step, state.progress)
        if due <= self.evaluations_made:
            return
        self.evaluations_made = due
        self._evaluate(state)

    def make_up(self, state: TrainingState) -> None:
        """Evaluate a finished run whose last evaluation an error, or a second Ctrl-C, cut off."""
        evaluations = state.history.evaluations
        last_step = state.history.steps[-1].step
        if not evaluations or evaluations[-1].step < last_step:
            self._evaluate(state)

    def _evaluate(self, state: TrainingState) -> None:
        step = state.history.steps[-1]
        evaluation = evaluate_step(step, state.model, self.tokenizer, self.stories, self.config)
        state.history.evaluations.append(evaluation)
        failure = self.folder.try_to_save(state, self.tokenizer)  # first: printing may go wrong
        self.bar.write(summary(evaluation))
        if failure:
            self.bar.write(f"{failure} Training goes on; the next evaluation tries again.")


def evaluate_step(
    step: Step, model: Transformer, tokenizer: Tokenizer, stories: list[str], config: TrainConfig
) -> StepEvaluation:
    """Evaluate the model as it is after `step`, and let it write a sample."""
    score = evaluate(model, tokenizer, stories[: config.evaluation_stories])
    prompt = commonest_opening(stories)  # in the stories' own language
    sample = generate(model, tokenizer, prompt, max_new_tokens=60, seed=config.seed)
    return StepEvaluation(
        step=step.step,
        tokens=step.tokens,
        nats_per_token=score.nats_per_token,
        bits_per_byte=score.bits_per_byte,
        text=sample,
    )


def warn_if_worse_than_guessing(history: History, vocab_size: int) -> None:
    """Say so if a run ended with a score that knowing nothing at all would beat."""
    if not history.evaluations:
        return
    last = history.evaluations[-1]
    if last.nats_per_token > math.log(vocab_size):
        say(
            f"This run has gone wrong: {last.bits_per_byte:.1f} bits per byte are worse than "
            "guessing. Train again with a lower learning_rate."
        )


def summary(evaluation: StepEvaluation) -> str:
    """An evaluation in two lines."""
    nats = f"{evaluation.nats_per_token:.2f} nats per token"
    bits = f"{evaluation.bits_per_byte:.3f} bits per byte"
    sample = shorten(evaluation.text, 92, placeholder=" ...")
    return f"step {evaluation.step:,}: {nats}, {bits} on validation stories\n    {sample}"
