"""EventBridge Scheduler on this machine: what it keeps and refuses, who may change it, and what it runs when."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core.responses import BaseResponse
from moto.ecs.responses import EC2ContainerServiceResponse

from deploy_runner.aws import schedules
from deploy_runner.domain.rollout import Rollout
from deploy_runner.local_aws.ecs.api import Responses
from deploy_runner.local_aws.machine import Machine
from tests.local_aws.light import client, start
from tests.waiting import LONGEST, until

from .test_cloudformation import create, outputs, settled, update

pytestmark = pytest.mark.xdist_group("local_aws_in_process")

ACCOUNT, REGION = "123456789012", "us-east-1"
CLUSTER = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/dev"
FAMILY = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/nightly"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/apps/nightly"
LETTERS = f"arn:aws:sqs:{REGION}:{ACCOUNT}:letters"
HOUR = 3600


def trust(source: str) -> str:
    condition = {"ArnLike": {"aws:SourceArn": f"arn:aws:scheduler:{REGION}:{ACCOUNT}:{source}"}}
    statement = {"Effect": "Allow", "Principal": {"Service": "scheduler.amazonaws.com"}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement | {"Condition": condition}]})


def allow(*grants: tuple[str, str]) -> str:
    statements = [{"Effect": "Allow", "Action": action, "Resource": resource} for action, resource in grants]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = start(4825, tmp_path_factory.mktemp("scheduler"), "iam", "scheduler", "cloudformation")
    iam = client(machine, "iam")
    iam.create_role(RoleName="nightly", Path="/apps/", AssumeRolePolicyDocument=trust("schedule-group/*"))
    policy = allow(("ecs:RunTask", f"{FAMILY}:*"), ("sqs:SendMessage", LETTERS))
    iam.put_role_policy(RoleName="nightly", PolicyName="run", PolicyDocument=policy)
    client(machine, "sqs").create_queue(QueueName="letters")
    yield machine
    machine.stop()


@pytest.fixture
def scheduler(machine: Machine) -> Iterator[Any]:
    made = client(machine, "scheduler")
    yield made
    for each in made.list_schedules()["Schedules"]:
        made.delete_schedule(Name=each["Name"], GroupName=each["GroupName"])
    machine.clocks["schedules"](time.time())
    for thread in threading.enumerate():
        if thread.name == "schedule":  # one that runs what was due, for nobody else's test
            thread.join(LONGEST)


def schedule(name: str = "nightly", expression: str = "cron(0 3 * * ? *)", **more: Any) -> dict[str, Any]:
    target = {
        "Arn": CLUSTER, "RoleArn": ROLE, "EcsParameters": {"TaskDefinitionArn": f"{FAMILY}:7"},
        "DeadLetterConfig": {"Arn": LETTERS}, **more.pop("target", {}),
    }  # fmt: skip
    window = {"Mode": "OFF"}
    return {
        "Name": name, "ScheduleExpression": expression, "FlexibleTimeWindow": window, "Target": target, **more,
    }  # fmt: skip


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["Error"]["Code"], error.value.response["Error"]["Message"]


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_an_update_replaces_everything_and_what_it_does_not_give_gets_its_default(scheduler: Any) -> None:
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    full = schedule(
        Description="Each night", EndDate=ends, State="DISABLED", ScheduleExpressionTimezone="Europe/Berlin",
        ActionAfterCompletion="DELETE", target={"RetryPolicy": {"MaximumRetryAttempts": 3}, "Input": "{}"},
    )  # fmt: skip
    arn = scheduler.create_schedule(**full)["ScheduleArn"]
    assert arn == f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/nightly"

    before = scheduler.get_schedule(Name="nightly")
    assert {key: before[key] for key in full if key != "Target"} == {k: v for k, v in full.items() if k != "Target"}
    assert before["Target"]["RetryPolicy"] == {"MaximumRetryAttempts": 3, "MaximumEventAgeInSeconds": 86400}
    scheduler.update_schedule(**schedule(expression="rate(2 days)"))

    after = scheduler.get_schedule(Name="nightly")
    gone = {"Description", "EndDate"}
    assert gone <= before.keys()
    assert not gone & after.keys()
    assert (after["State"], after["ScheduleExpressionTimezone"]) == ("ENABLED", "UTC")
    assert (after["ActionAfterCompletion"], after["GroupName"]) == ("NONE", "default")
    assert after["Target"]["RetryPolicy"] == {"MaximumRetryAttempts": 185, "MaximumEventAgeInSeconds": 86400}
    assert "Input" not in after["Target"]
    assert after["CreationDate"] == before["CreationDate"] < after["LastModificationDate"]


def test_the_product_points_a_schedule_to_another_revision_and_back_and_changes_nothing_else(scheduler: Any) -> None:
    scheduler.create_schedule(**schedule(Description="Each night", ScheduleExpressionTimezone="Europe/Berlin"))
    before = scheduler.get_schedule(Name="nightly")
    rollout = Rollout("nightly", "", CLUSTER, f"{FAMILY}:8", f"{FAMILY}:7", schedule="default/nightly")

    schedules.point(scheduler, rollout)
    assert schedules.task_definition_of(scheduler, "default", "nightly") == f"{FAMILY}:8"
    assert schedules.point_back(scheduler, rollout) is None

    after = scheduler.get_schedule(Name="nightly")
    for said in (before, after):
        del said["LastModificationDate"], said["ResponseMetadata"]
    assert after == before


def test_schedules_are_kept_by_group(scheduler: Any) -> None:
    scheduler.create_schedule_group(Name="jobs")
    for group in ("default", "jobs"):
        scheduler.create_schedule(**schedule(GroupName=group))

    listed = scheduler.list_schedules(GroupName="jobs")["Schedules"]
    assert [(each["Name"], each["GroupName"], each["Target"]) for each in listed] == [
        ("nightly", "jobs", {"Arn": CLUSTER})
    ]
    assert {each["Name"] for each in scheduler.list_schedule_groups()["ScheduleGroups"]} == {"default", "jobs"}
    assert scheduler.get_schedule_group(Name="jobs")["State"] == "ACTIVE"
    scheduler.delete_schedule_group(Name="jobs")
    assert refusal(lambda: scheduler.get_schedule(Name="nightly", GroupName="jobs"))[0] == "ResourceNotFoundException"
    assert scheduler.get_schedule(Name="nightly")["GroupName"] == "default"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"Name": "a b"}, "ValidationException", "'name' failed to satisfy constraint"),
        ({"ScheduleExpression": "rate(5 weeks)"}, "ValidationException", "Invalid Schedule Expression rate(5 weeks)."),
        ({"ScheduleExpressionTimezone": "Mars/Base"}, "ValidationException", "Mars/Base"),
        ({"State": "ON"}, "ValidationException", "[ENABLED, DISABLED]"),
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "ValidationException", "MaximumWindowInMinutes"),
        ({"target": {"RoleArn": "nightly"}}, "ValidationException", "target.roleArn"),
        ({"target": {"RoleArn": f"{ROLE}-of-nobody"}}, "ValidationException", "must allow AWS EventBridge Scheduler"),
        ({"target": {"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:q"}}, "ValidationException", "EcsParameters"),
        ({"target": {"EcsParameters": {"TaskDefinitionArn": FAMILY, "TaskCount": 11}}}, "ValidationException", "10"),
        ({"GroupName": "nowhere"}, "ResourceNotFoundException", "Schedule group nowhere does not exist."),
        ({}, "ConflictException", "already exists"),
    ],
)
def test_what_is_refused(scheduler: Any, change: dict[str, Any], code: str, says: str) -> None:
    scheduler.create_schedule(**schedule())
    kept = scheduler.get_schedule(Name="nightly")["Target"]
    found = refusal(lambda: scheduler.create_schedule(**schedule(**change)))
    assert found[0] == code
    assert says in found[1]
    if code != "ConflictException":
        assert refusal(lambda: scheduler.update_schedule(**schedule(**change))) == found
    assert scheduler.get_schedule(Name="nightly")["Target"] == kept


def test_what_is_not_there_is_refused_and_so_are_groups_twice(scheduler: Any) -> None:
    scheduler.create_schedule_group(Name="twice")
    assert refusal(lambda: scheduler.create_schedule_group(Name="twice"))[0] == "ConflictException"
    scheduler.delete_schedule_group(Name="twice")
    for call in (
        lambda: scheduler.delete_schedule_group(Name="twice"), lambda: scheduler.delete_schedule(Name="twice"),
        lambda: scheduler.update_schedule(**schedule("twice")),
    ):  # fmt: skip
        assert refusal(call)[0] == "ResourceNotFoundException"
    assert refusal(lambda: scheduler.delete_schedule_group(Name="default"))[0] == "ValidationException"


# --- who may ----------------------------------------------------------------------------------------------------------


def test_who_changes_a_schedule_needs_the_action_on_it_and_has_to_pass_its_role(
    machine: Machine, scheduler: Any
) -> None:
    scheduler.create_schedule(**schedule())
    iam, sts = client(machine, "iam"), client(machine, "sts")
    person = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}
    trusted = json.dumps({"Version": "2012-10-17", "Statement": [person]})
    iam.create_role(RoleName="changer", AssumeRolePolicyDocument=trusted)
    got = sts.assume_role(RoleArn=f"arn:aws:iam::{ACCOUNT}:role/changer", RoleSessionName="session")["Credentials"]
    session = boto3.Session(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"], REGION)
    own = session.client("scheduler", endpoint_url=machine.endpoint)
    arn = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/nightly"

    def grant(*grants: tuple[str, str]) -> None:
        iam.put_role_policy(RoleName="changer", PolicyName="p", PolicyDocument=allow(*grants))

    assert f"scheduler:GetSchedule on resource: {arn}" in refusal(lambda: own.get_schedule(Name="nightly"))[1]
    grant(("scheduler:GetSchedule", arn), ("scheduler:UpdateSchedule", arn))
    assert own.get_schedule(Name="nightly")["Name"] == "nightly"
    code, message = refusal(lambda: own.update_schedule(**schedule()))
    assert code == "AccessDeniedException"
    assert f"iam:PassRole on resource: {ROLE}" in message
    passing = json.loads(allow(("scheduler:UpdateSchedule", arn), ("iam:PassRole", ROLE)))
    passing["Statement"][1]["Condition"] = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
    iam.put_role_policy(RoleName="changer", PolicyName="p", PolicyDocument=json.dumps(passing))
    assert own.update_schedule(**schedule())["ScheduleArn"] == arn


# --- what runs --------------------------------------------------------------------------------------------------------


class Ran:
    """RunTask, which keeps what it is asked and runs nothing."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []

    def __call__(self, handler: BaseResponse) -> str:
        asked = json.loads(handler.body)
        del asked["clientToken"]  # boto3's
        self.requests.append(asked)
        return json.dumps({"tasks": [], "failures": self.failures})

    def wait(self, count: int) -> list[dict[str, Any]]:
        """Return what was asked since, as many as expected, and what else came a moment later."""
        until(lambda: self.requests, lambda requests: len(requests) >= count)
        time.sleep(0.1)
        found, self.requests = self.requests, []
        return found


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    ran = Ran()
    for moto_or_ours in (EC2ContainerServiceResponse, Responses):  # whichever another module had installed
        monkeypatch.setattr(moto_or_ours, "run_task", lambda handler: ran(handler))
    return ran


