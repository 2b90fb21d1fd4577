"""Clients act as the target's role, in a session named after the deployment; AWS's errors become ours."""

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ParamValidationError

from deploy_runner.aws import clients, secrets
from deploy_runner.domain.errors import AwsUnavailable, TargetMisconfigured
from tests.unit.fake_ecs import client_error

TARGET = {"role_arn": "arn:aws:iam::123456789012:role/deploy-runner/deploy-target-dev", "region": "eu-west-1"}


def identity(made: clients.TargetClients) -> str:
    return str(made.ecs._request_signer._credentials.access_key)


def test_a_target_is_another_role_and_region_and_its_session_is_kept(aws: Any) -> None:
    first = clients.in_target(TARGET, "d-1")
    assert first.ecs.meta.region_name == "eu-west-1"
    assert identity(first) != "test"
    assert clients.in_target(TARGET, "d-1") is first
    assert identity(clients.in_target(TARGET, "d-2")) != identity(first)


def test_a_session_that_ends_soon_is_renewed(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(clients.time, "time", lambda: now)
    first = clients.in_target(TARGET, "d-1")
    now += 700
    assert clients.in_target(TARGET, "d-1") is first
    now += 100  # of 900 seconds
    assert clients.in_target(TARGET, "d-1") is not first
    assert len(clients._targets) == 1


@pytest.mark.parametrize("deployment_id", ["d", "x" * 80, "a_b-C9"])
def test_every_execution_name_makes_a_session_name(aws: Any, deployment_id: str) -> None:
    clients.in_target(TARGET, deployment_id)


def test_the_endpoint_comes_from_the_environment(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert clients.client("ecs").meta.endpoint_url == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("ThrottlingException"), AwsUnavailable),
        (client_error("Anything", status=503), AwsUnavailable),
        (client_error("Anything", status=429), AwsUnavailable),
        (EndpointConnectionError(endpoint_url="x"), AwsUnavailable),
        (client_error("AccessDeniedException"), TargetMisconfigured),
        (ParamValidationError(report="x\ny"), TargetMisconfigured),
        (KeyError("x"), KeyError),
    ],
)
def test_errors_are_told_apart_by_whether_waiting_helps(error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as raised, clients.aws_errors("It must work", "Mend it"):
        raise error
    assert "\n" not in str(raised.value)


def test_a_secret_is_read_once_and_a_missing_one_is_named(aws: Any) -> None:
    manager = aws.client("secretsmanager")
    manager.create_secret(Name="key", SecretString="one")
    assert secrets.secret(manager, "key") == "one"
    manager.put_secret_value(SecretId="key", SecretString="two")
    assert secrets.secret(manager, "key") == "one"
    secrets._kept.clear()
    assert secrets.secret(manager, "key") == "two"
    with pytest.raises(TargetMisconfigured, match="other") as raised:
        secrets.secret(manager, "other")
    assert "two" not in str(raised.value)
