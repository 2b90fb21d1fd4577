"""The service scheduler: it starts and replaces tasks, rolls out, and goes back when a rollout fails.

docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-type-ecs.html. The texts of service events are those
of .../service-event-messages-list.html and of real services, as people quote them.
"""

import logging
import threading
import time
import uuid
from datetime import datetime
from typing import Any

from moto.ecs.exceptions import ECSException, InvalidParameterException

from deploy_runner.local_aws.ecs import rolling
from deploy_runner.local_aws.ecs.failure_detection import Alarms, CircuitBreaker, Failure
from deploy_runner.local_aws.ecs.hooks import NOT_WAITING
from deploy_runner.local_aws.ecs.rollouts import (
    NO_CANDIDATE,
    REVISION_KEYS,
    Deployment,
    Revision,
    ServiceDeployment,
    service_deployment_id,
)
from deploy_runner.local_aws.ecs.service_record import ServiceRecord
from deploy_runner.local_aws.ecs.shapes import NO_CAPACITY, now
from deploy_runner.local_aws.ecs.strategies import Shift
from deploy_runner.local_aws.ecs.targets import FAILED_ELB_CHECKS, Targets
from deploy_runner.local_aws.ecs.tasks import Task, Wanted
from deploy_runner.local_aws.faults import facts_of_task
from deploy_runner.local_aws.machine import Machine

_BUSY_SECONDS, _IDLE_SECONDS = 0.1, 1.0
_PLACE_AGAIN_SECONDS = 1.0
_UNHEALTHY = "Task failed container health checks"
_IMPAIRED_AFTER = 4  # tasks in a row that never ran; ECS does not say how many
_log = logging.getLogger(__name__)


