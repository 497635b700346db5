"""Writing stories as a job: what is written so far, and how each story ended."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import generate_ids
from slm.model.transformer import Transformer
from slm.page.explanation import Explanation, explain
from slm.page.jobs import Job
from slm.page.models import LoadedModel
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer

THE_END = "The end."  # the model ended the story by itself
CUT_OFF = "Cut off at the length that the settings allow."
STOPPED = "Stopped."


class StoryWriter:
    """Writes one story, and knows how it ended, which `slm.stream` does not say."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, prompt: str, settings: dict):
        self.ending = STOPPED  # until it ends in another way
        self._model = model
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._sampling = SamplingConfig(**settings)

    def pieces(self) -> Iterator[str]:
        """The story piece by piece, the prompt first: the pieces that `slm.stream` gives."""
        prompt_ids = [self._tokenizer.bos_id, *self._tokenizer.encode(self._prompt)]
        decoder = IncrementalDecoder(self._model)
        steps = generate_ids(decoder, [prompt_ids], self._sampling, self._tokenizer.end_ids)
        yield self._prompt
        yield from self._tokenizer.decode_stream(self._before_end(steps), before=prompt_ids[1:])

    def _before_end(self, steps: Iterable[list[int]]) -> Iterator[int]:
        """The ids of the story; the end of text, which is left out, is noted."""
        for [new_id] in steps:
            if new_id == self._tokenizer.eot_id:
                self.ending = THE_END
                return
            yield new_id
        self.ending = CUT_OFF


class WritingJob(Job):
    """Write one story, or several from one beginning; then explain their words."""

    def __init__(self, chosen: LoadedModel, prompt: str, settings: list[dict]):
        super().__init__()
        self.model_name = chosen.name
        self.model_changed = chosen.changed
        self.prompt = prompt
        self.seeds = [each["seed"] for each in settings]
        self.texts = [""] * len(settings)  # as far as they have been written
        self.endings = [""] * len(settings)  # how each ended, once all are written
        self.explanations: list[Explanation] = []  # of each text, once all are written
        self._chosen: LoadedModel | None = chosen
        self._settings = settings

    def work(self) -> None:
        """Write all stories at the same pace, a piece of each in turn."""
        model = self._chosen.model
        tokenizer = self._chosen.tokenizer
        self._chosen = None  # a story stays long, and its model need not
        writers = [StoryWriter(model, tokenizer, self.prompt, each) for each in self._settings]
        for pieces in zip_longest(*[writer.pieces() for writer in writers], fillvalue=""):
            self.texts = [text + piece for text, piece in zip(self.texts, pieces)]
            if self.should_stop:
                break
        self.endings = [writer.ending for writer in writers]
        self.explanations = [explain(model, tokenizer, text, self.prompt) for text in self.texts]
