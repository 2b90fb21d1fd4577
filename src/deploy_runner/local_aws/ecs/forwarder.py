"""A service's stable address on loopback: connections go to a task that is healthy when they come."""

import contextlib
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

_WAIT_SECONDS = 5.0  # for a healthy task, before a connection is given up
_CHUNK = 1 << 16


class Forwarder:
    """Listens on a free port of loopback until it is closed."""

    def __init__(self, pick: Callable[[], list[tuple[Any, tuple[str, int]]]]) -> None:
        """`pick` gives the tasks that take connections, each with its address."""
        self._pick = pick
        self._open: Counter[Any] = Counter()
        self._lock = threading.Lock()
        self._turn = 0
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name=f"forward {self.port}", daemon=True).start()

    @property
    def url(self) -> str:
        """The address, as a browser takes it."""
        return f"http://127.0.0.1:{self.port}"

    def connections(self, task: Any) -> int:
        """Return how many connections to a task are open."""
        with self._lock:
            return self._open[task]

    def close(self) -> None:
        """Take no more connections."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone does not end an accept on Linux
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            deadline = time.monotonic() + _WAIT_SECONDS
            while not self._closed.is_set() and time.monotonic() < deadline:
                with self._lock:
                    # Picked and counted at once, so that a task that is drained next waits for this connection.
                    targets = self._pick()
                    self._turn += 1
                    task, address = targets[self._turn % len(targets)] if targets else (None, ("", 0))
                    self._open[task] += 1
                try:
                    if task is not None:
                        with socket.create_connection(address, timeout=2) as server:
                            server.settimeout(None)
                            _pump(client, server)
                            return
                except OSError:
                    pass  # the next healthy task may take it
                finally:
                    with self._lock:
                        self._open[task] -= 1
                        if self._open[task] <= 0:
                            del self._open[task]
                time.sleep(0.05)


def _pump(client: socket.socket, server: socket.socket) -> None:
    """Copy both ways until both sides have said all."""
    with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select():
                source: Any = key.fileobj
                data = source.recv(_CHUNK)
                if data:
                    key.data.sendall(data)
                else:
                    selector.unregister(source)
                    with contextlib.suppress(OSError):
                        key.data.shutdown(socket.SHUT_WR)
                    if source is server:
                        return
