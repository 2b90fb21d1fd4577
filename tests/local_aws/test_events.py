"""Events reach their targets as EventBridge would bring them, and never hold up who sends them."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deploy_runner.local_aws import events
from deploy_runner.local_aws.events import emit, given_to, matches
from deploy_runner.local_aws.faults import parse
from deploy_runner.local_aws.machine import Machine
from tests.local_aws.light import client, start
from tests.local_aws.test_awslambda import TRUST, archive
from tests.waiting import LONGEST, until

ACCOUNT, REGION = "123456789012", "us-east-1"
KEEP = """
import boto3, json, os
def lambda_handler(event, context):
    body = json.dumps([event, context.invoked_function_arn])
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=body)
"""
EVENT = {
    "version": "0", "id": "1", "detail-type": "ECS Task State Change", "source": "aws.ecs", "account": ACCOUNT,
    "time": "2026-01-02T03:04:05Z", "region": REGION, "resources": ["arn:task"],
    "detail": {"lastStatus": "STOPPED", "group": "service:web", "containers": [{"exitCode": 0}, {"exitCode": 1}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = start(4741, tmp_path_factory.mktemp("local"), "events", "awslambda")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def aws(machine: Machine) -> Any:
    return lambda service: client(machine, service)


def queue(aws: Any, name: str) -> tuple[str, str]:
    return aws("sqs").create_queue(QueueName=name)["QueueUrl"], f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def let_in(aws: Any, url: str, queue_arn: str, rule_name: str) -> None:
    """Write a queue's policy: EventBridge may send to it for one rule."""
    statement = {
        "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{rule_name}"}},
    }  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    aws("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


def next_message(aws: Any, url: str, seconds: float = LONGEST) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := aws("sqs").receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages"):
            aws("sqs").delete_message(QueueUrl=url, ReceiptHandle=found[0]["ReceiptHandle"])
            return found[0]
        time.sleep(0.05)
    return None


def rule(aws: Any, name: str, pattern: Any, **target: Any) -> str:
    arn = aws("events").put_rule(Name=name, EventPattern=json.dumps(pattern))["RuleArn"]
    aws("events").put_targets(Rule=name, Targets=[{"Id": "1"} | target])
    return arn


def test_a_function_gets_the_event_through_its_alias(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = queue(aws, "kept")
    aws("iam").create_role(RoleName="keeper", AssumeRolePolicyDocument=TRUST)
    function = aws("lambda").create_function(
        FunctionName="keeper", Runtime="python3.13", Handler="work.lambda_handler",
        Code={"ZipFile": archive(work=KEEP)},
        Role=f"arn:aws:iam::{ACCOUNT}:role/keeper", Environment={"Variables": {"QUEUE": url}}, Publish=True,
    )  # fmt: skip
    alias = aws("lambda").create_alias(FunctionName="keeper", Name="live", FunctionVersion="1")["AliasArn"]
    letters, letters_arn = queue(aws, "letters")
    arn = rule(aws, "tasks", {"source": ["aws.ecs"]}, Arn=alias, DeadLetterConfig={"Arn": letters_arn})

    # A dead-letter queue has to let EventBridge in: "Using dead-letter queues to process undelivered events".
    emit(ACCOUNT, REGION, "aws.ecs", "ECS Task State Change", ["arn:task"], {"lastStatus": "PENDING"})
    assert next_message(aws, letters, 0.5) is None
    let_in(aws, letters, letters_arn, "tasks")
    emit(ACCOUNT, REGION, "aws.ecs", "ECS Task State Change", ["arn:task"], {"lastStatus": "STOPPED"})
    buried = next_message(aws, letters)
    assert buried["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_PERMISSIONS"

    aws("lambda").add_permission(
        FunctionName="keeper", Qualifier="live", StatementId="rule", Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com", SourceArn=arn,
    )  # fmt: skip
    deliver, told, reached = events._deliver_or_bury, threading.Event(), threading.Event()
    monkeypatch.setattr(events, "_deliver_or_bury", lambda *given: (told.wait(LONGEST), reached.set(), deliver(*given)))
    emit(ACCOUNT, REGION, "aws.ecs", "ECS Task State Change", ["arn:task"], {"lastStatus": "STOPPED"})
    assert not reached.is_set()  # the emitter does not wait
    told.set()
    event, invoked = json.loads(next_message(aws, url)["Body"])
    assert event["detail"] == {"lastStatus": "STOPPED"}
    assert (event["source"], event["detail-type"], event["resources"]) == (
        "aws.ecs",
        "ECS Task State Change",
        ["arn:task"],
    )
    assert event["time"].endswith("Z")
    assert invoked == alias
    assert function["Version"] == "1"


def test_a_queue_gets_only_what_its_policy_lets_in(aws: Any) -> None:
    url, arn = queue(aws, "strict")
    rule(aws, "own", {"source": ["deploy-runner"]}, Arn=arn)
    entry = {"Source": "deploy-runner", "DetailType": "Deployed", "Detail": json.dumps({"app": "cineos"})}
    assert aws("events").put_events(Entries=[entry])["FailedEntryCount"] == 0
    assert next_message(aws, url, 0.5) is None
    let_in(aws, url, arn, "another")
    aws("events").put_events(Entries=[entry])
    assert next_message(aws, url, 0.5) is None
    let_in(aws, url, arn, "own")
    aws("events").put_events(Entries=[entry])
    assert json.loads(next_message(aws, url)["Body"])["detail"] == {"app": "cineos"}


def test_a_log_group_gets_the_event_as_it_is(aws: Any) -> None:
    logs = aws("logs")
    logs.create_log_group(logGroupName="/events")
    rule(aws, "logged", {"source": ["deploy-runner"]}, Arn=f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/events")
    aws("events").put_events(Entries=[{"Source": "deploy-runner", "DetailType": "Logged", "Detail": '{"a": 1}'}])
    found = until(lambda: logs.filter_log_events(logGroupName="/events")["events"])
    event = json.loads(found[0]["message"])
    assert (event["detail-type"], event["detail"]) == ("Logged", {"a": 1})


def test_nobody_else_can_speak_for_aws(aws: Any) -> None:
    entries = [{"Source": source, "DetailType": "x", "Detail": "{}"} for source in ("aws.ecs", "mine")]
    answer = aws("events").put_events(Entries=entries)
    assert answer["Entries"][0]["ErrorCode"] == "NotAuthorizedForSourceException"
    assert answer["Entries"][1]["EventId"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"source": ["aws.ecs"]}, True),
        ({"source": ["aws.ecr"]}, False),
        ({"detail": {"group": [{"prefix": "service:"}]}}, True),
        ({"detail": {"lastStatus": [{"anything-but": ["STOPPED"]}]}}, False),
        ({"detail": {"stoppedReason": [{"exists": False}]}}, True),
        ({"detail": {"stoppedReason": [{"exists": True}]}}, False),
        ({"detail": {"containers": {"exitCode": [{"numeric": [">", 0]}]}}}, True),
        ({"detail": {"containers": {"exitCode": [2]}}}, False),
        ({"resources": [{"prefix": "arn:"}]}, True),
        ({"$or": [{"source": ["x"]}, {"account": [ACCOUNT]}]}, True),
        ({"source": ["aws.ecs"], "detail": {"lastStatus": ["RUNNING"]}}, False),
    ],
)
def test_patterns(pattern: Any, expected: bool) -> None:
    assert matches(pattern, EVENT) is expected


def test_what_a_target_is_given() -> None:
    assert json.loads(given_to({}, EVENT, "arn:rule/r")) == EVENT
    assert given_to({"Input": '{"a": 1}'}, EVENT, "arn:rule/r") == '{"a": 1}'
    assert json.loads(given_to({"InputPath": "$.detail.group"}, EVENT, "arn:rule/r")) == "service:web"
    paths = {"group": "$.detail.group", "containers": "$.detail.containers", "none": "$.detail.none"}
    template = '{"text": "<group> said \\"<none>\\"", "all": <containers>, "rule": <aws.events.rule-name>}'
    given = given_to({"InputTransformer": {"InputPathsMap": paths, "InputTemplate": template}}, EVENT, "arn:rule/r")
    assert json.loads(given) == {"text": 'service:web said ""', "all": [{"exitCode": 0}, {"exitCode": 1}], "rule": "r"}
    sentence = {"InputPathsMap": {"group": "$.detail.group"}, "InputTemplate": '"<group> stopped"'}
    assert json.loads(given_to({"InputTransformer": sentence}, EVENT, "arn:rule/r")) == "service:web stopped"


def test_moto_alone_has_no_function_as_target() -> None:
    """When this fails, moto delivers to functions itself."""
    import subprocess
    import sys

    program = """if True:
        from moto.events.models import Rule
        target = {"Id": "1", "Arn": "arn:aws:lambda:us-east-1:123456789012:function:f"}
        pattern = '{"source": ["s"]}'
        rule = Rule("r", "1", "us-east-1", None, pattern, None, None, "default", None, targets=[target])
        event = {"source": "s", "detail": {}, "time": 0, "ingestion-time": 0, "id": "", "detail-type": "", "region": ""}
        event |= {"account": "", "resources": []}
        try:
            rule.send_to_targets(event)
        except NotImplementedError:
            print("none")"""
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert plain.stdout == "none\n"


def test_a_rule_with_a_rate_sends_an_event_each_period(aws: Any) -> None:
    """GIVEN rules with a rate, one of them disabled WHEN time goes by THEN one sends what AWS sends, once a period."""
    rules, sent = aws("events"), list[tuple[str, dict[str, Any]]]()
    for name, state in (("every-minute", "ENABLED"), ("never", "DISABLED")):
        rules.put_rule(Name=name, ScheduleExpression="rate(1 minute)", State=state)
    clockwork = events.Clockwork(lambda rule, event: sent.append((rule.name, event)))
    for now in (1000.0, 1059.0, 1060.0, 1061.0, 1121.0):
        clockwork.tick(now)
    for name in ("every-minute", "never"):
        rules.delete_rule(Name=name)
    assert [(name, event["detail-type"], event["source"], event["detail"]) for name, event in sent] == [
        ("every-minute", "Scheduled Event", "aws.events", {})
    ] * 2
    assert sent[0][1]["resources"][0].endswith(":rule/every-minute")


def arrived(aws: Any, url: str, count: int) -> list[Any]:
    """Return the events that come to a queue: as many as expected, and what else comes a moment later."""
    found: list[Any] = []
    while message := next_message(aws, url, LONGEST if len(found) < count else 0.2):
        found.append(json.loads(message["Body"]))
    return found


@pytest.fixture
def faulty(machine: Machine) -> Iterator[Any]:
    yield lambda **fault: machine.faults.add(parse({"kind": "events", "times": 1, **fault}))
    machine.faults.clear()


def test_rules_with_a_schedule_send_to_their_targets_also_under_faults(machine: Machine, aws: Any, faulty: Any) -> None:
    """GIVEN an hourly rule, by a rate and by cron WHEN hours go by THEN one event an hour, but for what faults do."""
    url, queue_arn = queue(aws, "hourly")
    let_in(aws, url, queue_arn, "by-*")
    policy = aws("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
    aws("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy.replace("ArnEquals", "ArnLike")})
    for name, expression in (("by-rate", "rate(1 hour)"), ("by-cron", "cron(0 * * * ? *)")):
        aws("events").put_rule(Name=name, ScheduleExpression=expression)
        aws("events").put_targets(Rule=name, Targets=[{"Id": "1", "Arn": queue_arn}])
    clock, start = machine.clocks["scheduled rules"], time.time() // 3600 * 3600 + 7200

    clock(start)
    arrived(aws, url, 0)  # whatever the jump to `start` made due
    clock(start + 3600)
    events = arrived(aws, url, 2)
    assert sorted(event["resources"][0].rpartition("/")[2] for event in events) == ["by-cron", "by-rate"]
    assert {(e["source"], e["detail-type"], json.dumps(e["detail"])) for e in events} == {
        ("aws.events", "Scheduled Event", "{}")
    }

    aws("events").disable_rule(Name="by-cron")
    faulty(source="aws.events", effect="lose")
    clock(start + 7200)
    assert arrived(aws, url, 0) == []
    faulty(type="Scheduled Event", effect="double")
    clock(start + 10800)
    first, second = arrived(aws, url, 2)
    assert first == second
    faulty(source="aws.events", effect="delay", value=0.4)
    clock(start + 14400)
    assert next_message(aws, url, 0.1) is None
    assert len(arrived(aws, url, 1)) == 1
    aws("events").disable_rule(Name="by-rate")


def test_the_end_of_an_execution_reaches_its_rule_and_is_lost_and_doubled_by_faults(aws: Any, faulty: Any) -> None:
    url, queue_arn = queue(aws, "ended")
    let_in(aws, url, queue_arn, "ended")
    machine_arn = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:m"
    kind = "Step Functions Execution Status Change"
    detail = {"status": ["FAILED", "TIMED_OUT", "ABORTED"], "stateMachineArn": [machine_arn]}
    rule(aws, "ended", {"source": ["aws.states"], "detail-type": [kind], "detail": detail}, Arn=queue_arn)

    def end(status: str, arn: str = machine_arn) -> None:
        emit(ACCOUNT, REGION, "aws.states", kind, [], {"status": status, "stateMachineArn": arn})

    faulty(source="aws.states", effect="lose")
    end("FAILED")
    faulty(type=kind, effect="double")
    end("ABORTED")
    end("TIMED_OUT")
    end("SUCCEEDED")
    end("FAILED", f"{machine_arn}-of-others")
    statuses = [event["detail"]["status"] for event in arrived(aws, url, 3)]
    assert sorted(statuses) == ["ABORTED", "ABORTED", "TIMED_OUT"]
