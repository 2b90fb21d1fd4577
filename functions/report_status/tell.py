"""Everyone who is told of a deployment, each on its own, so that one who does not listen keeps it from no other."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import client
from deploy_runner.aws.history import RUNNING, record
from deploy_runner.aws.logs import last_line
from deploy_runner.domain.errors import one_line
from deploy_runner.domain.outcome import Outcome, failed_container, outcome_of
from deploy_runner.domain.redact import redacted
from deploy_runner.domain.report import EVENT_SOURCE, EVENT_TYPE, Report, console_url, place, report

if TYPE_CHECKING:
    from deploy_runner.github.client import GitHub

type Deployment = Mapping[str, Any]


def queued(deployment: Deployment, execution: Mapping[str, str]) -> int | None:
    """Write the history's record and open the GitHub deployment; return its id. A build alone deploys nothing.

    Raises GitHubUnavailable, which the state machine tries again and in the end does without.
    """
    start = {"verdict": RUNNING, "started_at": execution["started_at"]}
    _try({"history": lambda: record(client("dynamodb"), _table(), deployment, **start)})  # written whole at the end
    return None if deployment["action"] == "build" else _open(deployment, execution)


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
    github.set_deployment_status(repository, made, "queued", log_url=console_url(execution["arn"]))
    return made


def outcome(deployment: Deployment | None, failure: object, note: object = None) -> Outcome:
    """Return the outcome for the state machine's `failure`, with the last log line of a runner task that failed.

    `note` is what a person should know of a success.
    """
    container = failed_container(failure)
    line = ""
    if container and container.name:
        stream = f"{container.kind}/{container.name}/{container.task_id}"
        line = redacted(last_line(client("logs"), f"/deploy-runner/{container.kind}", stream))
    return outcome_of(failure, (deployment or {}).get("timeouts"), line, note)


def everyone(
    deployment: Deployment | None, github_deployment_id: int | None, outcome: Outcome, execution: Mapping[str, str]
) -> dict[str, str]:
    """Tell everyone; return what went wrong by channel. A rejected request is told to no repository that it names."""
    arn, started_at = execution["arn"], execution["started_at"]
    told = report(deployment, outcome, arn, started_at)
    channels: dict[str, Callable[[], object]] = {"events": lambda: _event(told, arn), "topic": lambda: _topic(told)}
    if not deployment:
        return _try(channels)
    ended_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    end = {"verdict": outcome.verdict, "error": outcome.error or None, "cause": outcome.cause or None}
    end |= {"started_at": started_at, "ended_at": ended_at}

    def keep(**more: str) -> None:
        record(client("dynamodb"), _table(), deployment, **end, **more)

    # GitHub comes last: where it is so slow that the function is stopped, all others know already.
    channels = {"history": keep, **channels}
    channels["github deployment"] = lambda: _github_deployment(deployment, github_deployment_id, told, execution)
    channels["github check run"] = lambda: _check_run(deployment, told, arn)
    failed = _try(channels)
    return failed | _try({"history": lambda: keep(unreported=",".join(failed))}) if failed else failed


def _try(channels: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for name, tell in channels.items():
        try:
            tell()
        except Exception as error:  # whatever it is, the outcome stands; it is logged and counted
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
    _github(deployment).set_deployment_status(
        deployment["repository"],
        made,
        told.github_state,
        description=told.description,
        log_url=console_url(execution["arn"]),
    )


def _check_run(deployment: Deployment, told: Report, arn: str) -> None:
    _github(deployment).create_check_run(
        deployment["repository"],
        deployment["sha"],
        f"deploy-runner: {place(deployment)}",
        conclusion=told.conclusion,
        title=told.title,
        summary=told.summary,
        details_url=console_url(arn),
        external_id=deployment["id"],
    )


def _github(deployment: Deployment) -> "GitHub":
    from functions.github_app import github

    return github(deployment["repository_id"])


def _table() -> str:
    return os.environ["DEPLOYMENTS_TABLE"]