def test_a_schedule_runs_its_task_as_its_role_when_it_is_due(machine: Machine, scheduler: Any, ran: Ran) -> None:
    """GIVEN a cron schedule and a disabled one WHEN the hour comes THEN the one runs, once, with all its parameters."""
    parameters = {
        "TaskDefinitionArn": f"{FAMILY}:7", "LaunchType": "FARGATE", "TaskCount": 2, "PlatformVersion": "LATEST",
        "NetworkConfiguration": {"awsvpcConfiguration": {"Subnets": ["s-1"], "AssignPublicIp": "DISABLED"}},
        "CapacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1}],
    }  # fmt: skip
    overrides = {"containerOverrides": [{"name": "web", "command": ["nightly"]}]}
    target = {"EcsParameters": parameters, "Input": json.dumps(overrides)}
    scheduler.create_schedule(**schedule("on", "cron(0 * * * ? *)", target=target))
    scheduler.create_schedule(**schedule("off", "cron(0 * * * ? *)", target=target, State="DISABLED"))
    clock, hour = machine.clocks["schedules"], time.time() // HOUR * HOUR + HOUR

    clock(hour - 60)
    for now in (hour + 1, hour + 2, hour + 59):
        clock(now)

    assert ran.wait(1) == [
        {
            "cluster": CLUSTER, "taskDefinition": f"{FAMILY}:7", "count": 2, "launchType": "FARGATE",
            "platformVersion": "LATEST", "overrides": overrides,
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s-1"], "assignPublicIp": "DISABLED"}},
            "capacityProviderStrategy": parameters["CapacityProviderStrategy"],
        }
    ]  # fmt: skip


