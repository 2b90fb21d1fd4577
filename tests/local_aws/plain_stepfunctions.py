"""Prints what moto's Step Functions does without our patches, as JSON: for each patch, whether moto has the gap still.

A process of its own, since our patches stay for the life of a process.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import boto3
import moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_ecs as ecs_service
from moto import mock_aws
from moto.stepfunctions.parser import quotas
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    StateTaskServiceAwsSdk,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_ecs import (
    StateTaskServiceEcs,
)
from moto.stepfunctions.parser.asl.eval.variable_store import VariableStore
from moto.stepfunctions.parser.asl.jsonata import jsonata
from moto.stepfunctions.parser.asl.utils.encoding import to_json_str

GAPS: dict[str, Callable[[Any], bool]] = {}
ROLE = "arn:aws:iam::123456789012:role/r"
TOKEN = "arn:aws:states:::sqs:sendMessage.waitForTaskToken"


def gap(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    GAPS[check.__name__] = check
    return check


def create(sfn: Any, name: str, **more: Any) -> str:
    definition = {"StartAt": "A", "QueryLanguage": "JSONata", **more}
    made = sfn.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)
    return str(made["stateMachineArn"])


def wait(seconds: int) -> dict[str, Any]:
    return {"A": {"Type": "Wait", "Seconds": seconds, "End": True}}


def ended(sfn: Any, arn: str) -> Any:
    for _ in range(300):
        said = sfn.describe_execution(executionArn=arn)
        if said["status"] != "RUNNING":
            return said
        time.sleep(0.01)
    return said


@gap
def jsonata_is_not_evaluated(sfn: Any) -> bool:
    return jsonata._eval_jsonata is None


@gap
def pascal_case_is_not_converted(sfn: Any) -> bool:
    parameters = {"RepositoryName": "r"}
    StateTaskServiceAwsSdk._normalise_parameters(SimpleNamespace(), parameters)  # type: ignore[arg-type]
    return parameters == {"RepositoryName": "r"}


@gap
def errors_of_services_are_named_in_lower_case(sfn: Any) -> bool:
    return StateTaskServiceAwsSdk._normalise_service_error_name("ecr") == "ecr"


@gap
def an_exit_code_is_ignored(sfn: Any) -> bool:
    task = {"taskArn": "t", "clusterArn": "c", "lastStatus": "STOPPED", "containers": [{"name": "a", "exitCode": 1}]}
    client = SimpleNamespace(describe_tasks=lambda **_: {"tasks": [task], "Tasks": [task]})
    ecs_service.boto_client_for = lambda **_: client
    env: Any = SimpleNamespace(stack=[{"Tasks": [{"TaskArn": "t", "ClusterArn": "c"}]}])
    resolve = StateTaskServiceEcs._build_sync_resolver(
        SimpleNamespace(_normalise_response=lambda **_: None),  # type: ignore[arg-type]
        env, SimpleNamespace(region="us-east-1"), {}, None,  # type: ignore[arg-type]
    )  # fmt: skip
    assert resolve
    return bool(resolve()["containers"][0]["exitCode"] == 1)


@gap
def capacity_providers_are_dropped(sfn: Any) -> bool:
    return "CapacityProviderStrategy" not in ecs_service._SUPPORTED_API_PARAM_BINDINGS["runtask"]


@gap
def a_waiting_task_outlives_its_execution(sfn: Any) -> bool:
    queue = boto3.client("sqs").create_queue(QueueName="q")["QueueUrl"]
    arguments = {"QueueUrl": queue, "MessageBody": "text"}
    state = {"Type": "Task", "Resource": TOKEN, "Parameters": arguments, "End": True}
    arn = create(sfn, "waiting", QueryLanguage="JSONPath", States={"A": state})
    execution = sfn.start_execution(stateMachineArn=arn, name="e")["executionArn"]
    time.sleep(0.5)
    sfn.stop_execution(executionArn=execution)
    time.sleep(0.5)
    return bool(sfn.describe_execution(executionArn=execution)["status"] == "RUNNING")


@gap
def a_time_out_has_no_date_and_no_event(sfn: Any) -> bool:
    arn = create(sfn, "late", TimeoutSeconds=1, States=wait(2))
    execution = sfn.start_execution(stateMachineArn=arn, name="e")["executionArn"]
    time.sleep(1.05)
    said = ended(sfn, execution)
    return said["status"] == "TIMED_OUT" and "stopDate" not in said


@gap
def a_delay_before_a_retry_cannot_be_ended(sfn: Any) -> bool:
    return vars(retrier_decl)["time"] is time


@gap
def all_catches_what_ends_an_execution(sfn: Any) -> bool:
    env: Any = SimpleNamespace(stack=[StatesErrorName(typ=StatesErrorNameType.StatesRuntime)])
    ErrorEqualsDecl([StatesErrorName(typ=StatesErrorNameType.StatesALL)])._eval_body(env)
    return env.stack == [True]


@gap
def a_fail_state_cannot_pass_on_a_time_out(sfn: Any) -> bool:
    with contextlib.suppress(ValueError):
        CustomErrorName("States.Timeout")
        return False
    return True


@gap
def the_size_limit_is_a_byte_less(sfn: Any) -> bool:
    return not quotas.is_within_size_quota("x" * 262_144)


@gap
def variables_in_the_history_are_not_json(sfn: Any) -> bool:
    store = VariableStore()
    store.set("a", 'a "quote"')
    return store.get_assigned_variables() == {"a": '"a "quote""'}


@gap
def json_has_blanks_and_escapes(sfn: Any) -> bool:
    return to_json_str({"a": "ü"}) != '{"a":"ü"}'


@gap
def versions_cannot_be_published(sfn: Any) -> bool:
    try:
        sfn.publish_state_machine_version(stateMachineArn=create(sfn, "publish", States=wait(0)))
    except NotImplementedError:
        return True
    return False


@gap
def an_alias_cannot_be_started(sfn: Any) -> bool:
    arn = sfn.create_state_machine(
        name="alias", definition=json.dumps({"StartAt": "A", "States": wait(0)}), roleArn=ROLE, publish=True
    )["stateMachineVersionArn"]
    route = [{"stateMachineVersionArn": arn, "weight": 100}]
    alias = sfn.create_state_machine_alias(name="live", routingConfiguration=route)["stateMachineAliasArn"]
    try:
        sfn.start_execution(stateMachineArn=alias, name="e")
    except sfn.exceptions.StateMachineDoesNotExist:
        return True
    return False


@gap
def an_execution_without_a_name_has_none(sfn: Any) -> bool:
    arn = create(sfn, "nameless", States=wait(0))
    return str(sfn.start_execution(stateMachineArn=arn)["executionArn"]).endswith(":None")


@gap
def the_history_has_no_pages(sfn: Any) -> bool:
    arn = create(sfn, "paged", States=wait(0))
    execution = sfn.start_execution(stateMachineArn=arn, name="e")["executionArn"]
    ended(sfn, execution)
    return len(sfn.get_execution_history(executionArn=execution, maxResults=1)["events"]) > 1


@gap
def the_cause_of_a_stop_is_lost(sfn: Any) -> bool:
    arn = create(sfn, "stopped", States=wait(5))
    execution = sfn.start_execution(stateMachineArn=arn, name="e")["executionArn"]
    time.sleep(0.3)
    sfn.stop_execution(executionArn=execution, error="E", cause="c")
    return not ended(sfn, execution).get("cause")


@gap
def errors_have_no_code(sfn: Any) -> bool:
    try:
        sfn.create_state_machine(name="broken", definition="{}", roleArn=ROLE)
    except sfn.exceptions.ClientError as error:
        return error.response["Error"]["Code"] != "InvalidDefinition"
    return False


@gap
def executions_are_not_logged(sfn: Any) -> bool:
    logs = boto3.client("logs")
    logs.create_log_group(logGroupName="g")
    group = {"logGroupArn": "arn:aws:logs:us-east-1:123456789012:log-group:g:*"}
    arn = sfn.create_state_machine(
        name="logged", definition=json.dumps({"StartAt": "A", "States": wait(0)}), roleArn=ROLE,
        loggingConfiguration={"level": "ALL", "includeExecutionData": True,
                              "destinations": [{"cloudWatchLogsLogGroup": group}]},
    )["stateMachineArn"]  # fmt: skip
    ended(sfn, sfn.start_execution(stateMachineArn=arn, name="e")["executionArn"])
    return not logs.describe_log_streams(logGroupName="g")["logStreams"]


def main() -> None:
    logging.disable(logging.CRITICAL)
    found: dict[str, object] = {}
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}, "lambda": {"use_docker": False}}):
        sfn = boto3.client("stepfunctions")
        for name, check in GAPS.items():
            try:
                found[name] = check(sfn)
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
