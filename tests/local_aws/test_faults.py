"""Each fault is seen by a client as what it stands for, ends when it should, and is gone when it is cleared."""

import io
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.retries import standard
from moto.moto_api._internal import moto_api_backend

from deploy_runner.cli.main import main
from deploy_runner.github.api import Api
from deploy_runner.github.errors import GitHubUnavailable
from deploy_runner.local_aws import server
from deploy_runner.local_aws.events import emit
from deploy_runner.local_aws.faults import DEATHS, REFUSALS
from deploy_runner.local_aws.machine import Machine
from tests.local_aws.ecs_running import BUSYBOX, Ecs, container, web
from tests.local_aws.test_awslambda import TRUST, archive
from tests.waiting import LONGEST, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]

PORT, ACCOUNT, REGION = 4746, "123456789012", "us-east-1"
EXTENSIONS = ["registry", "ecr", "events", "awslambda", "stepfunctions", "elbv2", "ecs", "github"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    moto_api_backend.reset()  # what another module's tests left: moto keeps its state in this process
    machine = server.start(PORT, tmp_path_factory.mktemp("faults"), EXTENSIONS)
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture(autouse=True)
def all_well(machine: Machine) -> Iterator[None]:
    yield
    machine.faults.clear()


@pytest.fixture(scope="module")
def ecs(machine: Machine) -> Ecs:
    return Ecs(machine)


def fault(*words: str) -> None:
    """As a person does it."""
    assert main(["local", "fault", *words, "--port", str(PORT)]) == 0


@cache
def client(service: str, read_timeout: float = 20) -> Any:
    """boto3's, without retries."""
    session: Any = boto3.session.Session("local", "local", region_name=REGION)
    config = Config(retries={"total_max_attempts": 1}, read_timeout=read_timeout)
    return session.client(service, endpoint_url=f"http://127.0.0.1:{PORT}", config=config)


# --- AWS's API --------------------------------------------------------------------------------------------------------

CALLS = {  # a call of each protocol that AWS speaks: JSON, REST with JSON and with XML, Query, EC2, CBOR's fallback
    "ecs": ("list_clusters", "ThrottlingException", 400),
    "stepfunctions": ("list_state_machines", "ThrottlingException", 400),
    "dynamodb": ("list_tables", "ThrottlingException", 400),
    "scheduler": ("list_schedules", "ThrottlingException", 429),
    "lambda": ("list_functions", "TooManyRequestsException", 429),
    "s3": ("list_buckets", "SlowDown", 503),
    "sts": ("get_caller_identity", "Throttling", 400),
    "ec2": ("describe_vpcs", "RequestLimitExceeded", 503),
    "sqs": ("list_queues", "RequestThrottled", 403),
    "cloudwatch": ("list_metrics", "ThrottlingException", 400),
}


@pytest.mark.parametrize("service", CALLS)
def test_a_call_is_throttled_as_its_service_does_it_and_then_goes_well(service: str) -> None:
    operation, code, status = CALLS[service]
    fault("api", service, "--throttle", "--times", "2")

    for _ in range(2):
        with pytest.raises(ClientError) as error:
            getattr(client(service), operation)()
        assert error.value.response["Error"]["Code"] == code
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
        # botocore itself takes it for throttling, and would try again
        assert code in standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES

    getattr(client(service), operation)()


@pytest.mark.parametrize("service", CALLS)
def test_a_call_fails_with_the_error_that_was_asked_for(service: str) -> None:
    fault("api", service, "--error", "AccessDeniedException", "--status", "500", "--message", "<no>", "--times", "1")

    with pytest.raises(ClientError) as error:
        getattr(client(service), CALLS[service][0])()

    told = error.value.response
    assert (told["Error"]["Code"], told["Error"]["Message"]) == ("AccessDeniedException", "<no>")
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_only_what_matches_is_struck() -> None:
    client("sqs").create_queue(QueueName="struck")
    client("sqs").create_queue(QueueName="spared")
    fault("api", "sqs", "getqueueurl", "--about", "str*", "--throttle")

    client("sqs").get_queue_url(QueueName="spared")
    client("sqs").list_queues()
    with pytest.raises(ClientError):
        client("sqs").get_queue_url(QueueName="struck")

    fault("clear")
    client("sqs").get_queue_url(QueueName="struck")


def test_a_role_alone_is_struck() -> None:
    client("iam").create_role(RoleName="unlucky", AssumeRolePolicyDocument=TRUST)
    role = client("sts").assume_role(RoleArn=f"arn:aws:iam::{ACCOUNT}:role/unlucky", RoleSessionName="test")
    keys = role["Credentials"]
    session: Any = boto3.session.Session(
        keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=REGION
    )
    once = Config(retries={"total_max_attempts": 1})
    as_role = session.client("ecs", endpoint_url=f"http://127.0.0.1:{PORT}", config=once)
    fault("api", "ecs", "--role", "unlucky", "--error", "ServerException", "--status", "500")

    client("ecs").list_clusters()
    with pytest.raises(ClientError, match="ServerException"):
        as_role.list_clusters()


def test_a_call_is_late_or_is_not_answered() -> None:
    fault("api", "ecs", "--delay", "0.5", "--times", "1")
    begun = time.monotonic()
    client("ecs").list_clusters()
    assert time.monotonic() - begun >= 0.5

    fault("api", "ecs", "--close", "--times", "1")
    with pytest.raises(ConnectionClosedError):
        client("ecs").list_clusters()

    fault("api", "ecs", "--hang", "--times", "1")
    with pytest.raises(ReadTimeoutError):
        client("ecs", read_timeout=1).list_clusters()

    client("ecs").list_clusters()


def test_what_is_done_though_its_answer_is_lost_can_be_done_again() -> None:
    fault("api", "sqs", "CreateQueue", "--lose-answer", "--times", "1")

    with pytest.raises(ConnectionClosedError):
        client("sqs").create_queue(QueueName="answered-but-lost")

    assert client("sqs").get_queue_url(QueueName="answered-but-lost")
    assert client("sqs").create_queue(QueueName="answered-but-lost")


def test_a_fault_ends_by_its_time() -> None:
    fault("api", "ecs", "--throttle", "--for", "0.3")
    with pytest.raises(ClientError):
        client("ecs").list_clusters()
    time.sleep(0.4)
    client("ecs").list_clusters()


def test_chance_is_repeated_by_its_seed() -> None:
    def strikes() -> list[bool]:
        fault("clear")
        fault("api", "ecs", "--throttle", "--probability", "0.5", "--seed", "7")
        found = []
        for _ in range(12):
            try:
                client("ecs").list_clusters()
                found.append(False)
            except ClientError:
                found.append(True)
        return found

    first = strikes()
    assert first == strikes()
    assert set(first) == {True, False}


def test_faults_are_listed_and_cleared(capsys: pytest.CaptureFixture[str]) -> None:
    fault("api", "ecs", "UpdateService", "--throttle", "--times", "3")
    fault("profile", "slow", "--scale", "0.1")
    capsys.readouterr()

    fault("list")
    said = capsys.readouterr().out
    assert "api --service ecs --operation UpdateService --throttle  (struck 0 times, 3 left)" in said
    assert "task --slow-start 3" in said

    fault("clear")
    capsys.readouterr()
    fault("list")
    assert "Nothing goes wrong" in capsys.readouterr().out


def test_the_page_takes_faults_and_refuses_what_is_none() -> None:
    def page(method: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/_local/faults", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    status, listed = page("POST", {"kind": "api", "service": "ecs", "effect": "throttle", "times": 3})
    assert (status, listed[0]["left"]) == (200, 3)
    status, said = page("POST", [{"kind": "api", "effect": "throttle"}, {"kind": "api", "effect": "thottle"}])
    assert (status, "thottle" in said["message"], "throttle" in said["message"]) == (400, True, True)
    assert len(page("GET")[1]) == 1  # all or none
    assert page("DELETE") == (200, [])
    assert page("PUT")[0] == 404


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arriving(machine: Machine) -> Any:
    """A queue that gets every event of aws.ecs; returns what has arrived within some seconds."""
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:arriving"
    may_send = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may_send | {"Resource": arn}]})
    url = client("sqs").create_queue(QueueName="arriving", Attributes={"Policy": policy})["QueueUrl"]
    client("events").put_rule(Name="arriving", EventPattern=json.dumps({"source": ["aws.ecs"], "detail-type": ["T"]}))
    client("events").put_targets(Rule="arriving", Targets=[{"Id": "1", "Arn": arn}])

    def read(count: int, seconds: float = LONGEST) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            for message in client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
                client("sqs").delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(json.loads(message["Body"]))
            time.sleep(0.02)
        return found

    return read


