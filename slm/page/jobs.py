"""Work that goes on in a thread of its own, whatever happens to the page meanwhile.

Streamlit ends a page's script as soon as something on the page is touched, and forgets a page that
is reloaded. What takes long must therefore not run in the script: it is a job, and the script only
shows how far it has come.
"""

import logging
import threading
from abc import ABC, abstractmethod


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
