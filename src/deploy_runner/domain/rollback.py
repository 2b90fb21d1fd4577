"""How a rollout is taken back: what is to be done next for a service, from one reading of ECS.

While our rollout is in progress it is stopped, which makes ECS go back. Later the revision before it is put back, but
only while ours is what ECS works towards: what others deploy is never touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_runner.domain.rollout import Observed, Rollout, of_ours, version

NOTHING_TO_GO_BACK_TO = "there is nothing to go back to"
_IN_PROGRESS = ("PENDING", "IN_PROGRESS")
_GOING_BACK = ("STOP_REQUESTED", "ROLLBACK_REQUESTED", "ROLLBACK_IN_PROGRESS")


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop our service deployment: ECS goes back."""

    service_deployment: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """Update the service to the revision before ours."""

    task_definition: str


@dataclass(frozen=True, slots=True)
class Wait:
    """It is on its way."""


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing is left to do: whether the service runs what it ran before, and in words what it runs."""

    restored: bool
    serves: str


Step = Stop | PutBack | Wait | Over


def next_step(rollout: Rollout, seen: Observed) -> Step:
    """Return what is to be done next to take a rollout back. Total over any reading."""
    if seen.service_status in ("INACTIVE", "DRAINING", None):
        return Over(False, f"the service {rollout.service} is gone")
    ours = of_ours(rollout, seen)
    status = ours[-1].status if ours else None
    primary = seen.primary
    if status in _GOING_BACK:
        return Wait()
    if status in _IN_PROGRESS:
        return Stop(ours[-1].arn)
    before = rollout.previous_task_definition
    if before is None or before == rollout.task_definition:
        return Over(False, f"{rollout.service}: {NOTHING_TO_GO_BACK_TO}")
    if primary is None:
        return Wait()
    if primary.task_definition == rollout.task_definition:
        if status == "ROLLBACK_FAILED":
            return Over(False, f"{rollout.service}: ECS could not go back to {version(before)}")
        return Wait() if status is None and primary.rollout_state == "IN_PROGRESS" else PutBack(before)
    if primary.task_definition != before:
        found = version(primary.task_definition or "")
        return Over(False, f"{rollout.service}: {found} was deployed meanwhile, and is left as it is")
    if primary.rollout_state == "FAILED":
        return Over(False, f"{rollout.service}: {version(before)} does not come up again")
    if primary.rollout_state == "IN_PROGRESS":
        return Wait()
    return Over(True, f"{version(before)} serves again" if ours else f"{version(before)} still serves")


def combine(steps: Sequence[Step]) -> Over | None:
    """Return the end over all services, None while one is not there: all must be restored."""
    ends = [step for step in steps if isinstance(step, Over)]
    if len(ends) < len(steps):
        return None
    wrong = [end.serves for end in ends if not end.restored]
    return Over(not wrong, "; ".join(dict.fromkeys(wrong or [end.serves for end in ends])))
