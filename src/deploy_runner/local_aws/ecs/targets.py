"""Which of a service's tasks answer: each is a target of its load balancer, from when it is healthy until it drains.

docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
Service events: docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moto.ecs.exceptions import InvalidParameterException

from deploy_runner.local_aws import elbv2
from deploy_runner.local_aws.ecs.balancer import MOST_WEIGHT, Balancer, Server
from deploy_runner.local_aws.ecs.rollouts import Deployment
from deploy_runner.local_aws.ecs.tasks import Task

# A task without a health check is taken for healthy once it has run so long and its port answers; a port that never
# answers is no reason to wait for ever, since ECS would not look at it.
SETTLE_SECONDS = 1.0
PORT_SECONDS = 15.0
DRAIN_SECONDS = 5.0  # what a task that is replaced has to answer its last requests, where no target group says it
FAILED_ELB_CHECKS = "Task failed ELB health checks"  # .../developerguide/stopped-task-error-codes.html


@dataclass
class Target:
    """A task that runs, or drains."""

    task: Task
    address: tuple[str, int] | None  # None: it has no port
    deployment: Deployment
    registered: list[elbv2.Target]  # with the target groups that the service names
    state: str = "initial"  # as DescribeTargetHealth has it: initial, healthy, unhealthy, draining
    told: bool = False  # that it fails

    @property
    def failing(self) -> elbv2.Target | None:
        """Where a target group's health check fails."""
        return next((r for r in self.registered if r.state == "unhealthy"), None)


class Targets:
    """A service's targets, and the balancer before them."""

    def __init__(self, settings: dict[str, Any], folder: Path, say: Callable[[str], None]) -> None:
        """`settings` are the service's, `say` takes a service event."""
        self._settings, self._folder, self._say = settings, folder, say
        self._targets: dict[str, Target] = {}  # by the task's id
        self._balancer: Balancer | None = None
        self._lock = threading.RLock()

    @property
    def url(self) -> str | None:
        """Where the service answers, once there is a port."""
        return self._balancer.url if self._balancer else None

    def open(self) -> None:
        """Give the service its address; to be called from the thread of its scheduler (`Balancer`)."""
        self._balancer = self._balancer or Balancer(self._folder)

    def update(self, deployments: Iterable[Deployment]) -> None:
        """Register tasks that run now, look at the health of all, and tell the balancer; from the thread of `open`."""
        with self._lock:
            if self._balancer:
                self._balancer.revive()
            new = Counter[str]()
            for deployment in deployments:
                for task in deployment.alive():
                    if task.last_status == "RUNNING" and task.id not in self._targets:
                        self._targets[task.id] = target = self._register(task, deployment)
                        new.update(r.group.arn for r in target.registered)
                    if task.id in self._targets:
                        self._targets[task.id].deployment = deployment  # a rollback takes tasks over
            for group, count in new.items():
                self._say(f"registered {count} targets in (target-group {group})")
            for target in self._targets.values():
                if target.state != "draining":
                    self._look(target)
            self._route()

    def healthy(self, task: Task) -> bool:
        """Tell whether a task serves."""
        target = self._targets.get(task.id)
        return task.desired_status == "RUNNING" and target is not None and target.state == "healthy"

    def fatal(self, task: Task) -> str | None:
        """Return why a task must be stopped, in ECS's words: its target group's health check fails after the grace."""
        target = self._targets.get(task.id)
        failing = target.failing if target else None
        grace = self._settings.get("healthCheckGracePeriodSeconds") or 0
        if failing is None or time.monotonic() < (task.running_since or 0) + grace:
            return None
        return f"{FAILED_ELB_CHECKS} in (target-group {failing.group.arn})"

    def drain(self, task: Task) -> None:
        """Give a task no more requests, and return once it has answered those that it has, or the time is over.

        The time is the deregistration delay of its target groups, which a load balancer of AWS always waits.
        """
        with self._lock:
            target = self._targets.get(task.id)
            if target is None:
                return
            target.state = "draining"
            self._deregister(target)
            with contextlib.suppress(OSError):  # without a balancer there are no requests either
                self._route()
        seconds = max((r.deregistration_delay for r in target.registered), default=DRAIN_SECONDS)
        deadline = time.monotonic() + seconds
        while self._connections(task) and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock, contextlib.suppress(OSError):
            self._forget(target)
            self._route()

    def close(self) -> None:
        """Answer nothing any more."""
        with self._lock:
            balancer, self._balancer = self._balancer, None
            if balancer:
                balancer.close()
            for target in list(self._targets.values()):
                self._forget(target)

    def _register(self, task: Task, deployment: Deployment) -> Target:
        registered = []
        named = deployment.revision.settings.get("loadBalancers") or []
        for entry in named:
            group, _ = elbv2.find_group(entry["targetGroupArn"])
            if group is not None:
                name, port = entry["containerName"], entry["containerPort"]
                reach = partial(task.endpoint, name)
                registered.append(elbv2.register(group, task.address, port, reach))
        address = task.endpoint(named[0]["containerName"], named[0]["containerPort"]) if named else _address(task)
        return Target(task, address, deployment, registered)

    def _deregister(self, target: Target) -> None:
        for registered in target.registered:
            registered.drain()
            self._say(f"deregistered 1 targets in (target-group {registered.group.arn})")
        if target.registered:
            self._say("has begun draining connections on 1 tasks.")

    def _look(self, target: Target) -> None:
        target.state = _health(target)
        failing = target.failing
        if failing and not target.told:
            target.told = True
            self._say(
                f"(task {target.task.id}) (port {failing.port}) is unhealthy in (target-group {failing.group.arn}) "
                f"due to (reason {failing.description})"
            )

    def _connections(self, task: Task) -> int:
        with self._lock, contextlib.suppress(OSError):
            return self._balancer.connections(task.id) if self._balancer else 0
        return 0

    def _forget(self, target: Target) -> None:
        for registered in target.registered:
            registered.end()
        self._targets.pop(target.task.id, None)

    def _route(self) -> None:
        for target in list(self._targets.values()):
            if target.task.last_status not in ("RUNNING", "DEACTIVATING"):  # it died
                self._deregister(target)
                self._forget(target)
        if self._balancer:
            reachable = {i: target for i, target in self._targets.items() if target.address}
            parts = weights(list(reachable.values()))
            self._balancer.serve({i: Server(t.address, parts.get(i, 0)) for i, t in reachable.items() if t.address})


