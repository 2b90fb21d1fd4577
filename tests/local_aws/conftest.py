"""What several modules of tests use of local AWS."""

from collections.abc import Iterator

import pytest
from moto.moto_api._internal import moto_api_backend

from deploy_runner.local_aws import server
from deploy_runner.local_aws.faults import profile
from tests.local_aws.ecs_running import Ecs


@pytest.fixture(scope="module")
def ecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ecs]:
    moto_api_backend.reset()  # what another module's tests left: moto keeps its state in this process
    extensions = ["registry", "ecr", "events", "elbv2", "ecs", "scheduler", "cloudformation"]
    machine = server.start(4711, tmp_path_factory.mktemp("ecs"), extensions)
    machine.faults.add(*profile("at-least-once"))
    try:
        yield Ecs(machine)
    finally:
        machine.stop()
