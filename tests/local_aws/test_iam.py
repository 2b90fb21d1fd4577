"""IAM in local AWS: what policies say of a request, and that requests of roles are held to it."""

import base64
import io
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.sts.models import sts_backends
from rich.console import Console
from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Response

from deploy_runner.cli.iam import show
from deploy_runner.local_aws.ecs.containers import Plan
from deploy_runner.local_aws.ecs.kaniko import KanikoBuild, KanikoError, parse
from deploy_runner.local_aws.ecs.logs import LogRefused, LogStream
from deploy_runner.local_aws.iam.authority import lets_service, refusal, trusts_service
from deploy_runner.local_aws.iam.enforce import Gate, signature
from deploy_runner.local_aws.iam.evaluate import (
    Asked,
    Decision,
    PolicyNotUnderstood,
    Principal,
    Value,
    identity_says,
    resource_says,
)
from deploy_runner.local_aws.iam.report import report
from deploy_runner.local_aws.iam.requests import ROWS, Call, needs
from deploy_runner.local_aws.machine import Machine
from tests.local_aws.light import session
from tests.templates import test_actions as reference
from tests.templates.stacks import REQUIRED, Stack, arn, documents, packaged, trusts
from tests.waiting import finished

from . import light

PORT = 4785
ECS = "AmazonEC2ContainerServiceV20141113"
ALLOW, DENY, NOTHING = Decision.ALLOW, Decision.DENY, Decision.NOTHING
SERVICE = arn("ecs", "service/dev/cineos")
KEYS: dict[str, Value] = {
    "aws:ResourceTag/": None, "aws:ResourceTag/env": "dev", "aws:PrincipalTag/": None, "aws:PrincipalTag/team": "a*b",
    "aws:SourceIp": "10.1.2.3", "aws:TagKeys": ["one", "two"], "aws:CurrentTime": "2026-08-01T10:00:00Z",
    "aws:SecureTransport": "true", "s3:max-keys": "10", "ecs:cluster": arn("ecs", "cluster/dev"), "absent": None,
}  # fmt: skip


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "ecs:UpdateService", "Resource": "*"} | s for s in statements],
    }


def said(*statements: dict[str, Any]) -> Decision:
    return identity_says([policy(*statements)], Asked("ecs:UpdateService", SERVICE, KEYS))


@pytest.mark.parametrize(
    ("statement", "decision"),
    [
        ({}, ALLOW),
        ({"Effect": "Deny"}, DENY),
        ({"Action": "ECS:update*"}, ALLOW),
        ({"Action": ["ecs:Describe?ervices", "s3:*"]}, NOTHING),
        ({"Action": None, "NotAction": "s3:*"}, ALLOW),
        ({"Action": None, "NotAction": "ecs:*"}, NOTHING),
        ({"Resource": arn("ecs", "service/*")}, ALLOW),
        ({"Resource": arn("ecs", "service/DEV/*")}, NOTHING),
        ({"Resource": [arn("ecs", "cluster/*"), arn("ecs", "service/*/cine?s")]}, ALLOW),
        # "If the * wildcard is the last character of a resource ARN segment, it can expand to match beyond the colon
        # boundaries": IAM JSON policy elements: Resource
        ({"Resource": "arn:aws:ecs:*:service/*"}, ALLOW),
        ({"Resource": "arn:aws:ecs:us-*:service/dev/*"}, ALLOW),
        ({"Resource": "arn:aws:ecs:*-1:123456789012:service/*"}, ALLOW),
        ({"Resource": "arn:aws:ecs:us-*9012:service/*"}, NOTHING),
        ({"Resource": "arn:aws:ec*:us-east-1:9:service/*"}, NOTHING),
        ({"Resource": None, "NotResource": arn("ecs", "service/prod/*")}, ALLOW),
        ({"Resource": None, "NotResource": arn("ecs", "service/dev/*")}, NOTHING),
        ({"Resource": arn("ecs", "service/${aws:ResourceTag/env}/*")}, ALLOW),
        ({"Resource": arn("ecs", "service/${aws:PrincipalTag/team}/*")}, NOTHING),
        ({"Resource": arn("ecs", "service/${absent}dev/*")}, NOTHING),
        ({"Resource": arn("ecs", "service/${absent, 'dev'}/*")}, ALLOW),
        ({"Resource": arn("ecs", "service/dev/${*}")}, NOTHING),
    ],
)  # fmt: skip
def test_effect_action_and_resource(statement: dict[str, Any], decision: Decision) -> None:
    given = {
        key: value for key, value in ({"Action": "ecs:UpdateService", "Resource": "*"} | statement).items() if value
    }
    document = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", **given}}
    assert identity_says([document], Asked("ecs:UpdateService", SERVICE, KEYS)) is decision


