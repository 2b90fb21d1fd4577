"""A container's environment: what the definition and the overrides say, the task role's credentials, and secrets.

docs.aws.amazon.com/AmazonECS/latest/developerguide/specifying-sensitive-data.html
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from deploy_runner.local_aws.iam.authority import NEVER_RENEWED_SECONDS, assume_as_service, trusts_service
from deploy_runner.local_aws.machine import Machine

_CLIENT_SECONDS = 30 * 60
ECS_TASKS = "ecs-tasks.amazonaws.com"


class SecretUnavailable(Exception):
    """A secret could not be had; the text is what ECS would put after `ResourceInitializationError: `."""


class FileUnavailable(Exception):
    """An environment file could not be had; the text is what ECS would put after `ResourceInitializationError: `."""


class Roles:
    """Credentials of the roles of tasks, from STS, for one session each."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._clients: dict[tuple[str, str, str], tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def why_not(self, role_arn: str, task_arn: str) -> str:
        """Return what ECS says where a role does not let its tasks in, nothing where it does."""
        if not self._machine.enforces_iam or trusts_service(role_arn, ECS_TASKS, task_arn):
            return ""
        return (
            f"ECS was unable to assume the role '{role_arn}' that was provided for this task. Please verify that the "
            "role being passed has the proper trust relationship and permissions and that your IAM user has "
            "permissions to pass this role."
        )

    def credentials(self, role_arn: str, session: str, task_arn: str) -> dict[str, str]:
        """Return environment variables with which an SDK acts as the role. Raises CannotAssume."""
        assumed = assume_as_service(self._machine, role_arn, ECS_TASKS, task_arn, session, NEVER_RENEWED_SECONDS)
        return {
            "AWS_ACCESS_KEY_ID": assumed.access_key_id,
            "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
            "AWS_SESSION_TOKEN": assumed.session_token,
        }

    def client(self, service: str, role_arn: str, region: str, task_arn: str) -> Any:
        """Return a client that acts as the role, so that a permission that it lacks is seen here too."""
        key = (service, role_arn, region)
        with self._lock:
            made, client = self._clients.get(key, (0.0, None))
            if client is None or time.monotonic() - made > _CLIENT_SECONDS:
                assumed = self.credentials(role_arn, "ecs-execution", task_arn)
                keys: dict[str, Any] = {name.lower(): value for name, value in assumed.items()}
                session: Any = boto3.session.Session(**{**keys, "region_name": region})
                client = session.client(
                    service, endpoint_url=self._machine.endpoint, config=Config(retries={"max_attempts": 1})
                )
                self._clients[key] = (time.monotonic(), client)
        return client


def secret_value(value_from: str, client: Callable[[str, str], Any], region: str) -> str:
    """Return the secret that `valueFrom` names; `client(service, region)` gives a client. Raises SecretUnavailable.

    An ARN of Secrets Manager may end in :json-key:version-stage:version-id; anything else is a parameter of SSM.
    """
    parts = value_from.split(":")
    service = parts[2] if value_from.startswith("arn:") and len(parts) > 5 else "ssm"
    where = parts[3] if value_from.startswith("arn:") and len(parts) > 5 else region
    if service == "secretsmanager":
        return _from_secrets_manager(parts, client(service, where))
    try:
        value: str = client("ssm", where).get_parameter(Name=value_from, WithDecryption=True)["Parameter"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            raise SecretUnavailable(
                "unable to retrieve secrets from ssm: service call has been retried 1 time(s): "
                f"Invalid ssm parameters: {parts[-1].removeprefix('parameter/')}"
            ) from error
        raise SecretUnavailable(f"unable to retrieve secrets from ssm: {_said(error)}") from error
    return value


def _from_secrets_manager(parts: list[str], client: Any) -> str:
    arn = ":".join(parts[:7])
    key, stage, version = ([*parts[7:], "", "", ""])[:3]
    more = {"VersionStage": stage} if stage else {}
    more |= {"VersionId": version} if version else {}
    retrieval = "unable to retrieve secret from asm: service call has been retried 1 time(s): "
    try:
        try:
            answer = client.get_secret_value(SecretId=arn, **more)
        except ClientError as error:
            # An ARN without its six last characters names the secret too; moto knows only the name then.
            if error.response["Error"]["Code"] != "ResourceNotFoundException" or len(parts) < 7:
                raise
            answer = client.get_secret_value(SecretId=parts[6], **more)
    except ClientError as error:
        message = f"{retrieval}failed to fetch secret {arn} from secrets manager: {_said(error)}"
        raise SecretUnavailable(message) from error
    value: str = answer["SecretString"] if "SecretString" in answer else answer["SecretBinary"].decode()
    if not key:
        return value
    try:
        found = json.loads(value)[key]
    except (ValueError, KeyError, TypeError) as error:
        message = f"{retrieval}retrieved secret from Secrets Manager did not contain json key {key}"
        raise SecretUnavailable(message) from error
    return found if isinstance(found, str) else json.dumps(found)


def variables_of_files(files: list[dict[str, Any]], client: Callable[[], Any]) -> dict[str, str]:
    """Return the variables of environment files in S3; `client` gives one that acts as the execution role.

    docs.aws.amazon.com/AmazonECS/latest/developerguide/use-environment-file.html: of two values for a variable the
    first one counts. Fargate leaves empty ones out (github.com/aws/containers-roadmap/issues/2466). Raises
    FileUnavailable.
    """
    found: dict[str, str] = {}
    for file in files:
        bucket, _, key = file["value"].rpartition(":::")[2].partition("/")
        try:
            s3 = client()
            s3.get_bucket_location(Bucket=bucket)
            s3.head_object(Bucket=bucket, Key=key)
            text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            name = {403: "Forbidden", 404: "NotFound"}.get(status, str(error.response["Error"].get("Code")))
            raise FileUnavailable(
                "failed to download env files: service call has been retried 1 time(s): operation error S3: "
                f"{error.operation_name}, https response error StatusCode: {status}, api error {name}: "
                f"{'Not Found' if status == 404 else name}"
            ) from error
        except UnicodeDecodeError as error:
            raise FileUnavailable(f"failed to download env files: {file['value']} is not UTF-8") from error
        for name, value in _pairs(text):
            found.setdefault(name, value)
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    """Read a file as `docker run --env-file` does: quotation marks and spaces belong to the value."""
    lines = (line.lstrip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return [(name, value) for name, _, value in pairs if name and value]


def _said(error: ClientError) -> str:
    return f"{error.response['Error'].get('Code')}: {error.response['Error'].get('Message')}"
