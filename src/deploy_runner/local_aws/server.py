"""Starts local AWS: moto's server with our extensions installed, one module a service; and ends it, leaving nothing."""

import contextlib
import fcntl
import functools
import importlib
import json
import logging
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import botocore.session
from docker.errors import DockerException
from moto import backends
from moto.core.config import default_user_config
from moto.server import DomainDispatcherApplication, create_backend_app
from requests.exceptions import RequestException

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.base_images import base_images_dir
from deploy_runner.local_aws.engine import NoContainerEngine, start_engine
from deploy_runner.local_aws.fault_gates import ApiGate
from deploy_runner.local_aws.faults import FaultInvalid, parse
from deploy_runner.local_aws.leftovers import end_functions_below, remove_empty_namespaces
from deploy_runner.local_aws.machine import Machine

# In this order; each module has `install(machine: Machine) -> None`.
EXTENSIONS = [
    "registry", "ecr", "conditional_writes", "dynamodb", "iam", "s3", "events", "awslambda", "stepfunctions", "elbv2",
    "ecs", "scheduler", "cloudformation", "github",
]  # fmt: skip


RUNNING = "running"  # a file in the folder of an instance that has not ended in order


class PortTaken(DeployRunnerError):
    """Something listens where we would."""


class _Once(list[str]):
    """Paths, to which each of boto3's sessions appends the same one."""

    def append(self, path: str) -> None:
        if path not in self:
            super().append(path)


def read_files_once() -> None:
    """Keep moto from listing its folder for every request, and each of botocore's sessions from reading its models.

    The one is a tenth of what a short request takes, the other most of what a client takes to make.
    """
    modules = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: modules
    plain = botocore.session.create_loader
    if not hasattr(plain, "cache_info"):

        @functools.cache
        def create_loader(*given: Any) -> Any:
            loader = plain(*given)
            loader._search_paths = _Once(loader._search_paths)  # type: ignore[attr-defined]
            return loader

        botocore.session.create_loader = create_loader


def start(port: int, state_dir: Path, extensions: Sequence[str] = EXTENSIONS) -> Machine:
    """Start everything, and return when AWS answers on `port` of loopback.

    `state_dir` is this instance's alone: what an earlier one left there is taken down first, also if it was killed.
    Raises PortTaken, NoContainerEngine.
    """
    lock = _own(state_dir, port)
    _end_what_was_killed(state_dir.parent)
    remove_empty_namespaces()
    (state_dir / RUNNING).touch()
    logging.getLogger("samtranslator").setLevel(logging.ERROR)  # it warns of metrics that nobody asked for
    os.environ.setdefault("MOTO_S3_CUSTOM_ENDPOINTS", f"http://127.0.0.1:{port}")
    read_files_once()
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    default_user_config["lambda"] = {"use_docker": False}
    engine = start_engine(state_dir / "run", state_dir / "engine", port)
    machine = Machine(port=port, state_dir=state_dir / "run", engine=engine)
    machine.on_stop("lock", lock.close)
    machine.on_stop("marker", (state_dir / RUNNING).unlink)
    machine.on_stop("container engine", engine.stop)
    machine.exports |= {
        "AWS_ENDPOINT_URL": machine.endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": machine.region,
        "AWS_REGION": machine.region,
        "LAMBDA_ARCHITECTURE": "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.2",  # seconds; AWS would throttle this, we do not
    }
    if engine.socket:
        machine.exports["DOCKER_HOST"] = f"unix://{engine.socket}"
    try:
        machine.base_images = base_images_dir() if engine.mirrors_public_ecr else None
        for name in extensions:
            importlib.import_module(f"deploy_runner.local_aws.{name}").install(machine)
        machine.on_stop("faults", machine.faults.clear)
        # Before IAM's gate: a connection that breaks does so whoever calls.
        machine.gates.append(lambda aws: ApiGate(machine, aws))
        aws = DomainDispatcherApplication(create_backend_app)
        machine.serve(_with_our_pages(machine.gated(aws), machine), port, "AWS")
    except BaseException:
        machine.stop()
        raise
    return machine


def _own(state_dir: Path, port: int) -> Any:
    """Return the lock on `state_dir`, with an empty folder `run` in it. Raises PortTaken."""
    state_dir.mkdir(parents=True, exist_ok=True)
    lock = (state_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        remedy = "Use it as it is, end it, or start another one with --port"
        raise PortTaken("Only one local AWS can be on a port", f"{port} has one", remedy) from error
    for needed, what in ((port, "AWS"), (port + 1, "GitHub"), (port + 2, "the image registry")):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", needed))
            except OSError as error:
                lock.close()
                remedy = f"End what listens on {needed} of 127.0.0.1, or choose another port with --port"
                raise PortTaken(f"{what} needs the port {needed}", str(error.strerror), remedy) from error
    end_functions_below(state_dir)
    shutil.rmtree(state_dir / "run", ignore_errors=True)
    (state_dir / "run").mkdir()
    return lock


def _end_what_was_killed(folder: Path) -> None:
    """Take down what outlives even `kill -9` of instances that were killed, whatever their port."""
    for marker in folder.glob(f"local-*/{RUNNING}"):
        with (marker.parent / "lock").open("w") as lock, contextlib.suppress(OSError, ValueError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end_functions_below(marker.parent)
            run = marker.parent / "run"
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
            try:
                start_engine(run, marker.parent / "engine", int(marker.parent.name.removeprefix("local-"))).stop()
            except (DockerException, RequestException, NoContainerEngine):  # it does not keep this one from starting
                logging.getLogger(__name__).exception("could not take down what was killed: %s", marker.parent.name)
            else:
                marker.unlink()


def _with_our_pages(aws: Callable[..., Iterable[bytes]], machine: Machine) -> Callable[..., Iterable[bytes]]:
    """Answer under `/_local/` what `deploy-runner local` asks; all else is AWS.

    For containers there is no more than `health`: they have no right to faults, keys and reports.
    """

    def services(_: Any) -> Any:
        return [
            {"account": account, "cluster": cluster, "service": service, "url": url}
            for (account, cluster, service), url in sorted(machine.service_urls.items())
        ]

    def add_faults(given: Any) -> Any:
        machine.faults.add(*[parse(each) for each in (given if isinstance(given, list) else [given])])
        return machine.faults.list()

    def clear_faults(_: Any) -> Any:
        machine.faults.clear()
        return machine.faults.list()

    pages: dict[tuple[str, str], Callable[[Any], Any]] = {
        ("GET", "health"): lambda _: {"status": "ok"},
        ("GET", "env"): lambda _: machine.exports,
        ("GET", "services"): services,
        ("GET", "faults"): lambda _: machine.faults.list(),
        ("POST", "faults"): add_faults,
        ("DELETE", "faults"): clear_faults,
    }

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if not path.startswith("/_local/"):
            return aws(environ, start_response)
        method, name = environ["REQUEST_METHOD"], path.removeprefix("/_local/")
        page = pages.get((method, name))
        if method == "GET" and name in machine.pages:
            page = lambda _: machine.pages[name]()  # noqa: E731 - as those above
        if machine.from_container(environ) and name != "health":
            page = None
        status, said = "200 OK", None
        if page is None:
            status, said = "404 Not Found", {"message": "There is no such page"}
        else:
            try:
                body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                said = page(json.loads(body) if body else None)
            except (FaultInvalid, ValueError) as error:
                status, said = "400 Bad Request", {"message": str(error)}
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(said).encode()]

    return answer
