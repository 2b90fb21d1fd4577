"""Accepts a request by the rules of apps.yaml and GitHub's word, or refuses it by the rule that it breaks."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from deploy_runner.aws.clients import TargetClients, in_target
from deploy_runner.aws.ecs import check_services
from deploy_runner.aws.running import EcsRunning
from deploy_runner.aws.schedules import check_schedules
from deploy_runner.domain.allow import allowed_place, decide
from deploy_runner.domain.apps import Allowlist, Target, load_file
from deploy_runner.domain.deployment import Execution, Installation, build_deployment
from deploy_runner.domain.request import check_execution_name, parse_request
from functions.observability import count, follow, logger, metrics
from functions.table import deployments

APPS = Path(__file__).parents[2] / "apps.yaml"  # beside functions/, in the checkout and in the artifact


@cache
def allowlist() -> Allowlist:
    """Return the packaged allowlist: an older one goes with an older version of the function."""
    return load_file(APPS)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return the deployment for {request, execution}; raises a RequestRejected, or what should be tried again."""
    started = event["execution"]
    execution = Execution(started["arn"], check_execution_name(started["name"]), started["started_at"])
    follow(execution.name)
    count("Requests")
    request = parse_request(event["request"])
    app, _ = allowed_place(allowlist(), request)  # before GitHub is asked at all
    table = deployments()
    if written := table.find(execution.name):  # by a first try: a branch may have moved since
        return written.deployment
    from deploy_runner.github.facts import RepositoryFacts
    from functions.github_app import github

    here = Installation.from_environment(os.environ)
    running = EcsRunning(lambda target: _clients(execution.name, target).ecs, here.registry)
    facts = RepositoryFacts(github(), app.repository.name)
    accepted = decide(allowlist(), request, facts, table, running)
    deployment = build_deployment(request, accepted, execution, here)
    if request.action != "build":
        clients = _clients(execution.name, accepted.environment.target)
        check_services(clients.ecs, deployment)
        check_schedules(clients, deployment)
    table.accept(deployment)  # from here on it ends with a verdict, whatever happens
    count("RequestsAccepted")
    logger.info("accepted", extra={"app": app.name, "sha": accepted.sha, "because": accepted.because})
    return deployment


def _clients(deployment_id: str, target: Target) -> TargetClients:
    return in_target({"role_arn": target.role_arn, "region": target.region}, deployment_id)
