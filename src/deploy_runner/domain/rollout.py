"""The verdict of a rollout, by identity: ours is the service deployment whose target revision is our task definition.

docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ServiceDeployment.html lists the statuses. Only SUCCESSFUL is
success: a rollback ends "stable" too. What is read right after an update may be old, so what does not name our revision
says nothing.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy_runner.domain.errors import (
    RolloutError,
    RolloutFailed,
    RolloutReplaced,
    RolloutRolledBack,
    RolloutStopped,
    one_line,
)

MAX_REASON = 200
# Without its circuit breaker ECS tries for ever. Three failed tasks are the least that the circuit breaker itself uses:
# docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html
FAILED_TASKS = 3


@dataclass(frozen=True, slots=True)
class Rollout:
    """What UpdateService was called for, or UpdateSchedule: then `schedule` is its group and name.

    `since` is for a revision that may have been rolled out before: what is older, in seconds since 1970, is not ours.
    """

    service: str
    service_arn: str
    cluster: str
    task_definition: str
    previous_task_definition: str | None = None
    schedule: str = ""
    since: float = 0.0
    digest: str = ""  # of the image that its containers run


@dataclass(frozen=True, slots=True)
class ServiceDeployment:
    """One service deployment with the task definition of its target revision, as ECS describes it."""

    arn: str
    status: str
    task_definition: str | None
    reason: str = ""
    created_at: float = 0.0
    digests: tuple[str, ...] = ()  # of the images that ECS resolved for it; none where it tells none


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of `deployments` in DescribeServices."""

    status: str
    task_definition: str | None
    rollout_state: str | None = None
    desired: int = 0
    running: int = 0
    failed: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What one reading of ECS gave for a service; any part of it may be old or empty."""

    service_status: str | None
    desired: int
    deployments: tuple[Deployment, ...] = ()
    service_deployments: tuple[ServiceDeployment, ...] = ()
    circuit_breaker: bool = False
    events: tuple[tuple[float, str], ...] = ()  # the service's own, the newest first: seconds since 1970 and message

    @property
    def primary(self) -> Deployment | None:
        """Return the PRIMARY deployment: the one that ECS works towards."""
        return next((deployment for deployment in self.deployments if deployment.status == "PRIMARY"), None)

    def running(self, task_definition: str | None) -> int:
        """Return how many tasks of a revision run."""
        return sum(d.running for d in self.deployments if d.task_definition == task_definition)

    def failed(self, task_definition: str | None) -> int:
        """Return how many tasks of a revision ECS counts as failed."""
        return max((d.failed for d in self.deployments if d.task_definition == task_definition), default=0)


@dataclass(frozen=True, slots=True)
class Pending:
    """No verdict yet."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The rollout ended well; the note says so if no task was started to show it."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The rollout did not end well."""

    error: type[RolloutError]
    why: str


def is_visible(rollout: Rollout, seen: Observed) -> bool:
    """Return whether this reading knows our rollout at all; right after an update it may not yet."""
    # A revision that was rolled out before may still drain: then only what ECS works towards is ours.
    known = [d for d in seen.deployments if not rollout.since or d.status == "PRIMARY"]
    return bool(of_ours(rollout, seen)) or rollout.task_definition in [d.task_definition for d in known]


def of_ours(rollout: Rollout, seen: Observed) -> list[ServiceDeployment]:
    """Return the service deployments that are this rollout, the newest last."""
    ours = [
        d
        for d in seen.service_deployments
        if d.task_definition == rollout.task_definition and d.created_at >= rollout.since
    ]
    return sorted(ours, key=lambda d: d.created_at)


Verdict = Pending | Succeeded | Failed

_ROLLED_BACK = ("ROLLBACK_REQUESTED", "ROLLBACK_IN_PROGRESS", "ROLLBACK_SUCCESSFUL")
_NOT_EXERCISED = "not exercised: the service's desired count is 0"


def verdict(rollout: Rollout, seen: Observed) -> Verdict:
    """Return the verdict for one rollout from one reading of ECS. Total: whatever is not understood is Pending.

    A rollback is a verdict as soon as it starts: the new revision will not serve, and a person can act now.
    """
    if seen.service_status in ("INACTIVE", "DRAINING"):
        return Failed(RolloutFailed, "the service was deleted")
    ours = of_ours(rollout, seen)
    if ours:
        return _by_service_deployment(rollout, seen, ours[-1])
    return _by_primary(rollout, seen)


def _by_service_deployment(rollout: Rollout, seen: Observed, ours: ServiceDeployment) -> Verdict:
    if ours.status == "SUCCESSFUL":
        if rollout.digest and ours.digests and rollout.digest not in ours.digests:
            return Failed(RolloutFailed, f"it runs {ours.digests[0][:19]} instead of {rollout.digest[:19]}")
        return Succeeded(_NOT_EXERCISED if seen.desired == 0 else "")
    if ours.status in _ROLLED_BACK:
        return Failed(RolloutRolledBack, f"ECS rolled back{_because(ours.reason)}")
    if ours.status == "ROLLBACK_FAILED":  # a first deployment ends so too: "No rollback candidate was found"
        return Failed(RolloutFailed, f"ECS gave up and could not roll back{_because(ours.reason)}")
    newer = [d for d in seen.service_deployments if d.created_at > ours.created_at]
    if ours.status == "STOPPED":
        if any(d.task_definition not in (None, rollout.task_definition) for d in newer):
            return Failed(RolloutReplaced, "another revision was deployed meanwhile")
        if seen.primary and seen.primary.task_definition == rollout.task_definition and _gave_up(seen.primary):
            return Failed(RolloutFailed, f"ECS gave up{_because(seen.primary.reason)}")
        if "circuit breaker" in ours.reason.lower():
            return Failed(RolloutFailed, f"ECS gave up{_because(ours.reason)}")
        return Failed(RolloutStopped, f"someone stopped the rollout{_because(ours.reason)}")
    return _by_failed_tasks(rollout, seen)


def _by_primary(rollout: Rollout, seen: Observed) -> Verdict:
    """Judge by DescribeServices alone: an update that changed nothing starts no service deployment."""
    primary = seen.primary
    if primary is None or primary.task_definition != rollout.task_definition:
        return Pending()
    if _gave_up(primary):
        return Failed(RolloutFailed, f"ECS gave up{_because(primary.reason)}")
    if primary.rollout_state == "COMPLETED" and primary.running >= primary.desired:
        return Succeeded(_NOT_EXERCISED if seen.desired == 0 else "")
    return _by_failed_tasks(rollout, seen)


def _by_failed_tasks(rollout: Rollout, seen: Observed) -> Verdict:
    """Without a circuit breaker ECS starts what crashes again for ever: judge by count, never by time."""
    primary = seen.primary
    if primary is None or primary.task_definition != rollout.task_definition:
        return Pending()
    if _gave_up(primary):
        return Failed(RolloutFailed, f"ECS gave up{_because(primary.reason)}")
    if not seen.circuit_breaker and primary.failed >= FAILED_TASKS and primary.running == 0:
        return Failed(RolloutFailed, "its tasks keep failing, and without a circuit breaker ECS keeps trying")
    return Pending()


def _gave_up(primary: Deployment) -> bool:
    return primary.rollout_state == "FAILED"


def _because(reason: str) -> str:
    return f": {one_line(reason, 120)}" if reason.strip() else ""


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict over all services: the first failure decides, else all must have succeeded."""
    for found in verdicts:
        if isinstance(found, Failed):
            return found
    if any(isinstance(found, Pending) for found in verdicts):
        return Pending()
    return Succeeded("; ".join(sorted({v.note for v in verdicts if isinstance(v, Succeeded) and v.note})))


