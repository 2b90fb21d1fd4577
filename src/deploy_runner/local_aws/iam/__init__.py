"""IAM whose policies hold: who acts as a role may do what AWS would let it do. A person here is an administrator."""

from moto.core.config import default_user_config
from moto.iam import models

from deploy_runner.local_aws.iam.accounts import add_member
from deploy_runner.local_aws.iam.enforce import Gate
from deploy_runner.local_aws.iam.record import RECORD
from deploy_runner.local_aws.iam.report import report
from deploy_runner.local_aws.machine import Machine


def install(machine: Machine) -> None:
    """Put the gate before AWS, and have AWS's own managed policies there, so that roles can name them as on AWS.

    moto has those, such as AWSLambdaBasicExecutionRole, but does not load them by itself.
    """
    default_user_config["iam"] = {"load_aws_managed_policies": True}
    # moto looks for a request's key in every partition of AWS, each with all those policies: a second at the start.
    models.PARTITION_NAMES = ["aws"]
    RECORD.clear()
    for account in machine.members:
        add_member(account)
    machine.enforces_iam = True
    machine.gates.append(lambda aws: Gate(aws, machine))
    machine.pages["iam"] = lambda: report(machine)
