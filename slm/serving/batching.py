"""Continuous batching (Yu et al. 2022, Orca): many sequences are written at once, and each joins
or leaves the batch between two decode steps, whenever it comes or ends."""

import threading
from collections import deque
from dataclasses import replace

from torch import Tensor

from slm.model.transformer import Transformer
from slm.serving.model_runner import ModelRunner
from slm.serving.sampler import sample, token_with_logprobs
from slm.serving.sequence import Sequence, Token


class QueueFull(Exception):
    """As many sequences as may be are being written, and as many wait."""


class Batcher:
    """Writes up to `max_batch_size` sequences at once and lets `max_waiting` more wait. One thread
    of its own decodes; the other methods may be called from any. Close it in the end."""

    def __init__(
        self, model: Transformer, eot_id: int, max_batch_size: int = 32, max_waiting: int = 64
    ):
        self.eot_id = eot_id
        self.max_batch_size = max_batch_size
        self.max_waiting = max_waiting
        self._runner = ModelRunner(model, max_batch_size)
        self._running: list[Sequence] = []  # a sequence's place is its row in the cache
        self._waiting: deque[Sequence] = deque()
        self._changed = threading.Condition()  # guards what waits, and `_closing`
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="slm-batcher", daemon=True)
        self._thread.start()

    def submit(self, *sequences: Sequence) -> None:
        """Write some sequences as soon as there is room. Raises QueueFull, and takes none of them,
        where more than `max_waiting` would wait, or once this is closing."""
        with self._changed:
            if self._closing:
                raise QueueFull("The server is closing and begins no more stories.")
            free_rows = max(self.max_batch_size - len(self._running), 0)
            room = free_rows + self.max_waiting - len(self._waiting)
            if len(sequences) > room:
                written = len(self._running)
                raise QueueFull(f"{written} stories are being written and others wait.")
            self._waiting.extend(sequences)
            self._changed.notify()

    @property
    def busy(self) -> int:
        """How many sequences are being written or wait."""
        return len(self._running) + len(self._waiting)

    def close(self, finish: bool = True) -> None:
        """Stop; with `finish`, after all that has been submitted has been written."""
        with self._changed:
            self._closing = True
            if not finish:
                for sequence in [*self._running, *self._waiting]:
                    sequence.cancel()
            self._changed.notify()
        self._thread.join()

    # What the thread does

    def _run(self) -> None:
        while self._wait_for_work():
            for sequence in self._take_waiting():
                if not sequence.cancelled:
                    self._join(sequence)
            self._remove([sequence for sequence in self._running if sequence.cancelled])
            self._step()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to write. False: this is closing and all is done."""
        with self._changed:
            while not self._running and not self._waiting:
                if self._closing:
                    return False
                self._changed.wait()
            return True

    def _take_waiting(self) -> list[Sequence]:
        """The sequences that have waited longest, as many as there are free rows."""
        with self._changed:
            free_rows = self.max_batch_size - len(self._running)
            return [self._waiting.popleft() for _ in range(min(free_rows, len(self._waiting)))]

    def _join(self, sequence: Sequence) -> None:
        """Prefill: read a sequence's prompt into the next free row, and draw its first token."""
        row = len(self._running)
        self._running.append(sequence)
        try:
            prompt = sequence.ids[-self._runner.context_length :]
            logits = self._prefill(row, prompt)  # (T, V)
            if sequence.prompt_logprobs:
                self._report_prompt(sequence, prompt, logits)
        except Exception as error:
            self._fail([sequence], error)
            return
        if sequence.max_new_tokens == 0:  # only the prompt was of interest
            self._deliver(sequence, Token(self.eot_id, finish_reason="length"))
        else:
            self._write([sequence], logits[-1:])

    def _report_prompt(self, sequence: Sequence, prompt: list[int], logits: Tensor) -> None:
        """Tell how likely each token of the prompt was; for the first there is nothing before."""
        tokens = [
            token_with_logprobs(token_id, token_logits, sequence.logprobs)
            for token_id, token_logits in zip(prompt[1:], logits[:-1], strict=True)
        ]
        sequence.listener.on_prompt(sequence, tokens)

    def _prefill(self, row: int, ids: list[int]) -> Tensor:
        logits = self._runner.prefill(row, ids)  # (T, V)
        self._running[row].cached = len(ids)
        return logits

    def _step(self) -> None:
        """One decode step: a token more for each sequence of the batch."""
        try:
            self._shift_full_contexts()
            if not self._running:
                return
            logits = self._runner.decode_step(
                [sequence.ids[-1] for sequence in self._running],
                [sequence.cached for sequence in self._running],
            )  # (B, V)
            for sequence in self._running:
                sequence.cached += 1
        except Exception as error:
            self._fail(self._running, error)
            return
        self._write(self._running, logits)

    def _shift_full_contexts(self) -> None:
        """Where a sequence has filled the context, forget its older half and read the newer half
        again, as `slm.generate` does."""
        context_length = self._runner.context_length
        for sequence in list(self._running):
            if sequence.cached == context_length:
                newer_half = sequence.ids[-(context_length // 2 or 1) :]
                logits = self._prefill(self._running.index(sequence), newer_half)
                self._write([sequence], logits[-1:])

    def _write(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Write the next token of each sequence, drawn from its row of logits `(B, V)`."""
        sequences = list(sequences)
        try:
            drawn = sample(sequences, logits, self.eot_id)
        except Exception as error:
            self._fail(sequences, error)
            return
        for sequence, token_id, row_logits in zip(sequences, drawn, logits, strict=True):
            sequence.ids.append(token_id)
            sequence.written += 1
            token = token_with_logprobs(token_id, row_logits, sequence.logprobs)
            self._deliver(sequence, replace(token, finish_reason=self._finish_reason(sequence)))

    def _finish_reason(self, sequence: Sequence) -> str | None:
        if sequence.ids[-1] == self.eot_id:
            return "stop"
        if sequence.written >= sequence.max_new_tokens:
            return "length"
        return None

    def _deliver(self, sequence: Sequence, token: Token) -> None:
        """Hand a token to those who asked for it; the last one frees its sequence's row. What goes
        wrong with one listener is no other's concern."""
        if token.finish_reason:
            self._remove([sequence])
        try:
            sequence.listener.on_token(sequence, token)
        except Exception as error:
            self._fail([sequence], error)

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        """End some sequences with an error. The thread goes on with the others."""
        for sequence in list(sequences):
            self._remove([sequence])
            sequence.listener.on_error(sequence, error)

    def _remove(self, sequences: list[Sequence]) -> None:
        """Take sequences out of the batch: the last row moves to where one becomes free."""
        for sequence in sequences:
            if sequence not in self._running:
                continue
            row = self._running.index(sequence)
            last = self._running.pop()
            if last is not sequence:
                self._runner.copy_row(len(self._running), row, last.cached)
                self._running[row] = last
