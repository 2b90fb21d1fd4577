"""The API of Step Functions where moto has a gap: versions and aliases that run, the history, tokens, logs and events.

The methods of `Backend` and `Responses` are put into moto's classes of the same role, so whatever holds a reference to
moto's finds them. Sources: AWS Step Functions API Reference, the page of each action.
"""
# mypy: allow-subclassing-any

import copy
import datetime
import importlib
import json
import logging
import random
import re
import threading
import time
import uuid
from typing import Any, ClassVar

from moto.core.exceptions import AWSError
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.logs.models import logs_backends
from moto.stepfunctions import models, responses
from moto.stepfunctions.exceptions import (
    ExecutionAlreadyExists,
    InvalidExecutionInput,
    StateMachineDoesNotExist,
    ValidationException,
)
from moto.stepfunctions.models import StateMachine, StateMachineAlias, StateMachineVersion
from moto.stepfunctions.parser import api as parser_api
from moto.stepfunctions.parser import models as parser_models
from moto.stepfunctions.parser.api import ConflictException, ResourceNotFound, StateMachineAlreadyExists
from moto.stepfunctions.parser.asl.eval.event.logging import (
    CloudWatchLoggingConfiguration,
    CloudWatchLoggingSession,
)
from moto.stepfunctions.parser.asl.eval.program_state import ProgramStopped
from moto.stepfunctions.parser.backend import execution as moto_execution

from deploy_runner.local_aws.stepfunctions import permissions, tasks
from deploy_runner.local_aws.stepfunctions.interpreter import compact_json

MAX_INPUT_BYTES = 262_144
MAX_EVENT_DATA_BYTES = 248 * 1024  # User Guide of EventBridge events of Step Functions: longer data is left out
LONGEST_STOP_SECONDS = 2.0

LOG = logging.getLogger(__name__)
_start_lock = threading.Lock()


class ExecutionComm(moto_execution.BaseExecutionWorkerCommunication):
    """Hears that an execution has ended."""

    def _reflect_execution_status(self) -> None:
        execution = self.execution
        state = execution.exec_worker.env.program_state()
        if isinstance(state, ProgramStopped):
            execution.error, execution.cause = state.error, state.cause
        super()._reflect_execution_status()
        execution.emit_status()
        execution.over.set()


class Execution(moto_execution.Execution):
    """An execution: knows what it was started by, tells EventBridge how it stands, and keeps its definition."""

    state_machine_alias_arn: str | None = None
    state_machine_version_arn: str | None = None

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.over = threading.Event()

    def _get_start_execution_worker_comm(self) -> ExecutionComm:
        return ExecutionComm(self)

    def get_start_execution_details(self) -> Any:
        # The context object holds text: "StartTime": "2019-03-26T20:14:13.192Z" (Developer Guide, "Context object").
        details = super().get_start_execution_details()
        details.start_time = iso_time(self.start_date)
        return details

    def start(self) -> None:
        # Before the thread starts, or the end could be told before the beginning.
        self.exec_status = moto_execution.ExecutionStatus.RUNNING
        self.emit_status()
        super().start()

    def has_begun(self) -> bool:
        """Tell whether the interpreter has it, so that it can be stopped."""
        env = self.exec_worker.env
        return env is not None and env.program_state() is not None

    def emit_status(self) -> None:
        """Send "Step Functions Execution Status Change" (Developer Guide, "Automating ... with EventBridge")."""
        try:
            events: Any = importlib.import_module("deploy_runner.local_aws.events")
        except ModuleNotFoundError:
            return
        status = self.status
        shown: dict[str, Any] = {"input": self.execution_input, "output": None}
        details: dict[str, Any] = {"inputDetails": {"included": True}, "outputDetails": None}
        if status == "SUCCEEDED":
            shown["output"] = compact_json(self.output)
            details["outputDetails"] = {"included": True}
        for name, value in shown.items():
            if value is not None and len(value.encode()) > MAX_EVENT_DATA_BYTES:
                shown[name], details[f"{name}Details"] = None, {"included": False}
        detail = {
            "executionArn": self.exec_arn,
            "stateMachineArn": self.state_machine_arn,
            "stateMachineVersionArn": self.state_machine_version_arn,
            "stateMachineAliasArn": self.state_machine_alias_arn,
            "name": self.name,
            "status": status,
            "startDate": _milliseconds(self.start_date),
            "stopDate": _milliseconds(self.stop_date) if self.stop_date else None,
            "redriveCount": 0,
            "redriveDate": None,
            "error": self.error,
            "cause": self.cause,
            **shown,
            **details,
        }
        kind = "Step Functions Execution Status Change"
        try:
            events.emit(self.account_id, self.region_name, "aws.states", kind, [self.exec_arn], detail)
        except Exception:  # best effort on AWS too: an execution does not depend on it
            LOG.exception("The event of %s was not sent", self.exec_arn)


