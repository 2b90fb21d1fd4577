"""The phases of a deployment, from the history of its execution: what took how long, and what it cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deploy_runner.domain.cost import Fargate, deployment_cost

ON_FARGATE = ("BuildImage", "RunAppDeployer")
ON_LAMBDA = ("ValidateRequest", "ReportQueued", "RegisterRevisions", "DeployServices", "FindRollouts", "RollBack")
# The others hand over within a fraction of a second: what their functions do is not in the history.
LAMBDA_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Phase:
    """A task state as it was passed through; `seconds` is None while it runs."""

    name: str
    seconds: float | None


def phases(events: Iterable[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """Return the task states in the order in which they were entered, from the events of GetExecutionHistory."""
    found: list[Phase] = []
    running: tuple[str, datetime] | None = None
    for event in events:
        kind = event["type"]
        if running and (kind.endswith("StateEntered") or kind in _ENDS):
            found[-1] = Phase(running[0], round((event["timestamp"] - running[1]).total_seconds(), 3))
            running = None
        if kind == "TaskStateEntered":
            running = (event["stateEnteredEventDetails"]["name"], event["timestamp"])
            found.append(Phase(running[0], None))
    return tuple(found)


_ENDS = ("TaskStateExited", "ExecutionAborted", "ExecutionFailed", "ExecutionTimedOut")


def transitions(events: Iterable[Mapping[str, Any]]) -> int:
    """Return how many state transitions are paid for: states entered, and tries after the first.

    aws.amazon.com/step-functions/pricing: "A state transition occurs each time a step of your workflow is executed";
    retries count.
    """
    entered, scheduled, states = 0, 0, 0
    for event in events:
        entered += event["type"].endswith("StateEntered")
        states += event["type"] == "TaskStateEntered"
        scheduled += event["type"] == "TaskScheduled"
    return entered + max(scheduled - states, 0)


def cost(passed: Iterable[Phase], paid_transitions: int, architecture: str = "ARM64") -> float:
    """Return what a deployment cost in dollars, estimated from its phases; the app's own tasks are not counted."""
    known = list(passed)
    build = sum(phase.seconds or 0.0 for phase in known if phase.name in ON_FARGATE)
    invoked = sum((phase.seconds or 0.0) if phase.name in ON_LAMBDA else LAMBDA_SECONDS for phase in known)
    return deployment_cost(paid_transitions, build, len(known), invoked, Fargate(architecture=architecture))
