"""One container of a task: a real one of the engine, or the stand-in for Kaniko's. Both end with an exit code."""

import contextlib
import platform
import re
import resource
import shlex
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from docker.errors import APIError, DockerException, NotFound
from docker.types import Ulimit
from docker.utils.socket import frames_iter

from deploy_runner.local_aws.ecs.logs import LogStream
from deploy_runner.local_aws.machine import Machine

_POLL_SECONDS = 0.25
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
)
_SHELL = ["/bin/sh", "-c"]
_NEVER = 24 * 3600 * 10**9  # nanoseconds: the engine is not to run a health check by itself
# Every task runs on this machine, so that is what an image must be for, whatever its runtimePlatform says.
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
# Podman forgets the default limits of engine.py once one is given, and then wants more than it may.
_PODMAN_LIMITS = {"nofile": (1024, 1024), "nproc": (2048, 2048)}


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
    memory: int = 0  # MiB that the task has, which is all that a container without a limit of its own may use
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

    Images of our registry are always asked for, as on Fargate, which keeps none: a digest that is gone is noticed. A
    tag is looked up there once, and what it stood for is pulled: an engine that has built the image itself knows it by
    a digest of its own.
    """
    client = machine.engine.client
    with contextlib.suppress(OSError):  # the engine says what is wrong with it
        image = with_digest(image, digest_in_registry(machine, image))
    repository, tag = split_image(image)
    tag = _registered(machine, repository, tag) or tag
    by_digest = tag.startswith("sha256:")
    name = f"{repository}@{tag}" if by_digest else image  # an engine need not know REPOSITORY:TAG@DIGEST
    if image.startswith(f"{machine.registry}/") or not _known(client, name):
        error = ""
        try:
            for line in client.api.pull(repository, tag=tag, stream=True, decode=True):
                error = line.get("error") or error
        except DockerException as failed:
            error = getattr(failed, "explanation", None) or str(failed)
        if error:
            raise CannotPull(why_not_pulled(image, error.strip()))
    try:
        attributes = client.api.inspect_image(name)
    except DockerException as failed:
        raise CannotPull(why_not_pulled(image, "not found")) from failed
    if attributes.get("Architecture") not in (None, "", _ARCHITECTURE):
        raise CannotPull(why_not_pulled(image, "no matching manifest"))
    digests = [d.partition("@")[2] for d in attributes.get("RepoDigests") or [] if d.startswith(repository)]
    return attributes["Id"], tag if by_digest else (digests[0] if digests else "")


def _registered(machine: Machine, repository: str, tag: str) -> str | None:
    """Return the digest that our registry has for a tag, None if it has none or is not asked.

    The engine would answer with any digest that it knows of the image's content: one that was built here has another
    than what was pushed.
    """
    if not repository.startswith(f"{machine.registry}/") or tag.startswith("sha256:"):
        return None
    url = f"http://{machine.registry}/v2/{repository.removeprefix(f'{machine.registry}/')}/manifests/{tag}"
    kinds = ("oci.image.index.v1", "oci.image.manifest.v1")
    docker = ("docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2")
    accept = ", ".join(f"application/vnd.{kind}+json" for kind in (*kinds, *docker))
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": accept})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return str(answer.headers["Docker-Content-Digest"])
    return None


def digest_in_registry(machine: Machine, image: str) -> str:
    """Return what a tag, or a digest, stands for in our registry; "" for an image of another. Raises OSError."""
    repository, reference = split_image(image)
    registry, _, name = repository.partition("/")
    if registry != machine.registry:
        return ""
    url = f"http://{registry}/v2/{name}/manifests/{reference}"
    request = urllib.request.Request(url, headers={"Accept": _MANIFESTS}, method="HEAD")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(answer.headers.get("Docker-Content-Digest") or "")


def why_not_pulled(image: str, said: str) -> str:
    """Return what ECS makes of an engine's error: .../developerguide/task_cannot_pull_image.html"""
    failed = "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
    registry = split_image(image)[0].partition("/")[0]
    reference = (
        image if "." in registry or ":" in registry else f"docker.io/{'' if '/' in image else 'library/'}{image}"
    )
    if re.search("no matching manifest|no image found in|no child with platform", said, re.IGNORECASE):
        return f"{failed}image Manifest does not contain descriptor matching platform 'linux/{_ARCHITECTURE}'"
    failed += f"failed to resolve ref {reference}: "
    if re.search("denied|unauthorized|authentication required", said, re.IGNORECASE):
        return (
            f"{failed}pull access denied, repository does not exist or may require authorization: server message: "
            "insufficient_scope: authorization failed"
        )
    if re.search("not found|unknown", said, re.IGNORECASE):
        return f"{failed}{reference}: not found"
    return f"{failed}failed to do request: {said[:300]}"


def _known(client: Any, image: str) -> bool:
    try:
        client.api.inspect_image(image)
    except DockerException:
        return False
    return True


