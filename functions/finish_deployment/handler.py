"""Writes the verdict, the history and the hand-over of the locks in one transaction, then wakes who comes next."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from deploy_runner.aws.clients import client, in_target
from deploy_runner.aws.ecs import words_of
from deploy_runner.aws.logs import last_line
from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.domain.outcome import FailedContainer, Outcome, failed_container, may_still_run, outcome_of
from deploy_runner.domain.phases import cost, phases, transitions
from deploy_runner.domain.redact import redacted
from functions.observability import count, follow, logger, metrics
from functions.table import deployments, send_answers

WRITER = "finish_deployment"


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Take {execution, deployment, failure, note, rollback, digest}. Return {verdict, error, cause, tell}.

    It is the verdict that stands: another may have ended the deployment before, and told of it; then `tell` is false.
    """
    execution = event["execution"]
    follow(execution["name"])
    table = deployments()
    unfinished = table.find(execution["name"])
    outcome = _outcome(event, unfinished.deployment if unfinished else None)
    if unfinished is None:
        if not event["deployment"]:
            table.reject(execution, outcome)
            return asdict(outcome) | {"tell": True}
        logger.warning("ended already")
        return asdict(outcome) | {"tell": False}
    follow(execution["name"], app=unfinished.deployment["app"], environment=unfinished.deployment["environment"])
    facts = {"digest": event.get("digest"), "revisions": unfinished.revisions, **_facts(execution["arn"])}
    known = {key: value for key, value in facts.items() if value is not None}
    # Where nobody knows whether all is settled, the lock is the clean-up's to hand over: once it is.
    settled = not (event.get("rollback") or {}).get("unsettled") and not may_still_run(event["failure"])
    stands, ours, answers = table.end(unfinished, outcome, WRITER, known, releases=settled)
    count(f"Deployments{stands.verdict.title().replace('_', '')}")
    logger.info("ended", extra=asdict(stands) | {"by_us": ours})
    send_answers(answers)
    return asdict(stands) | {"tell": ours}


def _outcome(event: Mapping[str, Any], deployment: Mapping[str, Any] | None) -> Outcome:
    """Return the outcome, with the last log line of a runner task that failed."""
    failure, line = event["failure"], ""
    container = failed_container(failure)
    if container and container.name and deployment and failure["state"] == "RunRelease":  # the app's own task and log
        line = _last_words(deployment, container)
    elif container and container.name:
        stream = f"{container.kind}/{container.name}/{container.task_id}"
        line = redacted(last_line(client("logs"), f"/deploy-runner/{container.kind}", stream))
    return outcome_of(failure, (deployment or {}).get("timeouts"), line, event.get("note"), event.get("rollback"))


def _last_words(deployment: Mapping[str, Any], container: FailedContainer) -> str:
    """Return the last line of a release's log. The verdict does not wait for a target that cannot be reached."""
    try:
        target = in_target(deployment["target"], deployment["id"])
    except DeployRunnerError:
        logger.exception("the release's log could not be read")
        return ""
    lines = words_of(target.ecs, target.logs, container.task_definition, container.name, container.task_id)
    return lines[-1] if lines else ""


def _facts(execution_arn: str) -> dict[str, Any]:
    """Return the end, the phases and the cost. The verdict does not wait for a history that cannot be read."""
    facts: dict[str, Any] = {"ended_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    try:
        pages = client("stepfunctions").get_paginator("get_execution_history")
        found = pages.paginate(executionArn=execution_arn, maxResults=1000)
        events = [each for page in found for each in page["events"]]
    except Exception:
        logger.exception("the history could not be read")
        return facts
    passed, paid = phases(events), transitions(events)
    return facts | {
        "phases": [asdict(phase) for phase in passed],
        "transitions": paid,
        "cost": round(cost(passed, paid), 6),
    }
