"""Clients of AWS, made when first used: an import costs nothing. The endpoint comes from the environment alone."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from deploy_runner.domain.errors import AwsUnavailable, DeployRunnerError, TargetMisconfigured, one_line

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_scheduler import EventBridgeSchedulerClient

SESSION_SECONDS = 900  # the least that AssumeRole gives
RENEW_BEFORE = 180
# docs.aws.amazon.com/AmazonECS/latest/APIReference/CommonErrors.html, and what botocore's standard mode retries
TRANSIENT = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestExpired",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServerException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


@dataclass(frozen=True, slots=True)
class TargetClients:
    """Clients that act as a target's role, in its account and region. Only some apps have schedules."""

    ecs: "ECSClient"
    logs: "CloudWatchLogsClient"
    make_scheduler: "Callable[[], EventBridgeSchedulerClient] | None" = None

    @property
    def scheduler(self) -> "EventBridgeSchedulerClient":
        """Return the client of EventBridge Scheduler, made when it is first needed."""
        assert self.make_scheduler
        return self.make_scheduler()


@cache
def client(service: str) -> Any:
    """Return a client of our own account and role, for the life of the process."""
    import boto3

    return boto3.client(service, config=_config())  # type: ignore[call-overload]


@cache
def _config() -> Any:
    from botocore.config import Config

    return Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=3,
        read_timeout=15,
        user_agent_extra="deploy-runner",
    )


_targets: dict[tuple[str, str, str], tuple[float, TargetClients]] = {}


def in_target(target: Mapping[str, Any], deployment_id: str) -> TargetClients:
    """Return clients that act in a deployment's target, from its `role_arn` and `region`.

    The session is named after the deployment, so CloudTrail tells which one did what. Sessions are kept until shortly
    before they end. Raises TargetMisconfigured where the role cannot be assumed.
    """
    # 2 to 64 characters; the end of an execution's name is what tells it from others.
    key = (str(target["role_arn"]), str(target["region"]), f"deploy-runner-{deployment_id[-50:]}")
    now = time.time()
    for stale in [known for known, (until, _) in _targets.items() if until <= now]:
        del _targets[stale]
    if key not in _targets:
        _targets[key] = (now + SESSION_SECONDS - RENEW_BEFORE, _assume(*key))
    return _targets[key][1]


def _assume(role_arn: str, region: str, session_name: str) -> TargetClients:
    import boto3

    remedy = "Deploy the target's role in its account, with this stack's functions in its trust policy"
    with aws_errors(f"The functions must be able to assume {role_arn}", remedy):
        assumed = client("sts").assume_role(
            RoleArn=role_arn, RoleSessionName=session_name, DurationSeconds=SESSION_SECONDS
        )
    credentials = assumed["Credentials"]

    def make(service: str) -> Any:
        return boto3.client(  # type: ignore[call-overload]
            service,
            region_name=region,
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials["SessionToken"],
            config=_config(),
        )

    return TargetClients(make("ecs"), make("logs"), cache(lambda: make("scheduler")))


@contextmanager
def aws_errors(rule: str, remedy: str) -> Iterator[None]:
    """Turn botocore's errors into ours: what is transient into AwsUnavailable, the rest into TargetMisconfigured."""
    try:
        yield
    except DeployRunnerError:
        raise
    except Exception as error:
        translated = translate(error, rule, remedy)
        if translated is None:
            raise
        raise translated from error


def translate(error: Exception, rule: str, remedy: str) -> DeployRunnerError | None:
    """Return our error for one of botocore's, None for any other."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    if isinstance(error, ClientError):
        code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # RegisterTaskDefinition refuses a second registration at the same moment with a plain ClientException.
        if code in TRANSIENT or status == 429 or status >= 500 or "too many concurrent" in message.lower():
            return AwsUnavailable(f"AWS must answer {error.operation_name}, and says {one_line(code, 80)}")
        return TargetMisconfigured(f"{rule} ({one_line(f'{code}: {message}', 400)})", remedy=remedy)
    if isinstance(error, ParamValidationError):
        return TargetMisconfigured(f"{rule} ({one_line(str(error), 400)})", remedy=remedy)
    if isinstance(error, BotoCoreError):  # no connection, no answer in time
        return AwsUnavailable(f"AWS must answer ({one_line(str(error), 200)})")
    return None


def code_of(error: Exception) -> str:
    """Return the code of a ClientError, an empty text for any other error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, Mapping) else ""
