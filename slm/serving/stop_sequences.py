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
        longest = 0
        for stop in self._stops:
            for length in range(longest + 1, len(stop)):
                if text.endswith(stop[:length]):
                    longest = length
        return longest
