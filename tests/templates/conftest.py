"""The stack with its least parameters, made once."""

import pytest

from .stacks import REQUIRED, Stack, packaged


@pytest.fixture(scope="package")
def main() -> Stack:
    return Stack(packaged(), REQUIRED)


@pytest.fixture(scope="package")
def everything() -> Stack:
    """With all that is optional."""
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/deploy-runner/{}@sha256:" + "a" * 64
    more = {
        "NetworkMode": "private-nat",
        "TerraformRunnerImage": image.format("terraform-runner"),
        "AppDeployerImage": image.format("app-deployer"),
        "CloneImage": image.format("clone"),
    }
    return Stack(packaged(), REQUIRED | more)