def check_load_balancers(balancers: list[dict[str, Any]] | None, definition: Any) -> None:
    """Refuse what CreateService and UpdateService refuse of `loadBalancers`, in ECS's words. Raises ECSException."""
    for entry in balancers or []:
        arn, name, port = entry.get("targetGroupArn"), entry.get("containerName"), entry.get("containerPort")
        if not arn:
            raise InvalidParameterException("local AWS has no Classic Load Balancer: name a targetGroupArn.")
        container = next((c for c in definition.container_definitions if c["name"] == name), None)
        if container is None:
            raise InvalidParameterException(f"The container {name} does not exist in the task definition.")
        if port not in [mapping.get("containerPort") for mapping in container.get("portMappings") or []]:
            raise InvalidParameterException(f"The container {name} did not have a container port {port} defined.")
        group, in_use = elbv2.find_group(arn)
        if group is None:
            raise InvalidParameterException(
                "Unable to assume role and validate the specified targetGroupArn. Please verify that the ECS service "
                "role being passed has the proper permissions."
            )
        if definition.network_mode == "awsvpc" and group.target_type != "ip":
            raise InvalidParameterException(
                f"The provided target group {arn} has target type {group.target_type}, which is incompatible with the "
                "awsvpc network mode specified in the task definition."
            )
        if not in_use:
            raise InvalidParameterException(
                f"The target group with targetGroupArn {arn} does not have an associated load balancer."
            )


def _address(task: Task) -> tuple[str, int] | None:
    """Return where the service's port of a task is: that of the first container with a port mapping."""
    for container in task.containers:
        for mapping in container.definition.get("portMappings") or []:
            if "containerPort" in mapping and mapping.get("protocol", "tcp") == "tcp":
                return task.endpoint(container.name, mapping["containerPort"])
    return None


def _health(target: Target) -> str:
    """Return a target's state; see SETTLE_SECONDS."""
    task = target.task
    states = [registered.state for registered in target.registered]
    if any(c.essential and c.definition.get("healthCheck") for c in task.containers):
        states.append({"HEALTHY": "healthy", "UNHEALTHY": "unhealthy"}.get(task.health, "initial"))
    if states:
        return next((state for state in ("unhealthy", "initial") if state in states), "healthy")
    age = time.monotonic() - (task.running_since or time.monotonic())
    if target.state == "healthy" or age < SETTLE_SECONDS:
        return target.state
    if target.address is None or age > PORT_SECONDS:
        return "healthy"
    with contextlib.suppress(OSError), socket.create_connection(target.address, timeout=0.2):
        return "healthy"
    return "initial"


def weights(targets: list[Target]) -> dict[str, int]:
    """Return the weight of each target that takes requests: all healthy ones; where there are none, all there are.

    The latter is what a load balancer does too ("fails open"): the page above, "Health checks for your target groups".
    A deployment with a weight (0 to 100) has that part of the requests, however many tasks it has.
    """
    able = [t for t in targets if t.state != "draining" and t.deployment.weight != 0]
    serving = [t for t in able if t.state == "healthy"] or able
    given = {id(t.deployment): t.deployment.weight for t in serving}
    if all(weight is None for weight in given.values()):
        return {t.task.id: MOST_WEIGHT // 2 for t in serving}
    rest = max(0, 100 - sum(weight or 0 for weight in given.values()))
    count = Counter(id(t.deployment) for t in serving)
    parts = {
        t.task.id: (rest if (w := given[id(t.deployment)]) is None else w) / count[id(t.deployment)] for t in serving
    }
    most = max(parts.values()) or 1
    return {task: round(MOST_WEIGHT * part / most) for task, part in parts.items()}
