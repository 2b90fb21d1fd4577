"""Lambda on this machine runs the artifact as AWS would: by AWS's runtime client, alone with its own packages."""

import base64
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.core.exceptions import JsonRESTError

from deploy_runner.local_aws.awslambda import Pool, Result, Runtime
from deploy_runner.local_aws.machine import Machine
from tests.local_aws.light import client, start
from tests.waiting import until

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)
HANDLER = """
import os, sys, time, boto3
started = time.time()
def lambda_handler(event, context):
    what = event.get("do")
    if what == "environ": return dict(os.environ)
    if what == "paths": return {"path": sys.path, "boto3": boto3.__file__}
    if what == "import": __import__(event["module"])
    if what == "fail": raise KeyError("DATABASE_URL")
    if what == "sleep": time.sleep(event["seconds"])
    if what == "meet":
        open(os.path.join(event["folder"], context.aws_request_id), "w").close()
        while len(os.listdir(event["folder"])) < event["count"]: time.sleep(0.02)
    if what == "exit": os._exit(3)
    if what == "print": print("one\\ntwo" + "x" * 100_000)
    if what == "who": return boto3.client("sts").get_caller_identity()["Arn"]
    arn, version = context.invoked_function_arn, context.function_version
    return {"event": event, "arn": arn, "version": version, "pid": os.getpid()}
"""


