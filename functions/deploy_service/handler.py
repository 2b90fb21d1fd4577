"""Registers a revision for each service of an app, then updates the services to them, or finds what app-deployer did.

Each step may be tried again.
"""

from dataclasses import asdict
from typing import Any

from deploy_runner.aws.clients import in_target
from deploy_runner.aws.ecs import find_rollout, register_revision, update_service
from deploy_runner.domain.rollout import Rollout
from functions.observability import count, follow, logger, metrics


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return {revisions} for the step `register`, {rollouts} for `update` and `find`; all list the same keys."""
    deployment = event["deployment"]
    follow(deployment["id"], app=deployment["app"], environment=deployment["environment"])
    ecs = in_target(deployment["target"], deployment["id"]).ecs
    services = deployment["target"]["services"]
    if event["step"] == "find":
        started = bool(event["task_failed"])  # a task that ended well has updated its services
        return {"rollouts": [asdict(find_rollout(ecs, deployment, service, started=started)) for service in services]}
    if event["step"] == "register":
        revisions = [register_revision(ecs, deployment, service, event["digest"]) for service in services]
        count("DeploymentsRegistered")
        logger.info("registered", extra={"revisions": [revision.task_definition for revision in revisions]})
        return {"revisions": [asdict(revision) for revision in revisions]}
    rollouts = [Rollout(**revision) for revision in event["revisions"]]
    for rollout in rollouts:
        update_service(ecs, rollout)
        count("ServicesUpdated")
    logger.info("updated", extra={"services": [rollout.service for rollout in rollouts]})
    return {"rollouts": [asdict(rollout) for rollout in rollouts]}
