"""Registers a revision for each service of an app, updates the services to them, and takes that back where it fails.

Or finds what app-deployer did. Each step may be tried again, and none changes anything for a deployment that does not
own its lock, or is over.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from deploy_runner.aws.clients import TargetClients, in_target
from deploy_runner.aws.ecs import (
    find_rollout,
    register_revision,
    register_scheduled,
    release_arguments,
    update_service,
)
from deploy_runner.aws.rollback import roll_back
from deploy_runner.aws.schedules import point, task_definition_of
from deploy_runner.domain.rollout import Rollout
from functions.observability import count, follow, logger, metrics
from functions.table import deployments


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Take {step, deployment, …} and do the step: see the functions below for what else it takes and gives."""
    deployment = event["deployment"]
    follow(deployment["id"], app=deployment["app"], environment=deployment["environment"])
    steps = {"register": _register, "update": _update, "find": _find, "roll_back": _roll_back}
    clients = in_target(deployment["target"], deployment["id"])
    return steps[event["step"]](clients, deployment, event, context)


def _register(clients: TargetClients, deployment: dict[str, Any], event: dict[str, Any], _: Any) -> dict[str, Any]:
    """Take {digest}. Return {revisions, release}: a rollout each, and what runs before any service changes, or None."""
    deployments().keep(deployment)
    digest, ecs = event["digest"], clients.ecs
    rollouts = [register_revision(ecs, deployment, service, digest) for service in deployment["target"]["services"]]
    for schedule in deployment["schedules"]:
        current = task_definition_of(clients.scheduler, schedule["group"], schedule["name"])
        rollouts.append(register_scheduled(ecs, deployment, schedule, current, digest))
    revisions = [asdict(rollout) for rollout in rollouts]
    deployments().keep(deployment, revisions=revisions)
    count("DeploymentsRegistered")
    logger.info("registered", extra={"revisions": [rollout.task_definition for rollout in rollouts]})
    release = release_arguments(ecs, deployment, rollouts) if deployment["release"] else None
    return {"revisions": revisions, "release": release}


def _update(clients: TargetClients, deployment: dict[str, Any], event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Take {revisions}. Return {rollouts}: those of the services, which are waited for."""
    rollouts = [Rollout(**revision) for revision in event["revisions"]]
    services = [rollout for rollout in rollouts if rollout.service]
    with _changing(deployment, context):
        for rollout in services:
            deployments().keep(deployment)  # the last moment to hear that it is over
            update_service(clients.ecs, rollout)
            count("ServicesUpdated")
        for rollout in rollouts:
            if rollout.schedule:
                deployments().keep(deployment)
                point(clients.scheduler, rollout)
    logger.info("updated", extra={"services": [rollout.service for rollout in services]})
    return {"rollouts": [asdict(rollout) for rollout in services]}


def _find(clients: TargetClients, deployment: dict[str, Any], event: dict[str, Any], _: Any) -> dict[str, Any]:
    """Take {task_failed}. Return {rollouts, digest}: what an app-deployer has begun."""
    started = bool(event["task_failed"])  # a task that ended well has updated its services
    services = deployment["target"]["services"]
    found = [find_rollout(clients.ecs, deployment, service, started=started) for service in services]
    rollouts = [asdict(rollout) for rollout in found]
    deployments().keep(deployment, revisions=rollouts)
    return {"rollouts": rollouts, "digest": found[0].digest}


def _roll_back(
    clients: TargetClients, deployment: dict[str, Any], event: dict[str, Any], context: Any
) -> dict[str, Any]:
    """Take {revisions}. Return {rollouts, rollback, problem}: what is to be waited for, or how it ended.

    An end is {restored, serves}; the problem is what else could not be taken back, or empty.
    """
    with _changing(deployment, context):
        way = roll_back(clients, deployment, event["revisions"])
    count("RollbacksStarted")
    logger.info("rolled back", extra={"over": way.is_over, "serves": way.end and way.end.serves})
    end = way.end and asdict(way.end)
    if end and way.problem:
        end = {"restored": False, "serves": f"{end['serves']}; {way.problem}"}
    return {"rollouts": [asdict(rollout) for rollout in way.rollouts], "rollback": end, "problem": way.problem}


@contextmanager
def _changing(deployment: dict[str, Any], context: Any) -> Iterator[None]:
    """Say until when this function may change something: until then no clean-up hands the lock over."""
    deployments().keep(deployment, changing_until=time.time() + context.get_remaining_time_in_millis() / 1000)
    yield
    deployments().keep(deployment, changing_until=0)
