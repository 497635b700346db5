"""The practice corpus: stories made on the spot from a small grammar, for when there is no network.

The words and the plots live in `assets/practice.json`, which anyone may extend. Four things there
have a meaning: `{slot}` stands for a character's detail or for any one phrase of that name (a
capital, `{Slot}`, starts it with a capital), `[this|that|]` picks one of its parts, perhaps none,
`¶` starts a paragraph, and “curly quotes” become plain ones, which JSON would have to escape."""

import json
import re
from random import Random

from slm.utils.files import ASSETS

MOST_STORIES, TRIES_PER_STORY = 1_000_000, 20
_SLOT_OR_CHOICE = re.compile(r"\{([\w.]+)\}|\[([^\[\]]*)\]")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


def practice_stories(n: int, *, seed: int = 0) -> list[str]:
    """Make `n` different stories; a larger `n` with the same `seed` only adds to the end."""
    if not 1 <= n <= MOST_STORIES:
        raise ValueError(f"cannot make {n} practice stories: ask for 1 to {MOST_STORIES:,}")
    grammar, rng = load_grammar(), Random(seed)
    stories: dict[str, None] = {}  # a set that remembers the order
    for _ in range(n * TRIES_PER_STORY):
        stories[tell(grammar, rng)] = None
        if len(stories) == n:
            return list(stories)
    mend = "ask for fewer, or add words and plots to slm/assets/practice.json"
    raise ValueError(f"the grammar gave only {len(stories)} of the {n} different stories: {mend}")


def load_grammar() -> dict:
    """Read the grammar: its `cast`, `groups`, `pronouns`, `phrases` and `plots`."""
    return json.loads((ASSETS / "practice.json").read_bytes())


def tell(grammar: dict, rng: Random) -> str:
    """Tell one story: pick a plot, choose its characters and things, then expand `{story}`."""
    plot = rng.choice(list(grammar["plots"].values()))
    symbols = {**grammar["phrases"], **plot}
    for role, group in {**grammar["cast"], **plot["cast"]}.items():
        # The group may depend on an earlier choice: "{loss.by}" is whoever can fetch what was lost.
        member = rng.choice(grammar["groups"][expand(group, symbols, rng)])
        details = {"name": member} if isinstance(member, str) else member
        details = details | grammar["pronouns"].get(details.get("he"), {})
        for name, value in details.items():  # fixed once, for the whole of the story
            symbols[f"{role}.{name}"] = rng.choice(value) if isinstance(value, list) else value
        symbols[role] = symbols[f"{role}.name"]
    text = expand("{story}", symbols, rng).replace("“", '"').replace("”", '"')
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("¶"))
    return _A_BEFORE_VOWEL.sub(r"\1n ", "\n\n".join(filter(None, paragraphs)))


def expand(text: str, symbols: dict, rng: Random) -> str:
    """Replace every slot and every choice in `text`, and in what replaces them."""

    def replace(match: re.Match) -> str:
        slot, choice = match.groups()
        if slot is None:
            return expand(rng.choice(choice.split("|")), symbols, rng)
        meaning = symbols.get(slot) or symbols.get(slot.lower())
        if not meaning:
            raise ValueError(f"practice.json uses {{{slot}}}: add it there, or mend its spelling")
        phrase = meaning if isinstance(meaning, str) else rng.choice(meaning)
        words = expand(phrase, symbols, rng)
        return words[0].upper() + words[1:] if slot[0].isupper() else words

    return _SLOT_OR_CHOICE.sub(replace, text)
