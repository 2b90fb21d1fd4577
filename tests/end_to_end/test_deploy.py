"""A commit becomes a served page, through `git push`, the AWS CLI, and the template that goes to AWS."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy_runner.cli.walkthrough import Walkthrough

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("end_to_end")]

REPOSITORY = "lightwave-media/cineos"
CANARY = "canary-7f3a1c-do-not-tell"
ENVIRONMENT_CANARY = "canary-90b2e4-do-not-tell"


@pytest.fixture(scope="module")
def clone(walk: Walkthrough) -> Path:
    """The app cineos with its service in dev, serving nothing of ours yet."""
    walk.create_service("cineos", "dev", secret=CANARY)
    return walk.create_repository(REPOSITORY, 1001)


def commit(walk: Walkthrough, clone: Path, version: str, *, crash: bool = False, checks: str = "success") -> str:
    walk.write_sample_app(clone, version, crash=crash)
    sha = walk.push(clone, f"Version {version}")
    walk.report_check(REPOSITORY, sha, "tests", checks)
    return sha


def request(ref: str, **more: object) -> dict[str, object]:
    return {"app": "cineos", "environment": "dev", "ref": ref, **more}


def states(walk: Walkthrough, arn: str) -> list[str]:
    events = walk.aws("stepfunctions", "get-execution-history", "--execution-arn", arn)["events"]
    return [e["stateEnteredEventDetails"]["name"] for e in events if e["type"].endswith("StateEntered")]


def test_a_commit_is_built_deployed_and_served(walk: Walkthrough, clone: Path) -> None:
    # GIVEN a fresh repository with a commit whose checks are green
    sha = commit(walk, clone, "1")

    # WHEN the deployment of its branch is asked for
    execution = walk.deploy(request("main"))

    # THEN the page is that commit's, and the history tells the way of it
    assert execution.verdict == "SUCCEEDED", execution.cause
    page = walk.page(walk.service_url("dev", "cineos"))
    assert "version 1" in page
    assert states(walk, execution.arn) == [
        "ValidateRequest", "ReportQueued", "IsThereSomethingToBuild", "AcquireBuild", "FindImage", "IsTheImageBuilt",
        "BuildImage", "ReadDigest", "IsTheImageThere", "AcquireLock", "HowIsItDeployed", "RegisterRevisions",
        "IsThereARelease", "DeployServices", "WaitForStable", "Finish", "ReportOutcome", "WhatIsTheVerdict", "Deployed",
    ]  # fmt: skip
    assert execution.transitions <= 20

    # AND what runs is the image by digest, under a definition that is tagged as ours
    service = walk.aws("ecs", "describe-services", "--cluster", "dev", "--services", "cineos")["services"][0]
    definition = walk.aws(
        "ecs", "describe-task-definition", "--task-definition", service["taskDefinition"], "--include", "TAGS"
    )
    image = definition["taskDefinition"]["containerDefinitions"][0]["image"]
    assert "@sha256:" in image
    assert {"key": "deploy-runner:sha", "value": sha} in definition["tags"]
    assert service["deployments"][0]["rolloutState"] == "COMPLETED"

    # AND GitHub has a deployment of that commit that succeeded
    deployment = walk.github_api("GET", f"/repos/{REPOSITORY}/deployments?sha={sha}")[0]
    statuses = walk.github_api("GET", f"/repos/{REPOSITORY}/deployments/{deployment['id']}/statuses")
    assert [s["state"] for s in statuses] == ["success", "queued"]


def test_the_same_commit_is_not_built_twice(walk: Walkthrough, clone: Path) -> None:
    sha = commit(walk, clone, "built-once")
    built = walk.deploy(request(sha, action="build"))
    assert built.verdict == "SUCCEEDED", built.cause
    assert "DeployServices" not in states(walk, built.arn)

    deployed = walk.deploy(request(sha))

    assert deployed.verdict == "SUCCEEDED", deployed.cause
    assert "BuildImage" not in states(walk, deployed.arn)
    assert "version built-once" in walk.page(walk.service_url("dev", "cineos"))


def test_a_version_that_crashes_fails_with_its_reason_and_the_old_one_serves(walk: Walkthrough, clone: Path) -> None:
    commit(walk, clone, "good")
    assert walk.deploy(request("main")).verdict == "SUCCEEDED"
    commit(walk, clone, "bad", crash=True)

    failed = walk.deploy(request("main"))

    assert failed.status == "FAILED"
    assert failed.error == "RolloutRolledBack"
    assert "exit 1" in failed.cause
    assert "KeyError: 'DATABASE_URL'" in failed.cause
    assert "\n" not in failed.cause
    assert "version good" in walk.page(walk.service_url("dev", "cineos"))


def test_a_build_that_fails_says_which_line(walk: Walkthrough, clone: Path) -> None:
    walk.write_sample_app(clone, "broken")
    dockerfile = clone / "Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good + "RUN echo cannot find the thing >&2 && exit 7\n")
    sha = walk.push(clone, "A Dockerfile that fails")
    walk.report_check(REPOSITORY, sha, "tests", "success")
    dockerfile.write_text(good)

    failed = walk.deploy(request(sha))

    assert failed.error == "States.TaskFailed"
    assert "kaniko" in failed.cause
    assert "exit 1" in failed.cause
    assert "\n" not in failed.cause


def test_container_logs_are_in_cloudwatch_under_the_names_that_ecs_uses(walk: Walkthrough, clone: Path) -> None:
    commit(walk, clone, "logged")
    execution = walk.deploy(request("main"))
    assert execution.verdict == "SUCCEEDED", execution.cause

    tasks = walk.aws("ecs", "list-tasks", "--cluster", "dev", "--service-name", "cineos")["taskArns"]
    task_id = tasks[0].rsplit("/", 1)[1]
    events = walk.aws(
        "logs", "get-log-events", "--log-group-name", "/apps/cineos/dev", "--log-stream-name", f"cineos/app/{task_id}"
    )["events"]
    assert any("version logged" in event["message"] for event in events)
    streams = walk.aws("logs", "describe-log-streams", "--log-group-name", "/deploy-runner/docker-builder")
    names = {stream["logStreamName"].rsplit("/", 1)[0] for stream in streams["logStreams"]}
    assert {"docker-builder/clone", "docker-builder/kaniko"} <= names


def test_no_secret_of_an_app_or_of_ours_is_in_a_history_a_log_or_an_event(walk: Walkthrough, clone: Path) -> None:
    # GIVEN an app with a canary in its environment beside the one in its secret, and a log of all events
    logs, rules, ecs = walk.client("logs"), walk.client("events"), walk.client("ecs")
    logs.create_log_group(logGroupName="/tests/events")
    rules.put_rule(Name="everything", EventPattern=json.dumps({"account": ["123456789012"]}))
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/tests/events"
    rules.put_targets(Rule="everything", Targets=[{"Id": "log", "Arn": group}])
    base = current_definition(ecs)
    base["containerDefinitions"][0].setdefault("environment", []).append({"name": "PLAIN", "value": ENVIRONMENT_CANARY})
    members = ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape.members
    changed = ecs.register_task_definition(**{key: base[key] for key in base if key in members})["taskDefinition"]
    ecs.update_service(cluster="dev", service="cineos", taskDefinition=changed["taskDefinitionArn"])

    # WHEN a good version is deployed, and one that crashes
    commit(walk, clone, "secret")
    execution = walk.deploy(request("main"))
    assert execution.verdict == "SUCCEEDED", execution.cause
    assert ENVIRONMENT_CANARY in json.dumps(current_definition(ecs), default=str)
    commit(walk, clone, "secret and bad", crash=True)
    failed = walk.deploy(request("main"))
    assert failed.status == "FAILED"

    # THEN none of it is where people or CI may look
    key = walk.client("secretsmanager").get_secret_value(SecretId="/lightwave/cicd/github-app-private-key")
    forbidden = [CANARY, ENVIRONMENT_CANARY, key["SecretString"].splitlines()[1], "ghs_", "x-access-token"]
    said = [failed.cause]
    for arn in (execution.arn, failed.arn):
        said.append(json.dumps(walk.aws("stepfunctions", "get-execution-history", "--execution-arn", arn)))
    for group in [each["logGroupName"] for each in logs.describe_log_groups()["logGroups"]]:
        pages = list(logs.get_paginator("filter_log_events").paginate(logGroupName=group))
        assert any(page["events"] for page in pages) or group != "/tests/events"
        said += [event["message"] for page in pages for event in page["events"]]
    assert len(said) > 10
    for text in said:
        assert not [word for word in forbidden if word in text]


def current_definition(ecs: Any) -> dict[str, Any]:
    service = ecs.describe_services(cluster="dev", services=["cineos"])["services"][0]
    described = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])
    return dict(described["taskDefinition"])


@pytest.mark.parametrize(
    ("hostile", "error"),
    [
        ({"app": "billing", "environment": "dev", "ref": "main"}, "AppNotAllowed"),
        ({"app": "cineos", "environment": "moon", "ref": "main"}, "RequestMalformed|EnvironmentNotAllowed"),
        ({"app": "cineos", "environment": "dev", "ref": "--upload-pack=x"}, "RequestMalformed"),
        ({"app": "../..", "environment": "dev", "ref": "main"}, "RequestMalformed|AppNotAllowed"),
        ({"app": "cineos", "environment": "dev", "ref": "a/../b"}, "RequestMalformed"),
        ({"app": "cineos", "environment": "dev", "ref": "x" * 5000}, "RequestMalformed"),
        ({"app": "cineos", "environment": "dev", "ref": "main\u001b[2J"}, "RequestMalformed"),
        ({"app": "cineos", "environment": "dev"}, "RequestMalformed"),
        ({"app": "cineos", "environment": "dev", "ref": "main", "shell": "rm -rf /"}, "RequestMalformed"),
        ({"app": ["cineos"], "environment": "dev", "ref": "main"}, "RequestMalformed"),
        ({"app": "cineos", "environment": "dev", "ref": "f" * 40}, "RefNotFound"),
        ({"app": "cineos", "environment": "dev", "ref": "no-such-branch"}, "RefNotFound"),
        ("cineos", "RequestMalformed"),
        ([], "RequestMalformed"),
        (None, "RequestMalformed"),
    ],
)
def test_a_hostile_request_is_refused_by_a_rule_before_a_task_runs(
    walk: Walkthrough, clone: Path, hostile: object, error: str
) -> None:
    commit(walk, clone, "untouched")
    tasks = walk.count_tasks()

    # By the API itself, since the AWS CLI starts in a second; the test after this one goes through it.
    states = walk.client("stepfunctions")
    machine = walk.outputs["StateMachineAliasArn"]
    started = states.start_execution(stateMachineArn=machine, input=json.dumps(hostile))
    refused = walk.finish(started["executionArn"])

    assert refused.status == "FAILED"
    assert refused.error in error.split("|")
    assert "\x1b" not in refused.cause
    assert len(refused.cause) < 1000
    assert walk.count_tasks() == tasks


def test_malformed_json_does_not_start_an_execution(walk: Walkthrough, clone: Path) -> None:
    before = len(
        walk.client("stepfunctions").list_executions(stateMachineArn=walk.outputs["StateMachineArn"])["executions"]
    )

    walk.start_execution('{"app": ', expect=255)  # the AWS CLI's own code for an error of the service

    executions = walk.client("stepfunctions").list_executions(stateMachineArn=walk.outputs["StateMachineArn"])
    assert len(executions["executions"]) == before


def test_a_branch_that_is_not_allowed_and_red_checks_are_refused(walk: Walkthrough, clone: Path) -> None:
    commit(walk, clone, "base")
    walk.push(clone, "An experiment", branch="experiment")
    assert walk.deploy(request("experiment", environment="prod")).error == "RefNotAllowed"

    red = commit(walk, clone, "red", checks="failure")
    refused = walk.deploy(request(red))
    assert refused.error == "ChecksNotGreen"
    assert "tests" in refused.cause


def test_a_commit_of_another_repository_is_refused(walk: Walkthrough, clone: Path, backend: Path) -> None:
    walk.write_sample_app(backend, "other")
    sha = walk.push(backend, "Another app's commit")

    assert walk.deploy(request(sha)).error == "RefNotFound"


def test_the_template_without_its_required_parameters_is_refused(walk: Walkthrough) -> None:
    from deploy_runner.cli.walkthrough import run

    built = walk.checkout / ".aws-sam" / "build" / "template.yaml"
    said = ""
    try:
        run(
            ["sam", "deploy", "--template-file", str(built), "--stack-name", "empty", "--resolve-s3",
             "--capabilities", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND", "--no-confirm-changeset",
             "--config-env", "none-such"],
            env=walk.env, cwd=walk.checkout,
        )  # fmt: skip
    except Exception as error:
        said = str(error)
    assert "must have values" in said
    assert "GitHubAppId" in said
    stacks = walk.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])["StackSummaries"]
    assert "empty" not in {stack["StackName"] for stack in stacks}
