"""What every part of local AWS shares: where things listen, the container engine, and what must be ended at the end."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_runner.local_aws.faults import Faults

if TYPE_CHECKING:
    from deploy_runner.local_aws.engine import Engine

ACCOUNT_ID = "123456789012"
MEMBER_ACCOUNT_ID = "210987654321"  # of the same organization, for what lies in another account
REGION = "us-east-1"
_IP_FREEBIND = 15  # linux/in.h; Python's socket module has no name for it


@dataclass
class Machine:
    """One running local AWS. Addresses are as processes on the host see them, unless they say otherwise."""

    port: int
    state_dir: Path  # this instance's own files; emptied at every start
    engine: "Engine"
    base_images: Path | None = (
        None  # a registry's storage with what public.ecr.aws has for us; None: the real one is used
    )
    account_id: str = ACCOUNT_ID
    members: tuple[str, ...] = (MEMBER_ACCOUNT_ID,)  # the organization's other accounts
    region: str = REGION
    service_urls: dict[tuple[str, str, str], str] = field(default_factory=dict)  # (account, cluster, service) -> URL
    registry_backend_port: int = 0  # of the registry behind ECR's front
    exports: dict[str, str] = field(default_factory=dict)  # what `deploy-runner local env` prints
    gates: list[Callable[[Any], Any]] = field(default_factory=list)  # each makes of AWS's WSGI application another
    enforces_iam: bool = False
    # What CloudFormation's stacks have: type, physical id, properties and Metadata of each resource.
    stack_resources: Callable[[], Iterable[tuple[str, str, dict[str, Any], dict[str, Any]]]] = list
    pages: dict[str, Callable[[], Any]] = field(default_factory=dict)  # what is answered under `/_local/`, as JSON
    faults: Faults = field(default_factory=Faults)  # what is to go wrong
    clocks: dict[str, Callable[[float], None]] = field(default_factory=dict)  # what does what is due at a time
    _on_stop: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    @property
    def accounts(self) -> tuple[str, ...]:
        """The organization's accounts, this one first."""
        return (self.account_id, *self.members)

    @property
    def endpoint(self) -> str:
        """Where AWS answers, as `AWS_ENDPOINT_URL` takes it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def github_port(self) -> int:
        """Where the local GitHub listens."""
        return self.port + 1

    @property
    def github_url(self) -> str:
        """The local GitHub: the API is under `/api/v3`, as on GitHub Enterprise Server; git is at `/OWNER/REPO.git`."""
        return f"http://127.0.0.1:{self.github_port}"

    @property
    def registry_port(self) -> int:
        """Where the image registry listens."""
        return self.port + 2

    @property
    def registry(self) -> str:
        """Host and port of the image registry that ECR hands out."""
        return f"127.0.0.1:{self.registry_port}"

    def in_account(self, account_id: str) -> "Machine":
        """Return the same machine, all of whose parts are this one's, as another account has it."""
        return replace(self, account_id=account_id)

    def gated(self, aws: Any) -> Any:
        """Return AWS's WSGI application behind every gate."""
        for gate in self.gates:
            aws = gate(aws)
        return aws

    def for_container(self, text: str) -> str:
        """Rewrite loopback URLs of this machine in `text` to the address under which containers reach the host."""
        for port in (self.port, self.github_port, self.registry_port):
            for host in ("127.0.0.1", "localhost"):
                text = text.replace(f"{host}:{port}", f"{self.engine.host_from_container}:{port}")
        return text

    def from_container(self, environ: Mapping[str, Any]) -> bool:
        """Tell whether a request came by the bridge, so from a container; on Docker Desktop all come by loopback."""
        return bool(self.engine.gateway) and environ.get("SERVER_NAME") == self.engine.gateway

    def serve(self, app: Any, port: int, what: str) -> None:
        """Serve a WSGI application on loopback, and where our containers, and nobody else, reach it."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Handler(WSGIRequestHandler):  # type: ignore[misc]  # werkzeug is not typed for us
            """Says nothing of each request: clients say what went wrong, and some try TLS first on purpose."""

            def log(self, type: str, message: str, *args: Any) -> None:
                logging.getLogger("deploy_runner.local_aws.http").debug(message, *args)

        addresses = ["127.0.0.1"]
        if self.engine.gateway:
            addresses.append(self.engine.gateway)
        for address in addresses:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address != "127.0.0.1":
                # The bridge has its address only while a container runs.
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            listener.bind((address, port))
            listener.listen(128)
            server = make_server(address, port, app, threaded=True, request_handler=Handler, fd=listener.fileno())
            listener.close()
            server.daemon_threads = True  # a request that hangs does not keep us up
            thread = threading.Thread(target=server.serve_forever, args=(0.1,), name=f"{what} {address}", daemon=True)
            thread.start()
            self.on_stop(what, server.shutdown)

    def each_second(self, what: str, tick: Callable[[float], None]) -> None:
        """Call `tick` each second with the time, in seconds since 1970, until local AWS ends.

        By `clocks` it can be called with another time, never while it runs already.
        """
        lock, stopped = threading.Lock(), threading.Event()

        def one(now: float) -> None:
            with lock:
                tick(now)

        def keep_time() -> None:
            while not stopped.wait(1.0):
                try:
                    one(time.time())
                except Exception:
                    logging.getLogger(__name__).exception("the clock of %s", what)

        self.clocks[what] = one
        threading.Thread(target=keep_time, name=what, daemon=True).start()
        self.on_stop(what, stopped.set)

    def on_stop(self, what: str, action: Callable[[], None]) -> None:
        """Have `action` called when local AWS ends; the last registered is the first called."""
        self._on_stop.append((what, action))

    def stop(self) -> None:
        """End everything that was started, last first; one failing part does not keep the others running."""
        while self._on_stop:
            what, action = self._on_stop.pop()
            try:
                action()
            except Exception:
                logging.getLogger(__name__).exception("could not stop: %s", what)
