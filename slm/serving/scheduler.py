"""The scheduler: which sequences are in the batch, which wait, and whose turn is next."""

from collections import Counter
from collections.abc import Sequence as ListOf

from slm.serving.sequence import Sequence


class QueueFull(Exception):
    """The batch and the waiting queue are full."""


class Scheduler:
    """Shares the rows of the batch fairly: first among clients, then among one client's requests.

    A free row goes to whoever has the fewest. Where none is free, one is taken from whoever has at
    least two more than one who waits. So a request for many long stories delays others little, and
    has the whole batch where it is alone.
    """

    def __init__(self, max_running: int, max_waiting: int):
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.running: list[Sequence] = []  # a sequence's place is its row in the batch
        self.waiting: list[Sequence] = []  # in the order of their coming
        self._begun: Counter[str] = Counter()  # sequences of each request, ended ones included

    def add(self, sequences: ListOf[Sequence]) -> list[Sequence]:
        """Queue the sequences of a request. Returns the sequences of larger requests that are
        evicted for them; raises QueueFull, and queues none, where there is no room."""
        evicted = self._choose_evictions(sequences)
        self.waiting = [waiting for waiting in self.waiting if waiting not in evicted]
        self.waiting.extend(sequences)
        return evicted

    def next(self) -> Sequence | None:
        """The sequence whose turn it is: of the client and the request with the fewest rows, the
        one that came first. Where they are even, requests of which less has begun go first: many
        short ones would otherwise be over before they count."""
        rows = _Shares(self.running)
        ready = [sequence for sequence in self.waiting if sequence.has_reader]
        return min(ready, key=lambda s: (*rows.of(s), self._begun[s.request_id]), default=None)

    def admit(self, sequence: Sequence) -> None:
        """Take a sequence out of the queue: it joins the batch."""
        self.waiting.remove(sequence)
        active = {s.request_id for s in [*self.waiting, *self.running, sequence]}
        self._begun = Counter({name: self._begun[name] for name in active})
        self._begun[sequence.request_id] += 1

    def to_preempt(self, newcomer: Sequence) -> Sequence | None:
        """The running sequence that should make room for a newcomer: of whoever has the most rows.
        None where that would not make the shares more even."""
        if not self.running:
            return None
        rows = _Shares(self.running)
        youngest_first = list(reversed(self.running))
        largest_holder = max(youngest_first, key=rows.of)
        if rows.of_client(largest_holder) > rows.of_client(newcomer) + 1:
            return largest_holder
        of_same_client = [s for s in youngest_first if s.client == newcomer.client]
        largest_holder = max(of_same_client, key=rows.of, default=None)
        if largest_holder and rows.of_request(largest_holder) > rows.of_request(newcomer) + 1:
            return largest_holder
        return None

    def _choose_evictions(self, new: ListOf[Sequence]) -> list[Sequence]:
        """The sequences to evict when the queue is full: those of larger requests than the new
        one. A request is evicted as a whole, since half an answer is useless."""
        free_rows = max(self.max_running - len(self.running), 0)
        missing = len(self.waiting) + len(new) - free_rows - self.max_waiting
        evicted: list[Sequence] = []
        while missing > 0:
            left = [sequence for sequence in self.waiting if sequence not in evicted]
            largest = self._largest_above(new, left)
            if largest is None:
                count = len(self.running)
                raise QueueFull(f"The queue is full: {count} stories are being written.")
            missing -= sum(sequence.request_id == largest.request_id for sequence in left)
            evicted += [
                sequence
                for sequence in [*self.waiting, *self.running]
                if sequence.request_id == largest.request_id
            ]
        return evicted

    @staticmethod
    def _largest_above(new: ListOf[Sequence], waiting: ListOf[Sequence]) -> Sequence | None:
        """A sequence of the largest request that waits, if it is larger than the new one."""
        places = _Shares([*waiting, *new])
        newest_first = list(reversed(waiting))
        largest = max(newest_first, key=places.of, default=None)
        if largest is None or places.of(largest) <= places.of(new[0]):
            return None
        return largest


class _Shares:
    """How many of some sequences belong to the same client, and to the same request."""

    def __init__(self, sequences: ListOf[Sequence]):
        self._by_client = Counter(sequence.client for sequence in sequences)
        self._by_request = Counter(sequence.request_id for sequence in sequences)

    def of_client(self, sequence: Sequence) -> int:
        return self._by_client[sequence.client]

    def of_request(self, sequence: Sequence) -> int:
        return self._by_request[sequence.request_id]

    def of(self, sequence: Sequence) -> tuple[int, int]:
        return self.of_client(sequence), self.of_request(sequence)
