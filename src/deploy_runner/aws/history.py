"""The history of deployments in the deployments table: one record each, by app and environment. It never expires."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import aws_errors

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

RUNNING = "RUNNING"
KEPT = ("id", "app", "environment", "action", "ref", "sha", "repository", "requested_by", "execution_arn")


def record(dynamodb: "DynamoDBClient", table: str, deployment: Mapping[str, Any], **more: str | int | None) -> None:
    """Write a deployment's record, whole: `started_at`, and what is known of its end."""
    values = {key: deployment.get(key) for key in KEPT} | {"image_tag": deployment["image"]["tag"], **more}
    item: dict[str, Any] = {
        "pk": {"S": f"APP#{deployment['app']}#{deployment['environment']}"},
        "sk": {"S": f"DEPLOYMENT#{more.get('started_at') or ''}#{deployment['id']}"},
    }
    for key, value in values.items():
        if value is not None:
            item[key] = {"N": str(value)} if isinstance(value, int) else {"S": str(value)}
    with aws_errors(
        f"The table {table} must take a record", "Deploy the stack again: its functions need their policies"
    ):
        dynamodb.put_item(TableName=table, Item=item)
