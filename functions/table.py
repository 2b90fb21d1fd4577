"""The deployments table, and the answers that a change of it leaves to be sent."""

import json
import os
from collections.abc import Iterable

from deploy_runner.aws.clients import client
from deploy_runner.aws.deployments import Answer, Deployments
from deploy_runner.aws.tokens import send
from functions.observability import count, logger


def deployments() -> Deployments:
    """Return the table of this stack."""
    return Deployments(client("dynamodb"), os.environ["DEPLOYMENTS_TABLE"])


def send_answers(answers: Iterable[Answer]) -> None:
    """Send answers to waiting deployments and forget them. One that waits no longer is cleaned up: it may be over."""
    for answer in answers:
        logger.info("answer", extra={"to": answer.deployment_id, "with": answer.error or "go on"})
        if not send(client("stepfunctions"), answer):
            count("DeadWaiters")
            start("CLEAN_UP_FUNCTION", {"execution_arn": answer.execution_arn})
        deployments().answered(answer)


def start(variable: str, event: object) -> None:
    """Have a function of this stack, named by an environment variable, handle an event; Lambda keeps trying."""
    client("lambda").invoke(
        FunctionName=os.environ[variable], InvocationType="Event", Payload=json.dumps(event).encode()
    )
