"""What a model makes of some prompts before and after fine-tuning, side by side."""

from slm.generation.text_generation import generate
from slm.model.transformer import Transformer
from slm.stories.cleaning import Stories
from slm.stories.opening import commonest_opening
from slm.tokenizer.byte_pair import Tokenizer

PROMPTS = ("Once upon a time", "One day", "It was night and")


def prompts_for(ordinary: Stories) -> tuple[str, ...]:
    """Prompts in the language of the ordinary stories, as far as that can be known."""
    opening = commonest_opening(ordinary.train)
    return PROMPTS if opening.isascii() else (opening,)


def write_samples(
    before: Transformer,
    after: Transformer,
    tokenizer: Tokenizer,
    prompts: tuple[str, ...],
    seed: int,
) -> list[tuple[str, str]]:
    """For each prompt the stories of both models, with the same seed."""
    samples = []
    for prompt in prompts:
        settings = {"max_new_tokens": 80, "seed": seed}
        story_before = generate(before, tokenizer, prompt, **settings)
        story_after = generate(after, tokenizer, prompt, **settings)
        samples.append((story_before, story_after))
    return samples