def test_rates_start_at_once_or_at_their_date_and_what_is_over_is_deleted_if_asked(
    machine: Machine, scheduler: Any, ran: Ran
) -> None:
    def run(name: str, expression: str, **more: Any) -> None:
        target = {"EcsParameters": {"TaskDefinitionArn": f"{FAMILY}:7", "Group": name}}
        scheduler.create_schedule(**schedule(name, expression, target=target, **more))

    clock, now = machine.clocks["schedules"], float(int(time.time()) + 3)
    at = datetime.fromtimestamp(now + 90, UTC).strftime("at(%Y-%m-%dT%H:%M:%S)")
    dates = {"StartDate": datetime.fromtimestamp(now + 60, UTC), "EndDate": datetime.fromtimestamp(now + 200, UTC)}
    run("now", "rate(1 hour)")
    run("later", "rate(2 minutes)", **dates, ActionAfterCompletion="DELETE")
    run("once", at, ActionAfterCompletion="DELETE")
    run("kept", at)

    due = {0: ["now"], 59: [], 60: ["later"], 90: ["kept", "once"], 120: [], 179: [], 180: ["later"], 240: []}
    for seconds, names in due.items():
        clock(now + seconds)
        assert sorted(request["group"] for request in ran.wait(len(names))) == names, seconds

    assert {each["Name"] for each in scheduler.list_schedules()["Schedules"]} == {"now", "kept"}


