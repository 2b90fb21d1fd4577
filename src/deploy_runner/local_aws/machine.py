"""What every part of local AWS shares: where things listen, the container engine, and what must be ended at the end."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy_runner.local_aws.engine import Engine

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"


@dataclass
class Machine:
    """One running local AWS. Addresses are as processes on the host see them, unless they say otherwise."""

    port: int
    state_dir: Path  # this instance's own files; emptied at every start
    engine: "Engine"
    account_id: str = ACCOUNT_ID
    region: str = REGION
    _on_stop: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

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
    def registry(self) -> str:
        """Host and port of the image registry that ECR hands out."""
        return f"127.0.0.1:{self.port + 2}"

    def for_container(self, text: str) -> str:
        """Rewrite loopback URLs of this machine in `text` to the address under which containers reach the host."""
        for port in (self.port, self.github_port, self.port + 2):
            for host in ("127.0.0.1", "localhost"):
                text = text.replace(f"{host}:{port}", f"{self.engine.host_from_container}:{port}")
        return text

    def on_stop(self, what: str, action: Callable[[], None]) -> None:
        """Have `action` called when local AWS ends; the last registered is the first called."""
        self._on_stop.append((what, action))

    def stop(self) -> None:
        """End everything that was started, last first; one failing part does not keep the others running."""
        while self._on_stop:
            _, action = self._on_stop.pop()
            with contextlib.suppress(Exception):
                action()
