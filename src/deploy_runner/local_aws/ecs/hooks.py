"""Lifecycle hooks of a rollout: a Lambda function that is asked, or a pause until someone says how to go on.

docs.aws.amazon.com/AmazonECS/latest/developerguide/lambda-lifecycle-hooks.html and .../pause-lifecycle-hooks.html
"""

import json
import logging
import secrets
import threading
import time
import uuid
from datetime import timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.ecs.exceptions import InvalidParameterException

from deploy_runner.local_aws.ecs.shapes import now
from deploy_runner.local_aws.iam.authority import CannotAssume, assume_as_service
from deploy_runner.local_aws.machine import Machine

NOT_WAITING = "Provided hookId is either completed, unavailable, or not associated with the given Resource ARN"
_NO_PAUSE = ("TEST_TRAFFIC_SHIFT", "PRODUCTION_TRAFFIC_SHIFT")  # they come again in a rollback
_MOST = 10  # of each type
_TIMEOUT_MINUTES = 1440
_AGAIN_SECONDS = 30  # after IN_PROGRESS, unless callBackDelay says something else
_EVENTS = {
    "AWAITING_ACTION": "HOOK_AWAITING_ACTION", "IN_PROGRESS": "HOOK_IN_PROGRESS", "SUCCEEDED": "HOOK_SUCCEEDED",
    "FAILED": "HOOK_FAILED", "TIMED_OUT": "HOOK_TIMED_OUT",
}  # fmt: skip
_log = logging.getLogger(__name__)


def check(hooks: list[dict[str, Any]]) -> None:
    """Refuse hooks as ECS does: .../developerguide/troubleshooting-blue-green.html.

    Raises InvalidParameterException.
    """
    for kind, what in (("AWS_LAMBDA", "Lambda"), ("PAUSE", "pause")):
        if sum(_type(hook) == kind for hook in hooks) > _MOST:
            raise InvalidParameterException(f"A service can have at most {_MOST} {what} hooks.")
    for hook in hooks:
        if _type(hook) not in ("AWS_LAMBDA", "PAUSE"):
            raise InvalidParameterException("Invalid targetType. Valid values are: AWS_LAMBDA, PAUSE")
        if _type(hook) == "PAUSE" and any(stage in _NO_PAUSE for stage in hook.get("lifecycleStages") or []):
            raise InvalidParameterException("Invalid lifecycle stage provided for Pause Hook")
        if _type(hook) == "AWS_LAMBDA" and not (hook.get("hookTargetArn") and hook.get("roleArn")):
            raise InvalidParameterException("hookTargetArn and roleArn are required for a hook of type AWS_LAMBDA.")


def _type(hook: dict[str, Any]) -> str:
    return str(hook.get("targetType") or "AWS_LAMBDA")


