"""Bucket policies as they are here: moto takes a statement whose condition does not hold for a denial of everything.

The bucket of `sam deploy --resolve-s3` denies what comes without TLS (aws:SecureTransport); loopback needs none.
"""

import json
from typing import Any

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3.models import FakeBucket

from deploy_runner.local_aws.machine import Machine


def install(machine: Machine) -> None:
    """Leave statements with conditions out, which are about callers that are not on this machine."""

    def get_permission(bucket: Any, action: str, resource: str) -> Any:
        if bucket.policy is None:
            return PermissionResult.NEUTRAL
        policy = json.loads(bucket.policy)
        statements = policy["Statement"]
        statements = [statements] if isinstance(statements, dict) else statements
        kept = [statement for statement in statements if not statement.get("Condition")]
        return IAMPolicy(json.dumps(policy | {"Statement": kept})).is_action_permitted(action, resource)

    FakeBucket.get_permission = get_permission
