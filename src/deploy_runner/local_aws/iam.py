"""AWS's own managed policies, such as AWSLambdaBasicExecutionRole, which moto has but does not load by itself."""

from moto.core.config import default_user_config

from deploy_runner.local_aws.machine import Machine


def install(machine: Machine) -> None:
    """Have them there, so that roles can name them as on AWS."""
    default_user_config["iam"] = {"load_aws_managed_policies": True}