class LoggingSession(CloudWatchLoggingSession):
    """Writes an execution's history to its log group; moto's writer fails on its own timestamps."""

    # "includeExecutionData" set to false keeps what went in and came out of the log. That parameters, in which a task
    # token stands, are among it is how we read "execution data"; it has not been tried on AWS.
    data_fields: ClassVar[tuple[str, ...]] = (
        "input", "inputDetails", "output", "outputDetails", "parameters",
        "assignedVariables", "assignedVariablesDetails",
    )  # fmt: skip

    def publish_history_log(self, history_log: Any) -> None:
        """Write one event, as the log group's stream of this execution."""
        when = datetime.datetime.fromisoformat(history_log["event_timestamp"])
        milliseconds = _milliseconds(when)
        line = {**history_log, "event_timestamp": str(milliseconds)}
        message = compact_json(line if self.configuration.include_execution_data else _without_data(line))
        backend = logs_backends[self.configuration.log_account_id][self.configuration.log_region]
        group = backend.groups.get(self.configuration.log_group_name)
        if group is None:
            return
        name, day = self.configuration.state_machine_arn.rsplit(":", 1)[1], f"{when:%Y-%m-%d-%H}"
        stream = f"states/{name}/{day}/{self.execution_arn.rsplit(':', 1)[1]}"
        if stream not in group.streams:
            backend.create_log_stream(group.name, stream)
        backend.put_log_events(group.name, stream, [{"timestamp": milliseconds, "message": message}])


def iso_time(when: datetime.datetime) -> str:
    """Return a time in UTC with milliseconds, as the context object has it."""
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _milliseconds(when: datetime.datetime) -> int:
    return int(when.timestamp()) * 1000 + when.microsecond // 1000


