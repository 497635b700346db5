"""The scheduler: which sequences are in the batch, which wait, and whose turn is next."""

from collections import Counter
from collections.abc import Sequence as ListOf

from slm.serving.sequence import Sequence


class QueueFull(Exception):
    """As many sequences as may be are being written, and as many wait."""


class Scheduler:
    """Shares the rows of the batch among clients, and among the requests of one client. Whoever
    has the fewest gets the next; whoever has two more than one who waits gives one up. So a request
    for many long stories delays others little, and has the whole batch where it is alone."""

    def __init__(self, max_running: int, max_waiting: int):
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.running: list[Sequence] = []  # a sequence's place is its row in the batch
        self.waiting: list[Sequence] = []  # in the order of their coming
        self._begun: Counter[str] = Counter()  # sequences of each request, ended ones included

    def add(self, sequences: ListOf[Sequence]) -> list[Sequence]:
        """Let the sequences of a request wait for their turn. Returns those of others that have to
        give way to them; raises QueueFull, and takes none, where there is no room."""
        turned_out = self._to_turn_out(sequences)
        self.waiting = [waiting for waiting in self.waiting if waiting not in turned_out]
        self.waiting.extend(sequences)
        return turned_out

    def next(self) -> Sequence | None:
        """The sequence whose turn it is: of the client and the request with the fewest rows, the
        one that came first. Where they are even, requests of which less has begun go first: many
        short ones would otherwise be over before they count."""
        rows = _Shares(self.running)
        ready = [sequence for sequence in self.waiting if sequence.has_reader]
        return min(ready, key=lambda s: (*rows.of(s), self._begun[s.request_id]), default=None)

    def take(self, sequence: Sequence) -> None:
        """Let a sequence wait no longer: it joins the batch."""
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
        richest = max(youngest_first, key=rows.of)
        if rows.of_client(richest) > rows.of_client(newcomer) + 1:
            return richest
        of_same_client = [s for s in youngest_first if s.client == newcomer.client]
        richest = max(of_same_client, key=rows.of, default=None)
        if richest and rows.of_request(richest) > rows.of_request(newcomer) + 1:
            return richest
        return None

    def _to_turn_out(self, new: ListOf[Sequence]) -> list[Sequence]:
        """Where there is no room for new sequences, those of larger requests that give way: all
        that belong to them, since half of an answer is none."""
        free_rows = max(self.max_running - len(self.running), 0)
        missing = len(self.waiting) + len(new) - free_rows - self.max_waiting
        turned_out: list[Sequence] = []
        while missing > 0:
            left = [sequence for sequence in self.waiting if sequence not in turned_out]
            largest = self._larger_than(new, left)
            if largest is None:
                count = len(self.running)
                raise QueueFull(f"{count} stories are being written and others wait.")
            missing -= sum(sequence.request_id == largest.request_id for sequence in left)
            turned_out += [
                sequence
                for sequence in [*self.waiting, *self.running]
                if sequence.request_id == largest.request_id
            ]
        return turned_out

    @staticmethod
    def _larger_than(new: ListOf[Sequence], waiting: ListOf[Sequence]) -> Sequence | None:
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