@dataclass(frozen=True, slots=True)
class StoppedTask:
    """Why one task of the revision stopped, and where its last words are."""

    task_id: str
    container: str | None = None
    exit_code: int | None = None
    reason: str = ""
    stop_code: str = ""  # docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Task.html


def stopped_task(task: Mapping[str, Any]) -> StoppedTask:
    """Return why a task stopped: the container that ended with an error, else ECS's reason. Total."""
    task_id = str(task.get("taskArn", "")).rpartition("/")[2]
    stop_code = str(task.get("stopCode") or "")
    containers = [c for c in task.get("containers") or [] if isinstance(c, Mapping)]
    failed = [c for c in containers if c.get("exitCode") not in (None, 0)]
    # One without memory takes the others with it. 137 and 143 are else what stopping the others looks like.
    failed = [c for c in failed if out_of_memory(str(c.get("reason") or ""))] + [
        c for c in failed if c["exitCode"] not in (137, 143)
    ]
    for container in [*failed, *(c for c in containers if c.get("reason"))]:
        said = str(container.get("reason") or "")
        return StoppedTask(task_id, container.get("name"), container.get("exitCode"), said, stop_code)
    stopped = str(task.get("stoppedReason") or "")
    codes = [c for c in containers if isinstance(c.get("exitCode"), int)]
    if codes and (not stopped or "essential container" in stopped.lower()):
        return StoppedTask(task_id, codes[0].get("name"), codes[0]["exitCode"], "", stop_code)
    return StoppedTask(task_id, codes[0].get("name") if codes else None, None, stopped, stop_code)


# Words of ECS for what another try may not meet again, whatever it stands in: the developer guide's "Stopped task error
# messages" and "CannotPullContainer task errors" tell the two kinds apart by them.
_MAY_HEAL = re.compile(
    r"time(d )?out|timeout|deadline exceeded|connection|throttl|toomanyrequests|rate exceeded|too many requests"
    r"|temporar|try again|internal (server )?error|service unavailable|no space left|\b50[0-9]\b",
    re.IGNORECASE,
)
_CANNOT_START = re.compile(r"CannotPull\w*Error|ResourceInitializationError|CannotCreate\w*Error|CannotStart\w*Error")
_UNHEALTHY = re.compile(r"failed (container|ELB) health checks", re.IGNORECASE)
# One may come of a role or a secret that is a moment old.
FATAL_STOPS = 2


