"""Answering the task tokens of Step Functions. Answers may be sent twice, and late: only the first is taken."""

import json
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import aws_errors, code_of
from deploy_runner.aws.deployments import Answer
from deploy_runner.domain.errors import DeployRunnerError

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

# What Step Functions says of a token that was answered, timed out, or whose execution has ended:
# docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
ANSWERED_ALREADY = ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")


def send(states: "SFNClient", answer: Answer) -> bool:
    """Answer a token. Return False where nobody waits for it, or it was answered before."""
    if answer.error:
        return send_failure(states, answer.token, answer.error, answer.cause)
    return send_success(states, answer.token, {})


def send_success(states: "SFNClient", token: str, output: dict[str, Any]) -> bool:
    """Answer a token with a state's output, as `send` does."""
    return _taken(lambda: states.send_task_success(taskToken=token, output=json.dumps(output)))


def send_failure(states: "SFNClient", token: str, error: str, cause: str) -> bool:
    """Answer a token with an error and its one-line cause, as `send` does."""
    return _taken(lambda: states.send_task_failure(taskToken=token, error=error, cause=cause))


def _taken(call: Any) -> bool:
    try:
        with aws_errors("The function must be able to answer task tokens", "Deploy the stack again"):
            call()
    except DeployRunnerError as error:
        if not isinstance(error.__cause__, Exception) or code_of(error.__cause__) not in ANSWERED_ALREADY:
            raise
        return False
    return True