def send(name: str, number: int = 0) -> None:
    emit(ACCOUNT, REGION, "aws.ecs", "T", [], {"eventName": name, "number": number})


def test_an_event_is_lost_once(arriving: Any) -> None:
    fault("events", "--name", "ENDED", "--lose", "--times", "1")
    send("ENDED", 1)
    send("BEGUN", 2)
    send("ENDED", 3)
    assert sorted(event["detail"]["number"] for event in arriving(2)) == [2, 3]
    assert arriving(1, 0.3) == []


def test_an_event_comes_twice_with_one_id(arriving: Any) -> None:
    fault("events", "--source", "aws.ecs", "--double", "--times", "1")
    send("ENDED")
    first, second = arriving(2)
    assert first == second
    send("ENDED")
    assert len(arriving(2, 0.5)) == 1


def test_an_event_comes_late(arriving: Any) -> None:
    fault("events", "--type", "T", "--delay", "0.6", "--times", "1")
    send("ENDED")
    assert arriving(1, 0.3) == []
    assert len(arriving(1)) == 1


def test_the_profile_of_the_tests_doubles_and_reorders_but_loses_nothing(arriving: Any) -> None:
    fault("profile", "at-least-once")
    for number in range(10):
        send("ENDED", number)
    arrived = [event["detail"]["number"] for event in arriving(20)]
    assert sorted(arrived) == sorted([*range(10), *range(10)])
    assert arrived != sorted(arrived)


