"""How a deployment ended: the verdict, the error's name and one line for people, from whatever a state left behind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy_runner.domain.errors import (
    RequestRejected,
    RolloutFailed,
    RolloutRolledBack,
    Superseded,
    all_errors,
    one_line,
)
from deploy_runner.domain.phases import ON_FARGATE
from deploy_runner.domain.rollout import out_of_memory

SUCCEEDED, FAILED, ROLLED_BACK, SUPERSEDED = "SUCCEEDED", "FAILED", "ROLLED_BACK", "SUPERSEDED"
CANCELLED, REJECTED, TIMED_OUT = "CANCELLED", "REJECTED", "TIMED_OUT"
VERDICTS = (SUCCEEDED, FAILED, ROLLED_BACK, SUPERSEDED, CANCELLED, REJECTED, TIMED_OUT)

MAX_CAUSE = 1000  # a rejection lists its problems; a cause may hold 32,768
MAX_PARSED = 300_000  # more than a state's output can hold
TIMEOUTS = ("States.Timeout", "States.HeartbeatTimeout")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a deployment ended, and in which state of the machine it went wrong; empty where nothing did."""

    verdict: str
    error: str = ""
    cause: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class FailedContainer:
    """The container of a runner task that failed, where its log is found, and ECS's own reason."""

    kind: str
    name: str
    task_id: str
    exit_code: int | None
    reason: str
    task_definition: str = ""


def outcome_of(
    failure: object,
    timeouts: Mapping[str, Any] | None = None,
    log_line: str = "",
    note: object = None,
    rollback: object = None,
) -> Outcome:
    """Return the outcome for the state machine's `failure` (null or state, error, cause). Total over anything.

    `timeouts` are the deployment's, in seconds; `log_line` is the last line of the runner task's log, if there is one;
    `note` is what a person should know of a success, and becomes its cause. `rollback` is null where nothing was to be
    taken back, else says whether the services run what they ran before ({restored, serves}).
    """
    if failure is None:
        return Outcome(SUCCEEDED, cause=one_line(_text(note), MAX_CAUSE))
    if not isinstance(failure, Mapping):
        return Outcome(FAILED, "Unknown", "The state machine gave no failure that can be read.")
    state, error = _text(failure.get("state")), _text(failure.get("error")) or "Unknown"
    cause = _cause(state, error, failure, timeouts or {}, log_line)
    found = verdict_of(error)
    if isinstance(rollback, Mapping):
        restored, serves = rollback.get("restored") is True, one_line(_text(rollback.get("serves")), 300)
        if error in _TAKEN_BACK:
            found = ROLLED_BACK if restored else FAILED
        if serves and not (restored and " still serves" in cause):
            cause = one_line(f"{cause[: MAX_CAUSE - len(serves) - 3].rstrip('.')}; {serves}", MAX_CAUSE)
    return Outcome(found, one_line(error, 100), cause, one_line(state, 100))


# Failures of a rollout itself: whoever took it back, ECS or we.
_TAKEN_BACK = (RolloutFailed.__name__, RolloutRolledBack.__name__)


def verdict_of(error: str) -> str:
    """Return the verdict that an error's name stands for."""
    if error in TIMEOUTS:
        return TIMED_OUT
    known = all_errors().get(error)
    if known is not None and issubclass(known, RequestRejected):
        return REJECTED
    return {RolloutRolledBack: ROLLED_BACK, Superseded: SUPERSEDED}.get(known, FAILED)  # type: ignore[arg-type]


def outcome_of_execution(status: str, error: str, cause: str, output: str, state: str = "") -> Outcome:
    """Return the outcome of an execution that ended without its verdict written, from what it says of itself. Total.

    `state` is the one that it was in.
    """
    said = one_line(cause, MAX_CAUSE - 200)
    where = f" in {state}" if state else ""
    if status == "ABORTED":
        who = f": {said}" if said else ""
        return Outcome(CANCELLED, one_line(error, 100) or "Cancelled", f"The execution was stopped{where}{who}.", state)
    if status == "TIMED_OUT":
        late = f"The execution did not end within its time{', and was' if where else ''}{where}."
        return Outcome(TIMED_OUT, one_line(error, 100) or "States.Timeout", late, state)
    if status == "SUCCEEDED":
        told = _parsed(output)
        note = told.get("cause") if isinstance(told, Mapping) else ""
        return Outcome(SUCCEEDED, cause=one_line(_text(note), MAX_CAUSE))
    failed_with = one_line(error, 100) or "Unknown"
    return Outcome(verdict_of(error), failed_with, said or f"The execution failed{where} without a cause.", state)