CONDITIONS: list[tuple[dict[str, Any], bool]] = [
    ({"StringEquals": {"AWS:resourcetag/env": "dev"}}, True),
    ({"StringEquals": {"aws:ResourceTag/env": ["prod", "dev"]}}, True),
    ({"StringEquals": {"aws:ResourceTag/env": "Dev"}}, False),
    ({"StringEquals": {"aws:ResourceTag/other": "dev"}}, False),
    ({"StringEquals": {"aws:ResourceTag/env": "d*"}}, False),
    ({"StringEqualsIgnoreCase": {"aws:ResourceTag/env": "DEV"}}, True),
    ({"StringNotEquals": {"aws:ResourceTag/env": ["prod", "dev"]}}, False),
    ({"StringNotEquals": {"absent": "x"}}, True),
    ({"StringNotEqualsIgnoreCase": {"aws:ResourceTag/env": "DEV"}}, False),
    ({"StringLike": {"aws:ResourceTag/env": "d?v"}}, True),
    ({"StringNotLike": {"aws:ResourceTag/env": "p*"}}, True),
    ({"StringEqualsIfExists": {"absent": "x"}}, True),
    ({"StringEqualsIfExists": {"aws:ResourceTag/env": "x"}}, False),
    ({"ArnEquals": {"ecs:cluster": arn("ecs", "cluster/d*")}}, True),
    ({"ArnLike": {"ecs:cluster": "arn:aws:ecs:*"}}, False),
    ({"ArnNotLike": {"ecs:cluster": arn("ecs", "cluster/prod")}}, True),
    ({"ArnNotEquals": {"ecs:cluster": arn("ecs", "cluster/dev")}}, False),
    ({"Bool": {"aws:SecureTransport": True}}, True),
    ({"Bool": {"aws:SecureTransport": "false"}}, False),
    ({"Null": {"absent": "true"}}, True),
    ({"Null": {"aws:ResourceTag/env": "true"}}, False),
    ({"Null": {"aws:ResourceTag/env": False}}, True),
    ({"Null": {"absent": ["false", "True"]}}, True),
    ({"NumericLessThanEquals": {"s3:max-keys": 10}}, True),
    ({"NumericGreaterThan": {"s3:max-keys": "10"}}, False),
    ({"NumericNotEquals": {"s3:max-keys": "11"}}, True),
    ({"NumericEquals": {"aws:ResourceTag/env": "10"}}, False),
    ({"DateGreaterThan": {"aws:CurrentTime": "2026-07-31T00:00:00Z"}}, True),
    ({"DateLessThan": {"aws:CurrentTime": "2026-07-31T00:00:00Z"}}, False),
    ({"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "10.1.0.0/16"]}}, True),
    ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["one", "two", "three"]}}, True),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["one"]}}, False),
    ({"ForAllValues:StringEquals": {"absent": ["one"]}}, True),
    ({"ForAnyValue:StringLike": {"aws:TagKeys": ["tw*"]}}, True),
    ({"ForAnyValue:StringEquals": {"absent": ["one"]}}, False),
    ({"ForAnyValue:StringNotEquals": {"aws:TagKeys": ["one"]}}, True),
    ({"ForAllValues:StringNotEquals": {"aws:TagKeys": ["one"]}}, False),
    ({"StringEquals": {"aws:ResourceTag/env": "dev"}, "Bool": {"aws:SecureTransport": "false"}}, False),
    ({"StringEquals": {"aws:ResourceTag/env": "dev", "absent": "x"}}, False),
]


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS)
def test_conditions(condition: dict[str, Any], holds: bool) -> None:
    assert said({"Condition": condition}) is (ALLOW if holds else NOTHING)


@pytest.mark.parametrize(
    "condition",
    [
        {"StringNotEquals": {"ecs:unheard-of": "x"}},
        {"StringNearly": {"absent": "x"}},
        {"X:Null": {"absent": "true"}},
        {"StringEquals": {"aws:TagKeys": "one"}},  # of several values: all, or any?
    ],
)
def test_what_is_not_understood_is_an_error_and_no_allow(condition: dict[str, Any]) -> None:
    with pytest.raises(PolicyNotUnderstood):
        said({"Condition": condition})


def test_an_explicit_deny_is_stronger_than_any_allow() -> None:
    assert said({}, {"Effect": "Deny", "Resource": SERVICE}) is DENY
    assert said({}, {"Effect": "Deny", "Resource": arn("ecs", "service/prod/*")}) is ALLOW


ME = Principal(arn="arn:aws:sts::123456789012:assumed-role/me/s", role_arn=arn("iam", "role/x/me", ""))


@pytest.mark.parametrize(
    ("named", "principal", "expected"),
    [
        ({"AWS": ME.role_arn}, ME, (ALLOW, True)),
        ({"AWS": [ME.arn]}, ME, (ALLOW, True)),
        ({"AWS": "arn:aws:iam::123456789012:root"}, ME, (ALLOW, False)),
        ({"AWS": "123456789012"}, ME, (ALLOW, False)),
        ({"AWS": "arn:aws:iam::999999999999:root"}, ME, (NOTHING, False)),
        ("*", ME, (ALLOW, True)),
        ({"Service": "states.amazonaws.com"}, ME, (NOTHING, False)),
        ({"Service": ["states.amazonaws.com"]}, Principal(service="states.amazonaws.com"), (ALLOW, True)),
        ({"Service": "lambda.amazonaws.com"}, Principal(service="states.amazonaws.com"), (NOTHING, False)),
    ],
)
def test_principals(named: Any, principal: Principal, expected: tuple[Decision, bool]) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": named}],
    }
    assert resource_says(trust, Asked("sts:AssumeRole", "x"), principal) == expected


def test_moto_itself_still_allows_what_a_condition_forbids() -> None:
    """Once moto evaluates the conditions of identity policies, ours may be no longer needed."""
    document = policy({"Condition": {"StringEquals": {"aws:ResourceTag/env": "prod"}}})
    assert (
        IAMPolicy(json.dumps(document)).is_action_permitted("ecs:UpdateService", SERVICE) is PermissionResult.PERMITTED
    )
    assert identity_says([document], Asked("ecs:UpdateService", SERVICE, KEYS)) is NOTHING


# --- the table, against AWS's service authorization data --------------------------------------------------------------

CLUSTER, TASK = "dev", arn("ecs", "task/dev/0123456789abcdef")
DEPLOYMENT = arn("ecs", "service-deployment/dev/cineos/abc")
TAGS = [{"key": "a", "value": "b"}]
MACHINE, EXECUTION = arn("states", "stateMachine:deploy-app"), arn("states", "execution:deploy-app:x")
STREAM = {"logGroupName": "/apps/x", "logStreamName": "a/b/c"}
ROLE = arn("iam", "role/apps/x", "")
QUEUE = {"QueueUrl": "http://127.0.0.1:4566/123456789012/q"}
OBJECT = {"Bucket": "b", "Key": "k", "CopySource": "other/k", "Delete": {"Objects": [{"Key": "k"}]}}
TABLE = {"TableName": "t", "RequestItems": {"t": {}}, "TransactItems": [{"Put": {"TableName": "t"}}]}
SAMPLES: dict[str, dict[str, Any]] = {
    "sts": {"RoleArn": ROLE, "RoleSessionName": "s", "Tags": [{"Key": "a", "Value": "b"}]},
    "ecs": {"cluster": CLUSTER, "taskDefinition": "x:1", "tags": TAGS, "taskRoleArn": ROLE, "family": "x",
            "overrides": {"taskRoleArn": ROLE}, "service": "cineos", "task": TASK, "resourceArn": TASK,
            "clusters": ["dev"]},
    "ecs:DescribeServiceDeployments": {"serviceDeploymentArns": [DEPLOYMENT]},
    "ecs:StopServiceDeployment": {"serviceDeploymentArn": DEPLOYMENT},
    "ecs:DescribeServiceRevisions": {"serviceRevisionArns": [arn("ecs", "service-revision/dev/cineos/1")]},
    "ecr": {"repositoryName": "cineos"},
    "states": {"stateMachineArn": f"{MACHINE}:live", "executionArn": EXECUTION},
    "states:CreateStateMachine": {"name": "x", "roleArn": ROLE, "publish": True},
    "states:UpdateStateMachine": {"stateMachineArn": MACHINE, "roleArn": ROLE},
    "lambda": {"FunctionName": "x", "Qualifier": "live", "Role": ROLE},
    "logs": STREAM,
    "xray": {},
    "monitoring": {"Namespace": "x"},
    "events": {"Name": "x", "Targets": [{"Arn": MACHINE, "RoleArn": ROLE}], "Entries": [{"Source": "x"}]},
    "scheduler": {"Name": "x", "GroupName": "g", "Target": {"RoleArn": ROLE}},
    "secretsmanager": {"SecretId": "x-AbCdEf"},
    "ssm": {"Name": "/a/b"},
    "dynamodb": TABLE,
    "sns": {"TopicArn": arn("sns", "t")},
    "sqs": QUEUE,
    "s3": OBJECT,
}  # fmt: skip
GLOBAL = re.compile(r"aws:(RequestedRegion|ResourceAccount|ResourceTag/|PrincipalTag/)")