class Hook:
    """One run of a hook at a stage. `step` is called until its status is final."""

    def __init__(self, service: Any, settings: dict[str, Any], payload: dict[str, Any]) -> None:
        """Take the hook's settings and what its function is told."""
        self._service, self._settings, self._payload = service, settings, payload
        self._minute: float = service.minute
        self._pauses = _type(settings) == "PAUSE"
        # "hookId must follow the format: ecs-{hookType}-{id}": the error of ContinueServiceDeployment.
        self.id = f"ecs-{'pause' if self._pauses else 'lambda'}-{secrets.token_urlsafe(32)}"
        timeout = settings.get("timeoutConfiguration") or {}
        seconds = (timeout.get("timeoutInMinutes") or _TIMEOUT_MINUTES) * self._minute
        self._at_timeout: str = timeout.get("action") or "ROLLBACK"
        self._expires, self._deadline = now() + timedelta(seconds=seconds), time.monotonic() + seconds
        self.status = ""
        self.why = ""  # it failed
        self._details: dict[str, Any] = dict(settings.get("hookDetails") or {})
        self._call: threading.Thread | None = None
        self._answer: dict[str, Any] | str | None = None  # a text says why there is none
        self._again_at = 0.0
        self._becomes("AWAITING_ACTION" if self._pauses else "IN_PROGRESS")

    @property
    def over(self) -> bool:
        """Whether the stage need not wait for it."""
        return self.status in ("SUCCEEDED", "FAILED", "TIMED_OUT")

    @property
    def failed(self) -> bool:
        """Whether the rollout has to go back."""
        return self.status == "FAILED" or (self.status == "TIMED_OUT" and self._at_timeout == "ROLLBACK")

    def describe(self) -> dict[str, Any]:
        """Return it as DescribeServiceDeployments has it."""
        described = {
            "hookId": self.id, "targetType": _type(self._settings), "status": self.status, "expiresAt": self._expires,
            "timeoutAction": self._at_timeout,
        }  # fmt: skip
        return described if self._pauses else described | {"targetArn": self._settings["hookTargetArn"]}

    def resume(self, action: str) -> None:
        """Take ContinueServiceDeployment. Raises InvalidParameterException for one that waits for nothing."""
        if self.status != "AWAITING_ACTION":
            raise InvalidParameterException(NOT_WAITING)
        self._fails("pause hook was rolled back.") if action == "ROLLBACK" else self._becomes("SUCCEEDED")

    def step(self) -> None:
        """Go on, without ever waiting."""
        if self.over:
            return
        if time.monotonic() >= self._deadline:
            self.why = "pause hook timed out." if self._pauses else "lifecycle hook(s) timed out."
            self._becomes("TIMED_OUT")
        elif not self._pauses:
            self._step_lambda()

    def _step_lambda(self) -> None:
        if self._call is None:
            if time.monotonic() >= self._again_at:
                self._call = threading.Thread(target=self._ask, name=f"hook {self.id[:20]}", daemon=True)
                self._call.start()
            return
        if self._answer is None:
            return
        answer, self._answer, self._call = self._answer, None, None
        target = self._settings["hookTargetArn"]
        status = answer.get("hookStatus") if isinstance(answer, dict) else None
        if isinstance(answer, str):
            self._fails(f"lifecycle hook(s) failed. {answer}")
        elif status == "SUCCEEDED":
            self._becomes("SUCCEEDED")
        elif status == "FAILED":
            self._fails(f"lifecycle hook(s) failed. Lifecycle hook target {target} returned FAILED status.")
        elif status == "IN_PROGRESS":
            self._details |= answer.get("hookDetails") or {}
            delay = float(answer.get("callBackDelay") or _AGAIN_SECONDS)
            self._again_at = time.monotonic() + delay / 60 * self._minute
        else:
            why = f"ECS was unable to parse the response from {target} due to HookStatus must not be null"
            self._fails(f"lifecycle hook(s) failed. {why}")

    def _ask(self) -> None:
        """Invoke the function with the hook's role; in a thread of its own."""
        machine: Machine = self._service.machine
        target, role = self._settings["hookTargetArn"], self._settings["roleArn"]
        payload = {"executionId": str(uuid.uuid4())} | self._payload
        payload |= {"hookDetails": self._details} if self._details else {}
        credentials: dict[str, Any] = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        try:
            if machine.enforces_iam:
                session = assume_as_service(
                    machine, role, "ecs.amazonaws.com", self._service.arn, "ECS-Lambda-Execution", 900
                )
                credentials = {
                    "aws_access_key_id": session.access_key_id, "aws_secret_access_key": session.secret_access_key,
                    "aws_session_token": session.session_token,
                }  # fmt: skip
            # A function may take 15 minutes: "Amazon ECS blue/green service deployments workflow".
            client: Any = boto3.Session(region_name=machine.region, **credentials).client(
                "lambda", endpoint_url=machine.endpoint, config=Config(read_timeout=910, retries={"max_attempts": 0})
            )
            said = client.invoke(FunctionName=target, Payload=json.dumps(payload).encode())
            answer = json.loads(said["Payload"].read() or b"null")
            self._answer = answer if isinstance(answer, dict) and not said.get("FunctionError") else {}
        except CannotAssume:
            self._answer = f"ECS was unable to assume role {role}"
        except ClientError as error:
            self._answer = f"ECS was unable to invoke hook target {target} due to {error.response['Error']['Message']}"
        except (BotoCoreError, ValueError) as error:
            _log.info("a hook's function gave nothing that can be read: %s", error)
            self._answer = {}

    def _fails(self, why: str) -> None:
        self.why = why
        self._becomes("FAILED")

    def _becomes(self, status: str) -> None:
        self.status = status
        self._service.tell_hook(
            _EVENTS[status], self.id, _type(self._settings), self._payload["lifecycleStage"], self._expires
        )
