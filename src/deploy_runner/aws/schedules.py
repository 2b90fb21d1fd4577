"""Scheduled tasks that follow an app's image: schedules of EventBridge Scheduler that run an ECS task.

docs.aws.amazon.com/scheduler/latest/APIReference/API_UpdateSchedule.html: what is not given is set to its default, so a
schedule is written back as it was read, but for its task definition.
"""

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from deploy_runner.aws.clients import TargetClients, aws_errors
from deploy_runner.domain.errors import RolloutReplaced, TargetMisconfigured
from deploy_runner.domain.rollout import Rollout

if TYPE_CHECKING:
    from mypy_boto3_scheduler import EventBridgeSchedulerClient

_GIVEN = (
    "ActionAfterCompletion", "Description", "EndDate", "FlexibleTimeWindow", "GroupName", "KmsKeyArn", "Name",
    "ScheduleExpression", "ScheduleExpressionTimezone", "StartDate", "State", "Target",
)  # fmt: skip
_REMEDY = "Correct `scheduled_tasks` in apps.yaml or the schedule, which the target's role must be let read and update"


def check_schedules(clients: TargetClients, deployment: Mapping[str, Any]) -> None:
    """Refuse a target with a schedule that is missing, or runs nothing that a revision of ours could replace."""
    for schedule in deployment["schedules"]:
        task_definition_of(clients.scheduler, schedule["group"], schedule["name"])


def task_definition_of(scheduler: "EventBridgeSchedulerClient", group: str, name: str) -> str:
    """Return the ARN of the revision that a schedule runs. Raises TargetMisconfigured where it runs none."""
    return _parameters(_read(scheduler, group, name), f"{group}/{name}")["TaskDefinitionArn"]  # type: ignore[no-any-return]


def point(scheduler: "EventBridgeSchedulerClient", rollout: Rollout) -> None:
    """Have a schedule run our revision; twice does no harm. Raises RolloutReplaced where it runs a third one."""
    _change(scheduler, rollout.schedule, rollout.previous_task_definition, rollout.task_definition)


def point_back(scheduler: "EventBridgeSchedulerClient", rollout: Rollout) -> str | None:
    """Have a schedule run the revision before ours again, if it runs ours. Return why not, None where it does."""
    before = rollout.previous_task_definition
    if before is None:
        return f"{rollout.schedule}: there is nothing to go back to"
    try:
        _change(scheduler, rollout.schedule, rollout.task_definition, before)
    except (RolloutReplaced, TargetMisconfigured) as error:
        return str(error)
    return None


def _change(scheduler: "EventBridgeSchedulerClient", schedule: str, now: str | None, then: str) -> None:
    group, _, name = schedule.partition("/")
    found = _read(scheduler, group, name)
    parameters = _parameters(found, schedule)
    if parameters["TaskDefinitionArn"] == then:
        return
    if parameters["TaskDefinitionArn"] != now:
        rule = f"The schedule {schedule} must run {now}"
        raise RolloutReplaced(rule, parameters["TaskDefinitionArn"], "Someone changed it meanwhile; deploy again")
    changed = {key: copy.deepcopy(found[key]) for key in _GIVEN if found.get(key) is not None}
    if "StartDate" in changed and changed["StartDate"] < datetime.now(UTC):
        del changed["StartDate"]  # it has started, and a start that is past is not taken: API_CreateSchedule
    changed["Target"]["EcsParameters"]["TaskDefinitionArn"] = then
    with aws_errors(f"The schedule {schedule} must take another task definition", _REMEDY):
        scheduler.update_schedule(**changed)


def _read(scheduler: "EventBridgeSchedulerClient", group: str, name: str) -> dict[str, Any]:
    with aws_errors(f"The schedule {group}/{name} must exist", _REMEDY):
        return cast(dict[str, Any], scheduler.get_schedule(GroupName=group, Name=name))


def _parameters(schedule: Mapping[str, Any], name: str) -> dict[str, Any]:
    parameters: dict[str, Any] = schedule.get("Target", {}).get("EcsParameters") or {}
    if "TaskDefinitionArn" not in parameters:
        raise TargetMisconfigured(
            f"The schedule {name} must run an ECS task", schedule.get("Target", {}).get("Arn"), _REMEDY
        )
    if not parameters["TaskDefinitionArn"].rpartition(":")[2].isdigit():
        rule = f"The schedule {name} must name a revision of its task definition, so that one can go back to it"
        raise TargetMisconfigured(rule, parameters["TaskDefinitionArn"], "Let it name FAMILY:REVISION")
    return parameters