@pytest.mark.parametrize("row", sorted(ROWS))
def test_a_row_asks_for_what_the_service_authorization_reference_has(row: str) -> None:
    service, _, operation = row.partition(":")
    parameters = SAMPLES.get(row, SAMPLES[service])
    asked = needs(Call(service, operation, parameters, "123456789012", "us-east-1"))
    assert asked is not None
    assert asked or row == "sts:GetCallerIdentity"
    by_action: dict[str, list[Asked]] = {}
    for one in asked:
        by_action.setdefault(one.action, []).append(one)
    for action, all_of in by_action.items():
        kinds = reference.privilege(action)["resource_types"]
        formats = reference.resource_types(action)
        for one in all_of:
            if one.resource == "*":
                assert not formats or action in reference.WITHOUT_RESOURCE
            else:
                assert any(reference.fits(one.resource, form) for form in formats.values()), f"{action}: {one.resource}"
            known = {key.lower() for kind in kinds.values() for key in kind["condition_keys"]}
            known |= {key.lower() for kind in kinds if kind for key in reference.resource_keys(action, kind)}
            ours = {re.sub(r"(Tag/).*", r"\1", key).lower() for key in one.context if not GLOBAL.match(key)}
            assert ours <= {re.sub(r"(tag/).*", r"\1", key) for key in known}, action
        if service == "states" or action == "iam:PassRole":  # an `execution` or an `express`, not both
            continue
        for name, kind in kinds.items():
            if name and kind["required"] and action not in reference.WITHOUT_RESOURCE:
                assert any(reference.fits(one.resource, formats[name]) for one in all_of), f"{action} needs a {name}"


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def main() -> Stack:
    return Stack(packaged(), REQUIRED)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory, main: Stack) -> Iterator[Machine]:
    """Local AWS with the roles of the rendered templates, and a service in dev and one in prod."""
    machine = light.start(PORT, Path(tmp_path_factory.mktemp("iam")), "iam", "stepfunctions", "ecs")
    iam, ecs = light.client(machine, "iam"), light.client(machine, "ecs")
    trust = trusts(main)
    for name, granted in documents(main).items():
        path = {"push-": "/deploy-runner/push/"}.get(name[:5], "/deploy-runner/")
        iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=json.dumps(trust[name]))
        for number, document in enumerate(granted):
            iam.put_role_policy(RoleName=name, PolicyName=f"p{number}", PolicyDocument=json.dumps(document))
    light.client(machine, "ecr").create_repository(repositoryName="cineos")
    for environment in ("dev", "prod"):
        ecs.create_cluster(clusterName=environment)
        ecs.register_task_definition(family="cineos", containerDefinitions=[{"name": "app", "image": "x", "memory": 9}])
        tags = [{"key": "deploy-runner:environment", "value": environment}]
        ecs.create_service(
            cluster=environment, serviceName="cineos", taskDefinition="cineos", tags=tags, desiredCount=0,
            launchType="FARGATE",
        )  # fmt: skip
    yield machine
    machine.stop()


def acting_as(
    machine: Machine, role: str, service: str, path: str = "/deploy-runner/", policy: str = "", seconds: int = 900
) -> Any:
    session = sts_backends["123456789012"]["aws"].assume_role(
        region_name="us-east-1", role_session_name="test", role_arn=arn("iam", f"role{path}{role}", ""), policy=policy,
        duration=seconds, external_id="",
    )  # fmt: skip
    return _client(machine, service, session.access_key_id, session.secret_access_key, session.session_token)


def _client(machine: Machine, service: str, *credentials: str) -> Any:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return session().client(service, endpoint_url=machine.endpoint, **dict(zip(names, credentials, strict=False)))


