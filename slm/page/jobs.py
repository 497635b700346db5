"""Work that goes on in a thread of its own, whatever happens to the page meanwhile.

Streamlit ends a page's script as soon as something on the page is touched, and forgets a page that
is reloaded. What takes long must therefore not run in the script: it is a job, and the script only
shows how far it has come.
"""

import logging
import threading
from abc import ABC, abstractmethod
from itertools import zip_longest

import slm
from slm.page.explanation import Explanation, explain
from slm.page.models import LoadedModel


class Job(ABC):
    """Work in a thread of its own.

    What the page reads of it is replaced as a whole and never changed in place, so that it can be
    read at any moment without a lock.
    """

    def __init__(self) -> None:
        self.error = ""  # why it failed, in a sentence
        self._stop_requested = False
        # Not a daemon: when the server is stopped, fine-tuning still saves its best weights.
        self._thread = threading.Thread(target=self._run, daemon=False)

    @abstractmethod
    def work(self) -> None:
        """Do the work, and return early where `should_stop`."""

    def start(self) -> None:
        """Begin the work, and return at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask for an early end; what there is by then stays."""
        self._stop_requested = True

    def wait(self) -> None:
        """Wait for the end."""
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether the work is still being done."""
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        """Whether an early end was asked for and has not come yet."""
        return self._stop_requested and self.is_running

    @property
    def should_stop(self) -> bool:
        """Whether to end early: somebody asked for it, or the server has been stopped."""
        return self._stop_requested or not threading.main_thread().is_alive()

    def _run(self) -> None:
        try:
            self.work()
        except (OSError, ValueError) as error:
            self.error = str(error)
        except Exception as error:  # nobody else would ever hear of it
            logging.getLogger(__name__).exception("A job of the page failed.")
            self.error = f"This failed: {type(error).__name__}: {error}"


class WritingJob(Job):
    """Write one story, or several from one beginning; then explain their words."""

    def __init__(self, chosen: LoadedModel, prompt: str, settings: list[dict]):
        super().__init__()
        self.model_name = chosen.name
        self.model_changed = chosen.changed
        self.prompt = prompt
        self.texts = [""] * len(settings)  # as far as they have been written
        self.explanations: list[Explanation] = []  # of each text, once all are written
        self._chosen: LoadedModel | None = chosen
        self._settings = settings

    def work(self) -> None:
        """Write all stories at the same pace, a token of each in turn."""
        model = self._chosen.model
        tokenizer = self._chosen.tokenizer
        self._chosen = None  # a story stays long, and its model need not
        streams = [slm.stream(model, tokenizer, self.prompt, **each) for each in self._settings]
        for pieces in zip_longest(*streams, fillvalue=""):
            self.texts = [text + piece for text, piece in zip(self.texts, pieces)]
            if self.should_stop:
                break
        self.explanations = [explain(model, tokenizer, text, self.prompt) for text in self.texts]