def archive(**files: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/") + ".py", text)
    return content.getvalue()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = start(4731, tmp_path_factory.mktemp("local"), "awslambda")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def aws(machine: Machine) -> Any:
    client(machine, "iam").create_role(RoleName="function", AssumeRolePolicyDocument=TRUST)
    return lambda service: client(machine, service)


@pytest.fixture
def function(aws: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    functions, name = aws("lambda"), request.node.name[:60]
    functions.create_function(
        FunctionName=name, Runtime="python3.13", Role="arn:aws:iam::123456789012:role/function", Timeout=1,
        Handler="work.lambda_handler", Code={"ZipFile": archive(work=HANDLER)},
        Environment={"Variables": {"COLOUR": "blue"}},
    )  # fmt: skip

    def invoke(event: Any = None, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        answer = functions.invoke(FunctionName=name, Payload=json.dumps(event or {}), **arguments)
        payload = answer["Payload"].read()
        return json.loads(payload) if payload else None, answer

    invoke.name, invoke.client = name, functions  # type: ignore[attr-defined]
    yield invoke
    functions.delete_function(FunctionName=name)


def test_a_function_answers_and_stays_warm(function: Any) -> None:
    first, answer = function({"a": 1})
    second, _ = function({"a": 2})
    assert (first["event"], second["event"]) == ({"a": 1}, {"a": 2})
    assert first["pid"] == second["pid"]
    assert "FunctionError" not in answer
    assert answer["ExecutedVersion"] == "$LATEST"


def test_the_environment_is_that_of_the_runtime(function: Any, machine: Machine) -> None:
    environment, _ = function({"do": "environ"})
    assert environment["COLOUR"] == "blue"
    assert environment["AWS_ENDPOINT_URL"] == machine.endpoint
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == function.name
    assert environment["_HANDLER"] == "work.lambda_handler"
    assert environment["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    assert "HOME" not in environment


def test_nothing_of_this_machine_can_be_imported(function: Any) -> None:
    paths, _ = function({"do": "paths"})
    assert paths["path"][0].endswith(Path(paths["path"][0]).name)
    assert not [path for path in paths["path"] if "site-packages" in path or path.endswith("/src")]
    for module in ("deploy_runner", "moto", "yaml"):
        told, answer = function({"do": "import", "module": module})
        assert told["errorType"] == "ModuleNotFoundError"
        assert answer["FunctionError"] == "Unhandled"


def test_it_acts_as_its_role(function: Any) -> None:
    assert function({"do": "who"})[0] == f"arn:aws:sts::123456789012:assumed-role/function/{function.name}"


def test_an_exception_is_the_answer(function: Any) -> None:
    told, answer = function({"do": "fail"})
    assert answer["FunctionError"] == "Unhandled"
    assert (told["errorType"], told["errorMessage"]) == ("KeyError", "'DATABASE_URL'")
    assert told["stackTrace"]
    assert function({})[1]["StatusCode"] == 200


def test_a_timeout_kills_the_process(function: Any) -> None:
    told, answer = function({"do": "sleep", "seconds": 20})
    assert answer["FunctionError"] == "Unhandled"
    assert told["errorType"] == "Sandbox.Timedout"
    assert told["errorMessage"].endswith("Error: Task timed out after 1.00 seconds")
    assert function({})[1].get("FunctionError") is None


def test_a_process_that_ends_is_an_error(function: Any) -> None:
    told, _ = function({"do": "exit"})
    assert told["errorType"] == "Runtime.ExitError"
    assert told["errorMessage"].endswith("Error: Runtime exited with error: exit status 3")


def test_a_handler_that_cannot_be_imported(function: Any) -> None:
    function.client.update_function_configuration(FunctionName=function.name, Handler="absent.handler")
    told, answer = function({})
    assert answer["FunctionError"] == "Unhandled"
    assert told["errorType"] == "Runtime.ImportModuleError"
    assert "No module named 'absent'" in told["errorMessage"]


def test_the_log_has_what_the_function_printed(function: Any, aws: Any) -> None:
    _, answer = function({"do": "print"}, LogType="Tail")
    assert "REPORT RequestId" in base64.b64decode(answer["LogResult"]).decode()
    logs = aws("logs")
    events = logs.filter_log_events(logGroupName=f"/aws/lambda/{function.name}")["events"]
    lines = [event["message"] for event in events]
    assert lines[0].startswith("START RequestId: ")
    assert lines[1] == "one"
    assert lines[3].startswith("END RequestId: ")


def test_a_version_keeps_its_code_and_settings(function: Any) -> None:
    client = function.client
    first = client.publish_version(FunctionName=function.name)["Version"]
    assert client.publish_version(FunctionName=function.name)["Version"] == first  # nothing changed
    client.create_alias(FunctionName=function.name, Name="live", FunctionVersion=first)
    client.update_function_code(
        FunctionName=function.name, ZipFile=archive(work="def lambda_handler(event, context): return 2")
    )
    client.update_function_configuration(FunctionName=function.name, Environment={"Variables": {"COLOUR": "red"}})
    assert function({}, Qualifier="$LATEST")[0] == 2
    told, answer = function({}, Qualifier="live")
    assert told["arn"].endswith(f"{function.name}:live")
    assert (told["version"], answer["ExecutedVersion"]) == (first, first)
    assert function({"do": "environ"}, Qualifier=first)[0]["COLOUR"] == "blue"
    second = client.publish_version(FunctionName=function.name)["Version"]
    client.update_alias(FunctionName=function.name, Name="live", FunctionVersion=second)
    assert function({}, Qualifier="live")[0] == 2
    with pytest.raises(ClientError, match="ResourceConflict"):
        client.delete_function(FunctionName=function.name, Qualifier=second)


def test_concurrent_events_run_side_by_side(function: Any, tmp_path: Path) -> None:
    """Each waits until all of them run; one after the other, the first would never end."""
    function.client.update_function_configuration(FunctionName=function.name, Timeout=60)
    event = {"do": "meet", "folder": str(tmp_path), "count": 3}
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: function(event), range(3)))
    assert len({told["pid"] for told, _ in answers}) == 3


def test_a_failing_event_is_tried_three_times_and_then_told(function: Any, aws: Any) -> None:
    queue = aws("sqs").create_queue(QueueName="failures")["QueueUrl"]
    function.client.put_function_event_invoke_config(
        FunctionName=function.name,
        DestinationConfig={"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:123456789012:failures"}},
    )
    _, answer = function({"do": "fail"}, InvocationType="Event")
    assert answer["StatusCode"] == 202
    messages = until(lambda: aws("sqs").receive_message(QueueUrl=queue).get("Messages"))
    record = json.loads(messages[0]["Body"])
    assert record["requestContext"]["approximateInvokeCount"] == 3
    assert record["requestPayload"] == {"do": "fail"}
    assert record["responsePayload"]["errorType"] == "KeyError"


def test_a_role_that_lambda_may_not_assume_is_refused(aws: Any) -> None:
    aws("iam").create_role(RoleName="other", AssumeRolePolicyDocument=TRUST.replace("lambda", "ecs"))
    with pytest.raises(ClientError, match="cannot be assumed by Lambda"):
        aws("lambda").create_function(
            FunctionName="refused", Runtime="python3.13", Role="arn:aws:iam::123456789012:role/other", Handler="a.b",
            Code={"ZipFile": archive(a="")},
        )  # fmt: skip


def test_moto_alone_only_echoes() -> None:
    """When this fails, moto runs functions without Docker, and most of our extension can go."""
    program = """if True:
        from moto.awslambda_simple.models import LambdaSimpleBackend
        print(LambdaSimpleBackend("us-east-1", "1").invoke("f", None, "x", {}, {}))"""
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert plain.stdout == "b'x'\n"


def test_a_process_that_starts_while_all_are_ended_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Result.failed("Runtime.ExitError", "it was ended")
    stops: list[str] = []

    class Ended:
        warm = False

        def wait_ready(self) -> Result:
            return ended

        def stop(self) -> None:
            stops.append("worker")

    def start_worker(_: Any) -> Any:
        pool.stop()
        return Ended()

    function: Any = SimpleNamespace(logging_config={"LogGroup": "g"})
    pool = Pool(SimpleNamespace(start_worker=start_worker), function)  # type: ignore[arg-type]
    monkeypatch.setattr(pool, "_log", lambda *_: None)

    assert pool.invoke(b"{}", "arn", "1") == ended
    assert stops
    assert not pool.workers


def test_no_process_starts_once_local_aws_goes_down(tmp_path: Path) -> None:
    runtime = Runtime(SimpleNamespace(state_dir=tmp_path))  # type: ignore[arg-type]
    runtime.stop()
    function: Any = SimpleNamespace(
        function_name="f", function_arn="arn:aws:lambda:us-east-1:123456789012:function:f", version="1",
        get_configuration=dict,
    )  # fmt: skip
    with pytest.raises(JsonRESTError, match="going down"):
        runtime.pool(function)