def refused(call: Any, **arguments: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def refused_by_service(call: Any, **arguments: Any) -> str:
    """The code of an error that is not IAM's: the request came through."""
    code, _, message = refused(call, **arguments)
    assert "not authorized" not in message
    return code


def test_the_workflow_starts_the_alias_live_and_nothing_else(aws: Machine) -> None:
    states = acting_as(aws, "deploy-runner-github", "stepfunctions")

    assert refused_by_service(states.start_execution, stateMachineArn=f"{MACHINE}:live") == "StateMachineDoesNotExist"
    for arn_ in (MACHINE, f"{MACHINE}:7", f"{MACHINE}:next", arn("states", "stateMachine:other:live")):
        code, status, message = refused(states.start_execution, stateMachineArn=arn_)
        assert (code, status) == ("AccessDeniedException", 400)
        assert message == (
            "User: arn:aws:sts::123456789012:assumed-role/deploy-runner-github/test is not authorized to perform: "
            f"states:StartExecution on resource: {':'.join(arn_.split(':')[:7])} because no identity-based policy "
            "allows the states:StartExecution action"
        )
    assert refused_by_service(states.stop_execution, executionArn=EXECUTION) == "ExecutionDoesNotExist"


def test_a_target_refuses_the_service_of_another_environment(aws: Machine) -> None:
    ecs = acting_as(aws, "deploy-target-dev", "ecs")

    assert ecs.describe_services(cluster="dev", services=["cineos"])["services"]
    ecs.update_service(cluster="dev", service="cineos", desiredCount=0)
    for call in (ecs.update_service, ecs.list_service_deployments):
        assert refused(call, cluster="prod", service="cineos")[:2] == ("AccessDeniedException", 400)
    assert refused(ecs.describe_services, cluster="dev", services=["cineos", "other"])[0] == "AccessDeniedException"
    assert refused(ecs.list_tasks, cluster="prod")[0] == "AccessDeniedException"


def test_a_target_passes_the_roles_of_apps_alone(aws: Machine) -> None:
    ecs = acting_as(aws, "deploy-target-dev", "ecs")
    revision: dict[str, Any] = {
        "family": "cineos", "containerDefinitions": [{"name": "app", "image": "x", "memory": 9}],
        "tags": [{"key": "deploy-runner:environment", "value": "dev"}],
    }  # fmt: skip

    ecs.register_task_definition(**revision, taskRoleArn=arn("iam", "role/apps/cineos-dev", ""))
    other = arn("iam", "role/deploy-runner/deploy-target-prod", "")
    message = refused(ecs.register_task_definition, **revision, executionRoleArn=other)[2]
    assert f"iam:PassRole on resource: {other}" in message
    wrong = revision | {"tags": [{"key": "deploy-runner:environment", "value": "prod"}]}
    assert "ecs:RegisterTaskDefinition" in refused(ecs.register_task_definition, **wrong)[2]
    assert "ecs:TagResource" in refused(ecs.tag_resource, resourceArn=SERVICE, tags=TAGS)[2]


def test_an_app_pushes_to_its_own_repository_alone(aws: Machine) -> None:
    ecr = acting_as(aws, "push-cineos", "ecr", "/deploy-runner/push/")

    ecr.get_authorization_token()
    image = {
        "imageManifest": "{}",
        "imageTag": "x",
        "imageManifestMediaType": "application/vnd.oci.image.manifest.v1+json",
    }
    assert ecr.batch_get_image(repositoryName="cineos", imageIds=[{"imageTag": "x"}])["failures"]
    assert "ecr:PutImage" in refused(ecr.put_image, repositoryName="createos", **image)[2]
    assert refused(ecr.initiate_layer_upload, repositoryName="createos/cache")[0] == "AccessDeniedException"


def test_only_our_functions_come_into_a_target(aws: Machine) -> None:
    target = arn("iam", "role/deploy-runner/deploy-target-dev", "")
    assumed = acting_as(aws, "deploy-runner-deploy-service", "sts").assume_role(RoleArn=target, RoleSessionName="dd")
    keys = assumed["Credentials"]
    ecs = _client(aws, "ecs", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert ecs.describe_services(cluster="dev", services=["cineos"])["services"]

    for role in ("deploy-runner-report-status", "deploy-runner-sweep", "deploy-runner-acquire-lock"):
        sts = acting_as(aws, role, "sts")
        assert refused(sts.assume_role, RoleArn=target, RoleSessionName="dd")[:2] == ("AccessDenied", 403)
        assert sts.get_caller_identity()["Arn"].endswith(f"{role}/test")


def test_the_state_machine_runs_builders_in_its_cluster_with_their_roles(aws: Machine) -> None:
    ecs = acting_as(aws, "deploy-runner-state-machine", "ecs")
    run = {"cluster": "deploy-runner", "taskDefinition": arn("ecs", "task-definition/docker-builder-arm64:3")}
    push = {"overrides": {"taskRoleArn": arn("iam", "role/deploy-runner/push/push-cineos", "")}, "tags": TAGS}

    refused_by_service(ecs.run_task, **run, **push)
    aws_only = Call("ecs", "RunTask", {**run, "propagateTags": "TASK_DEFINITION"}, "123456789012", "us-east-1")
    assert [one.action for one in needs(aws_only) or []] == ["ecs:RunTask", "ecs:TagResource"]
    assert "ecs:RunTask" in refused(ecs.run_task, **run | {"cluster": "dev"})[2]
    # A family without a revision is another resource, which FAMILY:* does not name.
    assert "ecs:RunTask" in refused(ecs.run_task, **run | {"taskDefinition": "docker-builder-arm64"})[2]
    wrong = {"overrides": {"taskRoleArn": arn("iam", "role/deploy-runner/deploy-target-prod", "")}}
    assert "iam:PassRole" in refused(ecs.run_task, **run, **wrong)[2]


def test_events_of_another_source_are_refused(aws: Machine) -> None:
    events = acting_as(aws, "deploy-runner-report-status", "events")
    entry = {"DetailType": "x", "Detail": "{}"}

    assert events.put_events(Entries=[entry | {"Source": "deploy-runner"}])["FailedEntryCount"] == 0
    both = [entry | {"Source": source} for source in ("deploy-runner", "someone")]
    assert refused(events.put_events, Entries=both)[0] == "AccessDeniedException"


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "code", "status"),
    [
        ("sns", "publish", {"TopicArn": arn("sns", "x"), "Message": "m"}, "AuthorizationError", 403),
        ("lambda", "invoke", {"FunctionName": "x"}, "AccessDeniedException", 403),
        ("s3", "get_object", {"Bucket": "b", "Key": "k/x"}, "AccessDenied", 403),
        ("sqs", "send_message", {**QUEUE, "MessageBody": "m"}, "AccessDenied", 403),
        ("dynamodb", "get_item", {"TableName": "xxx", "Key": {"a": {"S": "b"}}}, "AccessDeniedException", 400),
        ("logs", "get_log_events", {"logGroupName": "/x", "logStreamName": "y"}, "AccessDeniedException", 400),
        ("secretsmanager", "get_secret_value", {"SecretId": "x"}, "AccessDeniedException", 400),
    ],
)
def test_each_protocol_words_it_in_its_own_way(
    aws: Machine, service: str, operation: str, arguments: dict[str, Any], code: str, status: int
) -> None:
    call = getattr(acting_as(aws, "deploy-runner-no-permissions", service), operation)
    assert refused(call, **arguments)[:2] == (code, status)


def test_what_has_no_row_is_refused_by_the_row_s_name(aws: Machine) -> None:
    message = refused(acting_as(aws, "deploy-runner-github", "ec2").describe_instances)[2]
    assert "no row for ec2:DescribeInstances" in message


