"""Prompts as the server has read them: token ids, and the detokenizer that goes on from there."""

from collections.abc import Sequence

from slm.serving.sequence import Token
from slm.serving.story_output import Piece
from slm.serving.validation import Prompt, StoryRequest
from slm.tokenizer.byte_pair import Tokenizer
from slm.tokenizer.detokenizer import IncrementalDetokenizer

CONTEXT = 256  # tokens before a story's text on which its first characters may depend


class ReadPrompt:
    """A prompt, and the detokenizer that has read it: the story's text goes on from there. Where
    the prompt is to be echoed, all of it is decoded; else its end is enough."""

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, echo: bool):
        self.ids = prompt.ids
        self.detokenizer = IncrementalDetokenizer(tokenizer)
        self.offsets: list[int] = []  # where each of the tokens begins, in characters
        decoded = []
        for token_id in prompt.ids if echo else prompt.ids[-CONTEXT:]:
            self.offsets.append(self.detokenizer.length)
            decoded.append(self.detokenizer.add(token_id))
        if prompt.text is None:
            decoded.append(self.detokenizer.flush_whole())
            self.text = "".join(decoded)
        else:
            self.detokenizer.flush()
            self.text = prompt.text

    def piece(self, index: int, tokens: Sequence[Token]) -> Piece:
        """The prompt as the first piece of an answer. `tokens` have the log-probabilities of its
        last ones; the others, which the model has not read or not foreseen, have none."""
        without = [Token(token_id) for token_id in self.ids[: len(self.ids) - len(tokens)]]
        return Piece(index, self.text, (*without, *tokens), tuple(self.offsets))


def read_prompts(request: StoryRequest, tokenizer: Tokenizer) -> list[ReadPrompt]:
    """The prompts of a request, each once."""
    return [ReadPrompt(prompt, tokenizer, request.echo) for prompt in request.prompts]
