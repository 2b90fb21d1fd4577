"""The service scheduler: rolling deployments with a circuit breaker, rollback, draining, and replacement of dead tasks.

docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-type-ecs.html and .../deployment-circuit-breaker.html
"""

import logging
import math
import threading
import time
from collections import deque
from typing import Any

from moto.ecs.exceptions import ECSException

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.ecs.rollouts import (
    REVISION_KEYS,
    Deployment,
    Revision,
    ServiceDeployment,
    service_deployment_id,
    threshold,
)
from deploy_runner.local_aws.ecs.shapes import now, number_id
from deploy_runner.local_aws.ecs.targets import FAILED_ELB_CHECKS, Targets
from deploy_runner.local_aws.ecs.tasks import Task, Wanted

_BUSY_SECONDS, _IDLE_SECONDS = 0.1, 1.0
_BREAKER_REASON = "ECS deployment circuit breaker: tasks failed to start."
_UNHEALTHY = "Task failed container health checks"
_log = logging.getLogger(__name__)


class ServiceNotStable(DeployRunnerError):
    """CloudFormation gives up on a service: its rollout has failed."""


class Service:
    """One service, with a scheduler thread. Attribute names are those that moto's own code reads."""

    def __init__(self, backend: Any, cluster: Any, settings: dict[str, Any]) -> None:
        self._backend, self._machine, self._cluster = backend, backend.machine, cluster
        self.settings = settings  # as CreateService took them
        self.name: str = settings["serviceName"]
        self.cluster_name, self.cluster_arn, self.region_name = cluster.name, cluster.arn, backend.region_name
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
        self.completed: Revision | None = None  # the last one that was rolled out well
        self._started: list[Task] = []  # all that have not stopped yet
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._targets = Targets(self.settings, self._machine.state_dir, self._say)
        self._was_steady = False
        self._thread = threading.Thread(target=self._schedule, name=f"service {self.name}", daemon=True)

    # --- what others see --------------------------------------------------------------------------------------------

    @property
    def arn(self) -> str:
        """The service's ARN."""
        where = f"{self.region_name}:{self._backend.account_id}"
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
        default = {
            "deploymentCircuitBreaker": {"enable": False, "rollback": False},
            "maximumPercent": 200, "minimumHealthyPercent": 100, "strategy": "ROLLING", "bakeTimeInMinutes": 0,
        }  # fmt: skip
        return default | (self.settings.get("deploymentConfiguration") or {})

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
            tripped = newest.breaker.get("status") == "TRIGGERED"
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
                "deployments": [d.describe(self.desired_count) for d in self.deployments],
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
                described["currentServiceRevisions"] = [
                    {
                        "arn": d.revision.arn, "requestedTaskCount": self.desired_count if d is self.primary else 0,
                        "runningTaskCount": d.count(True), "pendingTaskCount": d.count(False),
                    }
                    for d in self.deployments
                ]  # fmt: skip
            return described

    # --- what others do ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Roll out for the first time."""
        with self._lock:
            self._roll_out()
        self._thread.start()

    def update(self, changes: dict[str, Any], force: bool) -> None:
        """Take what UpdateService asks for; a rollout starts only if the revision changes, or by force."""
        with self._lock:
            if self.status != "ACTIVE":
                raise ECSException("ServiceNotActiveException", "Service was not ACTIVE.")
            new = {key: value for key, value in changes.items() if value is not None}
            before = {key: self._current().get(key) for key in REVISION_KEYS}
            self.settings |= {k: v for k, v in new.items() if k != "desiredCount"}
            if "desiredCount" in new:
                self.desired_count = new["desiredCount"]
            after = {key: new.get(key, before[key]) for key in REVISION_KEYS}
            self.settings |= after
            if force or after != before:
                self._roll_out()
        self._wake.set()

    def _current(self) -> dict[str, Any]:
        return self.primary.revision.settings if self.deployments else self.settings

    def drain(self) -> None:
        """Stop all tasks; INACTIVE once no task is left."""
        with self._lock:
            self.status, self.desired_count = "DRAINING", 0
            for deployment in self.deployments:
                for task in deployment.alive():
                    self._stop(task)
            for rollout in self.service_deployments:
                if not rollout.over:
                    rollout.ends("STOPPED", "Service deployment stopped because the service was deleted.")
        self._wake.set()

    def stop_rollout(self, rollout: ServiceDeployment, stop_type: str) -> None:
        """Take StopServiceDeployment. Raises ConflictException for one that is over."""
        with self._lock:
            if rollout.over or rollout.status.startswith("ROLLBACK"):
                raise ECSException(
                    "ConflictException",
                    f"The service deployment can't be stopped because it's in the {rollout.status} state.",
                )
            if stop_type == "ABORT":
                rollout.ends("STOPPED", "Service deployment was stopped by StopServiceDeployment.")
                return
            self._roll_back(rollout, "Service deployment was stopped and rolled back by StopServiceDeployment.")
        self._wake.set()

    def wait_inactive(self, seconds: float) -> None:
        """Wait until the last task has ended."""
        deadline = time.monotonic() + seconds
        while self.status != "INACTIVE" and time.monotonic() < deadline and not self._backend.closing.is_set():
            time.sleep(0.05)

    def close(self) -> None:
        """Schedule no more, and answer no more."""
        self._wake.set()
        self._targets.close()

    # --- rollouts ---------------------------------------------------------------------------------------------------

    def _roll_out(self) -> None:
        settings = {key: self.settings.get(key) for key in REVISION_KEYS}
        definition = self._backend.describe_task_definition(settings["taskDefinition"])
        where = f"{self.region_name}:{self._backend.account_id}"
        images = [{"containerName": c["name"], "image": c["image"]} for c in definition.container_definitions]
        revision = Revision(
            f"arn:aws:ecs:{where}:service-revision/{self.cluster_name}/{self.name}/{number_id()}", settings, images
        )
        self.revisions[revision.arn] = revision
        for rollout in self.service_deployments:
            if not rollout.over:
                rollout.ends("STOPPED", "Service deployment stopped because a new service deployment was started.")
        sources = [d.revision for d in self.deployments if d.alive()]
        for deployment in self.deployments:
            deployment.status = "ACTIVE"
        deployment = Deployment(revision)
        self.deployments.insert(0, deployment)
        breaker = self.deployment_configuration["deploymentCircuitBreaker"]
        arn = f"arn:aws:ecs:{where}:service-deployment/{self.cluster_name}/{self.name}/{service_deployment_id()}"
        rollout = ServiceDeployment(arn, revision, sources, deployment)
        rollout.breaker = {
            "status": "MONITORING" if breaker.get("enable") else "DISABLED",
            "failureCount": 0, "threshold": threshold(self.desired_count),
        }  # fmt: skip
        self.service_deployments.insert(0, rollout)
        self._was_steady = False
        self._tell(deployment, "SERVICE_DEPLOYMENT_IN_PROGRESS", deployment.reason)
        self._wake.set()

    def _rollout(self) -> ServiceDeployment | None:
        """Return the service deployment that the PRIMARY deployment works for, while it is not over."""
        newest = self.service_deployments[0] if self.service_deployments else None
        return newest if newest and not newest.over and newest.deployment is self.primary else None

    def _roll_back(self, rollout: ServiceDeployment, reason: str) -> None:
        """Go back to the last revision that was rolled out well, with a new deployment of it.

        Its tasks that still run are the new deployment's: a rollback starts only what is missing.
        """
        failed = self.primary
        if self.completed is None:
            failed.state, failed.updated = "FAILED", now()
            failed.reason = failed.reason if failed.reason == _BREAKER_REASON else reason
            rollout.ends("STOPPED", f"{reason} There is no completed service revision to roll back to.")
            for task in failed.alive():
                self._stop(task)
            return
        back = Deployment(self.completed)
        back.reason = f"ECS deployment circuit breaker: rolling back to deploymentId {back.id}."
        if failed.reason != _BREAKER_REASON:
            back.reason = f"ECS deployment {back.id} in progress."
        for deployment in self.deployments:
            deployment.status = "ACTIVE"
            if deployment.revision is back.revision:
                for task in deployment.alive():
                    deployment.tasks.remove(task)
                    task.started_by = back.id
                    back.tasks.append(task)
        for task in failed.alive():
            self._stop(task)
        self.deployments.insert(0, back)
        self.settings |= back.revision.settings
        rollout.deployment, rollout.status, rollout.reason = back, "ROLLBACK_IN_PROGRESS", reason
        rollout.rollback = {"reason": reason, "startedAt": now(), "serviceRevisionArn": back.revision.arn}
        self._say(f"rolling back to deployment {back.id}.")
        self._tell(back, "SERVICE_DEPLOYMENT_IN_PROGRESS", back.reason)

    def _trip(self, rollout: ServiceDeployment) -> None:
        """The circuit breaker has seen enough."""
        failed = self.primary
        failed.state, failed.reason, failed.updated = "FAILED", _BREAKER_REASON, now()
        rollout.breaker["status"] = "TRIGGERED"
        self._say(f"(deployment {failed.id}) deployment failed: tasks failed to start.")
        self._tell(failed, "SERVICE_DEPLOYMENT_FAILED", "ECS deployment circuit breaker: task failed to start.")
        if rollout.status == "ROLLBACK_IN_PROGRESS":
            rollout.ends("ROLLBACK_FAILED", _BREAKER_REASON)
        elif self.deployment_configuration["deploymentCircuitBreaker"].get("rollback"):
            self._roll_back(rollout, _BREAKER_REASON)
        else:
            rollout.ends("STOPPED", _BREAKER_REASON)

    def _complete(self, rollout: ServiceDeployment | None) -> None:
        primary = self.primary
        primary.state, primary.reason = "COMPLETED", f"ECS deployment {primary.id} completed."
        primary.updated = now()
        self.completed = primary.revision
        if rollout:
            back = rollout.status.startswith("ROLLBACK")
            rollout.ends("ROLLBACK_SUCCESSFUL" if back else "SUCCESSFUL")
        for image in primary.revision.images:
            for task in primary.alive():
                container = next((c for c in task.containers if c.name == image["containerName"]), None)
                if container and container.digest:
                    image["imageDigest"] = container.digest
        self._say(f"(deployment {primary.id}) deployment completed.")
        self._tell(primary, "SERVICE_DEPLOYMENT_COMPLETED", primary.reason)

    def _say(self, what: str) -> None:
        """Add a service event."""
        text = f"(service {self.name}) {what}"
        self.events.appendleft({"id": f"{number_id(12)}-{number_id(6)}", "createdAt": now(), "message": text})

    def _tell(self, deployment: Deployment, name: str, reason: str) -> None:
        self._backend.events.deployment_changed(self.arn, deployment.id, name, reason)

    # --- the scheduler ----------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        while not self._backend.closing.is_set() and self.status != "INACTIVE":
            self._wake.clear()
            busy = True
            try:
                with self._lock:
                    busy = self._tick()
            except Exception:  # one service's trouble must not end its scheduler, nor go unseen
                _log.exception("service %s", self.name)
            self._wake.wait(_BUSY_SECONDS if busy else _IDLE_SECONDS)
        self.close()

    def _tick(self) -> bool:
        """Do what is to do now, and tell whether there is more to come soon."""
        if self.status == "DRAINING":
            self._forget()
            if not self._started:
                self.deployments.clear()
                self.status = "INACTIVE"
                self._machine.service_urls.pop((self.cluster_name, self.name), None)
            return True
        primary, rollout = self.primary, self._rollout()
        if rollout and rollout.status == "PENDING":
            rollout.status, rollout.started = "IN_PROGRESS", now()
        self._publish()
        self._stop_unhealthy()
        self._count_failures(primary, rollout)
        if rollout and not rollout.over and primary is self.primary:
            breaker = self.deployment_configuration["deploymentCircuitBreaker"]
            if breaker.get("enable") and primary.failed >= rollout.breaker["threshold"]:
                self._trip(rollout)
                return True
        if self.primary.state != "FAILED":
            self._work(self.primary)
        self._forget()
        return self._finish()

    def _finish(self) -> bool:
        primary = self.primary
        alive = primary.alive()
        healthy = [task for task in alive if self._healthy(task)]
        others = [task for d in self.deployments[1:] for task in d.alive()]
        reached = len(alive) == self.desired_count and len(healthy) == len(alive) and not others
        if reached and primary.state == "IN_PROGRESS":
            self._complete(self._rollout())
        steady = reached and primary.state == "COMPLETED"
        if steady and not self._was_steady:
            self._say("has reached a steady state.")
            self._backend.events.service_acted(self.arn, self.cluster_arn, "SERVICE_STEADY_STATE")
            strategy = primary.revision.settings.get("capacityProviderStrategy") or []
            if providers := [item["capacityProvider"] for item in strategy]:
                name = "CAPACITY_PROVIDER_STEADY_STATE"
                self._backend.events.service_acted(self.arn, self.cluster_arn, name, capacity_providers=providers)
        self._was_steady = steady
        return not steady and primary.state != "FAILED"

    def _count_failures(self, primary: Deployment, rollout: ServiceDeployment | None) -> None:
        for deployment in self.deployments:
            for task in deployment.tasks:
                by_itself = task.stop_code in ("EssentialContainerExited", "TaskFailedToStart")
                died = by_itself or (task.stopped_reason or "").startswith((_UNHEALTHY, FAILED_ELB_CHECKS))
                if died and task.id not in deployment.seen_failed:
                    deployment.seen_failed.add(task.id)
                    deployment.failed_again()
                    if deployment.failures_in_a_row == 4:
                        self._say("is unable to consistently start tasks successfully.")
                        name = "SERVICE_TASK_START_IMPAIRED"
                        self._backend.events.service_acted(self.arn, self.cluster_arn, name, "WARN")
        if any(self._healthy(task) for task in primary.alive()):
            # API_Deployment, failedTasks: "resets to zero and stops being evaluated" once a task runs well.
            primary.failed = primary.failures_in_a_row = 0
        if rollout and rollout.breaker["status"] == "MONITORING":
            rollout.breaker["failureCount"] = primary.failed

    def _stop_unhealthy(self) -> None:
        for deployment in self.deployments:
            for task in deployment.alive():
                if task.health == "UNHEALTHY":
                    self._say(f"(task {task.id}) failed container health checks.")
                    self._stop(task, _UNHEALTHY)
                elif reason := self._targets.fatal(task):
                    self._stop(task, reason)

    def _work(self, primary: Deployment) -> None:
        """Start and stop tasks within the limits of minimumHealthyPercent and maximumPercent."""
        configuration, desired = self.deployment_configuration, self.desired_count
        least = math.ceil(desired * configuration["minimumHealthyPercent"] / 100)
        most = max(math.floor(desired * configuration["maximumPercent"] / 100), 1 if desired else 0)
        old = [task for d in self.deployments[1:] for task in d.alive()]
        new = primary.alive()
        healthy = sum(self._healthy(task) for task in [*old, *new])
        missing = desired - len(new)
        if missing > 0:
            room = most - len(old) - len(new)
            for _ in range(min(missing, max(room, 0))):
                if time.monotonic() < primary.retry_at:
                    break
                self._launch(primary)
            if missing > room and old:
                self._drain(old, min(missing - max(room, 0), healthy - least))
        elif missing < 0:
            surplus = sorted(new, key=self._healthy)[:-missing]
            for task in surplus:
                self._stop(task)
        else:
            good = sum(self._healthy(task) for task in new)
            self._drain(old, min(good + len(old) - desired, healthy - least if desired else len(old)))

    def _drain(self, old: list[Task], count: int) -> None:
        """Stop old tasks: first those that do not serve, which are free to go."""
        idle = [task for task in old if not self._healthy(task)]
        serving = [task for task in old if self._healthy(task)]
        for task in [*idle, *serving[: max(count - len(idle), 0)]]:
            self._stop(task)

    def _launch(self, deployment: Deployment) -> None:
        settings = deployment.revision.settings
        definition = self._backend.describe_task_definition(settings["taskDefinition"])
        tags = [{"key": "aws:ecs:clusterName", "value": self.cluster_name}] if self._managed_tags else []
        tags += [{"key": "aws:ecs:serviceName", "value": self.name}] if self._managed_tags else []
        source = self.settings.get("propagateTags")
        tags += self.tags if source == "SERVICE" else definition.tags if source == "TASK_DEFINITION" else []
        strategy = settings.get("capacityProviderStrategy") or []
        task = Task(
            self._backend,
            Wanted(
                cluster=self._cluster, definition=definition, launch_type=self.launch_type,
                capacity_provider=strategy[0]["capacityProvider"] if strategy else None,
                group=f"service:{self.name}", started_by=deployment.id, tags=tags,
                network=settings.get("networkConfiguration") or {},
                execute_command=bool(self.settings.get("enableExecuteCommand")),
            ),
            on_change=self._wake.set,
        )  # fmt: skip
        deployment.tasks.append(task)
        self._started.append(task)
        self._backend.add_task(task)
        self._say(f"has started 1 tasks: (task {task.id}).")
        task.start()

    @property
    def _managed_tags(self) -> bool:
        return bool(self.settings.get("enableECSManagedTags"))

    def _stop(self, task: Task, reason: str | None = None) -> None:
        """Stop a task; requests to it may end by themselves first."""
        said = f"Scaling activity initiated by (deployment {self.primary.id})"
        task.stop(reason or said, "ServiceSchedulerInitiated", lambda: self._targets.drain(task))
        if not reason:
            self._say(f"has stopped 1 running tasks: (task {task.id}).")

    def _healthy(self, task: Task) -> bool:
        """Tell whether a task serves."""
        return self._targets.healthy(task)

    def _publish(self) -> None:
        """Give the service its address as soon as one of its revisions has a port, and its balancer the tasks."""
        if self._targets.url is None:
            definition = self._backend.describe_task_definition(self.task_definition)
            if any(c.get("portMappings") for c in definition.container_definitions):
                self._targets.open()
                self._machine.service_urls[self.cluster_name, self.name] = self._targets.url
        self._targets.update(self.deployments)

    def _forget(self) -> None:
        """Forget deployments without tasks that are to run, as ECS does; the PRIMARY one stays."""
        draining = [d for d in self.deployments[1:] if not d.alive()]
        for deployment in draining:
            self.deployments.remove(deployment)
        self._started = [task for task in self._started if not task.stopped]
