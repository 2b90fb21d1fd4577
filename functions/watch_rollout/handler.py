"""Stores the token of an execution that waits, and answers it once ECS, read at ECS's events, has a verdict."""

import os
from typing import Any

from deploy_runner.aws.clients import client, in_target
from deploy_runner.aws.waits import Wait, Waits, settle
from deploy_runner.domain.events import hint
from functions.observability import count, follow, logger, metrics


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> None:
    """Take a wait ({task_token, execution, deployment, rollouts}), an event of ECS, or the sweeper's {services}."""
    count("RolloutsRead")
    waits = Waits(client("dynamodb"), os.environ["DEPLOYMENTS_TABLE"])
    if "task_token" in event:
        wait = Wait.of_state(event)
        waits.store(wait)
        return _settle(wait, waits, None)
    hinted = hint(event)
    services = [hinted.service_arn] if hinted else event.get("services", [])
    errors = []
    waiting = {wait.task_token: wait for service in services for wait in waits.of_service(service)}
    for wait in waiting.values():  # each once, however many of its services are named
        try:
            _settle(wait, waits, hinted.service_arn if hinted and hinted.ended else None)
        except Exception as error:  # one target that cannot be read does not hold up the others
            logger.exception("could not read the rollout")
            errors.append(error)
    if errors:
        raise errors[0]  # so that the event comes again
    return None


def _settle(wait: Wait, waits: Waits, ended: str | None) -> None:
    follow(wait.deployment_id)
    found = settle(wait, in_target(wait.target, wait.deployment_id), client("stepfunctions"), waits, ended)
    logger.info("read the rollout", extra={"verdict": type(found).__name__})
