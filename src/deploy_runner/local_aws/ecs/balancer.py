"""A service's load balancer: an HAProxy on a stable port of loopback, driven through its Runtime API.

docs.haproxy.org/2.6/configuration.html, docs.haproxy.org/2.6/management.html, section 9.3
"""

import contextlib
import csv
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.engine import end, spawn

MOST_WEIGHT = 256  # HAProxy's highest
_START_SECONDS = 10.0
# The idle time-out is an Application Load Balancer's. Each request has a connection of its own to its target, so that
# none is sent on one that the target closes at that moment, and the number of sessions is that of requests. Where a
# connection fails, another target is tried; a request that a target may have seen is never sent again.
_CONFIG = """\
global
    stats socket unix@{admin} mode 600 level admin
    nbthread 1
    maxconn 1000
    no strict-limits
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout http-request 60s
    timeout http-keep-alive 60s
    retries 3
    retry-on conn-failure
    option redispatch 1
    option http-server-close
    http-reuse never
frontend service
    bind fd@{listener}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Port %[dst_port]
    default_backend tasks
backend tasks
    balance roundrobin
"""


class NoBalancer(DeployRunnerError):
    """HAProxy is not there, or does not start."""


def check_installed() -> None:
    """Raise NoBalancer if there is no HAProxy."""
    if shutil.which("haproxy") is None:
        remedy = "brew install haproxy" if sys.platform == "darwin" else "as root: apt-get install haproxy"
        raise NoBalancer("Services need the command haproxy", "there is none on PATH", f"Install it: {remedy}")


@dataclass(frozen=True)
class Server:
    """Where a target answers, and its part of the requests: 0 to MOST_WEIGHT; with 0 it only ends what it has."""

    address: tuple[str, int]
    weight: int


class Balancer:
    """One HAProxy. Its port stays, also while the process is started again."""

    def __init__(self, folder: Path) -> None:
        """Start it; to be called from a thread that lives as long as it is needed (`spawn`). Raises NoBalancer."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self._admin = folder / f"haproxy-{self.port}.sock"
        self._lock = threading.Lock()
        self._servers: dict[str, Server] = {}  # as HAProxy knows them
        self._process = self._start()

    @property
    def url(self) -> str:
        """The address, as a browser takes it."""
        return f"http://127.0.0.1:{self.port}"

    def revive(self) -> None:
        """Start it again if it has ended, which nobody asked it to; from the same thread as the first time."""
        with self._lock:
            if self._process.poll() is not None:
                self._servers, self._process = {}, self._start()

    def serve(self, servers: Mapping[str, Server]) -> None:
        """Have exactly these servers; the connections of one that is no longer among them are cut. Raises OSError."""
        with self._lock:
            for name, server in servers.items():
                known = self._servers.get(name)
                if known is None:
                    host, port = server.address
                    said = self._ask(f"add server tasks/{name} {host}:{port} weight {server.weight}")
                    if not ("New server registered" in said or "Already exists" in said):  # the latter: cut off before
                        raise OSError(f"HAProxy takes no server {host}:{port}: {said.strip()}")
                    self._ask(f"set server tasks/{name} state ready")
                elif known != server:
                    self._ask(f"set server tasks/{name} weight {server.weight}")
                self._servers[name] = server
            for name in self._servers.keys() - servers.keys():
                self._ask(f"set server tasks/{name} state maint; shutdown sessions server tasks/{name}")
                if "still has connections" not in self._ask(f"del server tasks/{name}"):
                    del self._servers[name]  # otherwise the next time

    def connections(self, name: str) -> int:
        """Return how many requests a server is answering. Raises OSError."""
        with self._lock:
            lines = self._ask("show stat tasks 4 -1").removeprefix("# ").splitlines()
        return sum(int(line["scur"]) for line in csv.DictReader(lines) if line["svname"] == name)

    def close(self) -> None:
        """Take no more connections, and end those that are."""
        with self._lock:
            end(self._process)
            self._listener.close()
            self._admin.unlink(missing_ok=True)

    def _start(self) -> "subprocess.Popen[bytes]":
        config, log = self._admin.with_suffix(".cfg"), self._admin.with_suffix(".log")
        config.write_text(_CONFIG.format(admin=self._admin, listener=self._listener.fileno()))
        process = spawn(["haproxy", "-db", "-f", str(config)], log=log, pass_fds=[self._listener.fileno()])
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                self._ask("show info")
                return process
            if process.poll() is not None or time.monotonic() > deadline:
                end(process)
                said = log.read_text(errors="replace").strip().splitlines()
                remedy = "Run `haproxy -vv` to see whether it is 2.6 or newer"
                raise NoBalancer("HAProxy must start", said[-1] if said else "no answer", remedy)
            time.sleep(0.01)

    def _ask(self, commands: str) -> str:
        """Give HAProxy commands, and return what it says to them."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(_START_SECONDS)
            admin.connect(str(self._admin))
            admin.sendall(commands.encode() + b"\n")
            with admin.makefile("r") as answer:
                return answer.read()