# --- functions --------------------------------------------------------------------------------------------------------

WORK = """
import os, time, boto3
def lambda_handler(event, context):
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody="begun")
    time.sleep(event.get("seconds", 0))
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody="done")
    return "well"
"""


@pytest.fixture(scope="module")
def worked(machine: Machine) -> Any:
    """A function that takes some seconds; returns what it has done since it was asked last."""
    url = client("sqs").create_queue(QueueName="worked")["QueueUrl"]
    client("iam").create_role(RoleName="worker", AssumeRolePolicyDocument=TRUST)
    client("lambda").create_function(
        FunctionName="worker", Runtime="python3.13", Handler="work.lambda_handler", Timeout=20,
        Code={"ZipFile": archive(work=WORK)}, Role=f"arn:aws:iam::{ACCOUNT}:role/worker",
        Environment={"Variables": {"QUEUE": url}},
    )  # fmt: skip

    def read() -> list[str]:
        found = []
        while messages := client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                client("sqs").delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message["Body"])
        return sorted(found)

    return read


def invoke(seconds: float = 0) -> tuple[str | None, Any]:
    answer = client("lambda").invoke(FunctionName="worker", Payload=json.dumps({"seconds": seconds}))
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


@pytest.mark.parametrize("name", DEATHS)
def test_a_function_is_killed_midway_under_each_name(worked: Any, name: str) -> None:
    assert invoke() == (None, "well")
    worked()
    fault("lambda", "work*", "--kill", name, "--after", "1", "--times", "1")

    error, told = invoke(seconds=15)

    assert error == "Unhandled"
    assert told.get("errorType", "Lambda.Unknown") == name
    assert told["errorMessage"]
    assert worked() == ["begun"]
    assert invoke() == (None, "well")
    assert worked() == ["begun", "done"]