class Backend(parser_models.StepFunctionsParserBackend):
    """What moto's backend does not do, or does otherwise than AWS."""

    # --- state machines ---------------------------------------------------------------------------------------------

    def create_state_machine(self, name: str, definition: str, roleArn: str, **options: Any) -> StateMachine:
        """Create a state machine; the same call again gives the same one, else a name that is taken is an error."""
        self._validate_definition(definition=definition)
        arn = f"arn:aws:states:{self.region_name}:{self.account_id}:stateMachine:{name}"
        settings = options.get("loggingConfiguration")
        permissions.check_role(tasks._Task.clients.machine, arn, roleArn, definition, settings)
        known = next((machine for machine in self.state_machines if machine.name == name), None)
        same = known and (known.definition, known.roleArn) == (definition, roleArn)
        if known and not same:
            raise StateMachineAlreadyExists(f"State Machine Already Exists: '{known.arn}'")
        # moto checks the definition once more, which costs a second parse.
        return models.StepFunctionBackend.create_state_machine(self, name, definition, roleArn, **options)

    def update_state_machine(
        self,
        arn: str,
        definition: str | None = None,
        role_arn: str | None = None,
        logging_configuration: dict[str, Any] | None = None,
        tracing_configuration: dict[str, Any] | None = None,
        encryption_configuration: dict[str, Any] | None = None,
        publish: bool | None = None,
        version_description: str | None = None,
    ) -> StateMachine:
        """Change a state machine; what runs keeps what it was started with."""
        changes = (definition, role_arn, logging_configuration, tracing_configuration, encryption_configuration)
        if not any(changes):
            raise ValidationException("Either the definition, the role ARN, the LoggingConfiguration, or the "
                                      "TracingConfiguration must be specified")  # fmt: skip
        if definition is not None:
            self._validate_definition(definition=definition)
        machine = self.describe_state_machine(arn)
        permissions.check_role(
            tasks._Task.clients.machine, machine.arn, role_arn or machine.roleArn, definition or machine.definition,
            logging_configuration or machine.loggingConfiguration,
        )  # fmt: skip
        before = _revision(machine)
        models.StepFunctionBackend.update_state_machine(self, arn, definition, role_arn, *changes[2:])
        if _revision(machine) != before:
            machine.revision_id = str(uuid.uuid4())
        if publish:
            self.publish_state_machine_version(arn, description=version_description)
        return machine

    def delete_state_machine(self, arn: str) -> None:
        """Delete a state machine with its versions and aliases; what runs is stopped, as AWS does within a minute."""
        self._validate_machine_arn(arn)
        for machine in [machine for machine in self.state_machines if machine.arn == arn]:
            for execution in machine.executions:
                if execution.status == "RUNNING":
                    execution.stop(stop_date=utcnow(), error=None, cause=None)
            self.state_machines.remove(machine)

    # --- versions and aliases ---------------------------------------------------------------------------------------

    def publish_state_machine_version(
        self, arn: str, revision_id: str | None = None, description: str | None = None
    ) -> StateMachineVersion:
        """Publish what the state machine is now. It was published already: that version. Numbers are never reused."""
        machine = self._machine(arn)
        current = machine.revision_id
        if revision_id is not None and revision_id != (current or "INITIAL"):
            raise ConflictException(f"Failed to publish the State Machine version for revision {revision_id}. "
                                    f"The current State Machine revision is {current}.")  # fmt: skip
        latest = machine.latest_version
        if latest and latest.version in machine.versions and latest.revision_id == current:
            return latest
        machine.publish(description)
        machine.latest_version.revision_id = current
        return machine.latest_version

    def delete_state_machine_version(self, arn: str) -> None:
        """Delete a version that no alias names; one that is not there is no error."""
        source, _, number = arn.rpartition(":")
        machine = self._machine(source)
        users = [alias.name for alias in machine.aliases.values() if arn in _versions_of(alias)]
        if users:
            names = ", ".join(users)
            raise ConflictException("Version to be deleted must not be referenced by an alias. "
                                    f"Current list of aliases referencing this version: [{names}]")  # fmt: skip
        if number.isdigit():
            machine.versions.pop(int(number), None)

    def list_state_machine_versions(self, arn: str) -> list[StateMachineVersion]:
        """Return the versions, newest first."""
        return sorted(self._machine(arn).versions.values(), key=lambda version: -version.version)

    def create_state_machine_alias(
        self, name: str, routing_configuration: list[dict[str, Any]], description: str | None
    ) -> StateMachineAlias:
        """Create an alias for one or two versions; the same call again gives the same one."""
        if not re.fullmatch(r"(?=.*[a-zA-Z_\-.])[a-zA-Z0-9_\-.]{1,80}", name):
            pattern = r"^(?=.*[a-zA-Z_\-\.])[a-zA-Z0-9_\-\.]+$"
            raise ValidationException(
                f"1 validation error detected: Value '{name}' at 'name' failed to satisfy constraint: "
                f"Member must satisfy regular expression pattern: {pattern}"
            )
        machine = self._routed_machine(routing_configuration)
        known = machine.aliases.get(name)
        if known and (known.routing_configuration, known.description) == (routing_configuration, description):
            return known
        if known:
            raise ConflictException("Failed to create alias because an alias with the same name and a different "
                                    f"routing configuration already exists: '{known.arn}'")  # fmt: skip
        alias = StateMachineAlias(name, machine.arn, routing_configuration, description)
        machine.aliases[name] = alias
        return alias

    def update_state_machine_alias(
        self, arn: str, description: str | None = None, routing_configuration: list[dict[str, Any]] | None = None
    ) -> StateMachineAlias:
        """Point an alias to other versions, or describe it otherwise."""
        alias = self.describe_state_machine_alias(arn=arn)
        if routing_configuration and self._routed_machine(routing_configuration).arn != alias.statemachine_arn:
            raise ValidationException("The routing configuration must name versions of the alias's own state machine.")
        alias.update(routing_configuration=routing_configuration, description=description)
        return alias

    def _machine(self, arn: str) -> StateMachine:
        self._validate_machine_arn(arn)
        machine = next((machine for machine in self.state_machines if machine.arn == arn), None)
        if machine is None:
            raise StateMachineDoesNotExist(f"State Machine Does Not Exist: '{arn}'")
        return machine

    def _routed_machine(self, routing_configuration: list[dict[str, Any]]) -> StateMachine:
        machines = []
        for route in routing_configuration:
            source, _, number = route["stateMachineVersionArn"].rpartition(":")
            machine = next((machine for machine in self.state_machines if machine.arn == source), None)
            if machine is None or not number.isdigit() or int(number) not in machine.versions:
                raise ResourceNotFound(
                    f"Request references a resource that does not exist: '{route['stateMachineVersionArn']}'"
                )
            machines.append(machine)
        return machines[0]

    def resolve(self, arn: str) -> tuple[StateMachine, Any, str | None, str | None]:
        """Return what an ARN runs: state machine, definition's holder, alias ARN, version ARN.

        An alias with two versions gives one of them by chance, by their weights.
        """
        parts = arn.split(":")
        if len(parts) <= 7:
            machine = self._machine(arn)
            return machine, machine, None, None
        machine = self._machine(":".join(parts[:7]))
        alias = machine.aliases.get(parts[7])
        if alias is None:
            version = machine.versions.get(int(parts[7])) if parts[7].isdigit() else None
            if version is None:
                raise StateMachineDoesNotExist(f"State Machine Does Not Exist: '{arn}'")
            return machine, version, None, version.arn
        routes = alias.routing_configuration
        weights = [route["weight"] for route in routes]
        version_arn: str = random.choices(routes, weights)[0]["stateMachineVersionArn"]  # noqa: S311
        version = machine.versions[int(version_arn.rpartition(":")[2])]
        return machine, version, alias.arn, version_arn

    # --- executions -------------------------------------------------------------------------------------------------

    def start_execution(
        self,
        state_machine_arn: str,
        name: str | None = None,
        execution_input: str | None = None,
        trace_header: str | None = None,
    ) -> Execution:
        """Start an execution on a state machine, a version or an alias.

        The same name and input while it runs gives the same execution; else a name is taken for good (90 days on AWS).
        """
        name = name or str(uuid.uuid4())
        self._validate_name(name)
        text = "{}" if execution_input is None else execution_input
        _validate_input(text)
        machine, holder, alias_arn, version_arn = self.resolve(state_machine_arn)
        with _start_lock:
            known = next((execution for execution in machine.executions if execution.name == name), None)
            if known and known.status == "RUNNING" and known.execution_input == text:
                running: Execution = known
                return running
            if known:
                raise ExecutionAlreadyExists(f"Execution Already Exists: '{known.execution_arn}'")
            snapshot = copy.copy(holder)
            snapshot.arn = machine.arn
            arn = machine.arn.replace(":stateMachine:", ":execution:") + f":{name}"
            execution = Execution(
                name=name,
                sm_type=snapshot.sm_type,
                role_arn=snapshot.roleArn,
                exec_arn=arn,
                account_id=self.account_id,
                region_name=self.region_name,
                state_machine=snapshot,
                start_date=datetime.datetime.now(tz=datetime.UTC),
                cloud_watch_logging_session=_logging_session(arn, machine.arn, snapshot.loggingConfiguration),
                input_data=text,
                trace_header=trace_header,
                activity_store={},
            )
            execution.state_machine_alias_arn, execution.state_machine_version_arn = alias_arn, version_arn
            machine.executions.append(execution)
            execution.start()
        return execution

    def stop_execution(self, execution_arn: str, error: str | None = None, cause: str | None = None) -> Execution:
        """Abort an execution, and return once it says so; what has ended stays as it ended."""
        _validate_failure(error, cause)
        execution: Execution = self.describe_execution(execution_arn)
        deadline = time.monotonic() + LONGEST_STOP_SECONDS
        while not execution.has_begun() and time.monotonic() < deadline:
            time.sleep(0.01)  # its definition is still being parsed
        if execution.status == "RUNNING" and execution.has_begun():
            execution.stop(stop_date=utcnow(), error=error, cause=cause)
            execution.over.wait(LONGEST_STOP_SECONDS)
        return execution

    def send_task_success(self, task_token: str, outcome: str) -> None:
        """Let a waiting task succeed."""
        tasks.send_task_success(task_token, outcome)

    def send_task_failure(self, task_token: str, error: str | None = None, cause: str | None = None) -> None:
        """Let a waiting task fail."""
        _validate_failure(error, cause)
        tasks.send_task_failure(task_token, error, cause)

    def send_task_heartbeat(self, task_token: str) -> None:
        """Say that a waiting task is alive."""
        tasks.tokens.heartbeat(task_token)


