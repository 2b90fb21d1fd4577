"""EventBridge Scheduler that checks and keeps schedules as AWS does, and runs the tasks and functions that are due.

moto 5.2.5 keeps what it is given without a look, loses ActionAfterCompletion in an update, fails on groups that are not
there, and runs nothing; an issue upstream was not found. An update replaces everything, and what it does not give gets
its default: docs.aws.amazon.com/scheduler/latest/APIReference/API_UpdateSchedule.html. The words of some refusals are
not documented. A target that fails is not tried again here: its dead letter comes at once.
"""

import json
import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any
from urllib.parse import unquote

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import ListShape, Shape, StructureShape
from moto.core.utils import unix_time
from moto.scheduler.exceptions import ScheduleExists, ScheduleGroupNotFound, ValidationException
from moto.scheduler.models import Schedule, scheduler_backends
from moto.scheduler.responses import EventBridgeSchedulerResponse

from deploy_runner.local_aws.ecs.shapes import from_template, input_shape
from deploy_runner.local_aws.iam.authority import CannotAssume, assume_as_service, trusts_service
from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.timetable import Dues, Once, Rate, Timetable, timetable

log = logging.getLogger(__name__)

SERVICE = "scheduler.amazonaws.com"
_SUMMARY = ("Arn", "CreationDate", "GroupName", "LastModificationDate", "Name", "State")
# The defaults that API_UpdateSchedule, API_RetryPolicy and API_EcsParameters name.
_DEFAULTS = {
    "ActionAfterCompletion": "NONE", "GroupName": "default", "ScheduleExpressionTimezone": "UTC", "State": "ENABLED",
}  # fmt: skip
_RETRIES = {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185}
_ECS_CLUSTER = re.compile(r"arn:[\w-]+:ecs:[\w-]+:\d{12}:cluster/[\w-]+")


class Conflict(ScheduleExists):  # type: ignore[misc]  # moto is not typed for us
    """A schedule or group of that name exists."""

    code = 409


# --- what is kept -----------------------------------------------------------------------------------------------------


@cache
def _shape(operation: str) -> StructureShape:
    model: Any = botocore.session.get_session().get_service_model("scheduler")
    shape: StructureShape = model.operation_model(operation).input_shape
    return shape


def violations(value: Any, shape: Shape, path: str = "") -> Iterator[str]:
    """Yield each rule of botocore's model that a request's value breaks, as AWS words it."""
    limits = shape.metadata
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for name, member in shape.members.items():
            at = f"{path}.{name[0].lower()}{name[1:]}".lstrip(".")
            if value.get(name) is not None:
                yield from violations(value[name], member, at)
            elif name in shape.required_members:
                yield f"Value null at '{at}' failed to satisfy constraint: Member must not be null"
        return
    if isinstance(shape, ListShape) and isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from violations(item, shape.member, f"{path}.{number}.member")
    size = value if isinstance(value, int | float) else len(value)
    what = "value" if isinstance(value, int | float) else "length"
    wrong = []
    if size < limits.get("min", size):
        wrong.append(f"have {what} greater than or equal to {limits['min']}")
    if size > limits.get("max", size):
        wrong.append(f"have {what} less than or equal to {limits['max']}")
    if "enum" in limits and value not in limits["enum"]:
        wrong.append(f"satisfy enum value set: [{', '.join(limits['enum'])}]")
    if "pattern" in limits and not re.search(limits["pattern"], value):
        wrong.append(f"satisfy regular expression pattern: {limits['pattern']}")
    for each in wrong:
        yield f"Value '{value}' at '{path}' failed to satisfy constraint: Member must {each}"


