"""Says how a deployment stands: to GitHub, EventBridge, SNS and the history. What cannot be told changes no outcome."""

from dataclasses import asdict
from typing import Any

from functions.observability import count, follow, logger, metrics
from functions.report_status import tell


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return {github_deployment_id} for the step `queued`; {verdict, error, cause} for the step `outcome`."""
    deployment, execution = event["deployment"], event["execution"]
    if deployment:
        follow(deployment["id"], app=deployment["app"], environment=deployment["environment"])
    if event["step"] == "queued":
        count("DeploymentsQueued")
        return {"github_deployment_id": tell.queued(deployment, execution)}
    outcome = tell.outcome(deployment, event["failure"], event.get("note"))
    count(f"Deployments{outcome.verdict.title().replace('_', '')}")
    logger.info("ended", extra={"verdict": outcome.verdict, "error": outcome.error, "cause": outcome.cause})
    for channel, error in tell.everyone(deployment, event.get("github_deployment_id"), outcome, execution).items():
        logger.error("could not tell", extra={"channel": channel, "error": error})
        count("ReportsFailed")
    return asdict(outcome)