def test_a_person_is_an_administrator_but_in_no_role_that_bars_them(aws: Machine) -> None:
    assert light.client(aws, "ec2").describe_instances()["Reservations"] == []

    iam, sts = light.client(aws, "iam"), light.client(aws, "sts")
    ours = arn("iam", "role/deploy-runner/deploy-target-prod", "")
    code, status, message = refused(sts.assume_role, RoleArn=ours, RoleSessionName="me")
    assert (code, status) == ("AccessDenied", 403)
    assert message.startswith("User: arn:aws:iam::123456789012:user/local is not authorized to perform: sts:AssumeRole")
    partner = policy({
        "Action": "sts:AssumeRole", "Principal": {"AWS": "123456789012"}, "Resource": [],
        "Condition": {"StringEquals": {"sts:ExternalId": "ours"}},
    })  # fmt: skip
    del partner["Statement"][0]["Resource"]
    iam.create_role(RoleName="partner", AssumeRolePolicyDocument=json.dumps(partner))
    partners = {"RoleArn": arn("iam", "role/partner", ""), "RoleSessionName": "me"}
    assert refused(sts.assume_role, **partners)[0] == "AccessDenied"
    assert refused(sts.assume_role, **partners, ExternalId="another")[0] == "AccessDenied"
    assert sts.assume_role(**partners, ExternalId="ours")["Credentials"]
    message = refused(sts.assume_role, **partners, ExternalId="ours", SourceIdentity="somebody")[2]
    assert "sts:SetSourceIdentity" in message


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "code", "status"),
    [
        ("ecs", "list_clusters", {}, "MissingAuthenticationTokenException", 400),
        ("sns", "list_topics", {}, "MissingAuthenticationToken", 403),
        ("s3", "get_object", {"Bucket": "b", "Key": "k"}, "AccessDenied", 403),
    ],
)
def test_what_nobody_signed_is_refused(
    aws: Machine, service: str, operation: str, arguments: dict[str, Any], code: str, status: int
) -> None:
    session = boto3.Session(region_name="us-east-1")
    unsigned = session.client(service, endpoint_url=aws.endpoint, config=Config(signature_version=UNSIGNED))  # type: ignore[call-overload]
    assert refused(getattr(unsigned, operation), **arguments)[:2] == (code, status)


def test_the_end_of_an_arn_counts_as_it_does_for_ecs() -> None:
    """ECS finds what it is about by the end: the rest must not be what a policy is held against."""
    task, definition = arn("ecs", "task/dev/0123"), arn("ecs", "task-definition/deploy-runner-x/secret:1")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("StopTask", {"cluster": "prod", "task": task}, "task/prod/0123"),
        ("DescribeTasks", {"cluster": "prod", "tasks": [task]}, "task/prod/0123"),
        ("RunTask", {"cluster": "prod", "taskDefinition": definition}, "task-definition/secret:1"),
    ]
    for operation, parameters, resource in cases:
        found = needs(Call("ecs", operation, parameters, "123456789012", "us-east-1"))
        assert found
        assert found[0].resource == arn("ecs", resource)


@pytest.mark.parametrize(
    ("service", "path", "headers", "body"),
    [
        ("sts", "/?Action=GetCallerIdentity", {}, "Action=AssumeRole&RoleSessionName=x&RoleArn={role}"),
        ("sts", "/moto-api/data.json", {}, "Action=GetCallerIdentity"),
        ("sts", "/latest/meta-data/iam/security-credentials/", {}, "Action=GetCallerIdentity"),
        ("sts", "/", {"Host": "sts.eu-west-1.amazonaws.com"}, "Action=GetCallerIdentity"),
        ("ecs", "/?Action=ListClusters", {"X-Amz-Target": f"{ECS}.ListTaskDefinitions"}, "{{}}"),
        ("", "/any/object?Action=GetCallerIdentity&{query}", {}, ""),
    ],
)
def test_a_request_that_moto_would_take_for_another_is_refused(
    aws: Machine, service: str, path: str, headers: dict[str, str], body: str
) -> None:
    session = sts_backends["123456789012"]["aws"].assume_role(
        region_name="us-east-1", role_session_name="test", policy="", duration=900, external_id="",
        role_arn=arn("iam", "role/deploy-runner/deploy-runner-github", ""),
    )  # fmt: skip
    scope = f"{session.access_key_id}/20260101/us-east-1/{service or 'sts'}/aws4_request"
    query = urlencode({"X-Amz-Credential": scope, "X-Amz-Security-Token": session.session_token})
    texts = {"query": query, "role": arn("iam", "role/deploy-runner/deploy-target-prod", "")}
    kind = "application/x-amz-json-1.1" if body.startswith("{{") else "application/x-www-form-urlencoded"
    signed = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x",
        "X-Amz-Security-Token": session.session_token,
    }
    request = urllib.request.Request(
        aws.endpoint + path.format(**texts), data=body.format(**texts).encode() or None,
        headers={"Content-Type": kind, **(signed if service else {}), **headers},
    )  # fmt: skip
    assert "it is not plain what is asked for" in _refusal(request)


def _refusal(request: urllib.request.Request) -> str:
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    return caught.value.read().decode()