def _asked(machine: Machine, handler: Any, operation: str) -> dict[str, Any]:
    """Return the schedule that a request describes, with its defaults. Raises what AWS refuses it with."""
    given = json.loads(handler.body or "{}")
    given = {name: value for name, value in given.items() if value is not None and name != "ClientToken"}
    given |= {"Name": unquote(handler.uri.split("?")[0].split("/")[-1])}
    if found := list(violations(given, _shape(operation))):
        errors = "1 validation error" if len(found) == 1 else f"{len(found)} validation errors"
        raise ValidationException(f"{errors} detected: {'; '.join(found)}")
    asked = _DEFAULTS | given
    asked["Target"] = target = dict(asked["Target"])
    target["RetryPolicy"] = _RETRIES | target.get("RetryPolicy", {})
    if "EcsParameters" in target:
        target["EcsParameters"] = {"TaskCount": 1} | target["EcsParameters"]
    _check_times(asked)
    if bool(_ECS_CLUSTER.fullmatch(target["Arn"])) != ("EcsParameters" in target):
        raise ValidationException("EcsParameters belong to a target that is an ECS cluster, which needs them.")
    group = handler.scheduler_backend.get_schedule_group(asked["GroupName"])
    if machine.enforces_iam and not trusts_service(target["RoleArn"], SERVICE, group.arn):
        # In these words in aws/aws-sdk-js-v3#6494.
        message = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
        raise ValidationException(message)
    return asked


def _check_times(asked: dict[str, Any]) -> None:
    expression, zone = asked["ScheduleExpression"], asked["ScheduleExpressionTimezone"]
    try:
        timetable("rate(1 minute)", zone)
    except ValueError:
        raise ValidationException(f"Invalid Schedule Expression Timezone {zone}.") from None
    try:
        timetable(expression, zone)
    except ValueError:
        # In these words in localstack/localstack#9284.
        raise ValidationException(f"Invalid Schedule Expression {expression}.") from None
    window = asked["FlexibleTimeWindow"]
    if (window["Mode"] == "FLEXIBLE") != ("MaximumWindowInMinutes" in window):
        raise ValidationException("MaximumWindowInMinutes belongs to the mode FLEXIBLE, which needs it.")
    if asked.get("StartDate", 0) > asked.get("EndDate", float("inf")):
        raise ValidationException("The StartDate must be before the EndDate.")


def _replace(schedule: Any, asked: dict[str, Any]) -> None:
    """Have a schedule of moto's be what is asked, and nothing of what it was."""
    schedule.description, schedule.kms_key_arn = asked.get("Description"), asked.get("KmsKeyArn")
    schedule.start_date, schedule.end_date = asked.get("StartDate"), asked.get("EndDate")
    schedule.schedule_expression = asked["ScheduleExpression"]
    schedule.schedule_expression_timezone = asked["ScheduleExpressionTimezone"]
    schedule.flexible_time_window, schedule.target = asked["FlexibleTimeWindow"], asked["Target"]
    schedule.state, schedule.action_after_completion = asked["State"], asked["ActionAfterCompletion"]
    schedule.last_modified_date = unix_time()


# --- what is due ------------------------------------------------------------------------------------------------------


class Clockwork:
    """Runs the schedules that are due."""

    def __init__(self, run: Callable[[Any, datetime], None]) -> None:
        self._run, self._dues = run, Dues()

    def tick(self, now: float) -> None:
        """Run what is due at a time, in seconds since 1970."""
        moment = datetime.fromtimestamp(now, UTC)
        groups = [
            group
            for regions in list(scheduler_backends.values())
            for backend in list(regions.values())
            for group in list(backend.schedule_groups.values())
        ]
        schedules = [(group, schedule) for group in groups for schedule in list(group.schedules.values())]
        on = {schedule.arn: (group, schedule) for group, schedule in schedules if schedule.state == "ENABLED"}
        self._dues.keep(on)
        for arn, (group, schedule) in on.items():
            when = timetable(schedule.schedule_expression, schedule.schedule_expression_timezone)
            ended = _is_past_end(schedule, when, moment)
            if not ended and self._dues.is_due(arn, when, moment, partial(_first, schedule, when, moment)):
                self._run(schedule, moment)
                following = when.after(moment)
                ended = following is None or _is_past_end(schedule, when, following)
            if ended and schedule.action_after_completion == "DELETE":
                group.schedules.pop(schedule.name, None)


