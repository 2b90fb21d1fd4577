"""Step Functions: moto's, with what it lacks. `interpreter` is the language, `tasks` what calls services."""

from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.stepfunctions import api, interpreter, permissions, tasks


def install(machine: Machine) -> None:
    """Make moto's Step Functions of this process answer as AWS does."""
    interpreter.install()
    tasks.install(machine)
    permissions.install()
    api.install()