def may_still_run(failure: object) -> bool:
    """Tell whether the task of a failed state may go on: one that ran out of time is stopped by best effort only.

    docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync
    """
    if not isinstance(failure, Mapping) or failure.get("state") not in (*ON_FARGATE, "RunRelease"):
        return False
    return _text(failure.get("error")) in TIMEOUTS


def failed_container(failure: object) -> FailedContainer | None:
    """Return which container of a runner task failed, by the task that `ecs:runTask.sync` leaves in the cause."""
    task = _parsed(failure.get("cause")) if isinstance(failure, Mapping) else None
    if not isinstance(task, Mapping) or not isinstance(task.get("Containers"), list):
        return None
    definition = _text(task.get("TaskDefinitionArn"))
    family = definition.rpartition("/")[2].partition(":")[0]
    kind = family.removesuffix("-arm64").removesuffix("-x86-64")
    task_id = _text(task.get("TaskArn")).rpartition("/")[2]
    containers = [c for c in task["Containers"] if isinstance(c, Mapping)]
    stopped = _text(task.get("StoppedReason"))
    # They run one after the other, so the first that failed is the one that matters; but what was ended by a signal may
    # have been ended with another one, unless it was for its own memory.
    order = {"clone": 0, "kaniko": 1}

    def rank(container: Mapping[Any, Any]) -> tuple[bool, int]:
        ended = container.get("ExitCode") in (137, 143) and not out_of_memory(_text(container.get("Reason")))
        return ended, order.get(_text(container.get("Name")), len(order))

    ordered = sorted(containers, key=rank)
    failed = [c for c in ordered if c.get("ExitCode") not in (None, 0)] or [c for c in ordered if c.get("Reason")]
    if not failed:
        return FailedContainer(kind, "", task_id, None, stopped, definition)
    code = failed[0].get("ExitCode")
    exit_code = (
        int(code) if isinstance(code, int | float) and not isinstance(code, bool) and code == code // 1 else None
    )
    why = _text(failed[0].get("Reason")) or stopped
    return FailedContainer(kind, _text(failed[0].get("Name")), task_id, exit_code, why, definition)


def _cause(state: str, error: str, failure: Mapping[Any, Any], timeouts: Mapping[str, Any], log_line: str) -> str:
    if error in TIMEOUTS:
        what, seconds = {
            "BuildImage": ("The build", timeouts.get("build")),
            "RunAppDeployer": ("The build with its deployment", timeouts.get("build")),
            "WaitForStable": ("The rollout", timeouts.get("rollout")),
            "AcquireBuild": ("The wait for another build of this commit", timeouts.get("queue")),
            "AcquireLock": ("The wait for its turn", timeouts.get("queue")),
            "RunRelease": ("The release command", timeouts.get("release")),
        }.get(state, (state or "A state", None))
        if not isinstance(seconds, int | float):
            return one_line(f"{what} did not end within its time. Look at its log, and deploy again.", MAX_CAUSE)
        return one_line(
            f"{what} did not end within {seconds} s. Raise `timeouts` in apps.yaml if that is too short.", MAX_CAUSE
        )
    container = failed_container(failure)
    if container is not None:
        return _container_cause(container, log_line)
    cause = failure.get("cause")
    parsed = _parsed(cause)
    if isinstance(parsed, Mapping) and isinstance(parsed.get("errorMessage"), str):
        message = parsed["errorMessage"]
        known = error in all_errors()
        return one_line(message if known else f"{state}: {message}", MAX_CAUSE)
    text = _text(cause)
    if error in all_errors() or error == "ImageNotPushed":
        return one_line(text, MAX_CAUSE)
    return one_line(f"{state}: {text}" if text else f"{state} failed with {error}", MAX_CAUSE)


def _container_cause(container: FailedContainer, log_line: str) -> str:
    why = one_line(log_line, 300) or one_line(container.reason, 300) or "it left no log"
    if container.exit_code is None:
        return one_line(
            f"{container.name or 'the runner task'} did not run: {one_line(container.reason, 300) or why}", 400
        )
    return one_line(f"{container.name or 'the runner task'}: exit {container.exit_code}: {why}", 400)


def _parsed(cause: object) -> object:
    if isinstance(cause, Mapping):
        return cause
    if not isinstance(cause, str) or len(cause) > MAX_PARSED or not cause.lstrip().startswith("{"):
        return None
    try:
        return json.loads(cause)
    except (ValueError, RecursionError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
