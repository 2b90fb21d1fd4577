"""One container of a task: a real one of the engine, or the stand-in for Kaniko's. Both end with an exit code."""

import contextlib
import re
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from docker.errors import APIError, DockerException, NotFound
from docker.utils.socket import frames_iter

from deploy_runner.local_aws.ecs.logs import LogStream
from deploy_runner.local_aws.machine import Machine

_POLL_SECONDS = 0.25
_SHELL = ["/bin/sh", "-c"]
_NEVER = 24 * 3600 * 10**9  # nanoseconds: the engine is not to run a health check by itself


class CannotPull(Exception):
    """An image is not there; the text is ECS's reason."""


class CannotStart(Exception):
    """A container was made but does not start; the text is ECS's reason."""


@dataclass
class Plan:
    """Everything that a container needs to be started."""

    name: str
    definition: dict[str, Any]  # the container definition, with the overrides in it
    environment: dict[str, str]
    logs: LogStream
    binds: dict[str, dict[str, str]]  # folder of the host -> {"bind": folder of the container, "mode": "rw"}
    labels: dict[str, str]
    image: str = ""  # the engine's id of the image
    publish: list[int] = field(default_factory=list)  # ports, where the engine's addresses are not reachable

    def host_path(self, path: str) -> Path | None:
        """Return where a path of the container lies on this machine, if it lies on a volume."""
        for folder, bind in self.binds.items():
            if path == bind["bind"] or path.startswith(bind["bind"].rstrip("/") + "/"):
                return Path(folder) / path[len(bind["bind"].rstrip("/")) :].lstrip("/")
        return None


class Process(Protocol):
    """What a task does with its containers."""

    @property
    def id(self) -> str:
        """The engine's id, if there is one."""

    def start(self, network_of: str | None) -> None:
        """Start; `network_of` is the container whose network namespace to share. Raises CannotStart."""

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""

    def stop(self, seconds: float) -> None:
        """Ask it to end, and insist after `seconds`."""

    def remove(self) -> None:
        """Leave nothing behind; kills what still runs."""


def is_kaniko(image: str) -> bool:
    """Tell whether an image is Kaniko's, which the engine stands in for."""
    return "kaniko" in re.split(r"[@:]", image.rsplit("/", 1)[-1])[0]


def pull(machine: Machine, image: str) -> tuple[str, str]:
    """Have an image, and return its id and its digest ("" if it has none). Raises CannotPull.

    Images of our registry are always asked for, as on Fargate, which keeps none: a digest that is gone is noticed.
    """
    client = machine.engine.client
    if image.startswith(f"{machine.registry}/") or not _known(client, image):
        repository, tag = split_image(image)
        error = ""
        try:
            for line in client.api.pull(repository, tag=tag, stream=True, decode=True):
                error = line.get("error") or error
        except DockerException as failed:
            error = getattr(failed, "explanation", None) or str(failed)
        if error:
            raise CannotPull(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
                f"failed to resolve ref {image}: {image}: not found"
                + ("" if re.search("not found|unknown", error, re.IGNORECASE) else f" ({error.strip()[:300]})")
            )
    try:
        attributes = client.api.inspect_image(image)
    except DockerException as failed:
        raise CannotPull(f"CannotPullContainerError: {image}: not found") from failed
    digests = [d.partition("@")[2] for d in attributes.get("RepoDigests") or [] if d.startswith(split_image(image)[0])]
    return attributes["Id"], image.partition("@")[2] or (digests[0] if digests else "")


def _known(client: Any, image: str) -> bool:
    try:
        client.api.inspect_image(image)
    except DockerException:
        return False
    return True


