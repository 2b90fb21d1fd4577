"""An ECS that runs containers, as the tests use it: what they ask of it, and containers for it to run."""

import urllib.request
from typing import Any

import boto3

from deploy_runner.local_aws.machine import ACCOUNT_ID, Machine
from tests.waiting import until

BUSYBOX = "public.ecr.aws/docker/library/busybox:stable"
ROLE = "arn:aws:iam::123456789012:role/execution"
OVER = ("SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")
LOGS = {
    "logDriver": "awslogs",
    "options": {"awslogs-group": "/tests", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "prefix"},
}


class Ecs:
    """What the tests do with ECS."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.api = self.client("ecs")
        self.logs = self.client("logs")
        self.logs.create_log_group(logGroupName="/tests")
        self.api.create_cluster(clusterName="tests")
        self.subnet = self.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        self.network = {"awsvpcConfiguration": {"subnets": [self.subnet], "assignPublicIp": "ENABLED"}}

    def client(self, service: str) -> Any:
        session: Any = boto3.session.Session("local", "local", region_name="us-east-1")
        return session.client(service, endpoint_url=self.machine.endpoint)

    def register(self, family: str, *containers: dict[str, Any], **more: Any) -> str:
        registered = self.api.register_task_definition(
            family=family, requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
            executionRoleArn=ROLE, containerDefinitions=list(containers), **more,
        )  # fmt: skip
        return str(registered["taskDefinition"]["taskDefinitionArn"])

    def start(self, definition: str, **more: Any) -> str:
        answer = self.api.run_task(
            cluster="tests", taskDefinition=definition, launchType="FARGATE", networkConfiguration=self.network, **more
        )
        return str(answer["tasks"][0]["taskArn"])

    def task(self, arn: str) -> dict[str, Any]:
        return self.api.describe_tasks(cluster="tests", tasks=[arn], include=["TAGS"])["tasks"][0]

    def ended(self, arn: str) -> dict[str, Any]:
        return until(lambda: self.task(arn), lambda task: task["lastStatus"] == "STOPPED")

    def run(self, definition: str, **more: Any) -> dict[str, Any]:
        return self.ended(self.start(definition, **more))

    def lines(self, task: dict[str, Any], container: str) -> list[str]:
        stream = f"prefix/{container}/{task['taskArn'].rpartition('/')[2]}"
        events = self.logs.get_log_events(logGroupName="/tests", logStreamName=stream, startFromHead=True)["events"]
        return [event["message"] for event in events]

    def serve(
        self, name: str, definition: str, count: int = 1, *, breaker: bool = True, rollback: bool = True, **more: Any
    ) -> None:
        request: dict[str, Any] = {
            "cluster": "tests", "serviceName": name, "taskDefinition": definition, "desiredCount": count,
            "launchType": "FARGATE", "networkConfiguration": self.network,
            "deploymentConfiguration": {"deploymentCircuitBreaker": {"enable": breaker, "rollback": rollback}},
        }  # fmt: skip
        self.api.create_service(**request | more)

    def service(self, name: str) -> dict[str, Any]:
        return self.api.describe_services(cluster="tests", services=[name])["services"][0]

    def rollouts(self, name: str) -> list[dict[str, Any]]:
        return self.api.list_service_deployments(cluster="tests", service=name)["serviceDeployments"]

    def rolled_out(self, name: str) -> dict[str, Any]:
        return until(lambda: self.rollouts(name)[0], lambda rollout: rollout["status"] in OVER)

    def page(self, name: str) -> str:
        with urllib.request.urlopen(self.machine.service_urls[ACCOUNT_ID, "tests", name], timeout=10) as answer:
            return answer.read().decode().strip()


def container(name: str, script: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], "logConfiguration": LOGS, **more}


def web(page: str, before: str = "") -> dict[str, Any]:
    script = f"{before} mkdir /www; echo {page} > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
    return container("web", script, portMappings=[{"containerPort": 8080}])