def letter(machine: Machine, schedule: str) -> dict[str, str]:
    """The dead letter of a schedule; what other tests had due without a cluster left some, too."""
    sqs = client(machine, "sqs")
    url = sqs.get_queue_url(QueueName="letters")["QueueUrl"]

    def read() -> dict[str, str]:
        found = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages")
        if not found:
            return {}
        sqs.delete_message(QueueUrl=url, ReceiptHandle=found[0]["ReceiptHandle"])
        return {name: value["StringValue"] for name, value in found[0]["MessageAttributes"].items()}

    return until(read, lambda said: said.get("SCHEDULE_ARN", "").endswith(f":schedule/default/{schedule}"))


def test_what_does_not_run_leaves_a_dead_letter(machine: Machine, scheduler: Any, ran: Ran) -> None:
    """GIVEN a role that may not run the task, and ECS without capacity WHEN it is due THEN the letter says which."""
    foreign = {"EcsParameters": {"TaskDefinitionArn": FAMILY.replace("nightly", "other") + ":1"}}
    scheduler.create_schedule(**schedule("foreign", "rate(1 hour)", target=foreign))
    machine.clocks["schedules"](time.time() + 2)
    said = letter(machine, "foreign")
    assert said["ERROR_CODE"] == "AccessDeniedException"
    assert "ecs:RunTask" in said["ERROR_MESSAGE"]
    assert ran.requests == []

    scheduler.delete_schedule(Name="foreign")
    ran.failures = [{"reason": "Capacity is unavailable at this time."}]
    scheduler.create_schedule(**schedule("full", "rate(1 hour)"))
    machine.clocks["schedules"](time.time() + 2)
    assert "Capacity is unavailable" in letter(machine, "full")["ERROR_MESSAGE"]


# --- templates --------------------------------------------------------------------------------------------------------


def test_schedules_and_groups_in_templates(machine: Machine, scheduler: Any) -> None:
    cfn = client(machine, "cloudformation")

    def template(expression: str, **more: Any) -> dict[str, Any]:
        properties = schedule("from-template", expression, GroupName={"Ref": "Jobs"}, **more)
        return {
            "Resources": {
                "Jobs": {"Type": "AWS::Scheduler::ScheduleGroup", "Properties": {"Name": "jobs"}},
                "Nightly": {"Type": "AWS::Scheduler::Schedule", "Properties": properties},
            },
            "Outputs": {"Name": {"Value": {"Ref": "Nightly"}}, "Arn": {"Value": {"Fn::GetAtt": ["Nightly", "Arn"]}}},
        }

    assert create(cfn, "s", template("rate(1 hour)", State="DISABLED", Description="Each night")) == "CREATE_COMPLETE"
    arn = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/jobs/from-template"
    assert outputs(cfn, "s") == {"Name": "from-template", "Arn": arn}
    assert update(cfn, "s", template("rate(2 hours)", State="DISABLED")) == "UPDATE_COMPLETE"
    found = scheduler.get_schedule(Name="from-template", GroupName="jobs")
    assert (found["ScheduleExpression"], found["State"]) == ("rate(2 hours)", "DISABLED")
    assert "Description" not in found
    cfn.delete_stack(StackName=(stack := cfn.describe_stacks(StackName="s")["Stacks"][0]["StackId"]))
    assert settled(cfn, stack) == "DELETE_COMPLETE"
    assert scheduler.list_schedules()["Schedules"] == []


def test_moto_alone_still_loses_what_an_update_gives() -> None:
    """When this fails, moto has mended a part of what scheduler.py is for."""
    program = """if True:
        import boto3
        from moto import mock_aws
        with mock_aws():
            aws = boto3.client("scheduler", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
            asked = {"Name": "n", "ScheduleExpression": "every night", "FlexibleTimeWindow": {"Mode": "OFF"}}
            asked |= {"Target": {"Arn": "x", "RoleArn": "y"}}
            aws.create_schedule(**asked)
            aws.update_schedule(**asked, ActionAfterCompletion="DELETE")
            print(aws.get_schedule(Name="n").get("ActionAfterCompletion"))"""
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert plain.stdout == "None\n"
