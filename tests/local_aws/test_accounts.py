"""A second account of the organization: its administrators, its stacks, its events, and what it lets others do."""

import json
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from deploy_runner.local_aws.events import emit
from deploy_runner.local_aws.iam.authority import CannotAssume, assume_as_service, refusal
from deploy_runner.local_aws.machine import ACCOUNT_ID, MEMBER_ACCOUNT_ID, REGION, Machine
from tests.local_aws.light import client, start
from tests.waiting import until

BUS = f"arn:aws:events:{REGION}:{ACCOUNT_ID}:event-bus/default"
FORWARDING = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Resources": {
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": "forward",
                "AssumeRolePolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": {
                        "Effect": "Allow",
                        "Principal": {"Service": "events.amazonaws.com"},
                        "Action": "sts:AssumeRole",
                    },
                },
            },
        },
        "Rule": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "EventPattern": {"source": ["aws.ecs"]},
                "Targets": [{"Id": "1", "Arn": BUS, "RoleArn": {"Fn::GetAtt": ["Role", "Arn"]}}],
            },
        },
    },
}
ALLOWED = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "events:PutEvents", "Resource": BUS}}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = start(4861, tmp_path_factory.mktemp("local"), "iam", "events", "cloudformation")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def there(machine: Machine) -> Any:
    """Clients of an administrator in the other account."""
    role = f"arn:aws:iam::{MEMBER_ACCOUNT_ID}:role/OrganizationAccountAccessRole"
    keys = client(machine, "sts").assume_role(RoleArn=role, RoleSessionName="me")["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], REGION)
    return lambda service: session.client(service, endpoint_url=machine.endpoint)


def document(**statement: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statement}


def test_an_administrator_of_the_organization_administers_its_other_account(machine: Machine, there: Any) -> None:
    assert there("sts").get_caller_identity()["Account"] == MEMBER_ACCOUNT_ID
    assert client(machine, "sts").get_caller_identity()["Account"] == ACCOUNT_ID

    there("events").put_rule(Name="theirs", ScheduleExpression="rate(1 day)")

    assert "theirs" not in {rule["Name"] for rule in client(machine, "events").list_rules()["Rules"]}


def test_each_account_has_its_own_stacks(machine: Machine, there: Any) -> None:
    there("cloudformation").create_stack(
        StackName="forwarding", TemplateBody=json.dumps(FORWARDING), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    there("cloudformation").get_waiter("stack_create_complete").wait(
        StackName="forwarding", WaiterConfig={"Delay": 0.1, "MaxAttempts": 100}
    )

    stack = there("cloudformation").describe_stacks(StackName="forwarding")["Stacks"][0]
    assert f":{MEMBER_ACCOUNT_ID}:" in stack["StackId"]
    assert there("iam").get_role(RoleName="forward")["Role"]["Arn"].split(":")[4] == MEMBER_ACCOUNT_ID
    with pytest.raises(ClientError, match="does not exist"):
        client(machine, "cloudformation").describe_stacks(StackName="forwarding")


def test_an_event_is_forwarded_if_its_role_may_send_it_and_the_bus_takes_it(machine: Machine, there: Any) -> None:
    # GIVEN a rule there whose target is the bus here, which keeps what comes from there, and a log of each account
    if not there("cloudformation").list_stacks()["StackSummaries"]:
        test_each_account_has_its_own_stacks(machine, there)
    here = lambda service: client(machine, service)  # noqa: E731
    for clients, account in ((here, ACCOUNT_ID), (there, MEMBER_ACCOUNT_ID)):
        clients("logs").create_log_group(logGroupName="/events")
        group = f"arn:aws:logs:{REGION}:{account}:log-group:/events"
        clients("events").put_rule(Name="keep", EventPattern=json.dumps({"account": [MEMBER_ACCOUNT_ID]}))
        clients("events").put_targets(Rule="keep", Targets=[{"Id": "1", "Arn": group}])

    def kept(clients: Any) -> list[str]:
        found = clients("logs").filter_log_events(logGroupName="/events")["events"]
        return [json.loads(each["message"])["detail"]["n"] for each in found]

    def send(number: str) -> list[str]:
        emit(MEMBER_ACCOUNT_ID, REGION, "aws.ecs", "ECS Task State Change", [], {"n": number})
        until(lambda: kept(there), lambda numbers: number in numbers)
        time.sleep(0.3)
        return kept(here)

    # WHEN the role may not, may while the bus does not let it, and is let in
    assert send("none may") == []
    there("iam").put_role_policy(RoleName="forward", PolicyName="own", PolicyDocument=json.dumps(ALLOWED))
    assert send("the bus does not") == []
    let_in = {
        "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{MEMBER_ACCOUNT_ID}:root"}, "Action": "events:PutEvents",
        "Resource": BUS, "Condition": {"ForAllValues:StringEquals": {"events:source": "aws.ecs"}}, "Sid": "them",
    }  # fmt: skip
    here("events").put_permission(Policy=json.dumps({"Version": "2012-10-17", "Statement": [let_in]}))

    # THEN only the last arrives, once, from the account that it comes from
    assert send("both") == ["both"]


def test_a_role_needs_both_sides_for_what_is_another_account_s(machine: Machine, there: Any) -> None:
    # GIVEN a role there, and a queue here
    sqs, arn = client(machine, "sqs"), f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:ours"
    url = sqs.create_queue(QueueName="ours")["QueueUrl"]
    trust = document(Effect="Allow", Principal={"Service": "lambda.amazonaws.com"}, Action="sts:AssumeRole")
    role = there("iam").create_role(RoleName="sender", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]

    def may(action: str) -> None:
        own = json.dumps(document(Effect="Allow", Action=action, Resource="*"))
        there("iam").put_role_policy(RoleName="sender", PolicyName="own", PolicyDocument=own)

    def why_not() -> str:
        return refusal(machine, role, "me", "sqs:SendMessage", arn)

    # WHEN one side alone lets it in, THEN it may not; in one account the queue's word would do (test_iam.py)
    may("sqs:*")
    assert "no resource-based policy allows the sqs:sendmessage action" in why_not()
    let_in = document(Effect="Allow", Principal={"AWS": role}, Action="sqs:SendMessage", Resource=arn)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(let_in)})
    assert why_not() == ""
    may("s3:*")
    assert "no identity-based policy allows the sqs:sendmessage action" in why_not()