def test_a_signature_is_for_the_service_that_moto_reads_in_it() -> None:
    credential = "Credential=ASIA1/20260101/us-east-1/sts/aws4_request"
    for header, service in (
        (f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=x", "sts"),
        (f"AWS4-HMAC-SHA256 x=ASIA1/20260101/us-east-1/iam/aws4_request,{credential}", ""),
    ):
        assert signature({"HTTP_AUTHORIZATION": header, "HTTP_X_AMZ_SECURITY_TOKEN": "t"})[3] == service


def test_a_token_opens_no_other_role_and_no_other_service(aws: Machine) -> None:
    """Without a signature there is one thing to ask for, in one way."""
    for path, body in (
        ("/?Action=AssumeRoleWithWebIdentity", "Action=AssumeRoleWithWebIdentity&RoleArn=another"),
        ("/iam_us-east-1/", "Action=AssumeRoleWithWebIdentity"),
        ("/any/object?Action=AssumeRoleWithWebIdentity", ""),
    ):
        request = urllib.request.Request(aws.endpoint + path, data=body.encode() or None)
        assert "MissingAuthenticationToken" in _refusal(request)


def test_nobody_is_a_person_or_a_workflow_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy_runner.local_aws.iam.enforce.trusts_web_identity", lambda *claims: True)
    machine = Machine(port=1, state_dir=Path(), engine=SimpleNamespace(gateway="10.64.0.1"))  # type: ignore[arg-type]
    gate = Gate(Response(b"passed"), machine)

    def said(server: str, data: bytes, kind: str, **headers: str) -> bytes:
        builder = EnvironBuilder(path="/", method="POST", data=data, content_type=kind, headers=headers)
        body, _, _ = run_wsgi_app(gate, builder.get_environ() | {"SERVER_NAME": server})
        return b"".join(body)

    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/ecs/aws4_request, x"}
    person = b"{}", "application/x-amz-json-1.1"
    workflow = b"Action=AssumeRoleWithWebIdentity&RoleArn=x", "application/x-www-form-urlencoded"

    assert said("127.0.0.1", *person, **signed) == said("127.0.0.1", *workflow) == b"passed"
    assert b"UnrecognizedClientException" in said("10.64.0.1", *person, **signed)
    assert b"AccessDenied" in said("10.64.0.1", *workflow)


# --- the policies of resources ----------------------------------------------------------------------------------------


def test_a_queue_may_let_in_a_role_that_has_no_such_right(aws: Machine) -> None:
    sqs, sender = light.client(aws, "sqs"), acting_as(aws, "deploy-runner-no-permissions", "sqs")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    message = {"QueueUrl": url, "MessageBody": "m"}
    queue = arn("sqs", "orders")
    role = arn("iam", "role/deploy-runner/deploy-runner-no-permissions", "")

    def may(*statements: dict[str, Any]) -> None:
        every = {"Action": "sqs:SendMessage", "Resource": queue, "Principal": {"AWS": role}}
        document = policy(*(every | statement for statement in statements))
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(document)})

    # The account alone, which leaves it to the role's own policies, and another queue are not enough.
    for statement in ({"Principal": {"AWS": "123456789012"}}, {"Resource": arn("sqs", "others")}):
        may(statement)
        assert refused(sender.send_message, **message)[2] == (
            "User: arn:aws:sts::123456789012:assumed-role/deploy-runner-no-permissions/test is not authorized to "
            f"perform: sqs:sendmessage on resource: {queue} because no identity-based policy allows the "
            "sqs:sendmessage action"
        )
    may({})
    assert sender.send_message(**message)["MessageId"]
    may({}, {"Effect": "Deny", "Principal": "*", "Condition": {"StringNotLike": {"aws:PrincipalArn": "*/admin"}}})
    assert refused(sender.send_message, **message)[2].endswith("with an explicit deny in a resource-based policy")
    # A session policy takes away what the queue's policy gives the role.
    may({})
    session = json.dumps(policy({"Action": "sqs:Get*"}))
    less = acting_as(aws, "deploy-runner-no-permissions", "sqs", policy=session)
    assert "no session policy allows" in refused(less.send_message, **message)[2]


def test_a_bucket_s_policy_counts_for_its_objects(aws: Machine) -> None:
    s3, reader = light.client(aws, "s3"), acting_as(aws, "deploy-runner-no-permissions", "s3")
    s3.create_bucket(Bucket="shelf")
    s3.put_object(Bucket="shelf", Key="open/k", Body=b"x")
    role = arn("iam", "role/deploy-runner/deploy-runner-no-permissions", "")
    rule = {"Action": "s3:GetObject", "Resource": "arn:aws:s3:::shelf/open/*", "Principal": {"AWS": role}}
    s3.put_bucket_policy(Bucket="shelf", Policy=json.dumps(policy(rule)))

    assert reader.get_object(Bucket="shelf", Key="open/k")["Body"].read() == b"x"
    said = refused(reader.get_object, Bucket="shelf", Key="closed/k")[2]
    assert 's3:GetObject on resource: "arn:aws:s3:::shelf/closed/k" because' in said


@pytest.mark.parametrize(
    ("source", "action", "lets"),
    [
        (arn("events", "rule/ours"), "sqs:SendMessage", True),
        (arn("events", "rule/theirs"), "sqs:SendMessage", False),
        (arn("events", "rule/ours"), "sqs:ReceiveMessage", False),
    ],
)
def test_a_service_is_let_in_for_the_source_that_the_policy_names(
    aws: Machine, source: str, action: str, lets: bool
) -> None:
    sqs = light.client(aws, "sqs")
    url = sqs.create_queue(QueueName="letters")["QueueUrl"]
    statement = {
        "Action": "sqs:SendMessage", "Resource": arn("sqs", "letters"),
        "Principal": {"Service": "events.amazonaws.com"},
        "Condition": {"ArnEquals": {"aws:SourceArn": arn("events", "rule/ours")}},
    }  # fmt: skip
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy(statement))})
    assert lets_service(action, arn("sqs", "letters"), "events.amazonaws.com", source) is lets


def test_a_role_is_passed_by_its_tags(aws: Machine) -> None:
    iam = light.client(aws, "iam")
    for name, team in (("apps-a", "a"), ("apps-b", "b")):
        tags = [{"Key": "team", "Value": team}]
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(policy()), Tags=tags)
    iam.create_role(RoleName="passer", AssumeRolePolicyDocument=json.dumps(policy()))
    allowed = policy(
        {"Action": "ecs:RegisterTaskDefinition"},
        {"Action": "iam:PassRole", "Condition": {"StringEquals": {"iam:ResourceTag/team": "a"}}},
    )
    iam.put_role_policy(RoleName="passer", PolicyName="p", PolicyDocument=json.dumps(allowed))
    ecs = acting_as(aws, "passer", "ecs", "/")
    revision: dict[str, Any] = {
        "family": "x", "containerDefinitions": [{"name": "app", "image": "x", "memory": 9}],
    }  # fmt: skip
    assert ecs.register_task_definition(**revision, taskRoleArn=arn("iam", "role/apps-a", ""))
    message = refused(ecs.register_task_definition, **revision, taskRoleArn=arn("iam", "role/apps-b", ""))[2]
    assert "iam:PassRole" in message


# --- the record -------------------------------------------------------------------------------------------------------


