"""Which of a service's tasks answer: each is a target of its load balancer, from when it is healthy until it drains.

docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_runner.local_aws.ecs.balancer import MOST_WEIGHT, Balancer, Server
from deploy_runner.local_aws.ecs.rollouts import Deployment
from deploy_runner.local_aws.ecs.tasks import Task

# A task without a health check is taken for healthy once it has run so long and its port answers; a port that never
# answers is no reason to wait for ever, since ECS would not look at it.
SETTLE_SECONDS = 1.0
PORT_SECONDS = 15.0
DRAIN_SECONDS = 5.0  # requests to a task that is replaced may end by themselves; a load balancer's limit is 300


@dataclass
class Target:
    """A task that runs, or drains."""

    task: Task
    address: tuple[str, int] | None  # None: it has no port
    deployment: Deployment
    state: str = "initial"  # as DescribeTargetHealth has it: initial, healthy, unhealthy, draining


class Targets:
    """A service's targets, and the balancer before them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        """Register tasks that run now, look at the health of all, and tell the balancer."""
        with self._lock:
            for deployment in deployments:
                for task in deployment.alive():
                    if task.last_status == "RUNNING":
                        target = self._targets.setdefault(task.id, Target(task, _address(task), deployment))
                        target.deployment = deployment  # a rollback takes tasks over
            for target in self._targets.values():
                if target.state != "draining":
                    target.state = _health(target)
            self._route()

    def healthy(self, task: Task) -> bool:
        """Tell whether a task serves."""
        target = self._targets.get(task.id)
        return task.desired_status == "RUNNING" and target is not None and target.state == "healthy"

    def drain(self, task: Task) -> None:
        """Give a task no more requests, and return once it has answered those that it has, or the time is over."""
        with self._lock:
            if task.id not in self._targets:
                return
            self._targets[task.id].state = "draining"
            self._route()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._balancer and self._balancer.connections(task.id) and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            del self._targets[task.id]
            self._route()

    def close(self) -> None:
        """Answer nothing any more."""
        with self._lock:
            if self._balancer:
                self._balancer.close()
            self._balancer = None

    def _route(self) -> None:
        for target in list(self._targets.values()):
            if target.task.last_status not in ("RUNNING", "DEACTIVATING"):
                del self._targets[target.task.id]  # it died
        if self._balancer:
            reachable = {i: target for i, target in self._targets.items() if target.address}
            weights = _weights(list(reachable.values()))
            self._balancer.serve({i: Server(t.address, weights.get(i, 0)) for i, t in reachable.items() if t.address})


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
    if any(c.essential and c.definition.get("healthCheck") for c in task.containers):
        return {"HEALTHY": "healthy", "UNHEALTHY": "unhealthy"}.get(task.health, "initial")
    age = time.monotonic() - (task.running_since or time.monotonic())
    if target.state == "healthy" or age < SETTLE_SECONDS:
        return target.state
    if target.address is None or age > PORT_SECONDS:
        return "healthy"
    with contextlib.suppress(OSError), socket.create_connection(target.address, timeout=0.2):
        return "healthy"
    return "initial"


def _weights(targets: list[Target]) -> dict[str, int]:
    """Return the weight of each target that takes requests: all healthy ones; where there are none, all there are.

    The latter is what a load balancer does too ("fails open"): the page above, "Health checks for your target groups".
    A deployment with a weight (0 to 100) has that part of the requests, however many tasks it has.
    """
    serving = [t for t in targets if t.state == "healthy"] or [t for t in targets if t.state != "draining"]
    given: dict[int, Any] = {id(t.deployment): getattr(t.deployment, "weight", None) for t in serving}
    if all(weight is None for weight in given.values()):
        return {t.task.id: MOST_WEIGHT // 2 for t in serving}
    rest = max(0, 100 - sum(weight or 0 for weight in given.values()))
    count = Counter(id(t.deployment) for t in serving)
    parts = {
        t.task.id: (rest if (w := given[id(t.deployment)]) is None else w) / count[id(t.deployment)] for t in serving
    }
    most = max(parts.values()) or 1
    return {task: round(MOST_WEIGHT * part / most) for task, part in parts.items()}