# What comes once ignores both dates, and a rate without a start date starts at once: API_CreateSchedule, StartDate.


def _is_past_end(schedule: Any, when: Timetable, moment: datetime) -> bool:
    return not isinstance(when, Once) and bool(schedule.end_date) and moment.timestamp() > schedule.end_date


def _first(schedule: Any, when: Timetable, moment: datetime) -> datetime | None:
    """Return when a schedule that is new, or enabled again, runs first."""
    if isinstance(when, Once):
        return when.after(moment)
    start = datetime.fromtimestamp(schedule.start_date or schedule.creation_date, UTC)
    return start if isinstance(when, Rate) else when.after(max(start, moment))


class NotRun(Exception):
    """Why a target was not run: an error code, and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def run_task_request(target: dict[str, Any]) -> dict[str, Any]:
    """Return RunTask's parameters of a target, whose Input is the JSON of its overrides. Raises NotRun.

    docs.aws.amazon.com/scheduler/latest/APIReference/API_EcsParameters.html
    """
    parameters = dict(target["EcsParameters"])
    request = {"cluster": target["Arn"], "taskDefinition": parameters.pop("TaskDefinitionArn")}
    request["count"] = parameters.pop("TaskCount", 1)
    request |= from_template(parameters, input_shape("RunTask"))
    if "Input" in target:
        try:
            request["overrides"] = json.loads(target["Input"])
        except ValueError as error:
            raise NotRun("InvalidParameterException", f"The input is no JSON: {error}") from error
    return request


def _run(aws: Callable[[str], Any], target: dict[str, Any]) -> None:
    failures: list[Any] = []
    try:
        if "EcsParameters" in target:
            failures = aws("ecs").run_task(**run_task_request(target))["failures"]
        elif target["Arn"].split(":")[2] == "lambda":
            aws("lambda").invoke(
                FunctionName=target["Arn"], InvocationType="Event", Payload=target.get("Input", "{}").encode()
            )
        else:
            raise NotRun("UnsupportedTarget", f"Local AWS runs ECS tasks and functions, and not {target['Arn']}")
    except ClientError as error:
        raise NotRun(error.response["Error"]["Code"], error.response["Error"]["Message"]) from error
    except BotoCoreError as error:  # parameters that are none
        raise NotRun("InvalidParameterException", str(error)) from error
    if failures:
        raise NotRun("AmazonECSException", "; ".join(str(each.get("reason")) for each in failures))


def _run_or_bury(machine: Machine, schedule: Any, moment: datetime) -> None:
    """Run a schedule's target as its role; else leave a dead letter, also as that role.

    docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html
    """
    target: dict[str, Any] = schedule.target
    region, account = schedule.arn.split(":")[3:5]
    group = schedule.arn.replace(":schedule/", ":schedule-group/").rpartition("/")[0]

    def aws(service: str) -> Any:
        # aws:SourceArn is the group's: the User Guide's "Confused deputy prevention in EventBridge Scheduler".
        role = assume_as_service(machine, target["RoleArn"], SERVICE, group, "EventBridgeScheduler", 900)
        session: Any = boto3.Session(role.access_key_id, role.secret_access_key, role.session_token, region)
        return session.client(service, endpoint_url=machine.endpoint, config=Config(retries={"total_max_attempts": 1}))

    try:
        try:
            _run(aws, target)
        except NotRun as error:
            log.warning("the schedule %s did not run: %s: %s", schedule.arn, error.code, error)
            if letters := target.get("DeadLetterConfig", {}).get("Arn"):
                facts = {
                    "ERROR_CODE": error.code, "ERROR_MESSAGE": str(error)[:1000], "EXECUTION_ID": str(uuid.uuid4()),
                    "IS_PAYLOAD_TRUNCATED": "false", "RETRY_ATTEMPTS": "0",
                    "SCHEDULED_TIME": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "SCHEDULE_ARN": schedule.arn,
                    "TARGET_ARN": target["Arn"],
                }  # fmt: skip
                aws("sqs").send_message(
                    QueueUrl=f"{machine.endpoint}/{account}/{letters.rpartition(':')[2]}",
                    MessageBody=json.dumps(target.get("EcsParameters", {}) | {"Input": target.get("Input")}),
                    MessageAttributes={k: {"DataType": "String", "StringValue": v} for k, v in facts.items()},
                )
    except CannotAssume as error:
        log.warning("the schedule %s did not run: %s", schedule.arn, error)
    except (ClientError, BotoCoreError):
        log.exception("the dead letter queue of %s does not take what did not run", schedule.arn)


# --- moto -------------------------------------------------------------------------------------------------------------


def install(machine: Machine) -> None:
    """Put the functions above into moto's handlers, and start the clock."""
    handlers, plain_to_dict = EventBridgeSchedulerResponse, getattr(Schedule.to_dict, "plain", Schedule.to_dict)
    plain_create_group = getattr(handlers.create_schedule_group, "plain", handlers.create_schedule_group)
    plain_delete_group = getattr(handlers.delete_schedule_group, "plain", handlers.delete_schedule_group)

    def create_schedule(handler: Any) -> str:
        asked, backend = _asked(machine, handler, "CreateSchedule"), handler.scheduler_backend
        group = backend.get_schedule_group(asked["GroupName"])
        if asked["Name"] in group.schedules:
            raise Conflict(asked["Name"])
        made = Schedule(
            backend.region_name, backend.account_id, group.name, asked["Name"], None, asked["ScheduleExpression"], None,
            asked["FlexibleTimeWindow"], asked["Target"], None, None, asked.get("StartDate"), None, None,
        )  # fmt: skip
        _replace(made, asked)
        group.add_schedule(made)
        return json.dumps({"ScheduleArn": made.arn})

    def update_schedule(handler: Any) -> str:
        asked = _asked(machine, handler, "UpdateSchedule")
        schedule = handler.scheduler_backend.get_schedule(asked["GroupName"], asked["Name"])
        _replace(schedule, asked)
        return json.dumps({"ScheduleArn": schedule.arn})

    def create_schedule_group(handler: Any) -> Any:
        name = unquote(handler.uri.split("?")[0].split("/")[-1])
        if name in handler.scheduler_backend.schedule_groups:
            raise Conflict(name)
        return plain_create_group(handler)

    def delete_schedule_group(handler: Any) -> Any:
        name = unquote(handler.uri.split("?")[0].split("/")[-1])
        if name == "default":
            raise ValidationException("The default schedule group cannot be deleted.")
        if name not in handler.scheduler_backend.schedule_groups:
            raise ScheduleGroupNotFound(name)
        return plain_delete_group(handler)

    def to_dict(schedule: Any, short: bool = False) -> dict[str, Any]:
        said = {name: value for name, value in plain_to_dict(schedule, short).items() if value is not None}
        if short:
            said = {name: said[name] for name in _SUMMARY} | {"Target": {"Arn": schedule.target["Arn"]}}
        return said

    # What is there already when local AWS starts again in this process.
    to_dict.plain, create_schedule_group.plain = plain_to_dict, plain_create_group  # type: ignore[attr-defined]
    delete_schedule_group.plain = plain_delete_group  # type: ignore[attr-defined]
    Schedule.to_dict = to_dict
    handlers.create_schedule, handlers.update_schedule = create_schedule, update_schedule
    handlers.create_schedule_group, handlers.delete_schedule_group = create_schedule_group, delete_schedule_group

    def run(schedule: Any, moment: datetime) -> None:
        arguments = machine, schedule, moment
        threading.Thread(target=_run_or_bury, args=arguments, name="schedule", daemon=True).start()

    machine.each_second("schedules", Clockwork(run).tick)