class Service(ServiceRecord):
    """One service, with a scheduler thread."""

    def __init__(self, backend: Any, cluster: Any, settings: dict[str, Any]) -> None:
        super().__init__(backend, cluster, settings)
        self._backend, self._machine, self._cluster = backend, backend.machine, cluster
        self.minute: float = backend.minute
        self.completed: Deployment | None = None  # the last one that was rolled out well, to go back to
        self._shift: Shift | None = None  # the rollout under way, if it is one that shifts traffic
        self._baked_at: float | None = None  # monotonic; when a rolling update that is done has been watched enough
        self._started: list[Task] = []  # all that have not stopped yet
        self._events: dict[str, list[str]] = {}  # what happened to which tasks since the last event of its kind
        self._wake = threading.Event()
        self._targets = Targets(self.settings, self._machine.state_dir, self._say)
        self._was_steady = False
        self._thread = threading.Thread(target=self._schedule, name=f"service {self.name}", daemon=True)

    @property
    def machine(self) -> Machine:
        """The local AWS that it belongs to."""
        machine: Machine = self._machine
        return machine

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
            if "deploymentConfiguration" in new:  # what it does not name stays as it was
                new["deploymentConfiguration"] = self.deployment_configuration | new["deploymentConfiguration"]
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
            self.status, self.desired_count, self._shift = "DRAINING", 0, None
            for deployment in self.deployments:
                deployment.desired = 0
                for task in deployment.alive():
                    self._stop(task)
            for rollout in self.service_deployments:
                if not rollout.over:
                    rollout.is_now("STOPPED", "Service deployment stopped because the service was deleted.")
            self._tell_events()
        self._wake.set()

    def stop_rollout(self, rollout: ServiceDeployment) -> None:
        """Take StopServiceDeployment. Raises ConflictException for one that is over.

        What goes back or stops already "continues": .../developerguide/stop-service-deployment.html. The error's text
        is not documented; it follows that of ContinueServiceDeployment.
        """
        with self._lock:
            if rollout.over:
                raise ECSException(
                    "ConflictException",
                    "Stopping a service deployment is not allowed for service deployment in terminal states.",
                )
            if rollout.status in ("PENDING", "IN_PROGRESS"):
                rollout.is_now("ROLLBACK_REQUESTED", "Service deployment rollback was requested by the user.")
        self._wake.set()

    def continue_rollout(self, rollout: ServiceDeployment, hook_id: str, action: str) -> None:
        """Take ContinueServiceDeployment. Raises InvalidParameterException for a hook that does not wait."""
        with self._lock:
            if rollout.over:
                raise InvalidParameterException(
                    "Continuing a service deployment is not allowed for service deployment in terminal states."
                )
            hook = next((hook for hook in rollout.hooks if hook.id == hook_id), None)
            if hook is None:
                raise InvalidParameterException(NOT_WAITING)
            hook.resume(action)
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
        name = f"{self.cluster_name}/{self.name}"
        revision = Revision.of(f"{where}:service-revision/{name}", settings, definition)
        self.revisions[revision.arn] = revision
        for rollout in self.service_deployments:
            if rollout.status == "ROLLBACK_IN_PROGRESS":  # which STOP_REQUESTED cannot follow
                rollout.is_now("ROLLBACK_FAILED", "Service deployment rollback was replaced by a new deployment.")
            elif not rollout.over:
                rollout.is_now("STOP_REQUESTED", "Service deployment stopped because a new deployment was started.")
        sources = [d for d in self.deployments if d.alive()]
        for deployment in self.deployments:
            deployment.status = "ACTIVE"
        deployment = Deployment(revision)
        self.deployments.insert(0, deployment)
        configuration = self.deployment_configuration
        self.service_deployments.insert(
            0,
            ServiceDeployment(
                f"arn:aws:ecs:{where}:service-deployment/{name}/{service_deployment_id()}", deployment, sources,
                configuration, CircuitBreaker(configuration),
                Alarms(configuration, self._backend.account_id, self.region_name),
            ),
        )  # fmt: skip
        self._shift = self._baked_at = None
        self._was_steady = False
        self._tell(deployment, "SERVICE_DEPLOYMENT_IN_PROGRESS", deployment.reason)
        self._wake.set()

    def _rollout(self) -> ServiceDeployment | None:
        """Return the service deployment under way, if there is one."""
        newest = self.service_deployments[0] if self.service_deployments else None
        return newest if newest and not newest.over else None

    def _take_requests(self) -> None:
        """Do what was asked of rollouts since the last time."""
        for rollout in self.service_deployments:
            if rollout.status == "STOP_REQUESTED":
                rollout.is_now("STOPPED")
            elif rollout.status == "ROLLBACK_REQUESTED":
                self._roll_back(rollout, rollout.reason, "ECS deployment {} in progress.")
            elif rollout.status == "PENDING":
                rollout.is_now("IN_PROGRESS")
                if rollout.rolling:
                    for deployment in self.deployments:
                        deployment.weight = deployment.test_weight = None
                else:
                    self._shift = Shift(self, rollout)

    def fail(self, rollout: ServiceDeployment, failure: Failure) -> None:
        """End a rollout that has failed: it goes back, or stays where it is and starts no task any more."""
        failed = self.primary
        failed.is_now("FAILED", failure.state_reason)
        self._say(f"(deployment {failed.id}) deployment failed: {failure.said}")
        if failure.told:
            self._tell(failed, "SERVICE_DEPLOYMENT_FAILED", failure.told)
        if rollout.status == "ROLLBACK_IN_PROGRESS":
            rollout.is_now("ROLLBACK_FAILED", f"Service deployment rollback failed because {failure.because}")
            self._shift = None
        elif failure.rolls_back:
            self._roll_back(rollout, f"Service deployment rolled back because {failure.because}", failure.back_reason)
        else:
            rollout.is_now("STOP_REQUESTED", f"Service deployment stopped because {failure.because}")
            self._shift = None

    def _roll_back(self, rollout: ServiceDeployment, reason: str, state_reason: str) -> None:
        """Go back to the deployment that was completed last: the same one again, of the same revision.

        "When the rollback starts, the deployment changes from a COMPLETED to IN_PROGRESS", and until it is COMPLETED
        again there is none to go back to: .../developerguide/deployment-circuit-breaker.html. Its tasks that still run
        are kept, so it starts only what is missing.
        """
        back, self.completed = self.completed, None
        if back is None:
            self.primary.is_now("FAILED", self.primary.reason if self.primary.state == "FAILED" else reason)
            rollout.is_now("ROLLBACK_FAILED", NO_CANDIDATE)
            self._shift = None
            return
        for deployment in self.deployments:
            deployment.status = "ACTIVE"
        self.deployments = [back, *(d for d in self.deployments if d is not back)]
        back.comes_back(state_reason.format(back.id))
        self.settings |= back.revision.settings
        rollout.goes_back(back, reason)
        self._baked_at = None
        self._say(f"rolling back to deployment {back.id}.")
        self._tell(back, "SERVICE_DEPLOYMENT_IN_PROGRESS", back.reason)
        if self._shift:
            self._shift.goes_back()

    def complete(self, rollout: ServiceDeployment) -> None:
        """End a rollout that has reached what it goes to, or back to."""
        primary = self.primary
        primary.is_now("COMPLETED", f"ECS deployment {primary.id} completed.")
        self.completed, self._shift = primary, None
        rollout.is_now("ROLLBACK_SUCCESSFUL" if rollout.back else "SUCCESSFUL")
        self._say(f"(deployment {primary.id}) deployment completed.")
        self._tell(primary, "SERVICE_DEPLOYMENT_COMPLETED", primary.reason)

    # --- what it tells ----------------------------------------------------------------------------------------------

    def _say(self, what: str) -> None:
        """Add a service event."""
        text = f"(service {self.name}) {what}"
        self.events.appendleft({"id": str(uuid.uuid4()), "createdAt": now(), "message": text})

    def _tell(self, deployment: Deployment, name: str, reason: str) -> None:
        """Send an event of the type ECS Deployment State Change."""
        self._backend.events.deployment_changed(self.arn, deployment.id, name, reason)

    def _act(self, name: str, kind: str = "INFO", **more: Any) -> None:
        """Send an event of the type ECS Service Action.

        SERVICE_DESIRED_COUNT_UPDATED is none of ours: it "is not sent when the desired count is manually updated", and
        there is no auto scaling here.
        """
        self._backend.events.service_acted(self.arn, self.cluster_arn, name, kind, **more)

    def tell_hook(self, name: str, hook_id: str, kind: str, stage: str, expires: datetime) -> None:
        """Send an event of the type ECS Hook State Change."""
        rollout = self.service_deployments[0]
        self._backend.events.hook_changed(
            rollout.arn, self.arn, self.cluster_arn, name,
            {"hookId": hook_id, "hookType": kind, "expiresAt": expires, "lifecycleStage": stage},
        )  # fmt: skip

    def _tell_events(self) -> None:
        """Say what happened to tasks since the last time, in one event for all of them, as ECS does."""
        happened, self._events = self._events, {}
        self._was_steady = self._was_steady and not happened
        if started := happened.get("started"):
            replaced = len(happened.get("replaced", []))
            why = f" Amazon ECS replaced {replaced} tasks due to an unhealthy status." if replaced else ""
            self._say(f"has started {len(started)} tasks: {_named(started)}.{why}")
        for task in happened.get("unhealthy", []):
            self._say(f"(task {task}) failed container health checks.")
        if stopped := happened.get("stopped"):
            self._say(f"has stopped {len(stopped)} running tasks: {_named(stopped)}.")
            self._act("TASKS_STOPPED")
        if pending := happened.get("stopped pending"):
            self._say(f"stopped {len(pending)} pending tasks.")

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
                self._machine.service_urls.pop((self.account_id, self.cluster_name, self.name), None)
            return True
        self._take_requests()
        self._publish()
        self._count()
        rollout = self._rollout()
        if rollout and (why := rollout.failure(self.desired_count)):
            self.fail(rollout, why)
        if self._shift:
            self._shift.step()
        self._replace_unhealthy()
        self._work()
        self._tell_events()
        self._forget()
        return self._finish()

    def _finish(self) -> bool:
        """Complete a rolling update, and tell whether there is something left to do."""
        primary, rollout = self.primary, self._rollout()
        others = any(d.alive() for d in self.deployments[1:])
        reached = self.serves(primary, self.desired_count) and not others
        rolling_on = rollout is not None and rollout.rolling and primary.state == "IN_PROGRESS"
        if rollout and rolling_on and (reached or self._early(rollout, others)) and self._baked(rollout):
            self.complete(rollout)
        steady = reached and primary.state == "COMPLETED"
        if steady and not self._was_steady:
            self._say("has reached a steady state.")
            self._act("SERVICE_STEADY_STATE")
            strategy = primary.revision.settings.get("capacityProviderStrategy") or []
            if providers := [item["capacityProvider"] for item in strategy]:
                self._act("CAPACITY_PROVIDER_STEADY_STATE", capacity_providers=providers)
        self._was_steady = steady
        return self._rollout() is not None or not (steady or primary.state == "FAILED")

    def _early(self, rollout: ServiceDeployment, others: bool) -> bool:
        """Tell whether a rollout is done before all of its tasks are there: API_DeploymentEarlySuccessCriteria."""
        criteria = rollout.configuration.get("earlySuccessCriteria") or {}
        if not criteria.get("enable") or rollout.back:
            return False
        healthy = sum(self._healthy(task) for task in self.primary.alive())
        enough = healthy * 100 >= self.desired_count * criteria.get("healthyPercent", 100)
        return enough and (not others or criteria.get("sourceServiceRevisionCleanup") == "DEFERRED")

    def _baked(self, rollout: ServiceDeployment) -> bool:
        """Tell whether all new tasks have run as long as they are to be watched: "Bake time" of deployment alarms."""
        if rollout.back:
            return True
        if self._baked_at is None:
            minutes = rollout.configuration["bakeTimeInMinutes"] or rollout.alarms.bake_minutes()
            self._baked_at = time.monotonic() + minutes * self.minute
        return time.monotonic() >= self._baked_at

    def serves(self, deployment: Deployment, desired: int) -> bool:
        """Tell whether a deployment has so many tasks, and all of them are healthy."""
        alive = deployment.alive()
        return len(alive) == desired and all(self._healthy(task) for task in alive)

    def _count(self) -> None:
        """See which tasks became healthy and which failed, and tell the circuit breaker of those of the PRIMARY one.

        A task fails if it ends by itself before it was ever healthy, or is stopped because a health check says so:
        API_Deployment, failedTasks.
        """
        rollout = self._rollout()
        watching = rollout.watching if rollout else None
        for deployment in self.deployments:
            counts = watching if deployment is self.primary else None
            for task in list(deployment.tasks):
                if task.id not in deployment.good and self._healthy(task):
                    deployment.task_is_good(task)
                    if counts:
                        counts.task_is_good()
                if task.id not in deployment.counted and _failed(task, task.id in deployment.good):
                    deployment.counted.add(task.id)
                    deployment.task_failed("startedAt" in task.times)
                    for fault, _ in self._machine.faults.strike("task", "restart_after", **task.facts):
                        deployment.retry_at = max(deployment.retry_at, time.monotonic() + fault.seconds)
                    if counts:
                        counts.task_failed()
                    if deployment.unstarted == _IMPAIRED_AFTER:
                        self._say(
                            "is unable to consistently start tasks successfully. For more information, see the "
                            "Troubleshooting section of the Amazon ECS Developer Guide."
                        )
                        self._act("SERVICE_TASK_START_IMPAIRED", "WARN")
                if task.stopped:
                    deployment.tasks.remove(task)
            if not deployment.revision.resolved:
                definition = self._backend.describe_task_definition(deployment.revision.task_definition)
                for task in deployment.tasks:
                    deployment.revision.resolve(task, definition)

    def _replace_unhealthy(self) -> None:
        """Start a replacement first where maximumPercent lets it, then stop the task: "Amazon ECS services".

        For healthCheckGracePeriodSeconds a task's health is ignored: API_CreateService.
        """
        grace = float(self.settings.get("healthCheckGracePeriodSeconds") or 0)
        _, most = self._limits()
        for deployment in self.deployments:
            for task in deployment.alive():
                sick = task.health == "UNHEALTHY" and time.monotonic() - (task.running_since or 0) >= grace
                reason = _UNHEALTHY if sick else self._targets.fatal(task)
                if not reason:
                    continue
                room = most - sum(len(d.alive()) for d in self.deployments)
                may = deployment is self.primary and deployment.state != "FAILED" and room > 0 and self._may_launch()
                if may and self._launch(deployment):
                    self._note("replaced", task)
                if sick:
                    self._note("unhealthy", task)
                self._stop(task, reason)

    def _work(self) -> None:
        """Start and stop tasks."""
        primary = self.primary
        if primary.state == "FAILED":  # it starts no task any more, but may be scaled in
            for deployment in self.deployments:
                self._keep(deployment, min(len(deployment.alive()), self.desired_count))
            return
        if self._shift:
            for deployment in self.deployments:
                self._keep(deployment, deployment.desired)
            return
        least, most = (self.deployment_configuration[k] for k in ("minimumHealthyPercent", "maximumPercent"))
        primary.desired = self.desired_count
        old = [task for d in self.deployments[1:] for task in d.alive()]
        new = primary.alive()
        serving = [task for task in old if self._healthy(task)]
        healthy = sum(self._healthy(task) for task in new)
        step = rolling.step(
            self.desired_count, least, most, rolling.Counts(len(new), healthy, len(old), len(serving))
        )  # fmt: skip
        self._keep(primary, len(new) + step.start - step.stop_new)
        idle = [task for task in old if task not in serving] if step.stop_old_idle else []
        for task in [*idle, *serving[: step.stop_old]]:
            self._stop(task)
        for deployment in self.deployments[1:]:
            deployment.desired = len(deployment.alive())
        if step.blocked and not primary.blocked:
            primary.blocked = True
            self._say(
                "was unable to stop or start tasks during a deployment because of the service deployment "
                "configuration. Update the minimumHealthyPercent or maximumPercent value and try again."
            )

    def _limits(self) -> tuple[int, int]:
        configuration = self.deployment_configuration
        return rolling.limits(
            self.desired_count, configuration["minimumHealthyPercent"], configuration["maximumPercent"]
        )

    def _keep(self, deployment: Deployment, count: int) -> None:
        """Have so many tasks of a deployment, as far as they may be started now."""
        alive = deployment.alive()
        for _ in range(count - len(alive)):
            if not self._may_launch(deployment):
                return
            self._launch(deployment)
        for task in sorted(alive, key=self._healthy)[: max(len(alive) - count, 0)]:
            self._stop(task)

    def _may_launch(self, deployment: Deployment | None = None) -> bool:
        """Tell whether to start a task now: not while ECS holds back, nor beside the first one that resolves tags."""
        deployment = deployment or self.primary
        if time.monotonic() < deployment.retry_at:
            return False
        return deployment.revision.resolved or not deployment.alive()

    def _launch(self, deployment: Deployment) -> bool:
        """Start a task, and tell whether there was capacity for it."""
        settings = deployment.revision.settings
        definition = self._backend.describe_task_definition(settings["taskDefinition"])
        tags = [{"key": "aws:ecs:clusterName", "value": self.cluster_name}] if self._managed_tags else []
        tags += [{"key": "aws:ecs:serviceName", "value": self.name}] if self._managed_tags else []
        source = self.settings.get("propagateTags")
        tags += self.tags if source == "SERVICE" else definition.tags if source == "TASK_DEFINITION" else []
        strategy = settings.get("capacityProviderStrategy") or []
        facts = facts_of_task(self.cluster_name, definition.family, f"service:{self.name}")
        if self._machine.faults.struck("capacity", **facts):
            self._not_placed(deployment)
            return False
        task = Task(
            self._backend,
            Wanted(
                cluster=self._cluster, definition=definition, launch_type=self.launch_type,
                capacity_provider=strategy[0]["capacityProvider"] if strategy else None,
                group=f"service:{self.name}", started_by=deployment.id, tags=tags,
                network=settings.get("networkConfiguration") or {}, digests=deployment.revision.digests,
                execute_command=bool(self.settings.get("enableExecuteCommand")),
            ),
            on_change=self._wake.set,
            drain=self._targets.drain,
        )  # fmt: skip
        deployment.tasks.append(task)
        self._started.append(task)
        self._backend.add_task(task)
        self._note("started", task)
        task.start()
        return True

    def _not_placed(self, deployment: Deployment) -> None:
        """There is no capacity: said so, and tried again; it is no failed task, so no matter for the circuit breaker.

        docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html, ecs_service_events.html
        """
        self._say(f"was unable to place a task. Reason: {NO_CAPACITY}.")
        strategy = deployment.revision.settings.get("capacityProviderStrategy") or []
        name, providers = "SERVICE_TASK_PLACEMENT_FAILURE", [each["capacityProvider"] for each in strategy]
        self._act(name, "ERROR", capacity_providers=providers, reason="RESOURCE:FARGATE")
        deployment.retry_at = time.monotonic() + _PLACE_AGAIN_SECONDS

    def _note(self, what: str, task: Task) -> None:
        self._events.setdefault(what, []).append(task.id)

    @property
    def _managed_tags(self) -> bool:
        return bool(self.settings.get("enableECSManagedTags"))

    def _stop(self, task: Task, reason: str | None = None) -> None:
        """Stop a task; requests to it may end by themselves first (`Targets.drain`)."""
        said = f"Scaling activity initiated by (deployment {self.primary.id})"
        self._note("stopped" if task.last_status == "RUNNING" else "stopped pending", task)
        task.stop(reason or said, "ServiceSchedulerInitiated")

    def _healthy(self, task: Task) -> bool:
        """Tell whether a task serves."""
        return self._targets.healthy(task)

    def _publish(self) -> None:
        """Give the service its address as soon as one of its revisions has a port, and its balancer the tasks."""
        if self._targets.url is None:
            definition = self._backend.describe_task_definition(self.task_definition)
            if any(c.get("portMappings") for c in definition.container_definitions):
                self._targets.open()
                self._machine.service_urls[self.account_id, self.cluster_name, self.name] = self._targets.url
        self._targets.update(self.deployments)

    def _forget(self) -> None:
        """Forget deployments without tasks that are to run, as ECS does; the PRIMARY one stays."""
        draining = [d for d in self.deployments[1:] if not d.alive()]
        for deployment in draining:
            deployment.status, deployment.desired = "INACTIVE", 0
            self.deployments.remove(deployment)
        self._started = [task for task in self._started if not task.stopped]


def _named(tasks: list[str]) -> str:
    return " ".join(f"(task {task})" for task in tasks)


def _failed(task: Task, was_good: bool) -> bool:
    """Tell whether a task counts as failed; one that was stopped by the scheduler or a person does not."""
    if (task.stopped_reason or "").startswith((_UNHEALTHY, FAILED_ELB_CHECKS)):
        return True
    return not was_good and task.stop_code in ("EssentialContainerExited", "TaskFailedToStart")
