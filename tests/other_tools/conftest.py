"""Local AWS as a user has it, a process of its own, for programs that are not ours.

They run as they are, with nothing but the environment that `deploy-runner local env` prints: what they need of AWS and
cannot tell from AWS is what these tests hold local AWS to.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_runner.cli.walkthrough import Walkthrough
from tests.held import reading, what_was_read
from tests.left_behind import left_behind
from tests.waiting import LONGEST, until

ROOT = Path(__file__).parents[2]
PORT = 4656
CLUSTER = "tools"
BUSYBOX = "public.ecr.aws/docker/library/busybox:stable"
NO_IMAGE = "public.ecr.aws/docker/library/none:1"
GOOD = "trap 'exit 0' TERM; sleep 1000 & wait"
CRASH = "exit 1"
BREAKER = {"enable": True, "rollback": False}
ROLLBACK = {"enable": True, "rollback": True}


class Aws:
    """What these tests do with AWS themselves; all else the tools do."""

    def __init__(self, walkthrough: Walkthrough) -> None:
        self.env, self.client = walkthrough.env, walkthrough.client
        self.started: list[subprocess.Popen[str]] = []
        self.ecs = self.client("ecs")
        self.ecs.create_cluster(clusterName=CLUSTER)
        ec2 = self.client("ec2")
        self.subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        self.group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        self.network = {"awsvpcConfiguration": {"subnets": [self.subnet], "securityGroups": [self.group]}}

    def register(self, family: str, script: str = GOOD, image: str = BUSYBOX) -> str:
        """Register a revision whose one container runs a script; returns `family:revision`."""
        definition = self.ecs.register_task_definition(
            family=family, requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
            containerDefinitions=[{"name": "web", "image": image, "command": ["sh", "-c", script]}],
        )["taskDefinition"]  # fmt: skip
        return f"{family}:{definition['revision']}"

    def serve(self, **services: dict[str, bool] | None) -> None:
        """Create services, each of revision 1 of the family that has its name, and wait until they are rolled out."""
        for name, breaker in services.items():
            self.ecs.create_service(
                cluster=CLUSTER, serviceName=name, taskDefinition=self.register(name), desiredCount=1,
                launchType="FARGATE", networkConfiguration=self.network,
                deploymentConfiguration={"deploymentCircuitBreaker": breaker or {"enable": False, "rollback": False}},
            )  # fmt: skip
        for name in services:
            until(lambda name=name: self.service(name), lambda s: s["deployments"][0]["rolloutState"] == "COMPLETED")

    def deploy(self, name: str, script: str) -> None:
        """Start a rollout of a new revision of a service."""
        self.ecs.update_service(cluster=CLUSTER, service=name, taskDefinition=self.register(name, script))

    def task(self, definition: str) -> str:
        """Run one task; returns its ARN."""
        answer = self.ecs.run_task(
            cluster=CLUSTER, taskDefinition=definition, launchType="FARGATE", networkConfiguration=self.network
        )
        return str(answer["tasks"][0]["taskArn"])

    def service(self, name: str) -> dict[str, Any]:
        return self.ecs.describe_services(cluster=CLUSTER, services=[name])["services"][0]

    def rollout(self, name: str) -> str:
        """The status of a service's newest rollout."""
        return self.ecs.list_service_deployments(cluster=CLUSTER, service=name)["serviceDeployments"][0]["status"]

    def revision(self, name: str) -> str:
        """`family:revision` of what a service is told to run."""
        return self.service(name)["taskDefinition"].rpartition("/")[2]

    def status(self, revision: str) -> str:
        return self.ecs.describe_task_definition(taskDefinition=revision)["taskDefinition"]["status"]

    def start(self, *command: str, cwd: Path | None = None, **env: str) -> "subprocess.Popen[str]":
        """Start a program in the shell that `deploy-runner local env` makes."""
        process = subprocess.Popen(
            command, env=self.env | env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
        """Run a program; returns its exit code, what it printed, and what it said on stderr."""
        return ended(self.start(*command, cwd=cwd, **env))


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        said, complained = process.communicate(timeout=LONGEST)
    finally:
        process.kill()
    return process.returncode, said, complained


@pytest.fixture(scope="package")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    report = tmp_path_factory.mktemp("held") / "report.json"
    with Walkthrough(ROOT, tmp_path_factory.mktemp("other_tools"), PORT) as walkthrough:
        with reading(report):
            walkthrough.start()
        aws = Aws(walkthrough)
        yield aws
        for process in aws.started:  # those that a failed test did not wait for
            process.kill()
    assert left_behind(PORT) == []
    assert what_was_read(report) == []