def test_what_a_role_used_and_was_refused_is_on_record(aws: Machine) -> None:
    iam = light.client(aws, "iam")
    iam.create_role(RoleName="watched", AssumeRolePolicyDocument=json.dumps(policy()))
    two = policy({"Sid": "Look", "Action": ["ecs:ListClusters", "ecs:Describe*"]}, {"Effect": "Deny", "Action": "s3:*"})
    iam.put_role_policy(RoleName="watched", PolicyName="p", PolicyDocument=json.dumps(two))
    watched = acting_as(aws, "watched", "ecs", "/")
    watched.list_clusters()
    watched.list_clusters()
    refused(watched.list_tasks, cluster="dev")

    (role,) = (each for each in report(aws) if each["role"] == "watched")

    seen = [(g["statement"], g["effect"], g["action"], g["used"], g["wildcard"]) for g in role["grants"]]
    assert seen == [
        ("Look", "Allow", "ecs:ListClusters", 2, True),
        ("Look", "Allow", "ecs:Describe*", 0, True),
        ("#2", "Deny", "s3:*", 0, True),
    ]
    (only,) = role["refused"]
    assert (only["action"], only["times"]) == ("ecs:ListTasks", 1)
    console = Console(width=200, record=True, file=io.StringIO())
    show([role], console)
    said = console.export_text()
    assert re.search(r"2 +Look +ecs:ListClusters", said)
    assert re.search(r"never +ecs:Describe\*", said)
    assert re.search(r"denies +#2 +s3:\*", said)
    assert "refused 1×: User: arn:aws:sts::123456789012:assumed-role/watched/test is not authorized" in said


def test_made_up_and_expired_credentials_are_refused(aws: Machine) -> None:
    code, _, message = refused(_client(aws, "ecs", "ASIAQQQQQQQQQQQQQQQQ", "x", "y").list_clusters)
    assert (code, message) == ("UnrecognizedClientException", "The security token included in the request is invalid.")
    assert (
        refused(_client(aws, "sts", "ASIAQQQQQQQQQQQQQQQQ", "x", "y").get_caller_identity)[0] == "InvalidClientTokenId"
    )
    late = acting_as(aws, "deploy-target-dev", "ecs", seconds=-1)
    assert refused(late.list_clusters)[0] == "ExpiredTokenException"


def test_boundaries_and_session_policies_only_take_away(aws: Machine) -> None:
    iam = light.client(aws, "iam")
    boundary = iam.create_policy(PolicyName="less", PolicyDocument=json.dumps(policy({"Action": "ecs:List*"})))
    trust = json.dumps(policy())
    iam.create_role(RoleName="bound", AssumeRolePolicyDocument=trust, PermissionsBoundary=boundary["Policy"]["Arn"])
    iam.put_role_policy(RoleName="bound", PolicyName="all", PolicyDocument=json.dumps(policy({"Action": "ecs:*"})))
    assert acting_as(aws, "bound", "ecs", "/").list_clusters()["clusterArns"]
    message = refused(acting_as(aws, "bound", "ecs", "/").describe_clusters)[2]
    assert message.endswith("because no permissions boundary allows the ecs:DescribeClusters action")
    narrow = acting_as(aws, "bound", "ecs", "/", json.dumps(policy({"Effect": "Deny", "Action": "ecs:ListClusters"})))
    assert refused(narrow.list_clusters)[2].endswith("with an explicit deny in a session policy")


@pytest.mark.parametrize(
    ("role", "service", "source", "trusted"),
    [
        ("deploy-runner-state-machine", "states", MACHINE, True),
        ("deploy-runner-state-machine", "states", arn("states", "stateMachine:other"), False),
        ("deploy-runner-state-machine", "lambda", MACHINE, False),
        ("deploy-runner-deploy-service", "lambda", arn("lambda", "function:x"), True),
        ("push/push-cineos", "ecs-tasks", TASK, True),
        ("push/push-cineos", "ecs-tasks", TASK.replace("123456789012", "999999999999"), False),
        ("missing", "lambda", arn("lambda", "function:x"), False),
    ],
)  # fmt: skip
def test_services_come_into_the_roles_that_trust_them(
    aws: Machine, role: str, service: str, source: str, trusted: bool
) -> None:
    name = arn("iam", f"role/deploy-runner/{role}", "")
    assert trusts_service(name, f"{service}.amazonaws.com", source) is trusted


def web_identity(**claims: str | int) -> str:
    payload: dict[str, str | int] = {
        "iss": "https://token.actions.githubusercontent.com", "aud": "sts.amazonaws.com",
        "sub": "repo:lightwave-media/infrastructure-live:environment:deploy-runner", "repository_id": "1000",
        "ref": "refs/heads/main", "environment": "deploy-runner",
    } | claims  # fmt: skip
    return f"e30.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.c2ln"


def test_a_workflow_comes_in_with_the_claims_that_the_role_trusts(aws: Machine) -> None:
    sts = light.client(aws, "sts")
    role = {"RoleArn": arn("iam", "role/deploy-runner/deploy-runner-github", ""), "RoleSessionName": "gh"}
    no_provider = refused(sts.assume_role_with_web_identity, **role, WebIdentityToken=web_identity())
    where = "No OpenIDConnect provider found in your account for https://token.actions.githubusercontent.com"
    assert no_provider == ("InvalidIdentityToken", 400, where)

    url = "https://token.actions.githubusercontent.com"
    light.client(aws, "iam").create_open_id_connect_provider(Url=url, ClientIDList=["sts.amazonaws.com"])
    keys = sts.assume_role_with_web_identity(**role, WebIdentityToken=web_identity())["Credentials"]
    states = _client(aws, "stepfunctions", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert refused(states.start_execution, stateMachineArn=MACHINE)[0] == "AccessDeniedException"
    for claims, code in (
        ({"ref": "refs/heads/other"}, "AccessDenied"),
        ({"repository_id": "6666"}, "AccessDenied"),
        ({"iss": "https://gitlab.example"}, "InvalidIdentityToken"),
        ({"aud": "https://github.com/lightwave-media"}, "InvalidIdentityToken"),
        ({"exp": 1}, "ExpiredTokenException"),
    ):
        token = web_identity(**claims)
        assert refused(sts.assume_role_with_web_identity, **role, WebIdentityToken=token)[0] == code


# --- what services do as a role ---------------------------------------------------------------------------------------

STATES_TRUST = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "states.amazonaws.com"}},
}
SYNC = {
    "StartAt": "A",
    "States": {
        "A": {
            "Type": "Task", "Resource": "arn:aws:states:::ecs:runTask.sync", "End": True,
            "Parameters": {"TaskDefinition": "x", "Cluster": "x"},
        }
    },
}  # fmt: skip
PASS = {"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}
LOGGED = {
    "level": "ALL",
    "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": arn("logs", "log-group:/aws/vendedlogs/x:*")}}],
}