def test_a_function_is_killed_when_all_is_done(worked: Any) -> None:
    worked()
    fault("lambda", "worker", "--lose-answer", "Runtime.ExitError", "--times", "1")
    error, told = invoke()
    assert (error, told["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert worked() == ["begun", "done"]


@pytest.mark.parametrize("name", [*DEATHS, *REFUSALS])
def test_step_functions_sees_each_name_and_can_try_again(worked: Any, name: str) -> None:
    effect = "--kill" if name in DEATHS else "--refuse"
    fault("lambda", "worker", effect, name, "--times", "1")
    client("iam").create_role(RoleName=f"machine-{name}", AssumeRolePolicyDocument=TRUST)
    once: dict[str, Any] = {
        "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Arguments": {"FunctionName": "worker"},
        "Output": "{% $states.result.Payload %}", "End": True,
    }  # fmt: skip
    caught = {"Catch": [{"ErrorEquals": [name], "Output": "{% $states.errorOutput %}", "Next": "Again"}]}
    definition = {
        "QueryLanguage": "JSONata", "StartAt": "Once",
        "States": {"Once": once | caught, "Again": once | {"Output": "{% [$states.input, $states.result.Payload] %}"}},
    }  # fmt: skip
    states = client("stepfunctions")
    made = states.create_state_machine(
        name=re.sub(r"\W", "-", name), definition=json.dumps(definition),
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/machine-{name}",
    )  # fmt: skip
    execution = states.start_execution(stateMachineArn=made["stateMachineArn"], input="{}")["executionArn"]

    ended = until(lambda: states.describe_execution(executionArn=execution), lambda said: said["status"] != "RUNNING")

    assert ended["status"] == "SUCCEEDED", ended
    error, again = json.loads(ended["output"])
    assert (error["Error"], again) == (name, "well")
    worked()


# --- GitHub -----------------------------------------------------------------------------------------------------------


def github(path: str = "/rate_limit") -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{PORT + 1}/api/v3{path}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, {key.lower(): value for key, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {key.lower(): value for key, value in error.headers.items()}


def our_client(machine: Machine, waited: list[float]) -> Api:
    return Api(f"{machine.github_url}/api/v3", sleep=waited.append)


def test_github_limits_by_the_hour(machine: Machine) -> None:
    fault("github", "--rate-limit", "600", "--limit-status", "429", "--times", "2")
    status, headers = github()
    assert (status, headers["x-ratelimit-remaining"]) == (429, "0")
    assert 590 < int(headers["x-ratelimit-reset"]) - time.time() < 602
    with pytest.raises(GitHubUnavailable, match=r"it asks for (59\d|60\d) s"):
        our_client(machine, []).call("GET", "/app", "token")
    assert github()[0] != 429


def test_github_limits_at_once_and_our_client_waits_as_it_asks(machine: Machine) -> None:
    fault("github", "GET", "/app", "--secondary-limit", "3", "--times", "1")
    waited: list[float] = []
    with pytest.raises(Exception, match="401"):  # what GitHub really says of this token
        our_client(machine, waited).call("GET", "/app", "token")
    assert waited == [3.0]


def test_github_is_broken_and_our_client_tries_again(machine: Machine) -> None:
    fault("github", "--status", "502", "--times", "2")
    waited: list[float] = []
    with pytest.raises(Exception, match="401"):
        our_client(machine, waited).call("GET", "/app", "token")
    assert len(waited) == 2

    fault("github", "--path", "/app", "--close", "--times", "1")
    with pytest.raises(Exception, match="401"):
        our_client(machine, waited).call("GET", "/app", "token")
    assert len(waited) == 3


def test_github_does_not_answer(machine: Machine) -> None:
    fault("github", "--hang", "--times", "1")
    with pytest.raises(TimeoutError):
        github()
    assert github()[0] < 500


# --- ECS --------------------------------------------------------------------------------------------------------------


def test_run_task_finds_no_capacity(ecs: Ecs) -> None:
    definition = ecs.register("no-room", container("main", "exit 0"))
    fault("capacity", "--family", "no-room", "--times", "1")

    answer = ecs.api.run_task(
        cluster="tests", taskDefinition=definition, launchType="FARGATE", networkConfiguration=ecs.network, count=2
    )

    reason = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
    assert [failure["reason"] for failure in answer["failures"]] == [reason]
    assert ecs.ended(answer["tasks"][0]["taskArn"])["containers"][0]["exitCode"] == 0


def test_run_task_finds_no_capacity_and_is_tried_again_with_its_token(ecs: Ecs) -> None:
    fault("capacity", "--family", "no-room-yet", "--times", "1")
    request = {
        "cluster": "tests", "taskDefinition": ecs.register("no-room-yet", container("main", "exit 0")),
        "launchType": "FARGATE", "networkConfiguration": ecs.network, "clientToken": "again",
    }  # fmt: skip

    assert ecs.api.run_task(**request)["tasks"] == []
    (started,) = ecs.api.run_task(**request)["tasks"]
    assert [task["taskArn"] for task in ecs.api.run_task(**request)["tasks"]] == [started["taskArn"]]


def test_a_service_waits_for_capacity_without_counting_failures(ecs: Ecs) -> None:
    fault("capacity", "--service", "waits", "--refuse", "--times", "2")
    ecs.serve("waits", ecs.register("waits", web("there")))

    assert ecs.rolled_out("waits")["status"] == "SUCCESSFUL"

    said = [event["message"] for event in ecs.service("waits")["events"]]
    assert sum("was unable to place a task. Reason: Capacity is unavailable" in message for message in said) == 2
    assert ecs.service("waits")["deployments"][0]["failedTasks"] == 0


def test_a_task_starts_slowly_and_is_killed(ecs: Ecs) -> None:
    definition = ecs.register("doomed", container("main", "trap '' TERM; sleep 60 & wait"))
    fault("task", "--family", "doomed", "--slow-start", "0.6", "--up-to", "0.8", "--times", "1")
    fault("task", "--family", "doomed", "--kill-after", "0.5", "--times", "1")

    task = ecs.run(definition)

    assert (task["startedAt"] - task["createdAt"]).total_seconds() >= 0.6
    assert (task["stopCode"], task["containers"][0]["exitCode"]) == ("EssentialContainerExited", 137)
    assert 0.4 < (task["stoppingAt"] - task["startedAt"]).total_seconds() < 5


def test_a_task_is_interrupted_by_spot(ecs: Ecs) -> None:
    definition = ecs.register("spot", container("main", "trap 'exit 0' TERM; sleep 60 & wait"))
    fault("task", "--family", "spot", "--interrupt-after", "0.3")

    task = ecs.run(definition)

    assert (task["stopCode"], task["stoppedReason"]) == ("SpotInterruption", "Your Spot Task was interrupted.")


def test_a_service_replaces_what_was_killed_but_late(ecs: Ecs) -> None:
    ecs.serve("replaced", ecs.register("replaced", web("there")))
    assert ecs.rolled_out("replaced")["status"] == "SUCCESSFUL"
    fault("task", "--service", "replaced", "--restart-after", "1.5")
    fault("task", "--service", "replaced", "--kill-after", "0", "--times", "1")
    ecs.api.update_service(cluster="tests", service="replaced", forceNewDeployment=True)

    stopped = until(
        lambda: ecs.api.list_tasks(cluster="tests", serviceName="replaced", desiredStatus="STOPPED")["taskArns"], bool
    )
    died = ecs.ended(stopped[0])
    assert ecs.rolled_out("replaced")["status"] == "SUCCESSFUL"

    running = ecs.api.list_tasks(cluster="tests", serviceName="replaced")["taskArns"]
    assert (ecs.task(running[0])["createdAt"] - died["stoppingAt"]).total_seconds() > 1


def test_reads_of_ecs_lag_behind(ecs: Ecs) -> None:
    old = ecs.register("stale", web("old"))
    new = ecs.register("stale", web("new"))
    ecs.serve("stale", old)
    before = ecs.rolled_out("stale")["serviceDeploymentArn"]
    fault("api", "ecs", "*Service*", "--stale", "2")

    ecs.api.update_service(cluster="tests", service="stale", taskDefinition=new)
    updated = time.monotonic()

    assert ecs.service("stale")["taskDefinition"] == old
    assert [rollout["serviceDeploymentArn"] for rollout in ecs.rollouts("stale")] == [before]
    until(lambda: ecs.service("stale")["taskDefinition"], lambda found: found == new)
    assert time.monotonic() - updated > 1.5
    assert len(until(lambda: ecs.rollouts("stale"), lambda found: len(found) == 2)) == 2
    rollout = ecs.rolled_out("stale")
    described = ecs.api.describe_service_deployments(serviceDeploymentArns=[rollout["serviceDeploymentArn"]])
    assert described["serviceDeployments"][0]["status"] == "SUCCESSFUL"

    fault("api", "ecs", "ListServiceDeployments", "--empty", "--times", "1")
    assert ecs.rollouts("stale") == []
    assert len(ecs.rollouts("stale")) == 2


def test_an_image_whose_digest_is_gone_cannot_be_pulled(machine: Machine, ecs: Ecs) -> None:
    """No fault is needed for this one: the image is deleted from ECR, as its lifecycle rules would."""
    repository = client("ecr").create_repository(repositoryName="gone")["repository"]["repositoryUri"]
    engine = machine.engine.client
    engine.images.build(fileobj=io.BytesIO(f"FROM {BUSYBOX}\nLABEL gone=1\n".encode()), tag=f"{repository}:1")
    engine.images.push(repository, tag="1")
    digest = client("ecr").describe_images(repositoryName="gone")["imageDetails"][0]["imageDigest"]
    definition = ecs.register("gone", container("main", "sleep 60") | {"image": f"{repository}@{digest}"})
    client("ecr").batch_delete_image(repositoryName="gone", imageIds=[{"imageDigest": digest}])

    task = ecs.run(definition)
    assert (task["stopCode"], task["stoppedReason"].split(":")[0]) == ("TaskFailedToStart", "CannotPullContainerError")

    ecs.serve("gone", definition)
    rollout = ecs.rolled_out("gone")
    assert rollout["status"] == "ROLLBACK_FAILED"  # there is nothing to go back to
    assert ecs.service("gone")["deployments"][0]["rolloutState"] == "FAILED"
