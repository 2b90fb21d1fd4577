"""The GitHub App's private key, kept for a few minutes so that a new one is noticed."""

import time
from typing import TYPE_CHECKING

from deploy_runner.aws.clients import aws_errors

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

KEPT_SECONDS = 300
_kept: dict[str, tuple[float, str]] = {}


def secret(secretsmanager: "SecretsManagerClient", name: str) -> str:
    """Return a secret's text. Raises TargetMisconfigured where there is none, or none for us."""
    known = _kept.get(name)
    if known and known[0] > time.monotonic():
        return known[1]
    remedy = "Create it in Secrets Manager, and let the functions read it"
    with aws_errors(f"The secret {name} must be readable", remedy):
        value = secretsmanager.get_secret_value(SecretId=name)["SecretString"]
    _kept[name] = (time.monotonic() + KEPT_SECONDS, value)
    return value
