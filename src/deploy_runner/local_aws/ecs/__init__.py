"""ECS that runs: tasks are containers of the engine, services are scheduled, rollouts end as ECS's do."""

import contextlib

from moto.ecs import urls
from moto.ecs.models import ecs_backends

from deploy_runner.local_aws.ecs import cloudformation, metadata
from deploy_runner.local_aws.ecs.api import Responses
from deploy_runner.local_aws.ecs.backend import Backend
from deploy_runner.local_aws.ecs.balancer import check_installed
from deploy_runner.local_aws.machine import Machine


def install(machine: Machine) -> None:
    """Put our backend in moto's place. Raises NoBalancer."""
    check_installed()
    Backend.machine = machine
    ecs_backends.clear()
    ecs_backends.backend = Backend
    urls.url_paths["{0}/$"] = Responses.dispatch
    cloudformation.patch()
    machine.gates.append(metadata.gate(machine))

    def close() -> None:
        for regions in list(ecs_backends.values()):
            for backend in list(regions.values()):
                with contextlib.suppress(Exception):
                    backend.close()
        ecs_backends.clear()

    machine.on_stop("ECS", close)
