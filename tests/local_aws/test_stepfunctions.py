"""Step Functions on one machine behaves as on AWS; each patch of moto is there because moto lacks it still."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import finished, until

sys.path.append(str(Path(__file__).parents[1] / "statemachine"))  # the fakes behind the services

import fake_aws
from fake_aws import ROLE, FakeAws, FunctionError, ServiceError

from deploy_runner.local_aws.stepfunctions import interpreter, tasks
from deploy_runner.local_aws.stepfunctions.jsonata import JSONataError, evaluate

pytestmark = pytest.mark.xdist_group("statemachine")

HERE = Path(__file__).parent
GAPS = re.findall(r"^@gap\ndef (\w+)", (HERE / "plain_stepfunctions.py").read_text(), re.MULTILINE)
WAIT = {"A": {"Type": "Wait", "Seconds": 30, "End": True}}
INVOKE = "arn:aws:states:::lambda:invoke"
ALL = [{"ErrorEquals": ["States.ALL"], "Next": "Caught", "Output": "{% $states.errorOutput %}"}]


@pytest.fixture(scope="module")
def started_aws() -> Iterator[FakeAws]:
    aws, stop = fake_aws.start()
    yield aws
    stop()


@pytest.fixture
def aws(started_aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    monkeypatch.setattr(interpreter, "retry_delay_scale", 0.0)
    started_aws.use()
    yield started_aws
    started_aws.reset()


@pytest.fixture
def sfn(aws: FakeAws) -> Any:
    return aws.client("stepfunctions")


def create(sfn: Any, states: dict[str, Any], **more: Any) -> dict[str, Any]:
    definition = {"StartAt": next(iter(states)), "QueryLanguage": "JSONata", "States": states}
    definition |= {"TimeoutSeconds": more.pop("timeout")} if "timeout" in more else {}
    name = more.pop("name", f"machine-{uuid.uuid4()}")
    created: dict[str, Any] = sfn.create_state_machine(
        name=name, definition=json.dumps(definition), roleArn=ROLE, **more
    )
    return created


def run(sfn: Any, states: dict[str, Any], text: str = "{}", **more: Any) -> dict[str, Any]:
    arn = create(sfn, states, **more)["stateMachineArn"]
    return finished(sfn, sfn.start_execution(stateMachineArn=arn, input=text)["executionArn"])


def run_task(sfn: Any, resource: str, arguments: Any, **more: Any) -> dict[str, Any]:
    """The result of one task, or what its Catch got."""
    task = {"Type": "Task", "Resource": resource, "Arguments": arguments, "End": True, "Catch": ALL, **more}
    result: dict[str, Any] = json.loads(run(sfn, {"A": task, "Caught": {"Type": "Succeed"}})["output"])
    return result


def types(sfn: Any, arn: str) -> list[str]:
    return [event["type"] for event in sfn.get_execution_history(executionArn=arn)["events"]]


# --- what moto lacks ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_moto() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "plain_stepfunctions.py")],
        env=os.environ | {"AWS_DEFAULT_REGION": "us-east-1"}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    gaps: dict[str, Any] = json.loads(done.stdout)
    return gaps


@pytest.mark.parametrize("gap", GAPS)
def test_a_patch_is_still_needed(plain_moto: dict[str, Any], gap: str) -> None:
    assert plain_moto[gap] is True, "moto has changed here: take our patch out, or test for the gap otherwise"


# --- versions and aliases -----------------------------------------------------------------------------------------


def test_a_version_is_published_once_for_each_revision(sfn: Any) -> None:
    arn = create(sfn, WAIT)["stateMachineArn"]
    first = sfn.publish_state_machine_version(stateMachineArn=arn, description="one")["stateMachineVersionArn"]
    assert first == f"{arn}:1"
    assert sfn.publish_state_machine_version(stateMachineArn=arn)["stateMachineVersionArn"] == first

    definition = json.dumps({"StartAt": "B", "States": {"B": {"Type": "Succeed"}}})
    sfn.update_state_machine(stateMachineArn=arn, definition=definition)
    revision = sfn.describe_state_machine(stateMachineArn=arn)["revisionId"]
    with pytest.raises(sfn.exceptions.ConflictException):
        sfn.publish_state_machine_version(stateMachineArn=arn, revisionId="INITIAL")
    second = sfn.publish_state_machine_version(stateMachineArn=arn, revisionId=revision)["stateMachineVersionArn"]

    assert second == f"{arn}:2"
    listed = sfn.list_state_machine_versions(stateMachineArn=arn)["stateMachineVersions"]
    assert [version["stateMachineVersionArn"] for version in listed] == [second, first]
    assert "Wait" in sfn.describe_state_machine(stateMachineArn=first)["definition"]

    sfn.delete_state_machine_version(stateMachineVersionArn=second)
    third = sfn.publish_state_machine_version(stateMachineArn=arn)["stateMachineVersionArn"]
    assert third == f"{arn}:3"


def test_an_alias_runs_its_version_and_what_runs_keeps_its_definition(sfn: Any) -> None:
    def says(text: str) -> dict[str, Any]:
        return {
            "A": {"Type": "Wait", "Seconds": 1, "Next": "B"},
            "B": {"Type": "Pass", "Output": text, "End": True},
        }

    created = create(sfn, says("old"), publish=True)
    arn, old = created["stateMachineArn"], created["stateMachineVersionArn"]
    route = [{"stateMachineVersionArn": old, "weight": 100}]
    alias = sfn.create_state_machine_alias(name="live", routingConfiguration=route)["stateMachineAliasArn"]
    assert alias == f"{arn}:live"
    assert sfn.create_state_machine_alias(name="live", routingConfiguration=route)["stateMachineAliasArn"] == alias
    with pytest.raises(sfn.exceptions.ConflictException):
        sfn.delete_state_machine_version(stateMachineVersionArn=old)

    running = sfn.start_execution(stateMachineArn=alias, name="before")["executionArn"]
    definition = json.dumps({"StartAt": "A", "QueryLanguage": "JSONata", "States": says("new")})
    new = sfn.update_state_machine(stateMachineArn=arn, definition=definition, publish=True)["stateMachineVersionArn"]
    assert new == f"{arn}:2"
    sfn.update_state_machine_alias(
        stateMachineAliasArn=alias, routingConfiguration=[{"stateMachineVersionArn": new, "weight": 100}]
    )
    later = sfn.start_execution(stateMachineArn=alias, name="after")["executionArn"]

    done = finished(sfn, running)
    assert done["output"] == '"old"'
    assert done["executionArn"] == f"{arn.replace(':stateMachine:', ':execution:')}:before"
    assert (done["stateMachineArn"], done["stateMachineAliasArn"], done["stateMachineVersionArn"]) == (arn, alias, old)
    assert finished(sfn, later)["output"] == '"new"'
    assert '"old"' in sfn.describe_state_machine_for_execution(executionArn=running)["definition"]
    for qualified, names in ((alias, ["after", "before"]), (old, ["before"]), (new, ["after"])):
        listed = sfn.list_executions(stateMachineArn=qualified)["executions"]
        assert [execution["name"] for execution in listed] == names
    aliases = sfn.list_state_machine_aliases(stateMachineArn=new)["stateMachineAliases"]
    assert [item["stateMachineAliasArn"] for item in aliases] == [alias]
    described = sfn.describe_state_machine_alias(stateMachineAliasArn=alias)
    assert described["routingConfiguration"] == [{"stateMachineVersionArn": new, "weight": 100}]

    sfn.delete_state_machine_alias(stateMachineAliasArn=alias)
    with pytest.raises(sfn.exceptions.StateMachineDoesNotExist):
        sfn.start_execution(stateMachineArn=alias)
    by_version = sfn.start_execution(stateMachineArn=old)["executionArn"]
    assert "stateMachineAliasArn" not in sfn.describe_execution(executionArn=by_version)


def test_an_alias_needs_versions_that_exist(sfn: Any) -> None:
    arn = create(sfn, WAIT)["stateMachineArn"]
    with pytest.raises(sfn.exceptions.ResourceNotFound):
        sfn.create_state_machine_alias(
            name="live", routingConfiguration=[{"stateMachineVersionArn": f"{arn}:1", "weight": 100}]
        )


def test_a_state_machine_is_created_once(sfn: Any) -> None:
    first = create(sfn, WAIT, name="once")
    assert create(sfn, WAIT, name="once")["stateMachineArn"] == first["stateMachineArn"]
    with pytest.raises(sfn.exceptions.StateMachineAlreadyExists):
        create(sfn, {"A": {"Type": "Succeed"}}, name="once")


# --- executions ---------------------------------------------------------------------------------------------------


def test_a_name_stands_for_one_execution(sfn: Any) -> None:
    arn = create(sfn, WAIT)["stateMachineArn"]
    first = sfn.start_execution(stateMachineArn=arn, name="n", input='{"a":1}')
    assert sfn.start_execution(stateMachineArn=arn, name="n", input='{"a":1}')["executionArn"] == first["executionArn"]
    with pytest.raises(sfn.exceptions.ExecutionAlreadyExists):
        sfn.start_execution(stateMachineArn=arn, name="n", input='{"a":2}')
    sfn.stop_execution(executionArn=first["executionArn"])
    with pytest.raises(sfn.exceptions.ExecutionAlreadyExists):
        sfn.start_execution(stateMachineArn=arn, name="n", input='{"a":1}')


@pytest.mark.parametrize("text", ["", "{", "NaN", "{'a': 1}", "[" * 100_000])
def test_input_that_is_not_json_is_refused(sfn: Any, text: str) -> None:
    arn = create(sfn, WAIT)["stateMachineArn"]
    with pytest.raises(sfn.exceptions.InvalidExecutionInput):
        sfn.start_execution(stateMachineArn=arn, input=text)


def test_input_may_be_as_long_as_on_aws(sfn: Any) -> None:
    states = {"A": {"Type": "Pass", "Output": "{% $length($states.input) %}", "End": True}}
    longest = json.dumps("ü" * 131_071, ensure_ascii=False)
    assert run(sfn, states, longest)["output"] == "131071"
    arn = create(sfn, states)["stateMachineArn"]
    with pytest.raises(sfn.exceptions.ClientError, match="262144"):
        sfn.start_execution(stateMachineArn=arn, input=json.dumps("x" * 262_143))


def test_a_result_that_is_too_long_ends_the_execution_uncaught(aws: FakeAws, sfn: Any) -> None:
    aws.functions["long"] = lambda payload: "x" * 262_200
    task = {"Type": "Task", "Resource": INVOKE, "Arguments": {"FunctionName": "long"}, "Catch": ALL, "End": True}
    done = run(sfn, {"A": task, "Caught": {"Type": "Succeed"}})
    assert (done["status"], done["error"]) == ("FAILED", "States.DataLimitExceeded")


def test_a_bad_name_is_refused(sfn: Any) -> None:
    arn = create(sfn, WAIT)["stateMachineArn"]
    with pytest.raises(sfn.exceptions.InvalidName):
        sfn.start_execution(stateMachineArn=arn, name="a/b")
    with pytest.raises(sfn.exceptions.ClientError, match="80"):
        sfn.start_execution(stateMachineArn=arn, name="x" * 81)


def test_a_stopped_execution_says_why_at_once(sfn: Any) -> None:
    arn = create(sfn, WAIT)["stateMachineArn"]
    execution = sfn.start_execution(stateMachineArn=arn)["executionArn"]
    sfn.stop_execution(executionArn=execution, error="Cancelled", cause='by "someone"')
    said = sfn.describe_execution(executionArn=execution)
    assert (said["status"], said["error"], said["cause"]) == ("ABORTED", "Cancelled", 'by "someone"')
    assert said["stopDate"] >= said["startDate"]
    last = sfn.get_execution_history(executionArn=execution)["events"][-1]
    assert last["executionAbortedEventDetails"] == {"error": "Cancelled", "cause": 'by "someone"'}
    # What has ended stays as it ended.
    sfn.stop_execution(executionArn=execution, error="Other")
    assert sfn.describe_execution(executionArn=execution)["error"] == "Cancelled"


def test_the_machines_own_time_limit_ends_what_waits(aws: FakeAws, sfn: Any) -> None:
    aws.functions["slow"] = lambda payload: time.sleep(3)
    for state in (WAIT["A"], {"Type": "Task", "Resource": INVOKE, "Arguments": {"FunctionName": "slow"}, "End": True}):
        done = run(sfn, {"A": state}, timeout=1)
        assert done["status"] == "TIMED_OUT"
        assert 0.9 < (done["stopDate"] - done["startDate"]).total_seconds() < 2.5
        assert types(sfn, done["executionArn"])[-1] == "ExecutionTimedOut"


def test_the_history_comes_in_pages_in_both_orders_and_without_data(aws: FakeAws, sfn: Any) -> None:
    aws.functions["f"] = lambda payload: {"canary": 1}
    task = {"Type": "Task", "Resource": INVOKE, "Arguments": {"FunctionName": "f", "Payload": {"canary": 0}}}
    arn = run(sfn, {"A": task | {"Assign": {"canary": 2}, "End": True}})["executionArn"]
    events = sfn.get_execution_history(executionArn=arn)["events"]
    assert [event["type"] for event in events] == [
        "ExecutionStarted", "TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited",
        "ExecutionSucceeded",
    ]  # fmt: skip
    assert [(e["id"], e["previousEventId"]) for e in events] == [(1, 0), (2, 0), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6)]
    times = [event["timestamp"] for event in events]
    assert times == sorted(times)

    pages = sfn.get_paginator("get_execution_history").paginate(executionArn=arn, PaginationConfig={"PageSize": 3})
    assert [[event["id"] for event in page["events"]] for page in pages] == [[1, 2, 3], [4, 5, 6], [7]]
    newest = sfn.get_execution_history(executionArn=arn, reverseOrder=True, maxResults=1)
    assert newest["events"][0]["type"] == "ExecutionSucceeded"
    assert newest["nextToken"]
    with pytest.raises(sfn.exceptions.InvalidToken):
        sfn.get_execution_history(executionArn=arn, nextToken="other")
    with pytest.raises(sfn.exceptions.ClientError, match="1000"):
        sfn.get_execution_history(executionArn=arn, maxResults=1001)

    bare = sfn.get_execution_history(executionArn=arn, includeExecutionData=False)["events"]
    assert "canary" not in json.dumps(bare, default=str)
    assert "canary" in json.dumps(events, default=str)


def test_a_function_as_resource_has_events_of_its_own(aws: FakeAws, sfn: Any) -> None:
    aws.functions["f"] = lambda payload: payload["a"]
    resource = "arn:aws:lambda:us-east-1:123456789012:function:f"
    done = run(sfn, {"A": {"Type": "Task", "Resource": resource, "Arguments": {"a": 5}, "End": True}})
    assert done["output"] == "5"
    assert types(sfn, done["executionArn"])[2:5] == [
        "LambdaFunctionScheduled", "LambdaFunctionStarted", "LambdaFunctionSucceeded",
    ]  # fmt: skip


def test_executions_are_told_to_eventbridge(sfn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    events = SimpleNamespace(emit=lambda *event: told.append(event))
    monkeypatch.setitem(sys.modules, "deploy_runner.local_aws.events", events)

    done = run(sfn, {"A": {"Type": "Fail", "Error": "E", "Cause": "c"}}, '{"a": 1}')

    assert [event[5]["status"] for event in told] == ["RUNNING", "FAILED"]
    account, region, source, kind, resources, detail = told[1]
    assert (account, region, source) == ("123456789012", "us-east-1", "aws.states")
    assert kind == "Step Functions Execution Status Change"
    assert resources == [done["executionArn"]] == [detail["executionArn"]]
    assert (detail["error"], detail["cause"], detail["input"]) == ("E", "c", '{"a": 1}')
    assert detail["stopDate"] == round(done["stopDate"].timestamp() * 1000)


@pytest.mark.parametrize(("level", "data"), [("ALL", True), ("ALL", False), ("ERROR", True), ("OFF", True)])
def test_executions_are_logged_as_configured(aws: FakeAws, sfn: Any, level: str, data: bool) -> None:
    logs = aws.client("logs")
    name = f"/aws/vendedlogs/states/{uuid.uuid4()}"
    logs.create_log_group(logGroupName=name)
    arn = f"arn:aws:logs:us-east-1:123456789012:log-group:{name}:*"
    logging = {"level": level, "includeExecutionData": data,
               "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": arn}}]}  # fmt: skip
    states = {"A": {"Type": "Pass", "Next": "B"}, "B": {"Type": "Fail", "Error": "E"}}

    done = run(sfn, states, '{"canary": 1}', loggingConfiguration=logging)

    logged = [json.loads(event["message"]) for event in logs.filter_log_events(logGroupName=name)["events"]]
    expected = {
        "ALL": ["ExecutionStarted", "PassStateEntered", "PassStateExited", "FailStateEntered", "ExecutionFailed"],
        "ERROR": ["FailStateEntered", "ExecutionFailed"],
        "OFF": [],
    }[level]
    assert [event["type"] for event in logged] == expected
    assert all(event["execution_arn"] == done["executionArn"] for event in logged)
    assert ("canary" in json.dumps(logged)) is (data and level != "OFF")


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_undefined_result_fails_the_state_and_the_history_says_so(sfn: Any) -> None:
    done = run(sfn, {"A": {"Type": "Pass", "Output": "{% $states.input.missing %}", "End": True}})
    assert (done["status"], done["error"]) == ("FAILED", "States.QueryEvaluationError")
    assert "$states.input.missing" in done["cause"]
    assert "EvaluationFailed" in types(sfn, done["executionArn"])


def test_a_fail_state_passes_on_a_reserved_name(sfn: Any) -> None:
    done = run(
        sfn, {"A": {"Type": "Fail", "Error": "{% $states.input.e %}", "Cause": "late"}}, '{"e": "States.Timeout"}'
    )
    assert (done["error"], done["cause"]) == ("States.Timeout", "late")


def test_a_functions_error_is_its_type_and_its_json(aws: FakeAws, sfn: Any) -> None:
    def fail(payload: Any) -> None:
        raise FunctionError("RefNotAllowed", 'no "main"\n')

    aws.functions["f"] = fail
    caught = run_task(sfn, INVOKE, {"FunctionName": "f", "Payload": {}})
    assert caught["Error"] == "RefNotAllowed"
    assert json.loads(caught["Cause"])["errorMessage"] == 'no "main"\n'


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("TooManyRequestsException", "Lambda.TooManyRequestsException"),
        ("ServiceException", "Lambda.ServiceException"),
        ("ResourceNotFoundException", "Lambda.ResourceNotFoundException"),
        ("AccessDeniedException", "Lambda.AWSLambdaException"),
    ],
)
def test_errors_of_lambda_are_named_as_by_the_optimised_integration(
    aws: FakeAws, sfn: Any, code: str, error: str
) -> None:
    def fail(payload: Any) -> None:
        raise ServiceError(code, "why")

    aws.functions["f"] = fail
    caught = run_task(sfn, INVOKE, {"FunctionName": "f", "Payload": {}})
    assert caught["Error"] == error
    assert caught["Cause"].startswith("why (Service: AWSLambda; Status Code: 429; Error Code: " + code)


@pytest.mark.parametrize(
    "name",
    ["f", "f:live", "arn:aws:lambda:us-east-1:123456789012:function:f", "123456789012:function:f:7",
     "arn:aws:lambda:us-east-1:123456789012:function:f:7", "arn:aws:lambda:us-east-1:123456789012:function:f:live"],
)  # fmt: skip
def test_a_function_may_be_named_in_every_way(aws: FakeAws, sfn: Any, name: str) -> None:
    aws.functions["f"] = lambda payload: {"got": payload}
    result = run_task(sfn, INVOKE, {"FunctionName": name, "Payload": {"a": None}})
    assert (result["Payload"], result["StatusCode"]) == ({"got": {"a": None}}, 200)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("RepositoryNotFoundException", "Ecr.RepositoryNotFoundException"),
        ("ServerException", "Ecr.ServerException"),
        ("ThrottlingException", "Ecr.EcrException"),
        ("AccessDeniedException", "Ecr.EcrException"),
    ],
)
def test_errors_of_sdk_integrations_are_named_in_pascal_case(
    aws: FakeAws, sfn: Any, monkeypatch: pytest.MonkeyPatch, code: str, error: str
) -> None:
    def fail(self: FakeAws, request: Any) -> None:
        raise ServiceError(code, "why")

    monkeypatch.setattr(FakeAws, "_BatchGetImage", fail)
    arguments = {"RepositoryName": "repo", "ImageIds": [{"ImageTag": "t"}]}
    caught = run_task(sfn, "arn:aws:states:::aws-sdk:ecr:batchGetImage", arguments)
    assert caught["Error"] == error
    assert caught["Cause"].startswith("why (Service: Ecr, Status Code: 400, Request ID: ")


@pytest.mark.parametrize(
    ("service_id", "name"),
    [("ECR", "Ecr"), ("DynamoDB", "DynamoDb"), ("ECS", "Ecs"), ("SFN", "Sfn"), ("CloudWatch Logs", "CloudWatchLogs"),
     ("EventBridge", "EventBridge"), ("Secrets Manager", "SecretsManager"), ("ACM PCA", "AcmPca"), ("S3", "S3")],
)  # fmt: skip
def test_a_services_class_in_the_sdk_for_java(service_id: str, name: str) -> None:
    assert tasks.java_class_name(service_id) == name


def test_sdk_integrations_convert_names_both_ways(sfn: Any) -> None:
    resource = "arn:aws:states:::aws-sdk:sfn:listStateMachines"
    create(sfn, WAIT)
    listed = run_task(sfn, resource, {"MaxResults": 1})["StateMachines"]
    assert listed[0]["StateMachineArn"].startswith("arn:aws:states:")
    assert listed[0]["CreationDate"].endswith("Z")


def test_a_parameter_that_the_api_does_not_have_ends_the_execution(sfn: Any) -> None:
    task = {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:sfn:listStateMachines", "End": True, "Catch": ALL}
    done = run(sfn, {"A": task | {"Arguments": {"MaxResult": 1}}, "Caught": {"Type": "Succeed"}})
    assert (done["status"], done["error"]) == ("FAILED", "States.Runtime")
    assert "'MaxResult' is not supported" in done["cause"]


def test_a_service_that_does_not_answer_is_a_client_exception(
    sfn: Any, monkeypatch: pytest.MonkeyPatch, aws: FakeAws
) -> None:
    monkeypatch.setattr(tasks._Task.clients.machine, "port", 1)
    monkeypatch.setattr(tasks._Task, "clients", tasks.Clients(tasks._Task.clients.machine))
    caught = run_task(sfn, INVOKE, {"FunctionName": "f"})
    assert caught["Error"] == "Lambda.SdkClientException"


# --- containers ---------------------------------------------------------------------------------------------------

RUN_TASK = "arn:aws:states:::ecs:runTask.sync"
DEFINITION = "arn:aws:ecs:us-east-1:123456789012:task-definition/two:1"


@pytest.mark.parametrize(
    ("ended", "works"),
    [
        ({"containers": [{"name": "main", "exitCode": 0}, {"name": "helper", "exitCode": 0}]}, True),
        ({"containers": [{"name": "main", "exitCode": 0}, {"name": "helper", "exitCode": 1}]}, True),
        ({"containers": [{"name": "main", "exitCode": 1}, {"name": "helper", "exitCode": 0}]}, False),
        ({"containers": [{"name": "main"}, {"name": "helper", "exitCode": 0}]}, False),
        ({"containers": [{"name": "main", "exitCode": 0}], "stopCode": "UserInitiated"}, False),
        ({"containers": [], "stopCode": "TaskFailedToStart", "stoppedReason": "CannotPullContainerError"}, False),
    ],
)
def test_a_job_succeeds_by_the_exit_codes_of_its_essential_containers(
    aws: FakeAws, sfn: Any, ended: dict[str, Any], works: bool
) -> None:
    from moto.ecs.models import ecs_backends

    containers = [{"name": "main"}, {"name": "helper", "essential": False}]
    backend = ecs_backends["123456789012"]["us-east-1"]
    if "two" not in backend.task_definitions:
        backend.register_task_definition("two", [c | {"image": "i", "memory": 9} for c in containers])
    aws.run_task = lambda request: ended

    result = run_task(sfn, RUN_TASK, {"Cluster": "c", "TaskDefinition": DEFINITION})

    assert ("Error" not in result) is works
    task = result if works else json.loads(result["Cause"])
    assert (task["LastStatus"], task["CreatedAt"]) == ("STOPPED", 1767225600250)
    if not works:
        assert result["Error"] == "States.TaskFailed"


def test_a_job_whose_execution_is_stopped_is_stopped(aws: FakeAws, sfn: Any) -> None:
    aws.run_task = lambda request: {"lastStatus": "RUNNING"}
    task = {"Type": "Task", "Resource": RUN_TASK, "Arguments": {"Cluster": "c", "TaskDefinition": DEFINITION}}
    arn = create(sfn, {"A": task | {"End": True}})["stateMachineArn"]
    execution = sfn.start_execution(stateMachineArn=arn)["executionArn"]
    until(lambda: bool(aws.tasks))

    sfn.stop_execution(executionArn=execution)

    assert sfn.describe_execution(executionArn=execution)["status"] == "ABORTED"
    until(lambda: bool(aws.called("StopTask")))
    # Nothing more stands in the history.
    assert types(sfn, execution)[-1] == "ExecutionAborted"


def test_a_task_that_is_not_waited_for_returns_failures_as_data(aws: FakeAws, sfn: Any) -> None:
    aws.run_task = lambda request: {"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY"}]}
    arguments = {"Cluster": "c", "TaskDefinition": DEFINITION}
    assert run_task(sfn, "arn:aws:states:::ecs:runTask", arguments)["Failures"] == [{"Reason": "RESOURCE:MEMORY"}]
    assert run_task(sfn, RUN_TASK, arguments)["Error"] == "AmazonECS.Unknown"


def test_capacity_providers_reach_ecs(aws: FakeAws, sfn: Any) -> None:
    aws.run_task = lambda request: {"containers": [{"name": "main", "exitCode": 0}]}
    strategy = [{"CapacityProvider": "FARGATE_SPOT", "Weight": 1}]
    run_task(sfn, RUN_TASK, {"Cluster": "c", "TaskDefinition": "t", "CapacityProviderStrategy": strategy})
    assert aws.called("RunTask")[0]["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]


# --- tokens -------------------------------------------------------------------------------------------------------


def waiting(aws: FakeAws, sfn: Any, logging: dict[str, Any] | None = None, **more: Any) -> tuple[str, str]:
    """An execution that waits for a token. Returns its ARN and the token."""
    told: list[str] = []
    aws.functions["w"] = lambda payload: told.append(payload["t"])
    arguments = {"FunctionName": "w", "Payload": {"t": "{% $states.context.Task.Token %}"}}
    task = {"Type": "Task", "Resource": f"{INVOKE}.waitForTaskToken", "Arguments": arguments, "End": True, **more}
    arn = create(sfn, {"A": task}, **({"loggingConfiguration": logging} if logging else {}))["stateMachineArn"]
    execution = sfn.start_execution(stateMachineArn=arn)["executionArn"]
    until(lambda: bool(told))
    return execution, told[0]


def test_a_token_is_answered_once(aws: FakeAws, sfn: Any) -> None:
    execution, token = waiting(aws, sfn)
    with pytest.raises(sfn.exceptions.InvalidOutput):
        sfn.send_task_success(taskToken=token, output="{")
    sfn.send_task_success(taskToken=token, output='{"a": [1, null]}')
    assert finished(sfn, execution)["output"] == '{"a":[1,null]}'
    for answer in (
        lambda: sfn.send_task_success(taskToken=token, output="{}"),
        lambda: sfn.send_task_failure(taskToken=token),
        lambda: sfn.send_task_heartbeat(taskToken=token),
    ):
        with pytest.raises(sfn.exceptions.TaskTimedOut):
            answer()
    assert "TaskSubmitted" in types(sfn, execution)


def test_of_answers_at_once_one_counts(aws: FakeAws, sfn: Any) -> None:
    execution, token = waiting(aws, sfn)
    taken: list[int] = []
    clients = [aws.client("stepfunctions") for _ in range(8)]

    def answer(number: int) -> None:
        try:
            clients[number].send_task_success(taskToken=token, output=str(number))
            taken.append(number)
        except sfn.exceptions.ClientError:
            return

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [finished(sfn, execution)["output"]] == [str(number) for number in taken]


def test_a_token_may_be_answered_before_the_function_returns(aws: FakeAws, sfn: Any) -> None:
    aws.functions["w"] = lambda payload: sfn.send_task_failure(taskToken=payload["t"], error="E", cause="c") and None
    arguments = {"FunctionName": "w", "Payload": {"t": "{% $states.context.Task.Token %}"}}
    caught = run_task(sfn, f"{INVOKE}.waitForTaskToken", arguments)
    assert caught == {"Error": "E", "Cause": "c"}


def test_a_token_that_was_never_given_is_invalid(sfn: Any) -> None:
    with pytest.raises(sfn.exceptions.InvalidToken):
        sfn.send_task_success(taskToken="AAAA", output="{}")


def test_a_cause_may_be_as_long_as_on_aws(aws: FakeAws, sfn: Any) -> None:
    execution, token = waiting(aws, sfn)
    with pytest.raises(sfn.exceptions.ClientError, match="32768"):
        sfn.send_task_failure(taskToken=token, error="E", cause="c" * 32_769)
    sfn.send_task_failure(taskToken=token, error="E", cause="c" * 32_768)
    assert finished(sfn, execution)["cause"] == "c" * 32_768


def test_a_log_without_execution_data_has_no_token(aws: FakeAws, sfn: Any) -> None:
    logs = aws.client("logs")
    name = f"/aws/vendedlogs/states/{uuid.uuid4()}"
    logs.create_log_group(logGroupName=name)
    group = {"logGroupArn": f"arn:aws:logs:us-east-1:123456789012:log-group:{name}:*"}
    logging = {"level": "ALL", "includeExecutionData": False, "destinations": [{"cloudWatchLogsLogGroup": group}]}

    execution, token = waiting(aws, sfn, logging)
    sfn.send_task_success(taskToken=token, output="{}")
    finished(sfn, execution)

    logged = [event["message"] for event in logs.filter_log_events(logGroupName=name)["events"]]
    assert any("TaskScheduled" in line for line in logged)
    assert not [line for line in logged if token in line]


def test_the_token_of_a_stopped_execution_is_dead(aws: FakeAws, sfn: Any) -> None:
    execution, token = waiting(aws, sfn)
    sfn.stop_execution(executionArn=execution)
    with pytest.raises(sfn.exceptions.TaskTimedOut):
        sfn.send_task_success(taskToken=token, output="{}")


def test_heartbeats_keep_a_task_alive_and_their_lack_ends_it(aws: FakeAws, sfn: Any) -> None:
    execution, token = waiting(aws, sfn, HeartbeatSeconds=1, TimeoutSeconds=20)
    for _ in range(3):
        time.sleep(0.5)
        sfn.send_task_heartbeat(taskToken=token)
    assert sfn.describe_execution(executionArn=execution)["status"] == "RUNNING"
    done = finished(sfn, execution)
    assert (done["status"], done["error"]) == ("FAILED", "States.Timeout")


# --- AWS's own functions in JSONata -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # The examples of the Developer Guide, "JSONata functions provided by Step Functions".
        ("$partition([1,2,3,4], $floor(3.2))", [[1, 2, 3], [4]]),
        ("$range(0, 6, 2)", [0, 2, 4, 6]),
        ("$range(0, 2, 1)", [0, 1, 2]),
        ("$range(1, 0, -0.5)", [1, 0.5, 0]),
        ("$hash('input data', 'SHA-1')", "aaff4a450a104cd177d28d18d74485e8cae074b7"),
        ("$hash('input data', 'MD5')", "812f45842bc6d66ee14572ce20db8e86"),
        ('$parse(\'{"foo": "bar"}\')', {"foo": "bar"}),
        ("$parse('[1, null, \"a\"]')[1]", None),
        ("$random() < 1", True),
        ("$random(7) = $random(7)", True),
        ("$type($uuid())", "string"),
        ("$uuid() = $uuid()", False),
        ("$not($exists($parse($states.input.missing)))", True),
    ],
)
def test_aws_functions_give_what_aws_says(expression: str, value: Any) -> None:
    assert evaluate(expression, {"states": {"input": {}}}) == value


@pytest.mark.parametrize(
    "expression",
    ["$parse('{')", "$parse(1)", "$hash('a', 'SHA-2')", "$hash('a')", "$range(1, 2, 0)", "$range(1, 2)",
     "$range(0, 1e9, 1)", "$partition([1], 0)", "$partition([1], 'a')", "$eval('1')", "$nothing", "1 +",
     "function($x) { $x }", "$unknown(1)"],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_an_error_that_names_the_expression(expression: str) -> None:
    with pytest.raises(JSONataError, match="JSONata expression"):
        evaluate(expression, {})


def test_a_variable_is_a_value_and_never_text_of_the_expression() -> None:
    hostile = '"; $uuid(); "\n{% $x %} \\'
    assert evaluate("$x & '!'", {"x": hostile}) == hostile + "!"
    assert evaluate("$x.y[0]", {"x": {"y": [None]}}) is None


def test_the_time_is_that_of_each_evaluation() -> None:
    expression = "{'now': $millis(), 'later': $map([1, 2], function($n) { $millis() })}"
    first = evaluate(expression, {})
    time.sleep(0.01)
    second = evaluate(expression, {})
    assert {first["now"]} == set(first["later"])
    assert {second["now"]} == set(second["later"])
    assert time.time() * 1000 >= second["now"] > first["now"]


def test_expressions_of_executions_side_by_side_do_not_mix() -> None:
    def evaluated(number: int) -> bool:
        bindings = {"x": {"n": number}, "list": list(range(20))}
        partial = evaluate("$map($list, $substringBefore(?, '/'))", {"list": [f"{number}/a", f"{number}/b"]})
        total = evaluate("$sum($map($list, function($v) { $v * $x.n }))", bindings)
        return (total, partial) == (190 * number, [str(number)] * 2)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(evaluated, range(200)))
