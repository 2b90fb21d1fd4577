"""Deployments that are stopped, overtaken, gone back from, promoted, or have something to run before."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy_runner.cli.walkthrough import Walkthrough
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("end_to_end")]

APP, REPOSITORY = "lightwave-backend", "lightwave-media/lightwave-backend"


@pytest.fixture(scope="module")
def clone(walk: Walkthrough, backend: Path) -> Path:
    """An app with its service in dev and in staging, serving nothing of ours yet."""
    walk.create_service(APP, "dev")
    walk.create_service(APP, "staging")
    return backend


def commit(walk: Walkthrough, clone: Path, version: str, *, crash: bool = False) -> str:
    walk.write_sample_app(clone, version, crash=crash)
    sha = walk.push(clone, f"Version {version}")
    walk.report_check(REPOSITORY, sha, "tests", "success")
    return sha


def request(**more: object) -> dict[str, object]:
    return {"app": APP, "environment": "dev"} | more


def page(walk: Walkthrough, environment: str = "dev") -> str:
    return walk.page(walk.service_url(environment, APP))


def record(walk: Walkthrough, arn: str, environment: str = "dev") -> dict[str, Any]:
    """The history's record of a deployment, once it has its verdict and was told."""
    name, table = arn.rpartition(":")[2], walk.client("dynamodb")

    def read() -> dict[str, Any]:
        found = table.query(
            TableName="deploy-runner-deployments",
            KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
            ExpressionAttributeValues={":pk": {"S": f"APP#{APP}#{environment}"}, ":sk": {"S": "DEPLOYMENT#"}},
        )["Items"]
        return next((each for each in found if each["id"]["S"] == name), {})

    # Not for much longer: in the end the sweeper, which looks each minute, would tell of it.
    item = until(read, lambda item: "reported_at" in item, seconds=30, pause=0.1)
    return {key: next(iter(value.values())) for key, value in item.items()}


def in_state(walk: Walkthrough, arn: str, state: str) -> bool:
    events = walk.client("stepfunctions").get_execution_history(executionArn=arn, maxResults=1000)["events"]
    return any(event.get("stateEnteredEventDetails", {}).get("name") == state for event in events)


def test_a_deployment_that_is_stopped_gives_way_to_the_one_that_waits(walk: Walkthrough, clone: Path) -> None:
    # GIVEN a version that serves, one whose rollout hangs, since its task has no place, and a third that waits for it
    first = commit(walk, clone, "first")
    assert walk.deploy(request(ref="main")).verdict == "SUCCEEDED"
    walk.fault("capacity", "--service", APP)
    commit(walk, clone, "second")
    stopped = walk.start_execution(request(ref="main"))
    until(lambda: in_state(walk, stopped, "WaitForStable"))
    commit(walk, clone, "third")
    overtaken = walk.start_execution(request(ref="main"))
    until(lambda: in_state(walk, overtaken, "AcquireLock"))
    newest = walk.start_execution(request(ref=first))

    # WHEN the newest request comes, and then the one that hangs is stopped
    assert walk.finish(overtaken).error == "Superseded"
    walk.client("stepfunctions").stop_execution(executionArn=stopped, cause="by a person")
    walk.fault("clear")
    walk.fault("profile", "at-least-once")

    # THEN the next is deployed without anybody doing anything, and each verdict is in the history
    assert walk.finish(newest).verdict == "SUCCEEDED"
    assert "version first" in page(walk)
    kept = record(walk, stopped)
    assert (kept["verdict"], kept["state"]) == ("CANCELLED", "WaitForStable")
    assert "by a person" in kept["cause"]
    assert record(walk, overtaken)["verdict"] == "SUPERSEDED"


def test_what_was_good_comes_back_and_goes_on_to_another_environment(walk: Walkthrough, clone: Path) -> None:
    commit(walk, clone, "good")
    good = walk.deploy(request(ref="main"))
    assert good.verdict == "SUCCEEDED", good.cause
    commit(walk, clone, "regretted")
    assert walk.deploy(request(ref="main")).verdict == "SUCCEEDED"
    tasks = walk.count_tasks()

    back = walk.deploy(request(action="rollback"))
    assert back.verdict == "SUCCEEDED", back.cause
    assert "version good" in page(walk)
    promoted = walk.deploy(request(action="promote", environment="staging", **{"from": "dev"}))
    assert promoted.verdict == "SUCCEEDED", promoted.cause
    assert "version good" in page(walk, "staging")
    assert walk.count_tasks() == tasks  # nothing was built

    kept = record(walk, back.arn)
    assert json.loads(kept["origin"][0]["S"])["deployment"] == good.arn.rpartition(":")[2]
    names = [phase["name"] for phase in json.loads(kept["phases"][0]["S"])]
    assert names[:3] == ["ValidateRequest", "ReportQueued", "AcquireLock"]
    released = [phase["name"] for phase in json.loads(record(walk, good.arn)["phases"][0]["S"])]
    assert ("RunRelease" in released, "RunRelease" in names) == (True, False)  # an older version runs none
    assert float(kept["cost"]) < 0.01


def test_an_image_that_is_gone_stops_the_rollout_at_once_and_what_served_serves(walk: Walkthrough, clone: Path) -> None:
    # GIVEN two good versions, the first of whose image somebody has deleted since
    commit(walk, clone, "gone")
    gone = walk.deploy(request(ref="main"))
    commit(walk, clone, "kept")
    assert walk.deploy(request(ref="main")).verdict == "SUCCEEDED"
    digest = record(walk, gone.arn)["digest"]
    breaker = {"deploymentCircuitBreaker": {"enable": False, "rollback": False}}  # or ECS's might come first
    walk.client("ecs").update_service(cluster="dev", service=APP, deploymentConfiguration=breaker)
    walk.client("ecr").batch_delete_image(repositoryName=APP, imageIds=[{"imageDigest": digest}])

    # WHEN someone goes back to it
    back = walk.deploy(request(action="rollback", deployment=gone.arn.rpartition(":")[2]))

    # THEN nothing waits for what cannot come: it is stopped with its reason, and what served serves
    assert back.verdict == "RolloutFailed", back.cause
    assert "CannotPullContainerError" in back.cause
    assert "still serves" in back.cause or "serves again" in back.cause
    assert "version kept" in page(walk)
    kept = record(walk, back.arn)
    assert kept["verdict"] == "ROLLED_BACK"
    assert "CannotPullContainerError" in kept["report"]
