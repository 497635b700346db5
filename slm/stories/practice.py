"""The practice corpus: stories generated from a small grammar, for when there is no network.

The words and the plots are in `assets/practice.json`, which anyone may extend. Four things there
have a meaning: `{slot}` stands for a character's detail or for any one phrase of that name (a
capital, `{Slot}`, starts it with a capital), `[this|that|]` picks one of its parts, perhaps none,
`¶` starts a paragraph, and “curly quotes” become plain ones, which JSON would have to escape."""

import json
import re
from random import Random

from slm.utils.files import ASSETS

MOST_STORIES = 1_000_000
TRIES_PER_STORY = 20  # a grammar that gives a known story so often has hardly any new ones left
_SLOT_OR_CHOICE = re.compile(r"\{([\w.]+)\}|\[([^\[\]]*)\]")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


def practice_stories(n: int, *, seed: int = 0) -> list[str]:
    """Generate `n` different stories; a larger `n` with the same `seed` only adds to the end.

    Raises ValueError for an `n` that is too small or too large.
    """
    if not 1 <= n <= MOST_STORIES:
        raise ValueError(f"cannot make {n} practice stories: ask for 1 to {MOST_STORIES:,}")
    grammar = load_grammar()
    rng = Random(seed)
    stories: dict[str, None] = {}  # a set that remembers the order
    for _ in range(n * TRIES_PER_STORY):
        stories[generate_story(grammar, rng)] = None
        if len(stories) == n:
            return list(stories)
    raise ValueError(
        f"the grammar gave only {len(stories)} of the {n} different stories: "
        "ask for fewer, or add words and plots to slm/assets/practice.json"
    )


def load_grammar() -> dict:
    """Read the grammar: its `cast`, `groups`, `pronouns`, `phrases` and `plots`."""
    return json.loads((ASSETS / "practice.json").read_bytes())


def generate_story(grammar: dict, rng: Random) -> str:
    """Generate one story: pick a plot, choose its characters and things, then expand `{story}`."""
    plot = rng.choice(list(grammar["plots"].values()))
    symbols = {**grammar["phrases"], **plot}
    roles = {**grammar["cast"], **plot["cast"]}
    for role, group in roles.items():
        # The group may depend on an earlier choice: "{loss.by}" is whoever can fetch what was lost.
        members = grammar["groups"][expand(group, symbols, rng)]
        member = rng.choice(members)
        for detail, value in _details(member, grammar).items():
            # A detail with several values gets one of them here, for the whole of the story.
            symbols[f"{role}.{detail}"] = rng.choice(value) if isinstance(value, list) else value
        symbols[role] = symbols[f"{role}.name"]
    text = expand("{story}", symbols, rng)
    return _typeset(text)


def expand(text: str, symbols: dict, rng: Random) -> str:
    """Replace every slot and every choice in `text`, and in what replaces them.

    Raises ValueError for a slot that is not in `symbols`.
    """

    def replace(match: re.Match) -> str:
        slot, choice = match.groups()
        if slot is None:
            part = rng.choice(choice.split("|"))
            return expand(part, symbols, rng)
        meaning = symbols.get(slot) or symbols.get(slot.lower())
        if not meaning:
            raise ValueError(
                f"practice.json uses {{{slot}}}: add it there, or correct its spelling"
            )
        phrase = meaning if isinstance(meaning, str) else rng.choice(meaning)
        words = expand(phrase, symbols, rng)
        if slot[0].isupper():
            return words[0].upper() + words[1:]
        return words

    return _SLOT_OR_CHOICE.sub(replace, text)


def _details(member: str | dict, grammar: dict) -> dict:
    """A member's details by name, among them its pronouns; a mere name has no others."""
    if isinstance(member, str):
        return {"name": member}
    pronouns = grammar["pronouns"].get(member.get("he"), {})
    return member | pronouns


def _typeset(text: str) -> str:
    """Plain quotes, paragraphs with a blank line between them, and "an" before a vowel."""
    text = text.replace("“", '"').replace("”", '"')
    paragraphs = []
    for paragraph in text.split("¶"):
        words = paragraph.split()
        if words:
            paragraphs.append(" ".join(words))
    return _A_BEFORE_VOWEL.sub(r"\1n ", "\n\n".join(paragraphs))
