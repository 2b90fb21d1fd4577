"""The records of a service's rollouts: what DescribeServices, DescribeServiceDeployments and -Revisions say.

Three records with three names. A service revision is what tasks are made of. A deployment of DescribeServices
(`ecs-svc/…`) is the tasks of one revision, whose number it has for an id. A service deployment (an ARN that is no such
number) is the way from one revision to another, and keeps its ARN when it has to go back.
docs.aws.amazon.com/AmazonECS/latest/developerguide/service-deployment.html
"""

import secrets
import string
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deploy_runner.local_aws.ecs.failure_detection import Alarms, CircuitBreaker, Failure
from deploy_runner.local_aws.ecs.shapes import now, number_id
from deploy_runner.local_aws.ecs.tasks import Task

IN_PROGRESS = ("PENDING", "IN_PROGRESS", "STOP_REQUESTED", "ROLLBACK_REQUESTED", "ROLLBACK_IN_PROGRESS")
# What a service revision is made of; a change of anything else starts no rollout: API_ServiceRevision.
REVISION_KEYS = (
    "taskDefinition", "capacityProviderStrategy", "launchType", "platformVersion", "loadBalancers", "serviceRegistries",
    "networkConfiguration", "serviceConnectConfiguration", "volumeConfigurations", "vpcLatticeConfigurations",
)  # fmt: skip
NO_CANDIDATE = "No rollback candidate was found to run the rollback."
# After so many tasks in a row that failed, the next one waits, longer each time. ECS waits up to 27 minutes
# (docs.aws.amazon.com/AmazonECS/latest/developerguide/service-throttle-logic.html); nobody wants that on a laptop.
_FAILURES_AT_ONCE, _FIRST_PAUSE, _LONGEST_PAUSE = 3, 0.5, 10.0


@dataclass(eq=False)
class Revision:
    """A service revision: what its tasks are made of."""

    number: str
    arn: str
    settings: dict[str, Any]
    images: list[dict[str, str]]
    resolved: bool = True  # whether no tag is left to look up
    created: datetime = field(default_factory=now)

    @classmethod
    def of(cls, where: str, settings: dict[str, Any], definition: Any) -> "Revision":
        """Make a revision; `where` is `REGION:ACCOUNT:service-revision/CLUSTER/SERVICE`."""
        number, images, resolved = number_id(), [], True
        for container in definition.container_definitions:
            image = {"containerName": container["name"], "image": container["image"]}
            _, named, digest = container["image"].partition("@")
            if named:
                image["imageDigest"] = digest
            elif container.get("versionConsistency") != "disabled":
                resolved = False
            images.append(image)
        return cls(number, f"arn:aws:ecs:{where}/{number}", settings, images, resolved)

    @property
    def task_definition(self) -> str:
        """The task definition's ARN."""
        return str(self.settings["taskDefinition"])

    @property
    def digests(self) -> dict[str, str]:
        """Return the digest that each container's image must have, wherever its tag has moved.

        "Amazon ECS resolves a container image tag to its digest for every deployment": Announcing software version
        consistency for Amazon ECS services (aws.amazon.com/blogs/containers). The first task looks the tags up.
        """
        return {image["containerName"]: image["imageDigest"] for image in self.images if "imageDigest" in image}

    def resolve(self, task: Task, definition: Any) -> None:
        """Keep what a first task found under the tags, once it has its images."""
        if self.resolved or "pullStoppedAt" not in task.times:
            return
        floating = {c["name"] for c in definition.container_definitions if c.get("versionConsistency") == "disabled"}
        found = {c.name: c.digest for c in task.containers if c.digest and c.name not in floating}
        for image in self.images:
            if image["containerName"] in found:
                image["imageDigest"] = found[image["containerName"]]
        self.resolved = True

    def describe(self, service_arn: str, cluster_arn: str) -> dict[str, Any]:
        """Return it as DescribeServiceRevisions has it."""
        return {
            "serviceRevisionArn": self.arn, "serviceArn": service_arn, "clusterArn": cluster_arn,
            "platformFamily": "Linux", "containerImages": self.images, "createdAt": self.created,
            "guardDutyEnabled": False,
        } | {k: v for k, v in self.settings.items() if v not in (None, [])} | {"platformVersion": "1.4.0"}  # fmt: skip