def test_what_is_in_a_bucket_needs_both_sides_too(machine: Machine, there: Any) -> None:
    client(machine, "s3").create_bucket(Bucket="ours")
    trust = document(Effect="Allow", Principal={"Service": "lambda.amazonaws.com"}, Action="sts:AssumeRole")
    role = there("iam").create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    own = json.dumps(document(Effect="Allow", Action="s3:*", Resource="*"))
    there("iam").put_role_policy(RoleName="reader", PolicyName="own", PolicyDocument=own)

    said = refusal(machine, role, "me", "s3:GetObject", "arn:aws:s3:::ours/key")
    assert "no resource-based policy" in said
    let_in = document(Effect="Allow", Principal={"AWS": role}, Action="s3:GetObject", Resource="arn:aws:s3:::ours/*")
    client(machine, "s3").put_bucket_policy(Bucket="ours", Policy=json.dumps(let_in))
    assert refusal(machine, role, "me", "s3:GetObject", "arn:aws:s3:::ours/key") == ""


def test_no_header_of_motos_leads_into_another_account(machine: Machine, there: Any) -> None:
    sts = there("sts")
    sts.meta.events.register(
        "before-send.*", lambda request, **_: request.headers.__setitem__("x-moto-account-id", ACCOUNT_ID)
    )
    assert sts.get_caller_identity()["Account"] == MEMBER_ACCOUNT_ID


def test_a_person_is_of_the_account_of_their_key(machine: Machine, there: Any) -> None:
    there("iam").create_user(UserName="bob")
    keys = there("iam").create_access_key(UserName="bob")["AccessKey"]
    bob = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], region_name=REGION)
    trust = document(Effect="Allow", Principal={"AWS": f"arn:aws:iam::{ACCOUNT_ID}:root"}, Action="sts:AssumeRole")
    made = client(machine, "iam").create_role(RoleName="for-us", AssumeRolePolicyDocument=json.dumps(trust))

    with pytest.raises(ClientError, match="not authorized"):
        bob.client("sts", endpoint_url=machine.endpoint).assume_role(RoleArn=made["Role"]["Arn"], RoleSessionName="bob")


def test_a_service_acts_as_no_role_of_another_account(machine: Machine, there: Any) -> None:
    trust = document(Effect="Allow", Principal={"Service": "events.amazonaws.com"}, Action="sts:AssumeRole")
    made = client(machine, "iam").create_role(RoleName="of-ours", AssumeRolePolicyDocument=json.dumps(trust))
    rule = f"arn:aws:events:{REGION}:{MEMBER_ACCOUNT_ID}:rule/theirs"

    with pytest.raises(CannotAssume, match="role of another account"):
        assume_as_service(machine, made["Role"]["Arn"], "events.amazonaws.com", rule, "EventBridge", 900)


def test_an_event_is_forwarded_once(machine: Machine) -> None:
    """docs.aws.amazon.com/eventbridge/latest/userguide/eb-bus-to-bus.html: to a third bus it does not go."""
    events, arns = client(machine, "events"), {}
    for name in ("second", "third"):
        arns[name] = events.create_event_bus(Name=name)["EventBusArn"]
    pattern = json.dumps({"source": ["aws.test"]})
    for bus, target in (("default", arns["second"]), ("second", arns["third"]), ("second", BUS)):
        name = f"{bus}-{target.rpartition('/')[2]}"
        events.put_rule(Name=name, EventBusName=bus, EventPattern=pattern)
        events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "1", "Arn": target}])
    for bus in ("default", "second", "third"):
        group = f"/bus/{bus}"
        client(machine, "logs").create_log_group(logGroupName=group)
        arn = f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:{group}"
        events.put_rule(Name=f"log-{bus}", EventBusName=bus, EventPattern=pattern)
        events.put_targets(Rule=f"log-{bus}", EventBusName=bus, Targets=[{"Id": "1", "Arn": arn}])

    emit(ACCOUNT_ID, REGION, "aws.test", "Test", [], {})
    time.sleep(1)

    logs = client(machine, "logs")
    seen = {b: len(logs.filter_log_events(logGroupName=f"/bus/{b}")["events"]) for b in ("default", "second", "third")}
    assert seen == {"default": 1, "second": 1, "third": 0}