def split_image(image: str) -> tuple[str, str]:
    """Return repository, and tag or digest."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return repository, digest
    head, _, tail = image.rpartition(":")
    return (head, tail) if head and "/" not in tail else (image, "latest")


class EngineContainer:
    """A container of the engine."""

    def __init__(self, machine: Machine, plan: Plan) -> None:
        self._machine, self._plan = machine, plan
        self._container: Any = None
        self._reader: threading.Thread | None = None

    @property
    def id(self) -> str:
        """The engine's id of the container."""
        return str(self._container.id) if self._container else ""

    def start(self, network_of: str | None) -> None:
        """Create, listen, start. Raises CannotStart."""
        plan, engine = self._plan, self._machine.engine
        definition = plan.definition
        more: dict[str, Any] = (
            {"network_mode": f"container:{network_of}"} if network_of else {"network": engine.network}
        )
        if self._podman and definition.get("healthCheck"):
            command, seconds = self._check()
            shell = command[2] if command[:2] == _SHELL else shlex.join(command)  # Podman 4.3 splits a CMD at spaces
            more["healthcheck"] = {
                "test": ["CMD-SHELL", shell], "interval": _NEVER, "timeout": int(seconds * 1e9), "retries": 1_000_000,
            }  # fmt: skip
        if plan.publish and not network_of:
            more["ports"] = {f"{port}/tcp": ("127.0.0.1", None) for port in plan.publish}
        try:
            self._container = engine.client.containers.create(
                plan.image,
                command=definition.get("command") or None,
                entrypoint=definition.get("entryPoint") or None,
                environment=plan.environment,
                volumes=plan.binds,
                labels=(definition.get("dockerLabels") or {}) | plan.labels,
                user=definition.get("user"),
                working_dir=definition.get("workingDirectory"),
                read_only=bool(definition.get("readonlyRootFilesystem")),
                **more,
            )
            # Attached before it starts, so that not one line of a short life is missed.
            output = engine.client.api.attach_socket(self.id, {"stdout": 1, "stderr": 1, "stream": 1})
            try:
                self._container.start()
            except APIError:
                output._response.close()
                raise
            engine.hold_bridge_address()
        except APIError as error:
            self.remove()
            raise CannotStart(f"CannotStartContainerError: {error.explanation or error}") from error
        self._reader = threading.Thread(target=self._read, args=(output,), name=f"{plan.name} logs", daemon=True)
        self._reader.start()

    def _read(self, output: Any) -> None:
        _read_all(output, self._plan.logs.write)
        self._plan.logs.close()

    def wait(self) -> int:
        """Return the exit code as soon as the container has ended; 137 if it was removed meanwhile."""
        if self._reader:
            self._reader.join()  # its end is noticed at once; the engine's own wait is slower
        pause = 0.01
        while True:
            try:
                state = self._machine.engine.client.api.inspect_container(self.id)["State"]
            except (DockerException, OSError, ValueError):
                return 137
            if not state["Running"] and state["Status"] not in ("stopping", "initialized"):
                return int(state["ExitCode"])
            time.sleep(pause)
            pause = min(pause * 2, _POLL_SECONDS)

    @property
    def _podman(self) -> bool:
        return str(self._machine.engine.version).startswith("Podman")

    def _check(self) -> tuple[list[str], float]:
        """Return the health check's command and its time limit: API_HealthCheck."""
        check = self._plan.definition["healthCheck"]
        kind, *rest = check["command"]
        command = {"CMD": rest, "CMD-SHELL": [*_SHELL, " ".join(rest)]}.get(kind, [kind, *rest])
        return command, float(check.get("timeout") or 5)

    def address(self) -> str:
        """Return the container's address on our network."""
        attributes = self._machine.engine.client.api.inspect_container(self.id)
        network = attributes["NetworkSettings"]["Networks"].get(self._machine.engine.network) or {}
        return str(network.get("IPAddress") or "")

    def endpoint(self, port: int, address: str) -> tuple[str, int]:
        """Return where this machine reaches a port of the container."""
        if self._machine.engine.addresses_reachable:
            return address, port
        self._container.reload()
        published = self._container.ports.get(f"{port}/tcp") or [{"HostPort": "0"}]
        return "127.0.0.1", int(published[0]["HostPort"])

    def is_healthy(self) -> bool:
        """Run the container's health check, and tell whether it ended with 0 in time."""
        api, (command, seconds) = self._machine.engine.client.api, self._check()
        try:
            if self._podman:
                # Its exec by API leaves a process for five minutes after each command; this one does not.
                answer = api._get(f"{api.base_url}/v4.0.0/libpod/containers/{self.id}/healthcheck", timeout=seconds + 5)
                return bool(answer.ok and answer.json().get("Status") == "healthy")
            execution = api.exec_create(self.id, command)["Id"]
            output = api.exec_start(execution, socket=True)
            reader = threading.Thread(target=_read_all, args=(output,), daemon=True)
            reader.start()
            reader.join(seconds)
            if reader.is_alive():
                return False
            state = api.exec_inspect(execution)
            return bool(not state["Running"] and state["ExitCode"] == 0)
        except (DockerException, OSError, ValueError):
            return False

    def stop(self, seconds: float) -> None:
        """SIGTERM (or the image's own stop signal), and SIGKILL after `seconds`."""
        with contextlib.suppress(DockerException, OSError):
            self._container.stop(timeout=int(seconds))

    def remove(self) -> None:
        """Kill and remove."""
        if self._container:
            with contextlib.suppress(NotFound, DockerException, OSError):
                self._container.remove(force=True, v=True)


def _read_all(output: Any, take: Callable[[bytes], None] = lambda chunk: None) -> None:
    """Hand over what a container, or a command in it, writes, until its end."""
    with contextlib.suppress(DockerException, OSError, ValueError):
        for _, chunk in frames_iter(output, tty=False):
            take(chunk)
    with contextlib.suppress(OSError, ValueError):
        output._response.close()  # by itself it would be closed in the wrong order, and complain


def namespace(machine: Machine, labels: dict[str, str], publish: list[int]) -> EngineContainer:
    """Start a container that only holds the network namespace that a task's containers share. Raises CannotPull."""
    image, _ = pull(machine, "public.ecr.aws/docker/library/busybox:stable")
    definition = {"entryPoint": ["sleep"], "command": ["2147483647"]}
    plan = Plan("~internal~ecs~pause", definition, {}, LogStream("", "", {}, "", ""), {}, labels, image, publish)
    container = EngineContainer(machine, plan)
    container.start(None)
    return container
