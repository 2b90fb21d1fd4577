"""A runner task among others: whether it is the first of its deployment, and how its containers ended.

This module runs on Python 3.11 too: the runner tasks share it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# A file of app-deployer's own container, by which its health check lets clone start.
MAY_BUILD = "/tmp/may-build"  # noqa: S108
BEFORE_DEPLOY = ("clone", "kaniko")  # in this order


class BuildFailed(Exception):
    """A container ended otherwise than by success; the text says which."""


@dataclass(frozen=True)
class RunnerTask:
    """A task of a deployment; `exit_code` is that of its essential container, once it has ended."""

    arn: str
    created_at: float
    live: bool
    exit_code: int | None = None


def runner_task(task: Mapping[str, Any], essential: str) -> RunnerTask:
    """Return what counts of a task as DescribeTasks shows it."""
    codes = {c.get("name"): c.get("exitCode") for c in task.get("containers", [])}
    created = task.get("createdAt")
    live = task.get("desiredStatus") == "RUNNING"
    return RunnerTask(str(task.get("taskArn")), created.timestamp() if created else 0.0, live, codes.get(essential))


def first_of(tasks: Iterable[RunnerTask], own_arn: str) -> RunnerTask | None:
    """Return the task that does the work instead of the own one, None where it is the own one's to do.

    A RunTask that is tried again starts a second task of the same deployment. The older one does the work, and one that
    has done it need not be repeated. One that has failed is no reason: a person has the execution tried again.
    """
    known = list(tasks)
    own = next((task for task in known if task.arn == own_arn), None)
    others = [task for task in known if task.arn != own_arn and (task.live or task.exit_code == 0)]
    if own:
        others = [task for task in others if (task.created_at, task.arn) < (own.created_at, own.arn)]
    return min(others, key=lambda task: (task.created_at, task.arn), default=None)


def is_built(containers: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether clone and Kaniko have ended well, by the containers of the task metadata; False while they run.

    Raises BuildFailed as soon as one of them has ended otherwise. The names of the fields:
    docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html
    """
    by_name = {container.get("Name"): container for container in containers}
    for name in BEFORE_DEPLOY:
        container = by_name.get(name, {})
        if container.get("KnownStatus") != "STOPPED":
            return False
        code = container.get("ExitCode")
        if code != 0:
            raise BuildFailed(f"{name} ended with exit code {code}" if code is not None else f"{name} did not run")
    return True
