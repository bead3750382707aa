"""One thread that runs the jobs of all tabs in turn; a tab's newer job ends its older one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from patching.errors import LiveError
from patching.interrupts import tell
from patching.page.charts import JSON
from patching.progress import Progress
from patching.text import escaped, shortened

MOST_WAITING = 16  # jobs that wait, of all tabs
SECONDS_BETWEEN = 0.1  # reports of progress
Say = Callable[[JSON], None]


class Cancelled(Exception):  # noqa: N818 - it is no error
    """The job is no longer wanted."""


@dataclass(eq=False)
class Job:
    """Work for a tab."""

    tab: str
    work: Callable[[Say, Progress], None]  # says its answers
    say: Say  # takes answers from the thread
    done: Callable[[], None]  # called once, at the end
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    reported: float = 0.0  # when progress was last said

    def progress(self, done: int, total: int) -> None:
        """Report the progress now and then.

        Raises:
            Cancelled: the job is no longer wanted.
        """
        if self.is_cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if total and now - self.reported > SECONDS_BETWEEN:
            self.reported = now
            self.say({"progress": done / total})

    def run(self) -> None:
        """Do the work; say what went wrong, if anything does."""
        try:
            if not self.is_cancelled.is_set():
                self.work(self.say, self.progress)
        except Cancelled:
            pass
        except Exception as error:
            # Whatever goes wrong in a model is said on the page, and ends this job alone.
            message = f"an error in the model: {type(error).__name__}: {error}"
            self.say({"error": escaped(shortened(message, 500))})
            tell(f"mingpt-live: {escaped(shortened(message, 500))}")
        finally:
            self.done()


class Worker:
    """The thread, and the jobs that wait for it."""

    def __init__(self, begin: Callable[[], None] = lambda: None) -> None:
        """Start the thread.

        Args:
            begin: called in it first, to choose the number of threads, say.
        """
        self._begin = begin
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> int:
        """Queue a job; return how many are before it.

        Raises:
            LiveError: too many wait.
        """
        with self._changed:
            if self._running is not None and self._running.tab == job.tab:
                self._running.is_cancelled.set()
            for other in [one for one in self._waiting if one.tab == job.tab]:
                self._waiting.remove(other)
                other.done()
            if len(self._waiting) >= MOST_WAITING:
                raise LiveError(f"{MOST_WAITING} requests wait already: try again")
            running = self._running is not None and not self._running.is_cancelled.is_set()
            before = len(self._waiting) + running
            self._waiting.append(job)
            self._changed.notify()
        return before

    def cancel(self, job: Job) -> None:
        """End a job, which may have ended already."""
        job.is_cancelled.set()
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.done()

    def close(self) -> None:
        """End all jobs and the thread."""
        with self._changed:
            self._is_closed = True
            for job in (*self._waiting, *([self._running] if self._running else [])):
                job.is_cancelled.set()
            self._changed.notify()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        self._begin()
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._running = self._waiting.popleft()
            self._running.run()
