"""Why each word of a story came: its chance, what else might have come, what was listened to."""

import math
import re
from dataclasses import dataclass

import torch

from slm.analysis.attention import attention_maps
from slm.analysis.token_probabilities import TokenProbability, token_probabilities
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import END_OF_TEXT, Tokenizer

MAX_TOKENS = 512  # tokens: the attention of all layers takes memory with the square of them
MIN_SHARE = 0.05  # of the strongest: what was listened to less is not shown
MAX_TOKENS_OF_CHARACTER = 4  # it has at most four bytes in UTF-8, and a token at least one
_BYTE_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")  # how a byte of half a character is shown
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Alternative:
    """A token that might have come, and its chance."""

    name: str  # as it is shown
    chance: float
    is_actual: bool  # whether it is the one that came


@dataclass(frozen=True)
class ExplainedToken:
    """A token of a story, and why it came. Tokens that write one character together are one here,
    explained by the first of them."""

    text: str
    chance: float
    sentence: str
    alternatives: tuple[Alternative, ...]  # the likeliest first
    listened_to: tuple[tuple[int, float], ...]  # places of earlier ones, and how much, 0 to 1


@dataclass(frozen=True)
class Explanation:
    """The tokens of a story; `rest` is what is too far from the beginning to be explained."""

    tokens: list[ExplainedToken]
    rest: str


def explain(model: Transformer, tokenizer: Tokenizer, text: str, prompt: str = "") -> Explanation:
    """Explain each token of a story that was written from a prompt."""
    tokens = token_probabilities(model, tokenizer, text)
    groups = _tokens_by_character([token.piece for token in tokens], tokenizer, text)
    attention = _attention_before(model, tokenizer, text)
    words = list(_WORD.finditer(text))
    explained = []
    start = 0  # of the group, in characters
    for group, written in groups:
        end = start + len(written)
        token = tokens[group.start]
        chance = math.prod(tokens[place].probability for place in group)
        name = _name_in_word(shown_piece(written, text[:start]), _word_at(words, start, end))
        explained.append(
            ExplainedToken(
                text=written,
                chance=chance,
                sentence=_sentence(name, chance, is_given=end <= len(prompt)),
                alternatives=_alternatives(token, text[:start]),
                listened_to=_attention_by_group(attention, group.start, groups),
            )
        )
        start = end
    return Explanation(explained, rest=text[start:])


def _tokens_by_character(
    pieces: list[str], tokenizer: Tokenizer, text: str
) -> list[tuple[range, str]]:
    """Which tokens write which characters of a text: one token each, or several that write one
    character together. They end where a tokenizer does not give back what it has read."""
    ids = tokenizer.encode(text)
    groups = []
    first = 0
    start = 0  # in characters
    for last, piece in enumerate(pieces):
        written = piece if first == last else tokenizer.decode(ids[first : last + 1])
        if start == 0 and not text.startswith(written):
            written = written.lstrip()  # some tokenizers put a space before the first word
        if text.startswith(written, start):
            groups.append((range(first, last + 1), written))
            first = last + 1
            start += len(written)
        elif last - first >= MAX_TOKENS_OF_CHARACTER:
            break
    return groups


def _attention_by_group(
    attention: list[list[float]], place: int, groups: list[tuple[range, str]]
) -> tuple[tuple[int, float], ...]:
    """The groups before a token that were attended to when it was chosen; the strongest is 1."""
    if not 0 < place < len(attention):
        return ()
    weights = attention[place]
    strongest = max(max(weights), 1e-9)
    shares = []
    for index, (group, _) in enumerate(groups):
        if group.start >= place:
            break
        share = sum(weights[i] for i in group) / strongest
        if share >= MIN_SHARE:
            shares.append((index, min(share, 1.0)))
    return tuple(shares)


def shown_piece(piece: str, before: str = "") -> str:
    """A token as it is shown alone: without its space, with … where it goes on with a word."""
    if piece == END_OF_TEXT:
        return "(the end)"
    if _BYTE_ESCAPE.search(piece):
        return "(half a character)"
    if not piece.strip():
        return "(a new line)" if "\n" in piece else "(a space)"
    goes_on = before[-1:].isalnum() and piece[0].isalnum()
    return f"…{piece.strip()}" if goes_on else piece.strip()


def percent(chance: float) -> str:
    """A chance in words that fit its size."""
    if chance < 0.001:
        return "under 0.1%"
    if chance >= 0.995:  # not 100%: others had a chance too
        return "over 99%"
    return f"{chance:.1%}" if chance < 0.1 else f"{chance:.0%}"


def _name_in_word(shown: str, word: str) -> str:
    """A token in quotation marks and, where it is only a part of a word, the whole word too."""
    name = f"“{shown}”"
    return name if word in (shown, "") else f"{name} in “{word}”"


def _sentence(name: str, chance: float, is_given: bool) -> str:
    """A sentence that names a token and its chance."""
    if is_given:
        return f"{name} was given. The model gave it a chance of {percent(chance)}."
    return f"{name} had a chance of {percent(chance)}."


def _word_at(words: list[re.Match], start: int, end: int) -> str:
    """The word that a token is a part of; nothing for a token of signs and spaces alone."""
    for word in words:
        if word.start() < end and word.end() > start:
            return word.group()
    return ""


def _alternatives(token: TokenProbability, before: str) -> tuple[Alternative, ...]:
    """The likeliest tokens, and last the one that came where it was none of them."""
    alternatives = [
        Alternative(shown_piece(piece, before), chance, is_actual=piece == token.piece)
        for piece, chance in token.likeliest
    ]
    if not any(alternative.is_actual for alternative in alternatives):
        name = shown_piece(token.piece, before)
        alternatives.append(Alternative(name, token.probability, is_actual=True))
    return tuple(alternatives)


def _attention_before(model: Transformer, tokenizer: Tokenizer, text: str) -> list[list[float]]:
    """How much each earlier token was attended to when a token was chosen.

    It is chosen where the token before it is read: what that one attends to is meant, as in
    `slm.analysis.token_probabilities.mean_attention`, but not scaled.
    """
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    ids = ids[: min(model.config.context_length, MAX_TOKENS)]
    maps = attention_maps(model, torch.tensor(ids, device=model.device))  # (L, H, T, T)
    mean = maps.mean((0, 1)).tolist()  # T lists of T
    return [mean[place][1 : place + 1] for place in range(len(ids))]  # 0 is the beginning of text
