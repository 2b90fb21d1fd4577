"""What people and programs are told of a deployment's end: a line, a page of Markdown, an event."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy_runner.domain.errors import RolloutError, TargetMisconfigured, all_errors, one_line
from deploy_runner.domain.outcome import CANCELLED, SUCCEEDED, SUPERSEDED, TIMED_OUT, Outcome

EVENT_SOURCE = "deploy-runner"
EVENT_TYPE = "Deployment Outcome"
MAX_DESCRIPTION = 140  # docs.github.com/en/rest/deployments/statuses
MAX_SUBJECT = 100  # docs.aws.amazon.com/sns/latest/api/API_Publish.html


@dataclass(frozen=True, slots=True)
class Report:
    """One outcome, in every form that it is told in."""

    github_state: str
    conclusion: str
    title: str
    description: str
    summary: str
    subject: str
    text: str
    event: dict[str, Any]


def report(deployment: Mapping[str, Any] | None, outcome: Outcome, execution_arn: str, started_at: str) -> Report:
    """Return the report on an outcome. `deployment` is None where the request was rejected: then nothing names an app.

    A cause is one printable line already, and holds no secret.
    """
    what = place(deployment) if deployment else "a request"
    good = outcome.verdict == SUCCEEDED
    line = outcome.verdict if good else f"{outcome.verdict}: {outcome.error}: {outcome.cause}"
    detail = {"verdict": outcome.verdict, "error": outcome.error, "cause": outcome.cause}
    detail |= {"execution_arn": execution_arn, "started_at": started_at}
    if deployment:
        detail |= {key: deployment[key] for key in ("id", "app", "environment", "action", "ref", "sha", "repository")}
    return Report(
        github_state=_github_state(outcome),
        conclusion=_CONCLUSIONS.get(outcome.verdict, "failure"),
        title=f"{what}: {outcome.verdict}",
        description=one_line(outcome.cause if outcome.cause else line, MAX_DESCRIPTION),
        summary=_markdown(deployment or {}, outcome, execution_arn),
        subject=one_line(f"{what}: {outcome.verdict}".encode("ascii", "replace").decode(), MAX_SUBJECT - 2)[
            :MAX_SUBJECT
        ],
        text=one_line(f"{what}: {line}", 2000) + f"\n\n{execution_arn}\n{console_url(execution_arn)}\n",
        event=detail,
    )


def place(deployment: Mapping[str, Any]) -> str:
    """Return what happens where, for people: `cineos to dev`, or `build of cineos for dev`."""
    if deployment["action"] == "build":
        return f"build of {deployment['app']} for {deployment['environment']}"
    return f"{deployment['app']} to {deployment['environment']}"


def console_url(execution_arn: str) -> str:
    """Return where the AWS console shows an execution; empty for what is no execution's ARN."""
    parts = execution_arn.split(":")
    if len(parts) < 8 or parts[5] != "execution":
        return ""
    host = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}
    domain = host.get(parts[1], "console.aws.amazon.com")
    return f"https://{parts[3]}.{domain}/states/home?region={parts[3]}#/v2/executions/details/{execution_arn}"


def _github_state(outcome: Outcome) -> str:
    """Return GitHub's word: `failure` where the app or its settings failed, `error` where we or AWS did.

    What nobody has to mend is `inactive`.
    """
    if outcome.verdict in (SUPERSEDED, CANCELLED):
        return "inactive"
    if outcome.verdict == SUCCEEDED:
        return "success"
    known = all_errors().get(outcome.error)
    theirs = known is not None and issubclass(known, RolloutError | TargetMisconfigured)
    return "failure" if theirs or outcome.error in ("States.TaskFailed", "States.Timeout") else "error"


# docs.github.com/en/rest/checks/runs: what a completed check run may conclude with
_CONCLUSIONS = {SUCCEEDED: "success", SUPERSEDED: "neutral", CANCELLED: "cancelled", TIMED_OUT: "timed_out"}


def _markdown(deployment: Mapping[str, Any], outcome: Outcome, execution_arn: str) -> str:
    lines = [f"**{outcome.verdict}**" + (f" – {_code(outcome.error)}" if outcome.error else "")]
    if outcome.cause:
        lines += ["", "~~~text", outcome.cause.replace("~~~", "~~ ~"), "~~~"]
    rows = {
        "App": deployment.get("app"),
        "Environment": deployment.get("environment"),
        "Ref": deployment.get("ref"),
        "Commit": deployment.get("sha"),
        "Image": f"{deployment['image']['repository_name']}:{deployment['image']['tag']}" if deployment else None,
        "Asked for by": deployment.get("requested_by"),
        "Execution": execution_arn,
    }
    lines += ["", *(f"- {name}: {_code(str(value))}" for name, value in rows.items() if value)]
    url = console_url(execution_arn)
    return "\n".join([*lines, "", f"[Execution in AWS]({url})"] if url else lines) + "\n"


def _code(text: str) -> str:
    """Return text as a code span: nothing in it is Markdown, mentions someone, or ends the span."""
    return f"`{one_line(text.replace('`', "'"), 300)}`"
