"""What a failure is called, and what people and programs are told of it."""

import json
from typing import Any

import pytest

from deploy_runner.domain.errors import RequestMalformed
from deploy_runner.domain.outcome import Outcome, failed_container, outcome_of, outcome_of_execution
from deploy_runner.domain.redact import redacted
from deploy_runner.domain.report import console_url, report

ARN = "arn:aws:states:us-east-1:123456789012:execution:deploy-app:d-1"
DEPLOYMENT: dict[str, Any] = {
    "id": "d-1", "app": "cineos", "environment": "prod", "action": "deploy", "ref": "a`b", "sha": "c" * 40,
    "repository": "lightwave-media/cineos", "requested_by": "@everyone",
    "image": {"repository_name": "cineos", "tag": "t"},
}  # fmt: skip


def raised(error: Exception) -> str:
    return json.dumps({"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": ["secret path"]})


def failure(state: str, error: str, cause: str) -> dict[str, str]:
    return {"state": state, "error": error, "cause": cause}


def test_no_failure_is_success() -> None:
    assert outcome_of(None) == Outcome("SUCCEEDED")


def test_our_own_errors_are_told_by_their_message_alone() -> None:
    error = RequestMalformed("The request is malformed", "\x1b[2J", "Correct it")
    found = outcome_of(failure("ValidateRequest", "RequestMalformed", raised(error)))
    assert found == Outcome("REJECTED", "RequestMalformed", str(error), "ValidateRequest")
    assert "\x1b" not in found.cause


def test_errors_of_others_name_the_state_and_no_stack_trace() -> None:
    found = outcome_of(failure("RegisterRevisions", "KeyError", raised(KeyError("x"))))
    assert found == Outcome("FAILED", "KeyError", "RegisterRevisions: 'x'", "RegisterRevisions")


@pytest.mark.parametrize(
    ("state", "told"),
    [("BuildImage", "600 s"), ("RunAppDeployer", "600 s"), ("WaitForStable", "900 s"), ("FindImage", "its time")],
)
def test_a_time_out_names_its_limit(state: str, told: str) -> None:
    found = outcome_of(failure(state, "States.Timeout", ""), {"build": 600, "rollout": 900})
    assert (found.verdict, found.error) == ("TIMED_OUT", "States.Timeout")
    assert told in found.cause


def task(**more: Any) -> str:
    arn = "arn:aws:ecs:us-east-1:1:task-definition/docker-builder-x86-64:3"
    return json.dumps({"TaskArn": "a/t1", "TaskDefinitionArn": arn, **more})


def test_the_container_that_failed_is_found_in_the_task_of_the_cause() -> None:
    containers = [{"Name": "kaniko", "ExitCode": 1}, {"Name": "clone", "ExitCode": 2}]
    found = failed_container(failure("BuildImage", "States.TaskFailed", task(Containers=containers)))
    assert found is not None
    assert (found.kind, found.name, found.task_id, found.exit_code) == ("docker-builder", "clone", "t1", 2)
    told = outcome_of(
        failure("BuildImage", "States.TaskFailed", task(Containers=containers)), log_line="no such commit\n"
    )
    assert told.cause == "clone: exit 2: no such commit"


def test_of_an_app_deployer_the_first_container_that_failed_is_told() -> None:
    """GIVEN a build that failed WHEN the container that deploys ends with it THEN the build is what is told."""
    arn = "arn:aws:ecs:us-east-1:1:task-definition/app-deployer-arm64:3"
    codes = {"deploy": 1, "kaniko": 1, "clone": 0}
    containers = [{"Name": name, "ExitCode": code} for name, code in codes.items()]
    cause = task(TaskDefinitionArn=arn, Containers=containers)
    found = failed_container(failure("RunAppDeployer", "States.TaskFailed", cause))
    assert found is not None
    assert (found.kind, found.name, found.exit_code) == ("app-deployer", "kaniko", 1)
    containers[1]["ExitCode"] = 0
    cause = task(TaskDefinitionArn=arn, Containers=containers)
    told = outcome_of(failure("RunAppDeployer", "States.TaskFailed", cause), log_line="deploy: no")
    assert told.cause == "deploy: exit 1: deploy: no"


def test_a_container_that_was_ended_with_another_is_not_blamed() -> None:
    ended = [{"Name": "kaniko", "ExitCode": 137}, {"Name": "deploy", "ExitCode": 3}]
    found = failed_container(failure("RunAppDeployer", "States.TaskFailed", task(Containers=ended)))
    assert found is not None
    assert (found.name, found.exit_code) == ("deploy", 3)
    ended[0]["Reason"] = "OutOfMemoryError: Container killed due to memory usage"
    found = failed_container(failure("RunAppDeployer", "States.TaskFailed", task(Containers=ended)))
    assert found is not None
    assert found.name == "kaniko"


def test_a_task_that_never_ran_says_why() -> None:
    containers = [{"Name": "kaniko", "Reason": "CannotPullContainerError: not found"}]
    told = outcome_of(failure("BuildImage", "States.TaskFailed", task(Containers=containers)))
    assert told.cause == "kaniko did not run: CannotPullContainerError: not found"


@pytest.mark.parametrize(
    ("rollback", "verdict", "cause"),
    [
        (None, "FAILED", "exit 1."),
        ({"restored": True, "serves": "revision 41 serves"}, "ROLLED_BACK", "exit 1; revision 41 serves"),
        ({"restored": False, "serves": "revision 42 serves"}, "FAILED", "exit 1; revision 42 serves"),
    ],
)
def test_a_rollout_that_failed_is_rolled_back_only_where_what_ran_before_runs(
    rollback: object, verdict: str, cause: str
) -> None:
    told = outcome_of(failure("WaitForStable", "RolloutFailed", "exit 1."), rollback=rollback)
    assert (told.verdict, told.cause) == (verdict, cause)