def split_image(image: str) -> tuple[str, str]:
    """Return repository, and tag or digest; of both the digest counts."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return split_image(repository)[0], digest
    head, _, tail = image.rpartition(":")
    return (head, tail) if head and "/" not in tail else (image, "latest")


class EngineContainer:
    """A container of the engine."""

    def __init__(self, machine: Machine, plan: Plan) -> None:
        self._machine, self._plan = machine, plan
        self._container: Any = None
        self._reader: threading.Thread | None = None
        self._address = ""
        self._memory_kills: Path | None = None
        self.out_of_memory = False  # known once it has ended

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
        more |= self._memory()
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
                init=bool((definition.get("linuxParameters") or {}).get("initProcessEnabled")),
                ulimits=self._ulimits(),
                **more,
            )
            # Attached before it starts, so that not one line of a short life is missed.
            output = engine.client.api.attach_socket(self.id, {"stdout": 1, "stderr": 1, "stream": 1})
            try:
                if not network_of:
                    self._address = self._current_address()  # Podman's is there by now; a short life ends with it
                self._container.start()
            except APIError:
                output._response.close()
                raise
            engine.hold_bridge_address()
        except APIError as error:
            self.remove()
            raise CannotStart(why_not_started(str(error.explanation or error))) from error
        if "mem_limit" in more:
            self._memory_kills = _memory_kills(engine.client.api.inspect_container(self.id)["State"]["Pid"])
        self._reader = threading.Thread(target=self._read, args=(output,), name=f"{plan.name} logs", daemon=True)
        self._reader.start()

    def _memory(self) -> dict[str, Any]:
        """Return the limit of memory, without swap, as far as the engine can keep one here."""
        memory = self._plan.definition.get("memory") or self._plan.memory
        limits, without_swap = _limits_memory(self._machine.engine.client) if memory else (False, False)
        if not limits:
            return {}
        return {"mem_limit": f"{memory}m"} | ({"memswap_limit": f"{memory}m"} if without_swap else {})

    def _ulimits(self) -> list[Ulimit] | None:
        """Return the limits that the definition gives; Podman may give none that this process does not have."""
        given = {u["name"]: (u["softLimit"], u["hardLimit"]) for u in self._plan.definition.get("ulimits") or []}
        if given and self._podman:
            for name, pair in given.items():
                kind = getattr(resource, f"RLIMIT_{name.upper()}", None)
                most = resource.RLIM_INFINITY if kind is None else resource.getrlimit(kind)[1]
                given[name] = pair if most == resource.RLIM_INFINITY else (min(pair[0], most), min(pair[1], most))
            given = _PODMAN_LIMITS | given
        return [Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in given.items()] or None

    def _read(self, output: Any) -> None:
        _read_all(output, self._plan.logs.write)
        self._plan.logs.close()

    def wait(self) -> int:
        """Return the exit code as soon as the container has ended; 137 if it was removed meanwhile."""
        if self._reader:
            self._reader.join()  # its end is noticed at once; the engine's own wait is slower
        if self._memory_kills:
            with contextlib.suppress(OSError):  # the engine removes the group, but not so soon
                self.out_of_memory = re.search("oom_kill [1-9]", self._memory_kills.read_text()) is not None
        pause = 0.01
        while True:
            try:
                state = self._machine.engine.client.api.inspect_container(self.id)["State"]
            except (DockerException, OSError, ValueError):
                return 137
            if not state["Running"] and state["Status"] not in ("stopping", "initialized"):
                self.out_of_memory = self.out_of_memory or bool(state.get("OOMKilled"))
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
        self._address = self._address or self._current_address()
        return self._address

    def _current_address(self) -> str:
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


@lru_cache(maxsize=1)
def _limits_memory(client: Any) -> tuple[bool, bool]:
    """Tell whether the engine can limit memory on this machine, and swap too: not where it may not use cgroups."""
    said = client.info()
    return bool(said.get("MemoryLimit")), bool(said.get("SwapLimit"))


def _memory_kills(pid: int) -> Path | None:
    """Return where the kernel counts the processes that it killed for a container's memory.

    Docker tells by itself. Podman 4.3 does not with cgroups of version 1, where its monitor misses the kernel's word.
    """
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        groups = {controllers: path for _, controllers, path in lines}
        if "memory" in groups:
            return Path(f"/sys/fs/cgroup/memory{groups['memory']}/memory.oom_control")
        return Path(f"/sys/fs/cgroup{groups['']}/memory.events") if "" in groups else None
    return None


def why_not_started(said: str) -> str:
    """Return what Fargate makes of an engine's error: .../userguide/stopped-task-error-codes.html"""
    runtime = re.search(r"unable to start container process: .*?(?=: unknown|: OCI|$)", said)
    why = (
        f"failed to create shim task: OCI runtime create failed: runc create failed: {runtime[0]}" if runtime else said
    )
    return (
        "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
        f"{why}: unknown"
    )


def _read_all(output: Any, take: Callable[[bytes, int], None] = lambda chunk, descriptor: None) -> None:
    """Hand over what a container, or a command in it, writes, until its end."""
    with contextlib.suppress(DockerException, OSError, ValueError):
        for descriptor, chunk in frames_iter(output, tty=False):
            take(chunk, descriptor)
    with contextlib.suppress(OSError, ValueError):
        output._response.close()  # by itself it would be closed in the wrong order, and complain


def namespace(machine: Machine, labels: dict[str, str], publish: list[int]) -> EngineContainer:
    """Start a container that only holds the network namespace that a task's containers share. Raises CannotPull."""
    image, _ = pull(machine, "public.ecr.aws/docker/library/busybox:stable")
    definition = {"entryPoint": ["sleep"], "command": ["2147483647"]}
    plan = Plan(
        "~internal~ecs~pause", definition, {}, LogStream("", "", {}, "", ""), {}, labels, image, publish=publish
    )
    container = EngineContainer(machine, plan)
    container.start(None)
    return container


def with_digest(image: str, digest: str | None) -> str:
    """Return the image with a digest that was found for its tag: REPOSITORY:TAG@DIGEST, as ECS words it."""
    return f"{image}@{digest}" if digest and "@" not in image else image
