"""A Docker-compatible container engine: Docker where it runs, else Podman's service, started for us alone."""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, NotFound
from requests.exceptions import RequestException

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.leftovers import (
    end_containers_below,
    remove_bridge,
    remove_namespaces,
    remove_rules,
    unmount_below,
)

LABEL = "deploy-runner.local"


class NoContainerEngine(DeployRunnerError):
    """There is nothing here that runs containers."""


@dataclass
class Engine:
    """A running engine, with a bridge network of our own."""

    client: docker.DockerClient
    network: str
    host_from_container: str  # the host's address, as containers reach it
    gateway: str | None  # the address on the bridge where we listen for containers; None: loopback is enough
    label: str  # `key=value`; every container of this instance carries it
    addresses_reachable: bool  # whether the host reaches containers by their addresses
    mirrors_public_ecr: bool  # whether images of public.ecr.aws come from our registry
    version: str
    socket: Path | None = None  # of the service that we started
    bridge: str | None = None  # the network interface of our own Podman's network
    folder: Path | None = None  # of that service: images and what it has mounted
    _service: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def clean(self, seconds: float = 15) -> None:
        """Remove this instance's containers and its network, as far as there are any.

        What cannot be removed yet, as a container that is just being stopped, or whose network others still share, is
        tried again for `seconds`. Raises docker's own error if something is left after that.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = self.client.containers.list(all=True, filters={"label": self.label}, ignore_removed=True)
                refused = [error for container in found if (error := _refusal(container))]
                if refused:
                    raise refused[0]
                for network in self.client.networks.list(names=[self.network]):
                    network.remove()
                if self.bridge:
                    remove_bridge(self.bridge)
                return
            except DockerException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def hold_bridge_address(self) -> None:
        """Let the bridge of our own Podman keep its hardware address; to be called once a container has started.

        By itself Linux gives a bridge the lowest address of its ports, so it changes as containers come and go, and
        what a container answers goes to the address that is gone until its ARP entry ends, for ten seconds and more
        (br_stp_recalculate_bridge_id in net/bridge/br_stp_if.c: not if an address was set). Docker sets one itself.
        """
        if not self.bridge:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            now = fcntl.ioctl(control, 0x8927, struct.pack("40s", self.bridge.encode()))  # SIOCGIFHWADDR
            fcntl.ioctl(control, 0x8924, now)  # SIOCSIFHWADDR

    def stop(self) -> None:
        """Remove our containers and our network, and end the service if we started it.

        Podman 4.3 can lock itself out for ever (containers/podman, issues 14929 and 15492), so it is asked, and what it
        does not do is done without it.
        """
        if not (self._service and self.folder and self.bridge):
            self.clean()
            self.client.close()
            return
        self.client.api.timeout = 10  # seconds, of each request
        try:
            self.clean()
            self.client.close()
        except (DockerException, RequestException) as error:
            problem = " ".join(str(error).split())[:300]
            logging.getLogger(__name__).warning("Podman does not help, so its containers end without it: %s", problem)
        finally:
            end(self._service, 5)
            end_containers_below(self.folder)
            unmount_below(self.folder)
            _link(self.folder).unlink(missing_ok=True)
            remove_namespaces(f"{self.gateway}/24")
            remove_rules(f"{self.gateway}/24")
            remove_bridge(self.bridge)


def _refusal(container: Any) -> DockerException | None:
    """Remove a container; return why that cannot be done now."""
    try:
        container.remove(force=True, v=True)
    except NotFound:
        return None
    except DockerException as error:
        return error
    return None


def end(process: "subprocess.Popen[bytes]", seconds: float = 10) -> None:
    """End a process that we started: ask first, then insist."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def spawn(
    command: list[str],
    *,
    log: Path,
    env: dict[str, str] | None = None,
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process that does not outlive us, even if we are killed.

    To be called from a thread that lives as long as the process is needed, as the main thread does: Linux sends the
    signal when the thread that started the process ends.
    """
    # Looked up before the fork: another thread might hold the loader's lock in that moment.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if prctl:
            prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, prctl(2)

    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent, start_new_session=True, pass_fds=pass_fds,
        )  # fmt: skip


# No kernel setting is touched that an unprivileged container host may not touch; limits are the host's own. What is
# removed is killed at once, where newer Podman would ask it first, and wait.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=2048:2048"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
stop_timeout = 0
"""

REGISTRIES_CONF = """\
[[registry]]
location = "{registry}"
insecure = true
[[registry]]
location = "public.ecr.aws"
[[registry.mirror]]
location = "{registry}/public.ecr.aws"
insecure = true
"""


def start_engine(state_dir: Path, images_dir: Path, port: int) -> Engine:
    """Find Docker, or start Podman's service, and make the instance's network.

    `state_dir` is emptied at each start, `images_dir` keeps images and the build cache between starts. Raises
    NoContainerEngine.
    """
    name = f"deploy-runner-{port}"
    found = _docker()
    if found is None and shutil.which("podman"):
        return _podman(state_dir, images_dir, port, name)
    if found is None:
        remedy = (
            "Start Docker Desktop" if sys.platform == "darwin"
            else "Start Docker, or as root: apt-get install podman runc netavark"
        )  # fmt: skip
        raise NoContainerEngine("Containers need Docker or Podman", "neither answers here", remedy)
    client, version = found
    desktop = sys.platform != "linux" or "Docker Desktop" in client.info().get("OperatingSystem", "")
    engine = Engine(
        client, name, "host.docker.internal", None, f"{LABEL}={name}", not desktop, False, f"Docker {version}"
    )
    engine.clean()
    network = client.networks.create(name, driver="bridge", labels={LABEL: name})
    if not desktop:
        network.reload()
        engine.gateway = engine.host_from_container = network.attrs["IPAM"]["Config"][0]["Gateway"]
    return engine


