"""Conditional writes happen at once, as in AWS: moto looks at the condition, and writes when others may have, too.

Whoever locks by them relies on that: this project's table, Terraform's S3 backend in both its ways.
docs.aws.amazon.com/amazondynamodb/latest/developerguide/WorkingWithItems.html (Conditional writes),
docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from deploy_runner.local_aws.machine import Machine

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def install(machine: Machine) -> None:
    """Let one request at a time through to what can write under a condition. To be the first gate, next to moto."""
    machine.gates.append(_one_at_a_time)


def _one_at_a_time(aws: Application) -> Application:
    dynamodb, s3 = threading.Lock(), threading.Lock()

    def gate(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith("DynamoDB_"):
            with dynamodb:
                return aws(environ, start_response)
        conditional = "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ
        if conditional and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            with s3:
                return aws(environ, start_response)
        return aws(environ, start_response)

    return gate
