"""A Docker-compatible container engine: Docker where it runs, else Podman's service."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import docker


@dataclass
class Engine:
    """A running engine, with a bridge network of our own."""

    client: docker.DockerClient
    network: str
    host_from_container: str  # the host's address, as containers reach it
    label: str  # every container of this instance carries it
    service: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Remove our containers and our network, and end the service if we started it."""
        for container in self.client.containers.list(all=True, filters={"label": self.label}):
            container.remove(force=True, v=True)
        self.client.networks.get(self.network).remove()
        self.client.close()
        if self.service:
            self.service.terminate()
            self.service.wait(10)


CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=2048:2048"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
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


def start_engine(state_dir: Path, cache_dir: Path, registry: str, name: str) -> Engine:
    """Start Podman's service on a socket of our own, with a network called `name`."""
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "containers.conf").write_text(CONTAINERS_CONF)
    (state_dir / "registries.conf").write_text(REGISTRIES_CONF.format(registry=registry))
    env = os.environ | {
        "CONTAINERS_CONF": str(state_dir / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(state_dir / "registries.conf"),
    }
    socket = state_dir / "podman.sock"
    folders = ["--root", str(cache_dir / "containers"), "--runroot", str(state_dir / "runroot")]
    folders += ["--network-config-dir", str(state_dir / "networks")]
    service = subprocess.Popen(
        ["podman", *folders, "system", "service", "--time=0", f"unix://{socket}"],
        env=env, stdout=subprocess.DEVNULL, stderr=(state_dir / "podman.log").open("wb"),
    )  # fmt: skip
    deadline = time.monotonic() + 15
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    client = docker.DockerClient(base_url=f"unix://{socket}")
    network = client.networks.create(name, driver="bridge", labels={"deploy-runner.local": name})
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    return Engine(client, name, gateway, f"deploy-runner.local={name}", service)