def _revision(machine: StateMachine) -> tuple[Any, ...]:
    return (machine.definition, machine.roleArn, machine.loggingConfiguration, machine.tracingConfiguration)


def _versions_of(alias: StateMachineAlias) -> set[str]:
    return {route["stateMachineVersionArn"] for route in alias.routing_configuration}


def _validate_input(text: str) -> None:
    if len(text.encode()) > MAX_INPUT_BYTES:
        raise ValidationException("1 validation error detected: Value at 'input' failed to satisfy constraint: "
                                  f"Member must have length less than or equal to {MAX_INPUT_BYTES}")  # fmt: skip

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidExecutionInput(f"Invalid State Machine Execution Input: '{error}'") from error


def _validate_failure(error: str | None, cause: str | None) -> None:
    for name, value, longest in (("error", error, 256), ("cause", cause, 32_768)):
        if value is not None and len(value) > longest:
            raise ValidationException(f"1 validation error detected: Value at '{name}' failed to satisfy constraint: "
                                      f"Member must have length less than or equal to {longest}")  # fmt: skip


def _logging_session(
    execution_arn: str, machine_arn: str, configuration: dict[str, Any] | None
) -> LoggingSession | None:
    configured = CloudWatchLoggingConfiguration.from_logging_configuration(
        state_machine_arn=machine_arn, logging_configuration={"includeExecutionData": False, **(configuration or {})}
    )
    return LoggingSession(execution_arn, configured) if configured else None