@dataclass(eq=False)
class Deployment:
    """An entry of `deployments` in DescribeServices, with the tasks that it has started."""

    revision: Revision
    status: str = "PRIMARY"
    state: str = "IN_PROGRESS"
    reason: str = ""
    desired: int = 0  # how many tasks it is to have now
    failed: int = 0  # tasks, in a row
    weight: float | None = None  # percent of production traffic; None: as many tasks as it has (ROLLING)
    test_weight: float | None = None
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)
    tasks: list[Task] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)  # failed tasks
    good: set[str] = field(default_factory=set)  # tasks that were healthy once
    unstarted: int = 0  # tasks in a row that never ran
    pace: int = 0  # failed tasks in a row, as long as the service is not updated
    retry_at: float = 0.0  # monotonic
    blocked: bool = False  # whether it was said that minimum and maximum leave no way

    def __post_init__(self) -> None:
        """Give the reason that ECS gives at first."""
        self.reason = self.reason or f"ECS deployment {self.id} in progress."

    @property
    def id(self) -> str:
        """Its id, which is its revision's number."""
        return f"ecs-svc/{self.revision.number}"

    def alive(self) -> list[Task]:
        """Return the tasks that are to run."""
        return [task for task in self.tasks if task.desired_status == "RUNNING"]

    def count(self, running: bool) -> int:
        """Return how many tasks run, or how many are on their way to."""
        return sum((task.last_status == "RUNNING") == running for task in self.alive())

    def describe(self) -> dict[str, Any]:
        """Return it as DescribeServices has it."""
        kept = ("launchType", "capacityProviderStrategy", "networkConfiguration", "serviceConnectConfiguration")
        return {
            "id": self.id, "status": self.status, "taskDefinition": self.revision.task_definition,
            "desiredCount": self.desired, "pendingCount": self.count(False), "runningCount": self.count(True),
            "failedTasks": self.failed, "createdAt": self.created, "updatedAt": self.updated,
            "rolloutState": self.state, "rolloutStateReason": self.reason, "platformVersion": "1.4.0",
            "platformFamily": "Linux",
        } | {k: self.revision.settings[k] for k in kept if self.revision.settings.get(k)}  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Return its revision as ServiceRevisionSummary has it."""
        described: dict[str, Any] = {
            "arn": self.revision.arn, "requestedTaskCount": self.desired, "runningTaskCount": self.count(True),
            "pendingTaskCount": self.count(False),
        }  # fmt: skip
        if self.weight is not None:
            described["requestedProductionTrafficWeight"] = float(self.weight)
            described["requestedTestTrafficWeight"] = float(self.test_weight or 0)
        return described

    def is_now(self, state: str, reason: str) -> None:
        """Give it a rollout state and the reason of it."""
        self.state, self.reason, self.updated = state, reason, now()

    def comes_back(self, reason: str) -> None:
        """Be the PRIMARY one again: the service is rolled back to it."""
        self.status, self.failed, self.unstarted, self.pace, self.retry_at = "PRIMARY", 0, 0, 0, 0.0
        self.created = now()
        self.is_now("IN_PROGRESS", reason)

    def task_failed(self, started: bool) -> None:
        """A task of it ended that should run, before it ran if not `started`."""
        self.failed += 1
        self.pace += 1
        self.unstarted = 0 if started else self.unstarted + 1
        self.updated = now()
        if self.pace > _FAILURES_AT_ONCE:
            pause = _FIRST_PAUSE * 2.0 ** (self.pace - _FAILURES_AT_ONCE - 1)
            self.retry_at = time.monotonic() + min(_LONGEST_PAUSE, pause)

    def task_is_good(self, task: Task) -> None:
        """A task of it is healthy: API_Deployment, failedTasks, "consecutively"."""
        self.good.add(task.id)
        self.failed = self.unstarted = self.pace = 0


@dataclass(eq=False)
class ServiceDeployment:
    """What ListServiceDeployments and DescribeServiceDeployments say of one rollout."""

    arn: str
    target: Deployment
    sources: list[Deployment]
    configuration: dict[str, Any]  # deploymentConfiguration, as it was when this began
    breaker: CircuitBreaker
    alarms: Alarms
    status: str = "PENDING"
    reason: str = ""
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)
    started: datetime | None = None
    finished: datetime | None = None
    stopped: datetime | None = None
    rollback: dict[str, Any] | None = None
    lifecycle_stage: str | None = None
    hooks: list[Any] = field(default_factory=list)
    back: Deployment | None = None  # what it goes back to
    back_breaker: CircuitBreaker | None = None  # the way back has a count of its own, and no alarms

    @property
    def over(self) -> bool:
        """Whether it has its final status."""
        return self.status not in IN_PROGRESS

    @property
    def rolling(self) -> bool:
        """Whether ECS replaces tasks step by step, instead of shifting traffic."""
        return bool(self.configuration["strategy"] == "ROLLING")

    @property
    def watching(self) -> CircuitBreaker:
        """What counts failed tasks now."""
        return self.back_breaker or self.breaker

    def failure(self, desired: int) -> Failure | None:
        """Return why it fails, if it does now."""
        return self.watching.failure(desired) or (None if self.back else self.alarms.failure())

    def is_now(self, status: str, reason: str = "") -> None:
        """Give it a status; the states that it may go through are in the guide named at the top."""
        self.status, self.updated = status, now()
        self.reason = reason or self.reason
        if status == "IN_PROGRESS":
            self.started = self.updated
        if self.over:
            self.finished = self.updated
            self.lifecycle_stage, self.hooks = None, []
            self.breaker.ends()
            self.alarms.ends()
        if status == "STOPPED":
            self.stopped = self.updated

    def goes_back(self, back: Deployment, reason: str) -> None:
        """Roll back to a deployment that was completed, for a reason."""
        self.back, self.back_breaker = back, CircuitBreaker(self.configuration)
        self.rollback = {"reason": reason, "startedAt": now(), "serviceRevisionArn": back.revision.arn}
        self.is_now("ROLLBACK_IN_PROGRESS", reason)

    def brief(self, service_arn: str, cluster_arn: str) -> dict[str, Any]:
        """Return it as ListServiceDeployments has it."""
        described: dict[str, Any] = {
            "serviceDeploymentArn": self.arn, "serviceArn": service_arn, "clusterArn": cluster_arn,
            "targetServiceRevisionArn": self.target.revision.arn, "status": self.status, "createdAt": self.created,
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
            "targetServiceRevision": self.target.summary(),
            "sourceServiceRevisions": [source.summary() for source in self.sources],
            "deploymentConfiguration": self.configuration, "updatedAt": self.updated,
            "deploymentCircuitBreaker": self.breaker.describe(service.desired_count), "alarms": self.alarms.describe(),
        }  # fmt: skip
        optional = {
            "stoppedAt": self.stopped, "rollback": self.rollback, "lifecycleStage": self.lifecycle_stage,
            "lifecycleHookDetails": [hook.describe() for hook in self.hooks],
        }  # fmt: skip
        return described | {key: value for key, value in optional.items() if value}


def service_deployment_id() -> str:
    """Return the last part of a service deployment's ARN."""
    return "".join(secrets.choice(string.ascii_letters + string.digits + "_-") for _ in range(21))
