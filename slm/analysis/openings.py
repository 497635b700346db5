"""How stories may begin, chosen so that what follows shows what a model can do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Opening:
    """A beginning, and what to look for in the continuation."""

    probe: str  # what it tries, in a word or two
    text: str
    notice: str  # what a good continuation does


# What is probed, what to notice, and the openings for it.
_PROBES = (
    (
        "grammar",
        "Tense, number and pronouns stay as they began.",
        (
            "The two brothers were hungry, so they",
            "Every morning the old woman and her goat",
            "She had never seen so many birds. They",
            "If the rain does not stop soon,",
        ),
    ),
    (
        "names",
        "The hero keeps the name, and nobody else takes it.",
        (
            "Once upon a time there was a small fox named Pip. Pip",
            "Grandpa Oto lived beside a mill. One evening Oto",
            "Mia had a red kite and her brother Ben had a blue one. The red kite belonged to",
            "The robot was called Zig. The cat was called Moss. Zig said to",
        ),
    ),
    (
        "consistency",
        "What is true at first is still true later.",
        (
            "Tom put his ball under the bed. Later he wanted to play, so he looked under the",
            "It was night and it was dark. Anna looked up and saw the",
            "The box was too heavy for the mouse. It tried to lift the box, but it was too",
            "The snowman stood in the garden. At noon the sun was hot, and the snowman",
        ),
    ),
    (
        "cause and effect",
        "What happens follows from what happened.",
        (
            "Lucy forgot to close the gate, so the sheep",
            "Max ate all the cookies. Then his tummy",
            "The glass fell off the table and",
            "Sara was sad because",
        ),
    ),
    (
        "dialogue",
        "Somebody answers, in quotation marks that open and close.",
        (
            '"Can I come with you?" asked the duck.',
            'Ella found a frog by the pond. "Hello," she said. The frog said, "',
            'The father looked at the muddy floor and said, "Who',
            '"I am scared," whispered Sam. His mom hugged him and said,',
        ),
    ),
    (
        "endings",
        "The story comes to a close, and stops.",
        (
            "At last the little boat was home again.",
            "They looked everywhere, and in the end they found the ring in the soup.",
            "From that day on, the dragon and the girl",
            "Ann learned that it is better to share. The moral of the story is",
        ),
    ),
)

OPENINGS = tuple(Opening(probe, text, notice) for probe, notice, texts in _PROBES for text in texts)