class Responses(responses.StepFunctionResponse):
    """The actions, their parameters and answers."""

    def publish_state_machine_version(self) -> ActionResult:
        version = self.stepfunction_backend.publish_state_machine_version(
            self._get_param("stateMachineArn"), self._get_param("revisionId"), self._get_param("description")
        )
        return ActionResult({"creationDate": version.creation_date, "stateMachineVersionArn": version.arn})

    def delete_state_machine_version(self) -> ActionResult:
        self.stepfunction_backend.delete_state_machine_version(self._get_param("stateMachineVersionArn"))
        return EmptyResult()

    def list_state_machine_versions(self) -> ActionResult:
        versions = self.stepfunction_backend.list_state_machine_versions(self._get_param("stateMachineArn"))
        shown, token = self._page(versions, 100)
        items = [{"stateMachineVersionArn": item.arn, "creationDate": item.creation_date} for item in shown]
        return ActionResult({"stateMachineVersions": items, "nextToken": token})

    def list_state_machine_aliases(self) -> ActionResult:
        arn = self._get_param("stateMachineArn")
        machine, _, _, version_arn = self.stepfunction_backend.resolve(arn)
        aliases = sorted(machine.aliases.values(), key=lambda alias: alias.creation_date)
        shown, token = self._page([a for a in aliases if version_arn is None or version_arn in _versions_of(a)], 100)
        items = [{"stateMachineAliasArn": item.arn, "creationDate": item.creation_date} for item in shown]
        return ActionResult({"stateMachineAliases": items, "nextToken": token})

    def describe_state_machine(self) -> ActionResult:
        arn = self._get_param("stateMachineArn")
        return self._shown(self.stepfunction_backend.describe_state_machine(arn))

    def describe_state_machine_for_execution(self) -> ActionResult:
        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        machine = execution.state_machine
        return ActionResult(
            {
                "stateMachineArn": execution.state_machine_arn,
                "name": machine.name,
                "definition": machine.definition,
                "roleArn": execution.role_arn,
                "updateDate": machine.update_date,
                "loggingConfiguration": machine.loggingConfiguration,
                "tracingConfiguration": machine.tracingConfiguration,
                "revisionId": machine.revision_id,
            }
        )

    def _shown(self, machine: StateMachine) -> ActionResult:
        return ActionResult(
            {
                "creationDate": machine.creation_date,
                "stateMachineArn": machine.arn,
                "definition": machine.definition,
                "name": machine.name,
                "roleArn": machine.roleArn,
                "status": "ACTIVE",
                "type": machine.type,
                "encryptionConfiguration": machine.encryptionConfiguration,
                "tracingConfiguration": machine.tracingConfiguration,
                "loggingConfiguration": machine.loggingConfiguration,
                "description": machine.description,
                "revisionId": machine.revision_id,
            }
        )

    def start_execution(self) -> ActionResult:
        execution = self.stepfunction_backend.start_execution(
            self._get_param("stateMachineArn"),
            self._get_param("name"),
            self._get_param("input"),
            self._get_param("traceHeader"),
        )
        return ActionResult({"executionArn": execution.execution_arn, "startDate": execution.start_date})

    def stop_execution(self) -> ActionResult:
        execution = self.stepfunction_backend.stop_execution(
            self._get_param("executionArn"), self._get_param("error"), self._get_param("cause")
        )
        return ActionResult({"stopDate": execution.stop_date or utcnow()})

    def describe_execution(self) -> ActionResult:
        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        running = execution.status == "RUNNING"
        redrivable = execution.status in ("FAILED", "TIMED_OUT", "ABORTED")
        described = {
            **_listed(execution),
            "input": execution.execution_input,
            "inputDetails": {"included": True},
            "traceHeader": execution.trace_header,
            "redriveCount": 0,
            "redriveStatus": "REDRIVABLE" if redrivable else "NOT_REDRIVABLE",
            "redriveStatusReason": None if redrivable else f"Execution is {execution.status} and cannot be redriven",
            "error": None if running else execution.error,
            "cause": None if running else execution.cause,
        }
        if execution.status == "SUCCEEDED":
            described |= {"output": compact_json(execution.output), "outputDetails": {"included": True}}
        return ActionResult(described)

    def list_executions(self) -> ActionResult:
        arn = self._get_param("stateMachineArn")
        machine, _, alias_arn, version_arn = self.stepfunction_backend.resolve(arn)
        status = self._get_param("statusFilter")
        found = [
            execution
            for execution in machine.executions
            if (status is None or execution.status == status)
            and (alias_arn is None or execution.state_machine_alias_arn == alias_arn)
            and (alias_arn is not None or version_arn in (None, execution.state_machine_version_arn))
        ]
        shown, token = self._page(sorted(found, key=lambda e: e.start_date, reverse=True), 100)
        return ActionResult({"executions": [_listed(execution) for execution in shown], "nextToken": token})

    def get_execution_history(self) -> str:
        """Answer as text: moto's serializer tries each member that any event may have, half a millisecond an event."""
        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        events = execution.to_history_output()["events"]
        if self._get_param("reverseOrder"):
            events = events[::-1]
        shown, token = self._page(events, 100)
        if self._get_param("includeExecutionData") is False:
            shown = [_without_data(event) for event in shown]
        answer = {"events": [_in_json(event) for event in shown]} | ({"nextToken": token} if token else {})
        self.response_headers["Content-Type"] = "application/x-amz-json-1.0"
        return json.dumps(answer)

    def send_task_failure(self) -> ActionResult:
        self.stepfunction_backend.send_task_failure(
            self._get_param("taskToken"), error=self._get_param("error"), cause=self._get_param("cause")
        )
        return EmptyResult()

    def validate_state_machine_definition(self) -> ActionResult:
        try:
            self.stepfunction_backend._validate_definition(definition=self._get_param("definition"))
        except parser_models.InvalidDefinition as error:
            problem = {"severity": "ERROR", "code": "SCHEMA_VALIDATION_FAILED", "message": str(error.message)}
            return ActionResult({"result": "FAIL", "diagnostics": [problem], "truncated": False})
        return ActionResult({"result": "OK", "diagnostics": [], "truncated": False})

    def _page(self, items: list[Any], default: int) -> tuple[list[Any], str | None]:
        """Return the page that `nextToken` and `maxResults` ask for (0 or none is the default, 1000 the most)."""
        limit = int(self._get_param("maxResults") or default)
        if not 0 < limit <= 1000:
            raise ValidationException("1 validation error detected: Value at 'maxResults' failed to satisfy "
                                      "constraint: Member must have value less than or equal to 1000")  # fmt: skip
        token = self._get_param("nextToken")
        if token is not None and not re.fullmatch(r"page-\d+", token):
            raise tasks.InvalidToken("Invalid Token: 'Invalid token'")
        first = int(token.removeprefix("page-")) if token else 0
        after = first + limit
        return items[first:after], f"page-{after}" if after < len(items) else None


