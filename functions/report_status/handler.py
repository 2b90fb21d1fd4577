"""Says how a deployment stands: to GitHub, EventBridge and SNS. What cannot be told changes no outcome."""

from typing import Any

from deploy_runner.domain.outcome import Outcome
from functions.observability import count, follow, logger, metrics
from functions.report_status import tell
from functions.table import deployments


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> None:
    """Take {step, deployment, execution} with step `queued`; `rollback` with `failure`; `outcome` with `outcome`."""
    deployment, execution = event["deployment"], event["execution"]
    if not deployment and (accepted := deployments().find(execution["name"])):
        deployment = accepted.deployment  # written down, and then its function was killed
    if deployment:
        follow(deployment["id"], app=deployment["app"], environment=deployment["environment"])
    if event["step"] == "queued":
        count("DeploymentsQueued")
        tell.queued(deployment, execution)
    elif event["step"] == "rollback":
        tell.going_back(deployment, event["failure"])
    elif event["outcome"].get("tell", True):
        outcome = Outcome(**{key: value for key, value in event["outcome"].items() if key != "tell"})
        for channel, error in tell.everyone(deployment, outcome, execution).items():
            logger.error("could not tell", extra={"channel": channel, "error": error})
            count("ReportsFailed")
