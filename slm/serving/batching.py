"""Continuous batching (Yu et al. 2022, Orca): many sequences are written at once, and each joins
or leaves the batch between two decode steps, whenever it comes or ends."""

import logging
import math
import threading
from collections.abc import Sequence as ListOf
from dataclasses import replace

from torch import Tensor

from slm.hardware.threads import AdaptiveThreads
from slm.model.transformer import Transformer
from slm.serving.model_runner import ModelRunner
from slm.serving.sampler import sample, tokens_with_logprobs
from slm.serving.scheduler import QueueFull, Scheduler
from slm.serving.sequence import Sequence, Token

logger = logging.getLogger(__name__)

PROMPT_TOKENS_PER_STEP = 64  # that are read for each decode step, on average, while many wait


class Batcher:
    """Writes up to `max_batch_size` sequences at once and lets `max_waiting` more wait. One thread
    of its own decodes; the public methods may be called from any. Call `close` when done."""

    def __init__(
        self,
        model: Transformer,
        end_ids: ListOf[int],
        max_batch_size: int = 32,
        max_waiting: int = 64,
        max_cache_bytes: float = math.inf,
    ):
        self.end_ids = end_ids  # each ends a story; the first stands for all
        self._runner = ModelRunner(model, max_batch_size, max_cache_bytes)
        self._scheduler = Scheduler(max_batch_size, max_waiting)
        self._changed = threading.Condition()  # guards `waiting` and `_closing`
        self._closing = False
        self._joining: Sequence | None = None  # admitted, but not yet in `running`
        self._prompt_tokens = 0  # prefilled beyond what the decode steps since allow
        self._thread = threading.Thread(target=self._run, name="slm-batcher", daemon=True)
        self._thread.start()

    def submit(self, *sequences: Sequence) -> None:
        """Write the sequences of a request as soon as it is their turn. Takes none of them, and
        raises QueueFull where too many wait or this is closing, CacheTooSmall where one is too long
        for the key-value cache."""
        for sequence in sequences:
            self._runner.check_fits(sequence.max_length(self._runner.context_length))
        with self._changed:
            if self._closing:
                raise QueueFull("The server is shutting down and accepts no new requests.")
            evicted = self._scheduler.add(sequences)
            for sequence in evicted:
                sequence.cancel()
            self._changed.notify()
        for sequence in evicted:
            error = QueueFull(
                "This request was evicted: the queue is full and smaller requests wait."
            )
            sequence.listener.on_error(sequence, error)

    def cancel(self, sequences: ListOf[Sequence]) -> None:
        """Write no more of some sequences."""
        with self._changed:
            for sequence in sequences:
                sequence.cancel()
            self._changed.notify()

    def mark_read(self, sequence: Sequence, tokens: int) -> None:
        """The client has taken so many tokens: a sequence that has paused for it may go on."""
        waited_for = not sequence.has_reader
        sequence.read += tokens
        if waited_for and sequence.has_reader:
            with self._changed:
                self._changed.notify()

    @property
    def busy(self) -> int:
        """How many sequences are being written or wait."""
        running = self._scheduler.running
        joining = self._joining  # its prompt is being read
        in_between = 1 if joining is not None and joining not in running else 0
        return len(running) + len(self._scheduler.waiting) + in_between

    def close(self, finish: bool = True) -> None:
        """Stop; with `finish`, after all that has been submitted has been written."""
        with self._changed:
            self._closing = True
            if not finish:
                for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
                    sequence.cancel()
                if self._joining is not None:
                    self._joining.cancel()
            self._changed.notify()
        self._thread.join()

    # What the thread does

    def _run(self) -> None:
        with AdaptiveThreads() as adapt_threads:
            while self._wait_for_work():
                adapt_threads()
                try:
                    self._admit()
                    self._step()
                except Exception as error:  # without this thread, nobody would get an answer again
                    logger.exception("A decode step failed.")
                    self._fail(self._scheduler.running, error)

    def _admit(self) -> None:
        """Let sequences join the batch whose turn it is. An empty batch is filled at once: no
        story is being written yet. Otherwise only so many join as leave time to those in it:
        however many wait, their prompts are read between many decode steps."""
        if not self._scheduler.running:
            self._fill_batch()
        while not self._scheduler.running or self._prompt_tokens < PROMPT_TOKENS_PER_STEP:
            newcomer = self._next_to_join()
            if newcomer is None:
                break
            if self._scheduler.running:
                self._prompt_tokens += min(len(newcomer.ids), self._runner.context_length)
            self._join(newcomer)
        self._joining = None

    def _fill_batch(self) -> None:
        for _ in range(self._scheduler.max_running):
            newcomer = self._next_to_join()
            if newcomer is None:
                break
            self._join(newcomer)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to write. False: this is closing and all is done."""
        with self._changed:
            while True:
                self._drop_cancelled()
                self._pause_unread()
                if self._scheduler.running or self._scheduler.next():
                    return True
                self._runner.release()
                if self._closing and not self._scheduler.waiting:
                    return False
                self._changed.wait()

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self._scheduler.running if s.cancelled]:
            self._remove(sequence)
        self._scheduler.waiting = [s for s in self._scheduler.waiting if not s.cancelled]

    def _pause_unread(self) -> None:
        """Take sequences out of the batch whose clients do not read what is written."""
        for sequence in [s for s in self._scheduler.running if s.outruns_reader]:
            self._preempt(sequence)

    def _next_to_join(self) -> Sequence | None:
        """The sequence that joins the batch now. Others are taken out for it where they have more
        than their share. None: nothing waits, or there is no room."""
        with self._changed:
            self._joining = None
            self._drop_cancelled()
            newcomer = self._scheduler.next()
            if newcomer is None:
                return None
            while not self._has_room(newcomer):
                preempted = self._scheduler.to_preempt(newcomer)
                if preempted is None:
                    return None
                self._preempt(preempted)
            self._scheduler.admit(newcomer)
            self._joining = newcomer
            return newcomer

    def _has_room(self, newcomer: Sequence) -> bool:
        batch = [*self._scheduler.running, newcomer]
        if len(batch) > self._scheduler.max_running:
            return False
        return self._runner.reserve([s.max_length(self._runner.context_length) for s in batch])

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch for a while. What the cache holds of it is read again
        when its turn comes."""
        row = self._scheduler.running.index(sequence)
        sequence.preempted_length = self._runner.lengths[row]
        self._remove(sequence)
        self._scheduler.waiting.insert(0, sequence)

    def _join(self, sequence: Sequence) -> None:
        """Prefill: read what there is of a sequence into a row of the cache. Of a new one, draw the
        first token; one that was preempted goes on with the next decode step."""
        try:
            if sequence.written:
                newest = len(sequence.ids) - 1  # which the decode step reads
                self._runner.add_row(sequence.ids[newest - sequence.preempted_length : newest])
                self._scheduler.running.append(sequence)
                return
            logits = self._runner.add_row(sequence.ids)  # (T, V)
        except Exception as error:
            sequence.listener.on_error(sequence, error)
            return
        self._scheduler.running.append(sequence)
        self._joining = None
        try:
            if sequence.prompt_logprobs:
                self._report_prompt(sequence, logits)
        except Exception as error:
            self._fail([sequence], error)
            return
        if sequence.max_new_tokens == 0:  # only the prompt was of interest
            self._deliver(sequence, Token(self.end_ids[0], finish_reason="length"))
        else:
            self._write([sequence], logits[-1:])

    def _report_prompt(self, sequence: Sequence, logits: Tensor) -> None:
        """Tell how likely each token of the prompt was, from the logits `(T, V)`; for the first of
        them there is nothing before."""
        prompt = sequence.ids[-len(logits) :]
        tokens = tokens_with_logprobs(prompt[1:], logits[:-1], sequence.logprobs)
        sequence.listener.on_prompt(sequence, tokens)

    def _step(self) -> None:
        """One decode step: a token more for each sequence of the batch."""
        running = self._scheduler.running
        self._prompt_tokens = max(self._prompt_tokens - PROMPT_TOKENS_PER_STEP, 0)
        if not running:
            return
        try:
            logits = self._runner.step([sequence.ids for sequence in running])  # (B, V)
        except Exception as error:
            self._fail(running, error)
            return
        self._write(running, logits)

    def _write(self, sequences: ListOf[Sequence], logits: Tensor) -> None:
        """Write the next token of each sequence, drawn from its row of logits `(B, V)`."""
        sequences = list(sequences)
        try:
            drawn = sample(sequences, logits, self.end_ids)
        except Exception as error:
            self._fail(sequences, error)
            return
        for row, (sequence, token_id) in enumerate(zip(sequences, drawn, strict=True)):
            row_logits = logits[row : row + 1]  # (1, V)
            try:
                [token] = tokens_with_logprobs([token_id], row_logits, sequence.logprobs)
            except Exception as error:
                self._fail([sequence], error)
                continue
            if token_id in self.end_ids:
                token = replace(token, id=self.end_ids[0])
            sequence.ids.append(token.id)
            sequence.written += 1
            self._deliver(sequence, replace(token, finish_reason=self._finish_reason(sequence)))

    def _finish_reason(self, sequence: Sequence) -> str | None:
        if sequence.ids[-1] in self.end_ids:
            return "stop"
        if sequence.written >= sequence.max_new_tokens:
            return "length"
        return None

    def _deliver(self, sequence: Sequence, token: Token) -> None:
        """Hand a token to those who asked for it; the last one frees its sequence's row. What goes
        wrong with one listener is no other's concern."""
        if token.finish_reason:
            self._remove(sequence)
        try:
            sequence.listener.on_token(sequence, token)
        except Exception as error:
            self._fail([sequence], error)

    def _fail(self, sequences: ListOf[Sequence], error: Exception) -> None:
        """End some sequences with an error. The thread goes on with the others."""
        for sequence in list(sequences):
            self._remove(sequence)
            sequence.listener.on_error(sequence, error)

    def _remove(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch; the last one moves to its row."""
        running = self._scheduler.running
        if sequence not in running:
            return
        row = running.index(sequence)
        self._runner.remove_row(row)
        # In this order no other thread ever finds the last sequence missing.
        running[row] = running[-1]
        running.pop()
