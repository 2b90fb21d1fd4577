"""Starts local AWS: moto's server with our extensions installed, one module a service."""

import importlib
import threading
from pathlib import Path

from moto.core.config import default_user_config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from deploy_runner.local_aws.engine import start_engine
from deploy_runner.local_aws.machine import Machine

# In this order; each module has `install(machine: Machine) -> None`.
EXTENSIONS = ["registry", "ecr", "logs", "iam", "s3", "events", "awslambda", "stepfunctions", "ecs", "cloudformation", "github"]


def start(port: int, state_dir: Path, cache_dir: Path) -> Machine:
    """Start everything, and return when AWS answers on `port` of loopback."""
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    default_user_config["lambda"] = {"use_docker": False}
    engine = start_engine(state_dir, cache_dir, f"127.0.0.1:{port + 2}", f"deploy-runner-{port}")
    machine = Machine(port=port, state_dir=state_dir, engine=engine)
    machine.on_stop("container engine", engine.stop)
    for name in EXTENSIONS:
        try:
            module = importlib.import_module(f"deploy_runner.local_aws.{name}")
        except ModuleNotFoundError:
            continue
        module.install(machine)
    server = make_server("127.0.0.1", port, DomainDispatcherApplication(create_backend_app), threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="aws", daemon=True)
    thread.start()
    machine.on_stop("AWS", server.shutdown)
    return machine