def test_a_state_machine_needs_a_role_that_can_do_what_step_functions_does(aws: Machine) -> None:
    iam, states = light.client(aws, "iam"), light.client(aws, "stepfunctions")
    iam.create_role(RoleName="bare", AssumeRolePolicyDocument=json.dumps(STATES_TRUST))
    bare = arn("iam", "role/bare", "")

    states.create_state_machine(name="pass", definition=json.dumps(PASS), roleArn=bare)
    untrusting = arn("iam", "role/deploy-runner/deploy-runner-report-status", "")
    more: dict[str, Any]
    for definition, role, more, expected in (
        (PASS, untrusting, {}, "Neither the global service principal"),
        (SYNC, bare, {}, f"'{bare}' is not authorized to create managed-rule."),
        (PASS, bare, {"loggingConfiguration": LOGGED}, "not authorized to access the Log Destination"),
    ):
        make = {"name": "no", "definition": json.dumps(definition), "roleArn": role, **more}
        code, status, message = refused(states.create_state_machine, **make)
        assert (code, status) == ("AccessDeniedException", 400)
        assert expected in message
    ours = arn("iam", "role/deploy-runner/deploy-runner-state-machine", "")
    whole = {"definition": json.dumps(SYNC), "roleArn": ours, "loggingConfiguration": LOGGED}
    states.create_state_machine(name="deploy-app-2", **whole)


def run_once(aws: Machine, name: str, state: dict[str, Any]) -> Any:
    states = light.client(aws, "stepfunctions")
    definition = {"StartAt": "A", "States": {"A": {"Type": "Task", "End": True, **state}}}
    machine = states.create_state_machine(
        name=name, definition=json.dumps(definition), roleArn=arn("iam", "role/caller", "")
    )["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=machine)["executionArn"]
    return finished(states, execution)


def test_a_state_acts_as_its_own_credentials_where_it_may_assume_them(aws: Machine) -> None:
    iam = light.client(aws, "iam")
    iam.create_role(RoleName="caller", AssumeRolePolicyDocument=json.dumps(STATES_TRUST))
    trust = policy({"Action": "sts:AssumeRole", "Principal": {"AWS": "123456789012"}})
    iam.create_role(RoleName="lister", AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName="lister", PolicyName="p", PolicyDocument=json.dumps(policy({"Action": "ecs:List*"})))
    lists = {"Resource": "arn:aws:states:::aws-sdk:ecs:listClusters", "Parameters": {}}
    as_lister = lists | {"Credentials": {"RoleArn": arn("iam", "role/lister", "")}}

    told = run_once(aws, "itself", lists)
    assert (told["status"], told["error"]) == ("FAILED", "Ecs.AccessDeniedException")
    told = run_once(aws, "not-yet", as_lister)
    assert told["error"] == "States.Permissions"
    assert "sts:AssumeRole on resource: arn:aws:iam::123456789012:role/lister" in told["cause"]

    may = json.dumps(policy({"Action": "sts:AssumeRole"}))
    iam.put_role_policy(RoleName="caller", PolicyName="p", PolicyDocument=may)
    assert run_once(aws, "now", as_lister)["status"] == "SUCCEEDED"


def test_a_task_s_role_must_trust_ecs(aws: Machine) -> None:
    ecs = light.client(aws, "ecs")

    def says(role: str) -> tuple[str, int, str]:
        ecs.register_task_definition(
            family=role, taskRoleArn=arn("iam", f"role/deploy-runner/{role}", ""),
            containerDefinitions=[{"name": "app", "image": "x", "memory": 9}],
        )  # fmt: skip
        return refused(ecs.run_task, cluster="dev", taskDefinition=role, launchType="FARGATE", count=11)

    code, _, message = says("deploy-runner-report-status")
    assert code == "ClientException"
    assert message.startswith("ECS was unable to assume the role ")
    assert "count should be" in says("deploy-runner-no-permissions")[2]


def test_a_task_does_not_start_where_its_execution_role_may_not_log(aws: Machine) -> None:
    configuration = {
        "logDriver": "awslogs",
        "options": {"awslogs-group": "/deploy-runner/docker-builder", "awslogs-stream-prefix": "docker-builder"},
    }
    light.client(aws, "logs").create_log_group(logGroupName="/deploy-runner/docker-builder")

    def stream(role: str) -> LogStream:
        name = arn("iam", f"role/deploy-runner/{role}", "")
        return LogStream(
            "123456789012", "us-east-1", configuration, "clone", "0123",
            lambda action, resource: refusal(aws, name, "0123", action, resource),
        )  # fmt: skip

    assert stream("deploy-runner-docker-builder-execution").stream == "docker-builder/clone/0123"
    with pytest.raises(LogRefused, match=r"logs:CreateLogStream on resource: .*:log-stream:docker-builder/clone/0123 "):
        stream("deploy-runner-no-permissions")


@pytest.mark.parametrize(
    ("role", "destination", "cache", "said"),
    [
        ("push/push-cineos", "cineos", "cineos/cache", ""),
        ("push/push-cineos", "createos", "cineos/cache", "DENIED: .*ecr:InitiateLayerUpload .*:repository/createos "),
        ("push/push-cineos", "cineos", "createos/cache", "DENIED: .*:repository/createos/cache "),
        ("deploy-runner-no-permissions", "cineos", "cineos/cache", ".* 401 Unauthorized"),
    ],
)  # fmt: skip
def test_a_build_fails_before_it_builds_where_its_role_may_not_push(
    aws: Machine, role: str, destination: str, cache: str, said: str
) -> None:
    session = sts_backends["123456789012"]["aws"].assume_role(
        region_name="us-east-1", role_session_name="task", role_arn=arn("iam", f"role/deploy-runner/{role}", ""),
        policy="", duration=900, external_id="",
    )  # fmt: skip
    own = {"AWS_ACCESS_KEY_ID": session.access_key_id, "AWS_SESSION_TOKEN": session.session_token}
    build = KanikoBuild(aws, Plan("kaniko", {}, own, LogStream("", "", {}, "kaniko", "0123"), {}, {}))
    target = f"{aws.registry}/{destination}:abc"
    flags = parse([f"--destination={target}", "--cache=true", f"--cache-repo={aws.registry}/{cache}"])

    if said:
        with pytest.raises(KanikoError, match=f"^error checking push permissions -- .*{said}"):
            build._check_push_permissions(flags, [target])
    else:
        build._check_push_permissions(flags, [target])
        assert not build._refused(target, "PutImage", "UploadLayerPart", "CompleteLayerUpload")
