"""An app that chose app-deployer is built and deployed by one task, with the verdicts that all others have."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy_runner.cli.walkthrough import Walkthrough

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("end_to_end")]

APP, REPOSITORY = "photographos", "lightwave-media/photographos"


@pytest.fixture(scope="module")
def clone(walk: Walkthrough) -> Path:
    """The app with its service in dev, serving nothing of ours yet."""
    walk.create_service(APP, "dev")
    return walk.create_repository(REPOSITORY, 1002)


def commit(walk: Walkthrough, clone: Path, version: str, *, crash: bool = False) -> str:
    walk.write_sample_app(clone, version, crash=crash)
    sha = walk.push(clone, f"Version {version}")
    walk.report_check(REPOSITORY, sha, "tests", "success")
    return sha


def request(ref: str, **more: object) -> dict[str, object]:
    return {"app": APP, "environment": "dev", "ref": ref, **more}


def history(walk: Walkthrough, arn: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = walk.aws("stepfunctions", "get-execution-history", "--execution-arn", arn)["events"]
    return events


def states(events: list[dict[str, Any]]) -> list[str]:
    return [e["stateEnteredEventDetails"]["name"] for e in events if e["type"].endswith("StateEntered")]


def runner_tasks(walk: Walkthrough, group: str) -> list[dict[str, Any]]:
    ecs = walk.client("ecs")
    arns = [
        arn
        for status in ("RUNNING", "STOPPED")
        for page in ecs.get_paginator("list_tasks").paginate(cluster="deploy-runner", desiredStatus=status)
        for arn in page["taskArns"]
    ]
    tasks = [t for at in range(0, len(arns), 100) for t in ecs.describe_tasks(
        cluster="deploy-runner", tasks=arns[at : at + 100])["tasks"]]  # fmt: skip
    return [task for task in tasks if task["group"] == group]


def lines(walk: Walkthrough, task_arn: str, container: str) -> list[str]:
    stream = f"app-deployer/{container}/{task_arn.rpartition('/')[2]}"
    logs = walk.client("logs")
    events = logs.get_log_events(logGroupName="/deploy-runner/app-deployer", logStreamName=stream, startFromHead=True)
    return [event["message"].strip() for event in events["events"]]


def test_a_commit_is_built_and_deployed_in_one_task_and_served(walk: Walkthrough, clone: Path) -> None:
    sha = commit(walk, clone, "one-task")

    execution = walk.deploy(request("main"))

    assert execution.verdict == "SUCCEEDED", execution.cause
    assert "version one-task" in walk.page(walk.service_url("dev", APP))
    assert states(history(walk, execution.arn)) == [
        "ValidateRequest", "ReportQueued", "IsThereSomethingToBuild", "AcquireBuild", "FindImage", "IsTheImageBuilt",
        "AcquireLock", "HowIsItDeployed", "RunAppDeployer", "FindRollouts", "WaitForStable", "Finish", "ReportOutcome",
        "WhatIsTheVerdict", "Deployed",
    ]  # fmt: skip
    [task] = runner_tasks(walk, execution.arn.rpartition(":")[2])
    assert {c["name"]: c["exitCode"] for c in task["containers"]} == {"deploy": 0, "clone": 0, "kaniko": 0}
    told = json.loads(lines(walk, task["taskArn"], "deploy")[-1])
    service = walk.aws("ecs", "describe-services", "--cluster", "dev", "--services", APP)["services"][0]
    assert told["task_definition"] == service["taskDefinition"]
    deployment = walk.github_api("GET", f"/repos/{REPOSITORY}/deployments?sha={sha}")[0]
    statuses = walk.github_api("GET", f"/repos/{REPOSITORY}/deployments/{deployment['id']}/statuses")
    assert [s["state"] for s in statuses] == ["success", "queued"]


def test_a_version_that_crashes_is_rolled_back_with_its_reason_and_the_old_one_serves(
    walk: Walkthrough, clone: Path
) -> None:
    commit(walk, clone, "good")
    assert walk.deploy(request("main")).verdict == "SUCCEEDED"
    commit(walk, clone, "bad", crash=True)

    failed = walk.deploy(request("main"))

    assert (failed.status, failed.error) == ("FAILED", "RolloutRolledBack")
    assert "RunAppDeployer" in states(history(walk, failed.arn))
    assert "exit 1" in failed.cause
    assert "KeyError: 'DATABASE_URL'" in failed.cause
    assert failed.cause.endswith("still serves")
    assert "\n" not in failed.cause
    assert "version good" in walk.page(walk.service_url("dev", APP))


def test_a_build_that_fails_says_which_line_and_touches_no_service(walk: Walkthrough, clone: Path) -> None:
    before = walk.aws("ecs", "describe-services", "--cluster", "dev", "--services", APP)["services"][0]
    walk.write_sample_app(clone, "broken")
    dockerfile = clone / "Dockerfile"
    good = dockerfile.read_text()
    dockerfile.write_text(good + "RUN echo cannot find the thing >&2 && exit 7\n")
    sha = walk.push(clone, "A Dockerfile that fails")
    walk.report_check(REPOSITORY, sha, "tests", "success")
    dockerfile.write_text(good)

    failed = walk.deploy(request(sha))

    assert failed.error == "States.TaskFailed"
    assert failed.cause.startswith("RunAppDeployer: kaniko: exit 1: ")
    after = walk.aws("ecs", "describe-services", "--cluster", "dev", "--services", APP)["services"][0]
    assert after["taskDefinition"] == before["taskDefinition"]


def test_a_run_task_that_is_tried_again_does_not_build_twice(walk: Walkthrough, clone: Path) -> None:
    """GIVEN what the state machine asked ECS for WHEN it is asked twice THEN one task builds and deploys, once."""
    commit(walk, clone, "asked-twice")
    execution = walk.deploy(request("main"))
    assert execution.verdict == "SUCCEEDED", execution.cause
    scheduled = [e["taskScheduledEventDetails"] for e in history(walk, execution.arn) if e["type"] == "TaskScheduled"]
    [asked] = [json.loads(e["parameters"]) for e in scheduled if e["resourceType"] == "ecs"]
    overrides = asked["Overrides"]["ContainerOverrides"]
    again = {
        "cluster": asked["Cluster"], "taskDefinition": asked["TaskDefinition"], "launchType": "FARGATE",
        "group": "asked-twice", "networkConfiguration": {"awsvpcConfiguration": {
            "subnets": asked["NetworkConfiguration"]["AwsvpcConfiguration"]["Subnets"],
        }},
        "overrides": {"taskRoleArn": asked["Overrides"]["TaskRoleArn"], "containerOverrides": [
            {
                "name": o["Name"], "command": o["Command"], "environment": [
                    {"name": e["Name"], "value": "asked-twice" if e["Name"] == "DEPLOYMENT_ID" else e["Value"]}
                    for e in o.get("Environment", [])
                ],
            }
            for o in overrides
        ]},
    }  # fmt: skip
    ecs = walk.client("ecs")

    first, second = (ecs.run_task(**again)["tasks"][0]["taskArn"] for _ in range(2))
    waiter = ecs.get_waiter("tasks_stopped")
    waiter.wait(cluster=asked["Cluster"], tasks=[first, second], WaiterConfig={"Delay": 1, "MaxAttempts": 90})

    ended = {
        t["taskArn"]: {c["name"]: c.get("exitCode") for c in t["containers"]} for t in runner_tasks(walk, "asked-twice")
    }
    assert ended[first] == {"deploy": 0, "clone": 0, "kaniko": 0}
    assert ended[second] == {"deploy": 0, "clone": None, "kaniko": None}
    assert lines(walk, second, "deploy") == [
        f"this deployment is the work of {first}", json.dumps({"done_by": first}),
    ]  # fmt: skip
    arns = ecs.list_task_definitions(familyPrefix=f"{APP}-dev")["taskDefinitionArns"]
    tags = [ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])["tags"] for arn in arns]
    assert sum({"key": "deploy-runner:deployment", "value": "asked-twice"} in of_one for of_one in tags) == 1