def _in_json(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of the history as the answer has it: without what is not known, its time in seconds."""
    known = {
        key: {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value
        for key, value in event.items()
        if value is not None
    }
    return known | {"timestamp": datetime.datetime.fromisoformat(event["timestamp"]).timestamp()}


def _listed(execution: Execution) -> dict[str, Any]:
    return {
        "executionArn": execution.execution_arn,
        "stateMachineArn": execution.state_machine_arn,
        "stateMachineVersionArn": execution.state_machine_version_arn,
        "stateMachineAliasArn": execution.state_machine_alias_arn,
        "name": execution.name,
        "status": execution.status,
        "startDate": execution.start_date,
        "stopDate": execution.stop_date,
        "redriveCount": 0,
    }


def _without_data(event: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {name: item for name, item in value.items() if name not in LoggingSession.data_fields}
        if isinstance(value, dict)
        else value
        for key, value in event.items()
    }


def install() -> None:
    """Put the methods above into moto's classes, and name its errors: those of the interpreter have an empty code."""
    models.StateMachineInstance.revision_id = None  # as long as it was never updated; CloudFormation says "INITIAL"
    errors: list[Any] = [value for value in vars(parser_api).values() if isinstance(value, type)]
    for error in errors:
        if issubclass(error, AWSError) and error is not AWSError:
            error.TYPE = error.code
    for ours, theirs in (
        (Backend, parser_models.StepFunctionsParserBackend),
        (Responses, responses.StepFunctionResponse),
    ):
        for name, value in vars(ours).items():
            if not name.startswith("__"):
                setattr(theirs, name, value)