def hopeless(rollout: Rollout, seen: Observed, stopped: Sequence[StoppedTask]) -> Failed | None:
    """Return the failure of a rollout that cannot heal by itself, from its stopped tasks; None while it may.

    An image or a secret that is not there does not come by waiting. What exits or is unhealthy again and again is
    judged by count, never by time: by ECS itself where its circuit breaker, whose threshold is half the desired count
    and at least three, comes as early. Missing capacity is waited for.
    docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
    """
    cannot_start = [task for task in stopped if _CANNOT_START.search(task.reason) and not _MAY_HEAL.search(task.reason)]
    if len(cannot_start) >= FATAL_STOPS:
        return Failed(RolloutFailed, brief(cannot_start[0].reason, 120))
    crashed = [task for task in stopped if _ended_by_itself(task) or _UNHEALTHY.search(task.reason)]
    limit = FAILED_TASKS if seen.running(rollout.task_definition) == 0 else max(FAILED_TASKS, seen.desired)
    judged_by_ecs = seen.circuit_breaker and seen.desired <= 2 * FAILED_TASKS
    if len(crashed) >= limit and not judged_by_ecs:
        return Failed(RolloutFailed, "its tasks keep failing")
    return None


def _ended_by_itself(task: StoppedTask) -> bool:
    """Tell a crash from an app that exits otherwise than with 0 when it is asked to stop."""
    return task.exit_code is not None and task.stop_code in ("", "EssentialContainerExited")


def reason(
    rollout: Rollout, seen: Observed, failed: Failed, stopped: Sequence[StoppedTask] = (), log_line: str = ""
) -> str:
    """Return one line for people, at most 200 characters: what happened, how often, the last log line, what serves now.

    As in: cineos: exit 1, 3 times, `KeyError: 'DATABASE_URL'`; revision 41 still serves
    """
    if failed.error is RolloutReplaced and seen.primary and seen.primary.task_definition:
        return f"{rollout.service}: {version(seen.primary.task_definition)} was deployed meanwhile, and takes over"
    serves = what_serves(rollout, seen)
    if failed.error in (RolloutFailed, RolloutRolledBack) and stopped:
        kinds = Counter(kind_of(task) for task in stopped)
        what, count = kinds.most_common(1)[0]
        count = max(count, seen.failed(rollout.task_definition)) if len(kinds) == 1 else count
        happened = f"{what}, {count} times" if count > 1 else what
    else:
        happened = failed.why
    head = f"{rollout.service}: "
    room = MAX_REASON - len(head) - len(serves) - 2
    happened = brief(happened, max(20, min(room, 140)))
    room -= len(happened) + 4
    line = one_line(log_line.replace("`", "'"), max(room, 1))
    quoted = f", `{line}`" if log_line.strip() and room > 12 else ""
    return one_line(f"{head}{happened}{quoted}; {serves}", MAX_REASON)


def kind_of(task: StoppedTask) -> str:
    """Return what a stopped task died of, for people."""
    if task.exit_code is not None:
        return f"exit {task.exit_code}{' (out of memory)' if out_of_memory(task.reason) else ''}"
    return brief(task.reason, 120) or "its task stopped"


def out_of_memory(reason: str) -> bool:
    """Return whether a container's reason is that it was killed for its memory."""
    return "outofmemory" in reason.replace(" ", "").lower()


def brief(reason: str, limit: int) -> str:
    """Return a reason of ECS's in one line of at most `limit` characters.

    Its first and its last words say what went wrong, and what it tried stands between them, as in
    ResourceInitializationError: … Secrets Manager can't find the specified secret.
    """
    said = one_line(reason, 2000)
    first, *rest = said.split(": ")
    if len(said) <= limit or len(first) > limit // 2:
        return one_line(said, limit)
    kept = ""
    while rest and len(longer := f": {rest[-1]}{kept}") <= limit - len(first) - 3:
        kept = longer
        rest.pop()
    return f"{first}: …{kept[1:]}" if kept else one_line(said, limit)


def what_serves(rollout: Rollout, seen: Observed) -> str:
    """Return what answers now, for people: revisions are called by their number."""
    previous = rollout.previous_task_definition
    if previous and previous != rollout.task_definition and seen.running(previous):
        return f"{version(previous)} still serves"
    others = [d for d in seen.deployments if d.running and d.task_definition not in (previous, rollout.task_definition)]
    if others:
        return f"{version(others[0].task_definition or '')} serves"
    if seen.running(rollout.task_definition):
        return f"{version(rollout.task_definition)} still runs"
    return "nothing serves"


def version(task_definition: str) -> str:
    """Return "revision 41" for a task definition's ARN that ends in :41."""
    found = re.search(r":([0-9]+)$", task_definition)
    return f"revision {found.group(1)}" if found else "another revision"
