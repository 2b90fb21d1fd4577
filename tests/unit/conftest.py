"""AWS in memory for the units, and the environment that the stack gives its functions."""

from collections.abc import Iterator
from typing import Any

import pytest

ENVIRONMENT = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "RUNNER_CLUSTER": "deploy-runner",
    "CLEAN_UP_FUNCTION": "deploy-runner-clean-up:live",
    "REPORT_STATUS_FUNCTION": "deploy-runner-report-status:live",
    "WATCH_ROLLOUT_FUNCTION": "deploy-runner-watch-rollout:live",
    "DEPLOYMENTS_TABLE": "deploy-runner-deployments",
    "OUTCOMES_TOPIC_ARN": "arn:aws:sns:us-east-1:123456789012:deploy-runner-outcomes",
    "GITHUB_API_URL": "https://api.github.example",
    "GITHUB_APP_ID": "1001",
    "GITHUB_APP_PRIVATE_KEY_SECRET": "/lightwave/cicd/github-app-private-key",
    "APP_DEPLOYER_TASK_DEFINITION_ARM64": "arn:aws:ecs:us-east-1:123456789012:task-definition/app-deployer-arm64:1",
    "APP_DEPLOYER_TASK_DEFINITION_X86_64": "arn:aws:ecs:us-east-1:123456789012:task-definition/app-deployer-x86-64:1",
    "DEPLOYER_ROLE_ARN_PREFIX": "arn:aws:iam::123456789012:role/deploy-runner/deployer/deployer-",
    "BUILDER_TASK_DEFINITION_ARM64": "arn:aws:ecs:us-east-1:123456789012:task-definition/docker-builder-arm64:1",
    "BUILDER_TASK_DEFINITION_X86_64": "arn:aws:ecs:us-east-1:123456789012:task-definition/docker-builder-x86-64:1",
    "PUSH_ROLE_ARN_PREFIX": "arn:aws:iam::123456789012:role/deploy-runner/push/",
    "REGISTRY_PREFIX": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "POWERTOOLS_METRICS_NAMESPACE": "DeployRunner",
    "POWERTOOLS_SERVICE_NAME": "test",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions' environment variables, and nothing of this machine's AWS."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def aws(environment: None) -> Iterator[Any]:
    """moto in this process with the table and the topic; gives boto3."""
    import boto3
    from moto import mock_aws

    from deploy_runner.aws import clients, secrets

    with mock_aws():
        for kept in (clients.client.cache_clear, clients._targets.clear, secrets._kept.clear):
            kept()
        boto3.client("dynamodb").create_table(
            TableName=ENVIRONMENT["DEPLOYMENTS_TABLE"],
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        )
        boto3.client("sns").create_topic(Name="deploy-runner-outcomes")
        yield boto3
    for kept in (clients.client.cache_clear, clients._targets.clear, secrets._kept.clear):
        kept()


class Context:
    """What Lambda tells a function of an invocation, as far as Powertools asks."""

    function_name = "test"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:test"
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 50_000


@pytest.fixture
def context() -> Context:
    return Context()
