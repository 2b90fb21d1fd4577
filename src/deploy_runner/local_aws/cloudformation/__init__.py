"""CloudFormation: SAM's transform, change sets, nested stacks, rollback, and the resource types that moto lacks."""

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
    engine = Engine(machine, kind_of)
    api.install(engine)
    machine.stack_resources = engine.live_resources

    def stop() -> None:
        engine.stopping = True

    machine.on_stop("CloudFormation", stop)
