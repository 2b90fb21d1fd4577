"""What a Task state calls: `aws-sdk:*`, `lambda:invoke` and `ecs:runTask`, with AWS's names for parameters and errors.

Each class replaces moto's of the same kind. moto does not convert PascalCase arguments (getmoto/moto#10076), names
errors otherwise, and takes a container's exit code for nothing.
"""
# mypy: allow-subclassing-any

import base64
import contextlib
import datetime
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.response import StreamingBody
from moto.core.exceptions import AWSError, ServiceException
from moto.ecs.models import ecs_backends
from moto.stepfunctions.parser.api import (
    HistoryEventType,
    TaskFailedEventDetails,
)
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent
from moto.stepfunctions.parser.asl.component.state.exec.state_task.credentials import StateCredentials
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_callback,
    state_task_service_factory,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import (
    ResourceCondition,
    ResourceRuntimePart,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    StateTaskServiceAwsSdk,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_ecs import (
    StateTaskServiceEcs,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import (
    StateTaskServiceLambda,
)
from moto.stepfunctions.parser.asl.eval.callback.callback import (
    CallbackEndpoint,
    CallbackOutcome,
    CallbackOutcomeFailure,
    CallbackOutcomeFailureError,
    CallbackOutcomeSuccess,
    CallbackTimeoutError,
    HeartbeatTimedOut,
    HeartbeatTimeoutError,
)
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.states import TaskData
from moto.sts.models import sts_backends

from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.stepfunctions.interpreter import compact_json, ended, failure, replace_everywhere

_POLL_SECONDS = 0.1
_MISSING_SECONDS = 10.0  # what was just started may not be seen at once
_CREDENTIALS_SECONDS = 45 * 60


class InvalidToken(AWSError):
    """A task token that was never handed out."""

    TYPE = "InvalidToken"


class InvalidOutput(AWSError):
    """The output of a task that is not JSON, or too long."""

    TYPE = "InvalidOutput"


class TaskTimedOut(AWSError):
    """A task token whose task is over."""

    TYPE = "TaskTimedOut"


@dataclass
class Clients:
    """Clients of this machine's AWS that act with a role, as Step Functions does for each call of a state machine."""

    machine: Machine
    _known: dict[tuple[str, str, str], tuple[float, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, service: str, region: str, role_arn: str) -> Any:
        """Return a client of `service`; what it calls is tried once, since retrying is the state machine's business."""
        key = (service, region, role_arn)
        with self._lock:
            made, client = self._known.get(key, (0.0, None))
            if client is None or time.monotonic() - made > _CREDENTIALS_SECONDS:
                client = self._client(service, region, role_arn)
                self._known[key] = (time.monotonic(), client)
        return client

    def _client(self, service: str, region: str, role_arn: str) -> Any:
        role = sts_backends[self.machine.account_id]["aws"].assume_role(
            region_name=region, role_session_name="StepFunctions", role_arn=role_arn, policy=None,
            duration=3600, external_id="",
        )  # fmt: skip
        client: Callable[..., Any] = boto3.session.Session().client
        return client(
            service,
            region_name=region,
            endpoint_url=self.machine.endpoint,
            aws_access_key_id=role.access_key_id,
            aws_secret_access_key=role.secret_access_key,
            aws_session_token=role.session_token,
            # A Lambda may take 15 minutes; the state's own TimeoutSeconds is what ends an attempt.
            config=Config(
                retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=960, max_pool_connections=50,
                proxies={},
            ),
        )  # fmt: skip


@dataclass
class TaskTokens:
    """The tokens that were handed out by this machine, and whom an answer wakes."""

    _waiting: dict[str, CallbackEndpoint | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, endpoint: CallbackEndpoint) -> None:
        """Let this token be answered."""
        with self._lock:
            self._waiting[endpoint.callback_id] = endpoint

    def close(self, token: str) -> None:
        """End the wait for this token: its task was answered, is late, or its execution has ended."""
        with self._lock:
            endpoint = self._waiting.get(token)
            self._waiting[token] = None
        if endpoint:
            endpoint.interrupt_all()

    def answer(self, token: str, outcome: CallbackOutcome) -> None:
        """Hand `outcome` to the task of this token; the first answer counts."""
        with self._lock:
            endpoint = self._endpoint(token)
            endpoint.notify(outcome)
            self._waiting[token] = None

    def heartbeat(self, token: str) -> None:
        """Say that the task of this token is alive."""
        with self._lock:
            self._endpoint(token).notify_heartbeat()

    def _endpoint(self, token: str) -> CallbackEndpoint:
        # API Reference, SendTaskSuccess: TaskTimedOut is "The task token has either expired or the task associated with
        # the token has already been closed"; TaskDoesNotExist is about activities, which are not there.
        if token not in self._waiting:
            raise InvalidToken("Invalid Token: 'Invalid token'")
        endpoint = self._waiting[token]
        if endpoint is None:
            raise TaskTimedOut("Task Timed Out: 'Provided task does not exist anymore'")
        return endpoint


tokens = TaskTokens()


def send_task_success(token: str, output: str) -> None:
    """Let the task of this token succeed with `output`, as JSON. Raises InvalidToken, TaskTimedOut, InvalidOutput."""
    try:
        json.loads(output)
    except ValueError as error:
        raise InvalidOutput(f"Invalid Output: 'output is not JSON: {error}'") from error
    if len(output.encode()) > 262144:
        raise InvalidOutput("Invalid Output: 'output is longer than 262144 bytes'")
    tokens.answer(token, CallbackOutcomeSuccess(callback_id=token, output=output))


def send_task_failure(token: str, error: str | None, cause: str | None) -> None:
    """Let the task of this token fail with `error` and `cause`. Raises InvalidToken, TaskTimedOut."""
    tokens.answer(token, CallbackOutcomeFailure(callback_id=token, error=error, cause=cause))


def new_token() -> str:
    """Return a token of the length and alphabet of AWS's, so that what stores or quotes tokens is put to the test."""
    return "AAAAKgAAAAIAAAAAAAAAA" + base64.b64encode(secrets.token_bytes(432)).decode()


def java_class_name(service_id: str) -> str:
    """Return a service's name as it stands before the dot of an error, such as `DynamoDb` or `AcmPca`.

    Step Functions names errors of SDK integrations after the classes of the AWS SDK for Java 2, which are the words of
    the service's id, each with one capital letter (Developer Guide, "Learning to use AWS service SDK integrations").
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", service_id)
    return "".join(word[0].upper() + word[1:].lower() for word in words)


def to_api(value: Any, shape: Shape) -> Any:
    """Convert a state's PascalCase arguments to the names of the service's API. Raises ValueError on unknown names."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        members = {name.lower(): name for name in shape.members}
        unknown = [key for key in value if key.lower() not in members]
        if unknown:
            raise ValueError(f"The field {unknown[0]!r} is not supported by Step Functions for {shape.name}.")
        names = {key: members[key.lower()] for key in value}
        return {names[key]: to_api(item, shape.members[names[key]]) for key, item in value.items()}
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [to_api(item, shape.member) for item in value]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {key: to_api(item, shape.value) for key, item in value.items()}
    if shape.type_name == "blob" and not isinstance(value, bytes):
        return (value if isinstance(value, str) else json.dumps(value)).encode()
    if shape.type_name == "string" and isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    return value


def from_api(value: Any, shape: Shape | None, *, epoch_milliseconds: bool = False) -> Any:
    """Convert a service's response to the PascalCase JSON that a state's result is."""
    if isinstance(value, datetime.datetime):
        if epoch_milliseconds:
            return int(value.timestamp() * 1000)
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    if isinstance(value, StreamingBody):
        return value.read().decode()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        structure = shape.members if isinstance(shape, StructureShape) else None
        inner = shape.value if isinstance(shape, MapShape) else None
        return {
            (key[:1].upper() + key[1:] if structure else key): from_api(
                item, structure.get(key) if structure else inner, epoch_milliseconds=epoch_milliseconds
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        member = shape.member if isinstance(shape, ListShape) else None
        return [from_api(item, member, epoch_milliseconds=epoch_milliseconds) for item in value]
    return value


def _operation(client: Any, action: str) -> Any:
    """Return botocore's model of an action in camelCase. Raises ValueError where the service has none of that name."""
    model = client.meta.service_model
    for name in model.operation_names:
        if name.lower() == action.lower():
            return model.operation_model(name)
    raise ValueError(f"The service {model.service_name} has no API action {action!r}.")


def _call(client: Any, action: str, arguments: dict[str, Any], *, epoch_milliseconds: bool = False) -> dict[str, Any]:
    operation = _operation(client, action)
    python_name = next(name for name, api in client.meta.method_to_api_mapping.items() if api == operation.name)
    parameters = to_api(arguments, operation.input_shape) if operation.input_shape else {}
    response = getattr(client, python_name)(**parameters)
    response.pop("ResponseMetadata", None)
    result: dict[str, Any] = from_api(response, operation.output_shape, epoch_milliseconds=epoch_milliseconds)
    return result


class _Task(StateTaskServiceCallback):
    """What the three kinds have in common: a token of its own for each attempt, failures, and no word after the end."""

    clients: ClassVar[Clients]

    def _client(self, service: str, part: ResourceRuntimePart, credentials: StateCredentials) -> Any:
        return self.clients.get(service, part.region, credentials.role_arn)

    def _fails_with(self, env: Environment, error: str, cause: str) -> FailureEvent:
        details = TaskFailedEventDetails(
            resource=self._get_sfn_resource(), resourceType=self._get_sfn_resource_type(), error=error, cause=cause
        )
        exception = failure(
            env, error, cause, EventDetails(taskFailedEventDetails=details), HistoryEventType.TaskFailed
        )
        event: FailureEvent = exception.failure_event
        return event

    def _evaluate_with_timeout(self, env: Environment) -> None:
        if self.resource.condition != ResourceCondition.WaitForTaskToken:
            super()._evaluate_with_timeout(env)
            return
        # "Each retry has a new token": Developer Guide, "Wait for a Callback with Task Token". moto keeps one a state.
        token = new_token()
        env.states.context_object.context_object_data["Task"] = TaskData(Token=token)
        tokens.open(env.callback_pool_manager.add(token))
        try:
            super()._evaluate_with_timeout(env)
        finally:
            tokens.close(token)

    def _eval_integration_pattern(
        self,
        env: Environment,
        resource_runtime_part: ResourceRuntimePart,
        normalised_parameters: dict[str, Any],
        state_credentials: StateCredentials,
    ) -> None:
        """Wait for the token's answer, or for the end of a job.

        moto's own wants a token for `.sync` too. Lateness is not looked at here: it ends the attempt from outside.
        """
        if self.resource.condition != ResourceCondition.WaitForTaskToken:
            resolver = self._build_sync_resolver(env, resource_runtime_part, normalised_parameters, state_credentials)
            env.stack.append(resolver())
            return
        env.stack.pop()
        self.timeout.eval(env=env)
        seconds = env.stack.pop()
        endpoint = env.callback_pool_manager.get(env.states.context_object.context_object_data["Task"]["Token"])
        heartbeat = None
        if self.heartbeat:
            self.heartbeat.eval(env=env)
            heartbeat = endpoint.setup_heartbeat_endpoint(heartbeat_seconds=env.stack.pop())
        outcome = self._eval_wait_for_task_token(env, seconds, endpoint, heartbeat)
        if isinstance(outcome, CallbackOutcomeSuccess):
            env.stack.append(json.loads(outcome.output))
        elif isinstance(outcome, CallbackOutcomeFailure):
            raise CallbackOutcomeFailureError(callback_outcome_failure=outcome)
        elif isinstance(outcome, HeartbeatTimedOut):
            raise HeartbeatTimeoutError
        else:
            raise CallbackTimeoutError

    def _get_callback_outcome_failure_event(self, env: Environment, ex: Any) -> FailureEvent:
        outcome = ex.callback_outcome_failure
        return self._fails_with(env, outcome.error or "", outcome.cause or "")


class AwsSdk(_Task, StateTaskServiceAwsSdk):
    """`aws-sdk:SERVICE:ACTION`: any action that boto3 knows."""

    # Where the SDK for Java, whose names Step Functions uses, has another name than botocore.
    _BOTO_NAMES: ClassVar[dict[str, str]] = {
        "sfn": "stepfunctions",
        "cloudwatchlogs": "logs",
        "eventbridge": "events",
        "elasticloadbalancingv2": "elbv2",
        "ssooidc": "sso-oidc",
        "cognitoidentityprovider": "cognito-idp",
    }

    def _eval_service_task(
        self,
        env: Environment,
        resource_runtime_part: ResourceRuntimePart,
        normalised_parameters: dict[str, Any],
        state_credentials: StateCredentials,
    ) -> None:
        name = self._BOTO_NAMES.get(self.resource.api_name, self.resource.api_name)
        client = self._client(name, resource_runtime_part, state_credentials)
        self._java_name = java_class_name(client.meta.service_model.service_id)
        env.stack.append(_call(client, self.resource.api_action, normalised_parameters))

    def _from_error(self, env: Environment, ex: Exception) -> FailureEvent:
        service = getattr(self, "_java_name", self.resource.api_name.capitalize())
        if isinstance(ex, ClientError):
            # "The error name consists of the service name and the error name, both in Pascal case ... append the
            # Exception suffix": Developer Guide, "Learning to use AWS service SDK integrations". An error that the
            # service's model does not name is the service's own class, as in Ecr.EcrException (AWS SDK for Java 2).
            name = service if type(ex) is ClientError else type(ex).__name__
            name = name if name.endswith("Exception") else f"{name}Exception"
            meta = ex.response.get("ResponseMetadata", {})
            cause = f"{ex.response['Error'].get('Message', '')} (Service: {service}, Status Code: "
            cause += f"{meta.get('HTTPStatusCode')}, Request ID: {meta.get('RequestId')})"
            return self._fails_with(env, f"{service}.{name}", cause)
        if isinstance(ex, BotoCoreError) and not isinstance(ex, ParamValidationError):
            return self._fails_with(env, f"{service}.SdkClientException", str(ex))
        return super()._from_error(env, ex)


class _Optimised(_Task):
    """An optimised integration; its errors are named after the classes of the AWS SDK for Java 1.

    A code that the service's model names is SERVICE.CODE, any other the service's own class: `ECS.AmazonECSException`,
    `Lambda.AWSLambdaException` (Developer Guide, "Handle transient Lambda service exceptions").
    """

    error_prefix: ClassVar[str]
    own_exception: ClassVar[str]
    service: ClassVar[str]

    def _from_error(self, env: Environment, ex: Exception) -> FailureEvent:
        if isinstance(ex, ClientError):
            code = ex.response["Error"].get("Code", "")
            meta = ex.response.get("ResponseMetadata", {})
            name = code if type(ex) is not ClientError else self.own_exception
            cause = f"{ex.response['Error'].get('Message', '')} (Service: {self.service}; Status Code: "
            cause += (
                f"{meta.get('HTTPStatusCode')}; Error Code: {code}; Request ID: {meta.get('RequestId')}; Proxy: null)"
            )
            return self._fails_with(env, f"{self.error_prefix}.{name}", cause)
        if isinstance(ex, BotoCoreError) and not isinstance(ex, ParamValidationError):
            return self._fails_with(env, f"{self.error_prefix}.SdkClientException", str(ex))
        return super()._from_error(env, ex)


class _FunctionError(Exception):
    """A Lambda function that ended with an error."""

    def __init__(self, payload: str) -> None:
        super().__init__(payload)
        self.payload = payload


class LambdaInvoke(_Optimised, StateTaskServiceLambda):
    """`lambda:invoke`, with and without a task token."""

    error_prefix = "Lambda"
    own_exception = "AWSLambdaException"
    service = "AWSLambda"

    def _eval_service_task(
        self,
        env: Environment,
        resource_runtime_part: ResourceRuntimePart,
        normalised_parameters: dict[str, Any],
        state_credentials: StateCredentials,
    ) -> None:
        client = self._client("lambda", resource_runtime_part, state_credentials)
        response = client.invoke(**normalised_parameters)
        payload = response["Payload"].read().decode()
        if response.get("FunctionError"):
            raise _FunctionError(payload)
        try:
            value = json.loads(payload) if payload else None
        except ValueError:
            value = payload
        env.stack.append(
            {
                "ExecutedVersion": response.get("ExecutedVersion", "$LATEST"),
                "Payload": value,
                "SdkHttpMetadata": {"HttpStatusCode": response["ResponseMetadata"]["HTTPStatusCode"]},
                "SdkResponseMetadata": {"RequestId": response["ResponseMetadata"].get("RequestId", "")},
                "StatusCode": response["StatusCode"],
            }
        )

    def _from_error(self, env: Environment, ex: Exception) -> FailureEvent:
        if isinstance(ex, _FunctionError):
            # The error is the function's errorType, the cause the error as JSON; where a function could not say what
            # was wrong it is Lambda.Unknown (Developer Guide, "Handling errors", error names).
            try:
                error = json.loads(ex.payload).get("errorType")
            except (ValueError, AttributeError):
                error = None
            if error:
                return self._fails_with(env, error, ex.payload)
            unknown = "The cause could not be determined because Lambda did not return an error type. Returned payload:"
            return self._fails_with(env, "Lambda.Unknown", f"{unknown} {ex.payload}")
        return super()._from_error(env, ex)


class EcsRunTask(_Optimised, StateTaskServiceEcs):
    """`ecs:runTask` and `ecs:runTask.sync` (Developer Guide, "Run Amazon ECS or Fargate tasks with Step Functions")."""

    error_prefix = "ECS"
    own_exception = "AmazonECSException"
    service = "AmazonECS"

    def _get_supported_parameters(self) -> set[str] | None:
        # moto drops what is not in this set, among it CapacityProviderStrategy; an empty one lets all through.
        return set() if self.resource.api_action.lower() == "runtask" else None

    def _eval_service_task(
        self,
        env: Environment,
        resource_runtime_part: ResourceRuntimePart,
        normalised_parameters: dict[str, Any],
        state_credentials: StateCredentials,
    ) -> None:
        client = self._client("ecs", resource_runtime_part, state_credentials)
        result = _call(client, "runTask", normalised_parameters, epoch_milliseconds=True)
        result = {"Failures": result.get("Failures", []), "Tasks": result.get("Tasks", [])}
        if self.resource.condition is not None and (result["Failures"] or not result["Tasks"]):
            # "Run a Job or Task Token: If a non-empty Failures field is encountered, the task is failed with an
            # AmazonECS.Unknown error": Developer Guide, "Run Amazon ECS or Fargate tasks with Step Functions".
            raise _NotRun(compact_json(result))
        env.stack.append(result)

    def _from_error(self, env: Environment, ex: Exception) -> FailureEvent:
        if isinstance(ex, _NotRun):
            return self._fails_with(env, "AmazonECS.Unknown", str(ex))
        if isinstance(ex, _TaskFailed):
            return self._fails_with(env, "States.TaskFailed", str(ex))
        return super()._from_error(env, ex)

    def _build_sync_resolver(
        self,
        env: Environment,
        resource_runtime_part: ResourceRuntimePart,
        normalised_parameters: dict[str, Any],
        state_credentials: StateCredentials,
    ) -> Any:
        started = env.stack.pop()["Tasks"][0]
        client = self._client("ecs", resource_runtime_part, state_credentials)
        cluster, arn = started["ClusterArn"], started["TaskArn"]

        def resolve() -> dict[str, Any]:
            seen = time.monotonic()
            while not ended(env).wait(_POLL_SECONDS):
                task = self._task_now(client, cluster, arn)
                if task is None and time.monotonic() - seen > _MISSING_SECONDS:
                    raise _TaskFailed(compact_json(started))
                if task is None:
                    continue
                seen = time.monotonic()
                if task["LastStatus"] != "STOPPED":
                    continue
                essential = essential_containers(task["TaskDefinitionArn"])
                if not succeeded(task, essential):
                    raise _TaskFailed(compact_json(task))
                return task
            # "Step Functions makes a best-effort attempt to stop the task" when a .sync state times out or its
            # execution is stopped: Developer Guide, "Run a Job (.sync)".
            with contextlib.suppress(ClientError, BotoCoreError):
                reason = "Stopped by AWS Step Functions: its state has ended"
                client.stop_task(cluster=cluster, task=arn, reason=reason)
            raise _TaskFailed("{}")

        return resolve

    @staticmethod
    def _task_now(client: Any, cluster: str, arn: str) -> dict[str, Any] | None:
        """Return the task as ECS has it now, in PascalCase, or None where ECS does not say."""
        try:
            described = client.describe_tasks(cluster=cluster, tasks=[arn], include=["TAGS"])
        except ClientError as error:
            if "AccessDenied" in error.response["Error"].get("Code", ""):
                raise
            return None
        except BotoCoreError:
            return None
        shape = _operation(client, "describeTasks").output_shape
        tasks = from_api({"tasks": described["tasks"]}, shape, epoch_milliseconds=True)["Tasks"]
        return tasks[0] if tasks else None


class _NotRun(Exception):
    """RunTask answered with failures."""


class _TaskFailed(Exception):
    """A task stopped otherwise than by success; the text is the task as JSON."""


def succeeded(task: dict[str, Any], essential: set[str]) -> bool:
    """Tell whether a stopped task (PascalCase) ended by itself, each essential container with exit code 0."""
    codes = {container["Name"]: container.get("ExitCode") for container in task.get("Containers", [])}
    by_itself = task.get("StopCode", "EssentialContainerExited") == "EssentialContainerExited"
    return by_itself and bool(codes) and all(codes.get(name) == 0 for name in essential or codes)


def essential_containers(task_definition: str) -> set[str]:
    """Return the names of the essential containers of a task definition's ARN; of one that is unknown, none."""
    region, account = task_definition.split(":")[3:5]
    try:
        definition = ecs_backends[account][region].describe_task_definition(task_definition)
    except ServiceException:
        return set()
    return {c["name"] for c in definition.container_definitions if c.get("essential", True) in (True, "true")}


def install(machine: Machine) -> None:
    """Let moto's interpreter call this machine's AWS through the classes above."""
    _Task.clients = Clients(machine)

    def client_for(region: str, service: str, state_credentials: StateCredentials) -> Any:
        return _Task.clients.get(service, region, state_credentials.role_arn)

    # The integrations that stay moto's (dynamodb, sns, events, a Lambda function as resource) go the same way.
    replace_everywhere("boto_client_for", client_for)
    state_task_service_factory.StateTaskServiceAwsSdk = AwsSdk
    state_task_service_factory.StateTaskServiceLambda = LambdaInvoke
    state_task_service_factory.StateTaskServiceEcs = EcsRunTask
    # moto checks a token's state by this method alone; ours closes tokens itself.
    state_task_service_callback.StateTaskServiceCallback._eval_body = _eval_body


def _eval_body(self: Any, env: Environment) -> None:
    """As moto's, but for the one token a state that it makes there: each attempt makes its own."""
    if self.resource.condition is not None:
        self._assert_integration_pattern_is_supported()
    super(StateTaskServiceCallback, self)._eval_body(env)
    env.states.context_object.context_object_data.pop("Task", None)
