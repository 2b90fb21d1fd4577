"""What is known of a service, and what DescribeServices and CloudFormation say of it."""

import threading
from collections import deque
from typing import Any

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.ecs.rollouts import Deployment, Revision, ServiceDeployment
from deploy_runner.local_aws.ecs.shapes import now

# What ECS fills in where CreateService says nothing: API_DeploymentConfiguration.
DEFAULTS = {
    "deploymentCircuitBreaker": {"enable": False, "rollback": False}, "maximumPercent": 200,
    "minimumHealthyPercent": 100, "strategy": "ROLLING", "bakeTimeInMinutes": 0,
}  # fmt: skip


class ServiceNotStable(DeployRunnerError):
    """CloudFormation gives up on a service: its rollout has failed."""


class ServiceRecord:
    """One service, as others see it. Attribute names are those that moto's own code reads."""

    def __init__(self, backend: Any, cluster: Any, settings: dict[str, Any]) -> None:
        self.settings = settings  # as CreateService took them
        self.name: str = settings["serviceName"]
        self.cluster_name, self.cluster_arn = cluster.name, cluster.arn
        self.account_id, self.region_name = backend.account_id, backend.region_name
        self.tags: list[dict[str, str]] = list(settings.get("tags") or [])
        self.status = "ACTIVE"
        self.desired_count: int = settings.get("desiredCount") or 0
        self.scheduling_strategy = settings.get("schedulingStrategy", "REPLICA")
        self.task_sets: list[Any] = []
        self.created = self.asked = now()  # asked: when CloudFormation last changed it
        self.events: deque[dict[str, Any]] = deque(maxlen=100)
        self.deployments: list[Deployment] = []  # PRIMARY first
        self.service_deployments: list[ServiceDeployment] = []  # newest first
        self.revisions: dict[str, Revision] = {}
        self._lock = threading.RLock()

    @property
    def arn(self) -> str:
        """The service's ARN."""
        where = f"{self.region_name}:{self.account_id}"
        return f"arn:aws:ecs:{where}:service/{self.cluster_name}/{self.name}"

    physical_resource_id = arn

    @property
    def launch_type(self) -> str:
        """FARGATE or EC2."""
        return str(self.settings.get("launchType") or "FARGATE")

    @property
    def task_definition(self) -> str:
        """The ARN of the task definition that is rolled out, or was."""
        return self.deployments[0].revision.task_definition if self.deployments else self.settings["taskDefinition"]

    @property
    def deployment_configuration(self) -> dict[str, Any]:
        """The settings of rollouts, with ECS's defaults."""
        return DEFAULTS | (self.settings.get("deploymentConfiguration") or {})

    @property
    def running_count(self) -> int:
        """How many tasks run."""
        return sum(d.count(True) for d in self.deployments)

    @property
    def pending_count(self) -> int:
        """How many tasks are on their way to run."""
        return sum(d.count(False) for d in self.deployments)

    @property
    def primary(self) -> Deployment:
        """The deployment that the scheduler works for."""
        return self.deployments[0]

    def is_created(self) -> bool:
        """Tell CloudFormation whether what it asked for is rolled out. Raises ServiceNotStable if it will not be."""
        newest = self.service_deployments[0]
        if newest.over and newest.status != "SUCCESSFUL" and newest.created >= self.asked:
            tripped = newest.breaker.status == "TRIGGERED"
            said = "ECS Deployment Circuit Breaker was triggered" if tripped else newest.reason
            raise ServiceNotStable("Error occurred during operation", said, "Look at why the service's tasks stopped")
        return newest.over

    def get_cfn_attribute(self, name: str) -> str:
        """Return what Fn::GetAtt asks for: AWS::ECS::Service."""
        return {"Name": self.name, "ServiceArn": self.arn}[name]

    def describe(self) -> dict[str, Any]:
        """Return the service as DescribeServices has it."""
        with self._lock:
            hidden = {"cluster", "clientToken", "taskDefinition", "desiredCount", "tags", "role"}
            described = {key: value for key, value in self.settings.items() if key not in hidden and value is not None}
            described |= {
                "serviceArn": self.arn, "serviceName": self.name, "clusterArn": self.cluster_arn, "status": self.status,
                "desiredCount": self.desired_count, "runningCount": self.running_count,
                "pendingCount": self.pending_count, "taskDefinition": self.task_definition,
                "deploymentConfiguration": self.deployment_configuration,
                "deployments": [d.describe() for d in self.deployments],
                "events": list(self.events), "createdAt": self.created, "tags": self.tags,
                "loadBalancers": self.settings.get("loadBalancers") or [],
                "serviceRegistries": self.settings.get("serviceRegistries") or [],
                "placementConstraints": [], "placementStrategy": [], "schedulingStrategy": self.scheduling_strategy,
                "deploymentController": self.settings.get("deploymentController") or {"type": "ECS"},
                "propagateTags": self.settings.get("propagateTags") or "NONE",
                "enableECSManagedTags": bool(self.settings.get("enableECSManagedTags")),
                "enableExecuteCommand": bool(self.settings.get("enableExecuteCommand")),
                "platformVersion": self.settings.get("platformVersion") or "LATEST", "platformFamily": "Linux",
                "launchType": None if self.settings.get("capacityProviderStrategy") else self.launch_type,
            }  # fmt: skip
            if self.settings.get("role"):
                described["roleArn"] = self.settings["role"]
            if self.service_deployments:
                described["currentServiceDeployment"] = self.service_deployments[0].arn
                described["currentServiceRevisions"] = [d.summary() for d in self.deployments]
            return described
