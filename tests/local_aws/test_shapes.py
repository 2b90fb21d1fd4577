"""The reader of answers finds what is wrong in one, so that its silence in the other tests says something."""

import json
from typing import Any

import pytest

from tests.local_aws.shapes import model, wrong_in


def found(service: str, operation: str, body: str, status: int = 200, **headers: str) -> list[str]:
    return list(wrong_in(model(service).operation_model(operation), status, headers, body.encode()))


def task(**members: Any) -> str:
    return json.dumps({"tasks": [members]})


STACK = """<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>
<Stacks><member><StackName>s</StackName><CreationTime>{time}</CreationTime><StackStatus>{status}</StackStatus>{more}
</member></Stacks></DescribeStacksResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
</DescribeStacksResponse>"""
GOOD_STACK: dict[str, str] = {"time": "2026-01-02T03:04:05.678Z", "status": "CREATE_COMPLETE", "more": ""}


def stack(**changed: str) -> str:
    return STACK.format(**GOOD_STACK | changed)


STACK_WITHOUT_TIME = STACK.replace("<CreationTime>{time}</CreationTime>", "").format(**GOOD_STACK)


def error(code: str, root: str = "ErrorResponse") -> str:
    return f"<{root}><Error><Code>{code}</Code><Message>m</Message></Error></{root}>"


@pytest.mark.parametrize(
    ("service", "operation", "body"),
    [
        ("ecs", "DescribeTasks", task(lastStatus="RUNNING", version=1, createdAt=1.5, launchType="FARGATE")),
        ("ecs", "StopServiceDeployment", "{}"),
        ("events", "DeleteRule", ""),
        ("lambda", "GetAlias", '{"Name": "live", "Description": null}'),
        ("lambda", "Invoke", "not JSON, and the function's own"),
        ("cloudformation", "DescribeStacks", stack(more="<DisableRollback>true</DisableRollback><Tags/>")),
    ],
)
def test_a_good_answer_passes(service: str, operation: str, body: str) -> None:
    assert found(service, operation, body) == []


@pytest.mark.parametrize(
    ("service", "operation", "body", "what"),
    [
        ("ecs", "DescribeTasks", task(colour="red"), ".tasks[0].colour is unknown: 'red'"),
        ("ecs", "DescribeTasks", task(version="1"), ".tasks[0].version is '1' and no long"),
        ("ecs", "DescribeTasks", task(version=True), ".tasks[0].version is True and no long"),
        ("ecs", "DescribeTasks", task(containers={}), ".tasks[0].containers is {} and no list"),
        ("ecs", "DescribeTasks", task(createdAt="2026-01-02"), "where a time is a number"),
        ("ecs", "DescribeTasks", task(launchType="MOON"), ".tasks[0].launchType is 'MOON' and none of ['EC2'"),
        ("ecs", "DescribeTasks", "<html>", "the body cannot be read"),
        ("stepfunctions", "StartExecution", '{"startDate": 1}', ".executionArn is required and missing"),
        ("events", "DeleteRule", '{"a": 1}', "there is no output"),
        ("cloudformation", "DescribeStacks", stack(time="2026-01-02T03:04:05"), "CreationTime is '2026-01-02T03"),
        ("cloudformation", "DescribeStacks", stack(status="DONE"), ".Stacks[0].StackStatus is 'DONE'"),
        ("cloudformation", "DescribeStacks", stack(more="<Colour>red</Colour>"), ".Stacks[0].Colour is unknown: 'red'"),
        ("cloudformation", "DescribeStacks", stack(more="<DisableRollback>True</DisableRollback>"), "and no boolean"),
        ("cloudformation", "DescribeStacks", STACK_WITHOUT_TIME, "CreationTime is required"),
        ("cloudformation", "DescribeStacks", stack().replace("StacksResult>", "StackResult>"), "the answer is"),
        ("cloudformation", "DescribeStacks", stack().replace("RequestId", "Id"), "no ResponseMetadata"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(service: str, operation: str, body: str, what: str) -> None:
    assert what in found(service, operation, body)[0]


@pytest.mark.parametrize(
    ("service", "operation", "body", "status", "what"),
    [
        ("ecs", "DescribeTasks", '{"__type": "ClusterNotFoundException", "message": "m"}', 400, None),
        ("ecs", "DescribeTasks", '{"__type": "ThrottlingException", "message": "m"}', 400, None),
        ("ecs", "DescribeTasks", '{"__type": "NoSuchTask", "message": "m"}', 400, "the error 'NoSuchTask' (m) is none"),
        ("ecs", "DescribeTasks", '{"message": "m"}', 400, "the error '' (m) is none of"),
        ("ecs", "DescribeTasks", '{"__type": "ServerException"}', 500, "has no message"),
        ("lambda", "GetAlias", '{"Type": "User", "Message": "m"}', 400, "has the status 404, not 400"),
        ("cloudformation", "CreateStack", error("AlreadyExistsException"), 400, None),
        ("cloudformation", "CreateStack", error("StackIsThere"), 400, "the error 'StackIsThere' (m) is none"),
        ("cloudformation", "CreateStack", error("AlreadyExistsException", "Response"), 400, "not a <Response>"),
    ],
)  # fmt: skip
def test_an_error_is_one_that_the_operation_declares(
    service: str, operation: str, body: str, status: int, what: str | None
) -> None:
    headers = {"x-amzn-errortype": "ResourceNotFoundException"} if service == "lambda" else {}
    answer = found(service, operation, body, status, **headers)
    assert (answer == []) if what is None else (len(answer) == 1 and what in answer[0])
