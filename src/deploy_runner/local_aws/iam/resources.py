"""The policies of resources: queues, topics, buckets, repositories, secrets, event buses, functions."""

import json
from collections.abc import Callable
from typing import Any

from moto.awslambda.utils import get_backend
from moto.core.exceptions import JsonRESTError
from moto.ecr.models import ecr_backends
from moto.events.models import events_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends

from deploy_runner.local_aws.iam.evaluate import Document


def policy_of(action: str, arn: str) -> Document:
    """Return the policy of the resource that an action is about; without one, a document without statements."""
    _, _, service, region, account, resource = [*arn.split(":", 5), "", "", "", "", "", ""][:6]
    read = _READERS.get(service if action.startswith(f"{service}:") else "")
    found = read(account, region, resource, arn) if read else None
    if isinstance(found, str | bytes):
        found = json.loads(found)
    return found or {}


def owner_of(arn: str) -> str:
    """Return the account that has a resource, nothing where its ARN does not name one. A bucket's names none."""
    _, _, service, _, account, resource = [*arn.split(":", 5), "", "", "", "", "", ""][:6]
    if service == "s3":
        owners = (owner for owner, s3 in list(s3_backends.items()) if resource.partition("/")[0] in s3["aws"].buckets)
        return next(owners, "")
    return account if account.isdigit() else ""


def _queue(account: str, region: str, name: str, _: str) -> Any:
    queue = sqs_backends[account][region].queues.get(name)
    return queue and queue.policy


def _topic(account: str, region: str, _: str, arn: str) -> Any:
    topic = sns_backends[account][region].topics.get(arn)
    return topic and topic._policy_json


def _bucket(_account: str, _region: str, name: str, _: str) -> Any:
    # S3's ARNs have no account, and a bucket's name is its own in all of AWS.
    for partitions in list(s3_backends.values()):
        bucket = partitions["aws"].buckets.get(name.partition("/")[0])
        if bucket:
            return bucket.policy
    return None


def _repository(account: str, region: str, name: str, _: str) -> Any:
    repository = ecr_backends[account][region].repositories.get(name.removeprefix("repository/"))
    return repository and repository.policy


def _secret(account: str, region: str, _: str, arn: str) -> Any:
    secrets = list(secretsmanager_backends[account][region].secrets.values())
    return next((secret.policy for secret in secrets if secret.arn == arn), None)


def _bus(account: str, region: str, name: str, _: str) -> Any:
    bus = events_backends[account][region].event_buses.get(name.removeprefix("event-bus/"))
    return bus and bus.policy


def _function(account: str, region: str, name: str, _: str) -> Any:
    name, _, qualifier = name.removeprefix("function:").partition(":")
    try:
        function = get_backend(account, region).get_function(name, qualifier or None)
    except JsonRESTError:
        return None
    return {"Version": "2012-10-17", "Statement": list(function.policy.statements)}


_READERS: dict[str, Callable[[str, str, str, str], Any]] = {
    "sqs": _queue, "sns": _topic, "s3": _bucket, "ecr": _repository, "secretsmanager": _secret, "events": _bus,
    "lambda": _function,
}  # fmt: skip
