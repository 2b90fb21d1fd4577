"""Claims locks for a deployment: its token is answered once it owns them all, or is superseded."""

from typing import Any

from functions.observability import count, follow, logger, metrics
from functions.table import deployments, send_answers


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> None:
    """Take {task_token, deployment, wanted, given_up}: names of locks. Raises QueueFull, LockLost."""
    deployment = event["deployment"]
    follow(deployment["id"], app=deployment["app"], environment=deployment["environment"])
    answers = deployments().claim(deployment, event["task_token"], event["wanted"], event["given_up"])
    waits = all(answer.deployment_id != deployment["id"] for answer in answers)
    count("LocksWaitedFor" if waits else "LocksClaimed")
    logger.info("waits" if waits else "claimed", extra={"locks": event["wanted"]})
    send_answers(answers)
