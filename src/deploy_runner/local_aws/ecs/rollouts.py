"""The records of a service's rollouts: what DescribeServices, DescribeServiceDeployments and -Revisions say.

A deployment of DescribeServices (`ecs-svc/…`) and a service deployment (an ARN) are two records with unrelated ids. The
second one keeps its ARN through a rollback; the first is replaced by a new one for the previous revision.
"""

import math
import secrets
import string
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deploy_runner.local_aws.ecs.shapes import now, number_id
from deploy_runner.local_aws.ecs.tasks import Task

IN_PROGRESS = ("PENDING", "IN_PROGRESS", "STOP_REQUESTED", "ROLLBACK_REQUESTED", "ROLLBACK_IN_PROGRESS")
# What a service revision is made of; a change of anything else starts no rollout: API_ServiceRevision.
REVISION_KEYS = (
    "taskDefinition", "capacityProviderStrategy", "launchType", "platformVersion", "loadBalancers", "serviceRegistries",
    "networkConfiguration", "serviceConnectConfiguration", "volumeConfigurations", "vpcLatticeConfigurations",
)  # fmt: skip


def threshold(desired: int) -> int:
    """Return how many failed tasks trip the circuit breaker.

    docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html: half the desired count,
    rounded up, but at least 3 and at most 200.
    """
    return max(3, min(200, math.ceil(desired / 2)))


@dataclass
class Revision:
    """A service revision: what its tasks are made of."""

    arn: str
    settings: dict[str, Any]
    images: list[dict[str, str]] = field(default_factory=list)
    created: datetime = field(default_factory=now)

    @property
    def task_definition(self) -> str:
        """The task definition's ARN."""
        return str(self.settings["taskDefinition"])

    def describe(self, service_arn: str, cluster_arn: str) -> dict[str, Any]:
        """Return it as DescribeServiceRevisions has it."""
        return {
            "serviceRevisionArn": self.arn, "serviceArn": service_arn, "clusterArn": cluster_arn,
            "platformFamily": "Linux", "platformVersion": "1.4.0", "containerImages": self.images,
            "createdAt": self.created, "guardDutyEnabled": False,
        } | {k: v for k, v in self.settings.items() if v not in (None, [])}  # fmt: skip


@dataclass
class Deployment:
    """An entry of `deployments` in DescribeServices, with the tasks that it has started."""

    revision: Revision
    status: str = "PRIMARY"
    state: str = "IN_PROGRESS"
    reason: str = ""
    failed: int = 0
    id: str = field(default_factory=lambda: f"ecs-svc/{number_id()}")
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)
    tasks: list[Task] = field(default_factory=list)
    failures_in_a_row: int = 0
    retry_at: float = 0.0  # monotonic
    seen_failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Give the reason that ECS gives at first."""
        self.reason = self.reason or f"ECS deployment {self.id} in progress."

    def alive(self) -> list[Task]:
        """Return the tasks that are to run."""
        return [task for task in self.tasks if task.desired_status == "RUNNING"]

    def count(self, running: bool) -> int:
        """Return how many tasks run, or how many are on their way to."""
        return sum((task.last_status == "RUNNING") == running for task in self.alive())

    def describe(self, desired: int) -> dict[str, Any]:
        """Return it as DescribeServices has it."""
        kept = ("launchType", "capacityProviderStrategy", "networkConfiguration", "serviceConnectConfiguration")
        return {
            "id": self.id, "status": self.status, "taskDefinition": self.revision.task_definition,
            "desiredCount": desired if self.status == "PRIMARY" else 0, "pendingCount": self.count(False),
            "runningCount": self.count(True), "failedTasks": self.failed, "createdAt": self.created,
            "updatedAt": self.updated, "rolloutState": self.state, "rolloutStateReason": self.reason,
            "platformVersion": "1.4.0", "platformFamily": "Linux",
        } | {k: self.revision.settings[k] for k in kept if self.revision.settings.get(k)}  # fmt: skip

    def failed_again(self) -> None:
        """A task of it ended that should run; after a few, ECS waits longer and longer before the next."""
        self.failed += 1
        self.failures_in_a_row += 1
        self.updated = now()
        if self.failures_in_a_row > 3:
            self.retry_at = time.monotonic() + min(10.0, 0.5 * 2 ** (self.failures_in_a_row - 4))


@dataclass
class ServiceDeployment:
    """What ListServiceDeployments and DescribeServiceDeployments say of one rollout."""

    arn: str
    target: Revision
    sources: list[Revision]
    deployment: Deployment  # that works for it now: the rollback's, once there is one
    status: str = "PENDING"
    reason: str = ""
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    finished: datetime | None = None
    stopped: datetime | None = None
    rollback: dict[str, Any] | None = None
    breaker: dict[str, Any] = field(default_factory=dict)
    alarms: dict[str, Any] = field(default_factory=lambda: {"status": "DISABLED"})

    @property
    def over(self) -> bool:
        """Whether it has its final status."""
        return self.status not in IN_PROGRESS

    def ends(self, status: str, reason: str = "") -> None:
        """Give it its final status."""
        self.status, self.finished = status, now()
        self.reason = reason or self.reason
        if status == "STOPPED":
            self.stopped = self.finished
        if self.breaker.get("status") == "MONITORING":
            self.breaker["status"] = "MONITORING_COMPLETE"

    def brief(self, service_arn: str, cluster_arn: str) -> dict[str, Any]:
        """Return it as ListServiceDeployments has it."""
        described: dict[str, Any] = {
            "serviceDeploymentArn": self.arn, "serviceArn": service_arn, "clusterArn": cluster_arn,
            "targetServiceRevisionArn": self.target.arn, "status": self.status, "createdAt": self.created,
        }  # fmt: skip
        for key, value in (("startedAt", self.started), ("finishedAt", self.finished), ("statusReason", self.reason)):
            if value:
                described[key] = value
        return described

    def describe(self, service: Any) -> dict[str, Any]:
        """Return it as DescribeServiceDeployments has it."""
        described = self.brief(service.arn, service.cluster_arn)
        del described["targetServiceRevisionArn"]
        described |= {
            "targetServiceRevision": self._summary(self.target, service),
            "sourceServiceRevisions": [self._summary(source, service) for source in self.sources],
            "deploymentConfiguration": service.deployment_configuration,
            "deploymentCircuitBreaker": self.breaker, "alarms": self.alarms, "updatedAt": now(),
        }  # fmt: skip
        if self.stopped:
            described["stoppedAt"] = self.stopped
        if self.rollback:
            described["rollback"] = self.rollback
        return described

    def _summary(self, revision: Revision, service: Any) -> dict[str, Any]:
        of_it = [d for d in service.deployments if d.revision is revision]
        wanted = revision is service.deployments[0].revision if service.deployments else False
        return {
            "arn": revision.arn, "requestedTaskCount": service.desired_count if wanted else 0,
            "runningTaskCount": sum(d.count(True) for d in of_it),
            "pendingTaskCount": sum(d.count(False) for d in of_it),
        }  # fmt: skip


def service_deployment_id() -> str:
    """Return the last part of a service deployment's ARN."""
    return "".join(secrets.choice(string.ascii_letters + string.digits + "_-") for _ in range(21))
