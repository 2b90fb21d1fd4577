"""A client that keeps asking a service while it is deployed, and counts what it gets."""

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

AT_ONCE = 4  # requests
PAUSE = 0.05  # seconds of each asker between two requests
TIMEOUT = 10.0  # seconds that a request may take


def fetch(url: str) -> None:
    """Ask once, by a connection of its own. Raises OSError for anything but an answer of 2xx that comes whole."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - the demo's own service
        answer.read()


class Visitors:
    """Several requests at a time, for as long as the `with` lasts."""

    def __init__(self, url: str, fetch: Callable[[str], None] = fetch) -> None:
        self.url, self._fetch = url, fetch
        self.answered = 0
        self.failures: Counter[str] = Counter()  # by what was wrong
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, name=f"visitor {n}", daemon=True) for n in range(AT_ONCE)]

    @property
    def failed(self) -> int:
        """How many requests were not answered."""
        return self.failures.total()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        deadline = time.monotonic() + 2 * TIMEOUT
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _ask(self) -> None:
        while not self._over.is_set():
            problem = ""
            try:
                self._fetch(self.url)
            except Exception as error:  # whatever it is, the visitor got no page
                problem = f"{type(error).__name__}: {error}"
            with self._lock:
                if problem:
                    self.failures[problem] += 1
                else:
                    self.answered += 1
            self._over.wait(PAUSE)

    def __str__(self) -> str:
        """As in: 412 requests answered, 0 failed."""
        most = self.failures.most_common(1)
        return f"{self.answered} requests answered, {self.failed} failed" + (f" ({most[0][0]})" if most else "")