def _docker() -> tuple[docker.DockerClient, str] | None:
    """Return a client of the engine that the `docker` command of this user talks to, or None."""
    environment = dict(os.environ)
    if "DOCKER_HOST" not in environment:
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):  # Docker Desktop's own socket
            said = subprocess.run(["docker", "context", "inspect"], capture_output=True, timeout=10, check=True).stdout
            environment["DOCKER_HOST"] = json.loads(said)[0]["Endpoints"]["docker"]["Host"]
    try:
        client = docker.from_env(environment=environment, timeout=60)
        version: dict[str, Any] = client.version()
    except DockerException:
        return None
    return client, str(version["Version"])


def _podman(state_dir: Path, images_dir: Path, port: int, name: str) -> Engine:
    try:
        return _start_podman(state_dir, images_dir, port, name)
    except (DockerException, RequestException, NoContainerEngine):
        # Its records are broken, as they can be after a kill at a bad moment: without them, and without its images.
        end_containers_below(images_dir)
        unmount_below(images_dir)
        shutil.rmtree(images_dir)
        (state_dir / "podman.sock").unlink(missing_ok=True)
        return _start_podman(state_dir, images_dir, port, name)


def _start_podman(state_dir: Path, images_dir: Path, port: int, name: str) -> Engine:
    (state_dir / "containers.conf").write_text(CONTAINERS_CONF)
    (state_dir / "registries.conf").write_text(REGISTRIES_CONF.format(registry=f"127.0.0.1:{port + 2}"))
    env = os.environ | {
        "CONTAINERS_CONF": str(state_dir / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(state_dir / "registries.conf"),
    }
    podman_socket = state_dir / "podman.sock"
    folders = ["--root", str(images_dir / "root"), "--runroot", str(_runroot(images_dir))]
    folders += ["--tmpdir", str(images_dir / "tmp"), "--network-config-dir", str(images_dir / "networks")]
    images_dir.mkdir(parents=True, exist_ok=True)
    command = ["podman", *folders, "system", "service", "--time=0", f"unix://{podman_socket}"]
    log = state_dir / "podman.log"
    # In its own folder, for its monitors leave a file `oom` where they were started, when a container's memory is not
    # enough: write_oom_files in src/oom.c of containers/conmon.
    service = spawn(command, log=log, env=env, folder=state_dir)
    try:
        client = _connect(podman_socket, service, log)
        version = client.version()["Version"]
        # Instances run side by side, so each has a subnet and a bridge by its port: Podman knows only its own folder's
        # networks, and would give every one the same bridge.
        subnet = subnet_of(port)
        engine = Engine(
            client=client,
            network=name,
            host_from_container=f"{subnet}.1",
            gateway=f"{subnet}.1",
            label=f"{LABEL}={name}",
            addresses_reachable=True,
            mirrors_public_ecr=True,
            version=f"Podman {version}",
            socket=podman_socket,
            bridge=f"deploy-{port}",
            folder=images_dir,
            _service=service,
        )
        # What a killed instance left, also of containers that Podman has forgotten.
        engine.clean(5)
        end_containers_below(images_dir)
        # By Podman's own API, since Docker's cannot do without names: their server, one for all instances, would stay.
        network: dict[str, Any] = {
            "name": name,
            "driver": "bridge",
            "network_interface": engine.bridge,
            "labels": {LABEL: name},
        }
        network |= {"dns_enabled": False, "subnets": [{"subnet": f"{subnet}.0/24", "gateway": f"{subnet}.1"}]}
        url = f"{client.api.base_url}/v4.0.0/libpod/networks/create"
        client.api._raise_for_status(client.api.post(url, json=network))
    except BaseException:
        end(service)
        raise
    return engine


def subnet_of(port: int) -> str:
    """Return the first three parts of the addresses of an instance's containers."""
    return f"10.{64 + (port >> 8) % 128}.{port & 255}"


def _runroot(images_dir: Path) -> Path:
    """Return the folder for what must be known to clean up after a crash: beside the images, not in state_dir.

    Podman refuses one of more than 50 characters (libpod/options.go, WithStorageConfig), and a home folder may take
    most of these; then it is a link. The same at each start, since Podman's records name it.
    """
    folder = images_dir / "run"
    if len(str(folder)) <= 50:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    link = _link(images_dir)
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
    return link


def _link(images_dir: Path) -> Path:
    return Path("/run") / f"deploy-runner-{hashlib.sha256(bytes(images_dir)).hexdigest()[:12]}"


def _connect(address: Path, service: "subprocess.Popen[bytes]", log: Path) -> docker.DockerClient:
    """Return a client as soon as the service answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return docker.DockerClient(base_url=f"unix://{address}", timeout=120)
        except (DockerException, OSError) as error:
            if service.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()
                remedy = "Run `podman info` to see more; on Debian: apt-get install podman runc netavark"
                value = said[-1] if said else "no answer"
                raise NoContainerEngine("Podman's service must start", value, remedy) from error
            time.sleep(0.03)


def docker_answers() -> bool:
    """Tell whether Docker runs here, so that images come from public registries."""
    return _docker() is not None
