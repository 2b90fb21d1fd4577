"""The image registry behind ECR: the distribution project's own, on a port of loopback that only ecr.py talks to."""

import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.engine import LABEL, end, spawn
from deploy_runner.local_aws.machine import Machine

CONFIG = """\
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {folder}
  delete:
    enabled: true
http:
  addr: 127.0.0.1:{port}
  relativeurls: true
"""


class NoRegistry(DeployRunnerError):
    """The image registry does not start."""


def install(machine: Machine) -> None:
    """Start the registry, with the base images in it where public.ecr.aws is mirrored."""
    folder = machine.state_dir / "registry"
    if machine.base_images:
        # Hard links: the registry never changes a blob in place.
        shutil.copytree(machine.base_images, folder, copy_function=os.link)
        machine.registry_backend_port = free_port()
        stop = start_registry(folder, machine.registry_backend_port, machine.state_dir)
    else:
        name = f"{machine.engine.network}-registry"
        container = machine.engine.client.containers.run(
            "public.ecr.aws/docker/library/registry:2", name=name, detach=True,
            ports={"5000/tcp": ("127.0.0.1", None)}, environment={"REGISTRY_HTTP_RELATIVEURLS": "true"},
            labels=dict([machine.engine.label.split("=", 1)]) | {LABEL + ".part": "registry"},
        )  # fmt: skip
        container.reload()
        machine.registry_backend_port = int(container.ports["5000/tcp"][0]["HostPort"])
        _wait_for(machine.registry_backend_port)
        stop = lambda: container.remove(force=True, v=True)  # noqa: E731
    machine.on_stop("registry", stop)


def start_registry(folder: Path, port: int, state_dir: Path) -> Callable[[], None]:
    """Serve the images in `folder` on a port of loopback; returns the function that ends it."""
    config = state_dir / "registry.yml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(CONFIG.format(folder=folder, port=port))
    process = spawn(["docker-registry", "serve", str(config)], log=state_dir / "registry.log")
    try:
        _wait_for(port)
    except BaseException:
        end(process)
        raise
    return lambda: end(process)


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                remedy = "On Debian: apt-get install docker-registry; else look at registry.log"
                raise NoRegistry("The image registry must answer", str(error), remedy) from error
            time.sleep(0.03)
