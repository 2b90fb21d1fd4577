"""CloudFormation: SAM's transform, change sets, nested stacks, rollback, and the resource types that moto lacks."""

from collections.abc import Iterator
from typing import Any

from deploy_runner.local_aws.cloudformation import api, load_balancers, network, resources, schedules
from deploy_runner.local_aws.cloudformation.kinds import kind_of
from deploy_runner.local_aws.cloudformation.stacks import Engine
from deploy_runner.local_aws.machine import Machine


def install(machine: Machine) -> None:
    """Answer CloudFormation's API with our own engine."""
    assert load_balancers  # these modules' types register themselves
    assert network
    assert resources
    assert schedules
    engines = {account: Engine(machine.in_account(account), kind_of) for account in machine.accounts}
    api.install(engines)

    def live_resources() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        for engine in engines.values():
            yield from engine.live_resources()

    machine.stack_resources = live_resources

    def stop() -> None:
        for engine in engines.values():
            engine.stopping = True

    machine.on_stop("CloudFormation", stop)
