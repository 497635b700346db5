"""Stop sequences: texts that end a story, and of which nothing may be shown."""

from collections.abc import Sequence


class StopMatcher:
    """Finds stop sequences in a text that grows."""

    def __init__(self, stops: Sequence[str]):
        self._stops = list(stops)
        self._longest = max(map(len, self._stops), default=0)

    def find(self, text: str, old_length: int) -> int | None:
        """Where the first stop sequence begins, or None. Up to `old_length` the text has been
        searched before."""
        start = max(old_length - self._longest + 1, 0)
        places = [text.find(stop, start) for stop in self._stops]
        return min((place for place in places if place >= 0), default=None)

    def held_back(self, text: str) -> int:
        """How many characters at the end of the text may be the beginning of a stop sequence, and
        must not be shown yet."""
        end = text[-self._longest :]
        return max((_overlap(end, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of a stop sequence, but not all
    of it."""
    start = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
