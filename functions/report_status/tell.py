"""Everyone who is told of a deployment, each on its own, so that one who does not listen keeps it from no other."""

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import client
from deploy_runner.aws.deployments import Unfinished
from deploy_runner.domain.errors import AwsUnavailable, DeployRunnerError, one_line
from deploy_runner.domain.outcome import Outcome
from deploy_runner.domain.report import (
    EVENT_SOURCE,
    EVENT_TYPE,
    MAX_DESCRIPTION,
    Report,
    console_url,
    place,
    report,
)
from deploy_runner.github.errors import GitHubNotFound, GitHubRefused
from functions.observability import logger
from functions.table import deployments

if TYPE_CHECKING:
    from deploy_runner.github.client import GitHub

Deployment = Mapping[str, Any]
Channels = dict[str, Callable[[], object]]
TURN_SECONDS = 120.0  # longer than the function may take: it is over by itself only where a function was killed
LOOKS_AGAIN_AFTER = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0)  # seconds, where another has its turn
FINAL_STATES = ("success", "failure", "error", "inactive")


def queued(deployment: Deployment, execution: Mapping[str, str]) -> None:
    """Open the GitHub deployment. A build alone deploys nothing.

    Raises GitHubUnavailable, which the state machine tries again and in the end does without.
    """
    if deployment["action"] == "build":
        return
    with _turn(deployment) as (_, known):
        if known and not known.outcome:  # also in the turn of an earlier try, which was killed
            _open(deployment, execution)


def going_back(deployment: Deployment, failure: Mapping[str, str]) -> None:
    """Say early why the rollout failed, while the services go back: the verdict comes once they are there."""
    line = one_line(f"Going back: {failure['cause']}", MAX_DESCRIPTION)
    url = console_url(deployment["execution_arn"])
    with _turn(deployment) as (_, known):
        if known and not known.outcome and known.github_deployment_id:
            _github(deployment).set_deployment_status(
                deployment["repository"], known.github_deployment_id, "in_progress", description=line, log_url=url
            )


@contextmanager
def _turn(deployment: Deployment) -> Iterator[tuple[bool, Unfinished | None]]:
    """Try to have a deployment to oneself: whether that is so, and how it stands, None where nothing is left to do.

    GitHub takes what two tell it at once twice, and what comes late as the newest.
    """
    table = deployments()
    until = table.take_turn(deployment["id"], TURN_SECONDS)
    try:
        yield until is not None, table.find(deployment["id"])
    finally:
        if until is not None:
            try:
                table.end_turn(deployment["id"], until)
            except DeployRunnerError:  # it ends by itself; what was told is told
                logger.exception("a turn stays taken")


def _open(deployment: Deployment, execution: Mapping[str, str]) -> int:
    github, repository = _github(deployment), deployment["repository"]
    made = github.create_deployment(
        repository,
        deployment["sha"],
        deployment["environment"],
        deployment_id=deployment["id"],
        description=place(deployment),
        production=deployment["environment"] == "prod",
    )
    deployments().keep_github_deployment(deployment, made)
    if github.deployment_state(repository, made) is None:
        github.set_deployment_status(repository, made, "queued", log_url=console_url(execution["arn"]))
    return made


def everyone(deployment: Deployment | None, outcome: Outcome, execution: Mapping[str, str]) -> dict[str, str]:
    """Tell everyone who does not know yet; return what went wrong by channel, to be tried again by the sweeper.

    A rejected request is told to no repository that it names. Raises AwsUnavailable where another tells of it.
    """
    arn = execution["arn"]
    told = report(deployment, outcome, arn, execution["started_at"])
    at_once: Channels = {"events": lambda: _event(told, arn), "topic": lambda: _topic(told)}
    if not deployment:
        return _try(at_once)
    for pause in (0.0, *LOOKS_AGAIN_AFTER):
        time.sleep(pause)
        with _turn(deployment) as (ours, known):
            if known is None or known.reported:
                return {}
            if ours:
                return _tell(deployment, known, told, execution, at_once)
    rule = f"One at a time must tell of the deployment {deployment['id']}"
    raise AwsUnavailable(rule, remedy="It is tried again; a turn ends by itself in two minutes")


def _tell(
    deployment: Deployment, known: Unfinished, told: Report, execution: Mapping[str, str], at_once: Channels
) -> dict[str, str]:
    table = deployments()
    at_github: Channels = {
        "github deployment": lambda: _github_deployment(deployment, known.github_deployment_id, told, execution),
        "github check run": lambda: _check_run(deployment, told, execution["arn"]),
    }
    todo = _without(at_once, known.told)
    failed = _try(todo)
    if todo:  # kept before GitHub is asked: where it is so slow that this function is stopped, nobody is told twice
        table.keep_told(deployment, [*known.told, *_without(todo, failed)])
    failed |= _try(_without(at_github, known.told))
    if failed:
        table.keep_told(deployment, [*_without(at_once | at_github, failed)])
    else:
        table.told(deployment, datetime.now(UTC).isoformat(timespec="milliseconds"))
    return failed


def _without(channels: Channels, names: Collection[str]) -> Channels:
    return {name: tell for name, tell in channels.items() if name not in names}


def _try(channels: Channels) -> dict[str, str]:
    """Return what went wrong by channel. What is refused for good is logged, and counts as told."""
    failed: dict[str, str] = {}
    for name, tell in channels.items():
        try:
            tell()
        except (GitHubRefused, GitHubNotFound) as error:
            logger.error("will not be told", extra={"channel": name, "error": one_line(str(error), 500)})
        except Exception as error:  # whatever it is, the outcome stands
            failed[name] = one_line(f"{type(error).__name__}: {error}", 500)
    return failed


def _event(told: Report, arn: str) -> None:
    entry = {"Source": EVENT_SOURCE, "DetailType": EVENT_TYPE, "Detail": json.dumps(told.event), "Resources": [arn]}
    answer = client("events").put_events(Entries=[entry])
    if answer["FailedEntryCount"]:
        raise RuntimeError(str(answer["Entries"][0].get("ErrorCode")))


def _topic(told: Report) -> None:
    attributes = {key: told.event[key] for key in ("verdict", "app", "environment") if told.event.get(key)}
    client("sns").publish(
        TopicArn=os.environ["OUTCOMES_TOPIC_ARN"],
        Subject=told.subject,
        Message=told.text,
        MessageAttributes={k: {"DataType": "String", "StringValue": v} for k, v in attributes.items()},
    )


def _github_deployment(
    deployment: Deployment, github_deployment_id: int | None, told: Report, execution: Mapping[str, str]
) -> None:
    if deployment["action"] == "build":
        return
    made = github_deployment_id or _open(deployment, execution)  # GitHub did not take it at the start
    github, repository = _github(deployment), deployment["repository"]
    if github.deployment_state(repository, made) not in FINAL_STATES:  # else an earlier try told it
        github.set_deployment_status(
            repository, made, told.github_state, description=told.description, log_url=console_url(execution["arn"])
        )


def _check_run(deployment: Deployment, told: Report, arn: str) -> None:
    name, github = f"deploy-runner: {place(deployment)}", _github(deployment)
    if github.find_check_run(deployment["repository"], deployment["sha"], name, deployment["id"]) is None:
        github.create_check_run(
            deployment["repository"],
            deployment["sha"],
            name,
            conclusion=told.conclusion,
            title=told.title,
            summary=told.summary,
            details_url=console_url(arn),
            external_id=deployment["id"],
        )


def _github(deployment: Deployment) -> "GitHub":
    from functions.github_app import github

    return github(deployment["repository_id"])