def test_a_time_out_stays_one_though_the_services_went_back() -> None:
    back = {"restored": True, "serves": "revision 41 serves"}
    assert outcome_of(failure("WaitForStable", "States.Timeout", ""), rollback=back).verdict == "TIMED_OUT"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (("ABORTED", "", "", ""), Outcome("CANCELLED", "Cancelled", "The execution was stopped.")),
        (
            ("ABORTED", "e" * 256, "by\nme", ""),
            Outcome("CANCELLED", "e" * 99 + "…", "The execution was stopped: by me."),
        ),
        (
            ("TIMED_OUT", "", "", ""),
            Outcome("TIMED_OUT", "States.Timeout", "The execution did not end within its time."),
        ),
        (("FAILED", "Superseded", "d-2 came", ""), Outcome("SUPERSEDED", "Superseded", "d-2 came")),
        (("FAILED", "RequestMalformed", "x", ""), Outcome("REJECTED", "RequestMalformed", "x")),
        (("FAILED", "", "", ""), Outcome("FAILED", "Unknown", "The execution failed without a cause.")),
        (("SUCCEEDED", "", "", '{"cause": "as before"}'), Outcome("SUCCEEDED", "", "as before")),
        (("SUCCEEDED", "", "", "[1"), Outcome("SUCCEEDED")),
    ],
)
def test_an_execution_that_wrote_no_verdict_has_one_all_the_same(said: tuple[str, ...], outcome: Outcome) -> None:
    assert outcome_of_execution(*said) == outcome


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome("SUCCEEDED"), "success"),
        (Outcome("ROLLED_BACK", "RolloutRolledBack", "x"), "failure"),
        (Outcome("FAILED", "States.TaskFailed", "x"), "failure"),
        (Outcome("FAILED", "AwsUnavailable", "x"), "error"),
        (Outcome("FAILED", "KeyError", "x"), "error"),
    ],
)
def test_github_is_told_whose_failure_it_is(outcome: Outcome, state: str) -> None:
    assert report(DEPLOYMENT, outcome, ARN, "t").github_state == state


def test_nothing_in_a_report_is_markup_or_a_mention_or_too_long() -> None:
    outcome = Outcome("FAILED", "X", "~~~ <img src=x> " + "y" * 900)
    told = report(DEPLOYMENT, outcome, ARN, "t")
    fence = told.summary.split("~~~text\n")[1]
    assert fence.index("~~~") > 900  # the cause does not end its block
    assert "- Ref: `a'b`" in told.summary
    assert "- Asked for by: `@everyone`" in told.summary
    assert len(told.description) <= 140
    assert len(told.subject) <= 100
    assert told.subject.isascii()


def test_a_rejected_request_names_no_app() -> None:
    told = report(None, Outcome("REJECTED", "AppNotAllowed", "no"), ARN, "t")
    assert told.subject == "a request: REJECTED"
    assert "app" not in told.event


def test_the_console_is_that_of_the_partition() -> None:
    assert console_url(ARN).startswith("https://us-east-1.console.aws.amazon.com/states/")
    assert "amazonaws-us-gov" in console_url(ARN.replace("arn:aws:", "arn:aws-us-gov:"))
    assert console_url("what") == ""


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        ("could not connect to postgres://app:s3cret@db/x", "could not connect to postgres://app:***@db/x"),
        ("fatal: https://x-access-token:ghs_abcdefghij12@github.com", "fatal: https://x-access-token:***@github.com"),
        ("bad token ghs_0123456789abcdef", "bad token ***"),
        ("using AKIAABCDEFGHIJKLMNOP", "using ***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("DB_PASSWORD=hunter2 is wrong", "DB_PASSWORD=*** is wrong"),
        ("postgres://u:p@ss@host/x", "postgres://u:***@host/x"),
        ("Authorization: Basic YWxhZGRpbjpvcGVu", "Authorization: Basic ***"),
        ("Pwd=hunter22", "Pwd=***"),
        ("password='a b c d' refused", "password=*** refused"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "got ***"),
        ("key sk_live_0123456789abcdef", "key ***"),
        ("KeyError: 'DATABASE_URL'", "KeyError: 'DATABASE_URL'"),
        ("SyntaxError: unexpected token '<'", "SyntaxError: unexpected token '<'"),
        ("secret not found", "secret not found"),
    ],
)
def test_known_kinds_of_secrets_are_hidden_in_log_lines(line: str, hidden: str) -> None:
    assert redacted(line) == hidden


def test_what_should_be_known_of_a_success_is_told() -> None:
    note = "not exercised: the service's desired count is 0"
    assert outcome_of(None, note=note) == Outcome("SUCCEEDED", cause=note)
    assert outcome_of(None, note={"not": "text"}) == Outcome("SUCCEEDED")


def test_only_what_apps_yaml_limits_is_to_be_raised_there() -> None:
    late = {"error": "States.Timeout", "cause": ""}
    limits = {"build": 60, "rollout": 60}
    assert "apps.yaml" in outcome_of({"state": "BuildImage", **late}, limits).cause
    assert "apps.yaml" not in outcome_of({"state": "FindImage", **late}, limits).cause
