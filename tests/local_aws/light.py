"""Local AWS without containers, for tests that need none: up in a moment, and only with the named extensions."""

import importlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
from moto.core.config import default_user_config
from moto.moto_api._internal import moto_api_backend
from moto.server import DomainDispatcherApplication, create_backend_app

from deploy_runner.local_aws.fault_gates import ApiGate
from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.server import read_files_once


def start(port: int, state_dir: Path, *extensions: str) -> Machine:
    read_files_once()
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    default_user_config["lambda"] = {"use_docker": False}
    moto_api_backend.reset()  # what another module's tests left: moto keeps its state in this process
    engine: Any = SimpleNamespace(gateway=None, host_from_container="127.0.0.1")
    machine = Machine(port=port, state_dir=state_dir, engine=engine)
    for name in extensions:
        importlib.import_module(f"deploy_runner.local_aws.{name}").install(machine)
    machine.gates.append(lambda aws: ApiGate(machine, aws))
    machine.serve(machine.gated(DomainDispatcherApplication(create_backend_app)), port, "AWS")
    return machine


@cache
def session() -> Any:
    """One for all: each has botocore read its models anew."""
    return boto3.Session("local", "local", region_name="us-east-1")


def client(machine: Machine, service: str) -> Any:
    return session().client(service, endpoint_url=machine.endpoint)  # type: ignore[call-overload]
