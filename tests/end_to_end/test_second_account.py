"""A deployment to a service in another account, whose events come to the deploy runner's."""

import json
import urllib.request
from pathlib import Path

import pytest

from deploy_runner.cli.walkthrough import Walkthrough

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("end_to_end")]

APP, REPOSITORY, ACCOUNT = "createos", "lightwave-media/createos", "210987654321"


def events_forwarded(walk: Walkthrough) -> int:
    """How often the rule there was allowed to put an event on the bus here."""
    with urllib.request.urlopen(f"{walk.endpoint}/_local/iam", timeout=30) as response:
        roles = {role["role"]: role for role in json.loads(response.read())}
    return sum(grant["used"] for grant in roles["deploy-target-sandbox-events"]["grants"])


def scheduled(there: Walkthrough) -> str:
    """The revision that the schedule runs."""
    found = there.client("scheduler").get_schedule(GroupName=f"{APP}-sandbox", Name="nightly")
    return str(found["Target"]["EcsParameters"]["TaskDefinitionArn"])


def image_of(there: Walkthrough, task_definition: str) -> str:
    described = there.client("ecs").describe_task_definition(taskDefinition=task_definition)["taskDefinition"]
    return str(described["containerDefinitions"][0]["image"])


def test_a_service_in_another_account_is_deployed_and_its_events_are_forwarded(
    walk: Walkthrough, createos: Path
) -> None:
    # GIVEN an environment with an account of its own, as apps.yaml has it, with a service of a commit's app
    there = walk.in_account(ACCOUNT)
    there.create_target("sandbox", "123456789012")
    there.create_service(APP, "sandbox", images_account="123456789012")
    there.create_scheduled_task(APP, "sandbox", "rate(1 day)")
    walk.write_sample_app(createos, "in another account")
    sha = walk.push(createos, "For another account")
    walk.report_check(REPOSITORY, sha, "tests", "success")

    # WHEN it is deployed
    ended = walk.deploy({"app": APP, "environment": "sandbox", "ref": sha})

    # THEN the service there runs the image from here, after its release command
    assert ended.verdict == "SUCCEEDED", ended.cause
    assert "version in another account" in walk.page(walk.service_url("sandbox", APP))
    assert "RunRelease" in [phase.name for phase in ended.phases]
    service = there.client("ecs").describe_services(cluster="sandbox", services=[APP])["services"][0]
    assert service["taskDefinition"].split(":")[4] == ACCOUNT
    assert walk.client("ecs").describe_clusters(clusters=["sandbox"])["clusters"] == []
    # AND what is run at times there has the same image
    assert "@sha256:" in image_of(there, service["taskDefinition"])
    assert image_of(there, scheduled(there)) == image_of(there, service["taskDefinition"])
    # AND its events came to the bus here
    assert events_forwarded(walk) > 0


def test_what_runs_in_another_account_is_promoted_from_there(walk: Walkthrough) -> None:
    walk.create_service(APP, "dev")
    tasks = walk.count_tasks()

    promoted = walk.deploy({"app": APP, "environment": "dev", "action": "promote", "from": "sandbox"})

    assert promoted.verdict == "SUCCEEDED", promoted.cause
    assert "version in another account" in walk.page(walk.service_url("dev", APP))
    assert walk.count_tasks() == tasks  # nothing was built


def test_what_crashes_in_another_account_is_rolled_back_with_its_reason(walk: Walkthrough, createos: Path) -> None:
    walk.write_sample_app(createos, "that crashes", crash=True)
    sha = walk.push(createos, "A crash in another account")
    walk.report_check(REPOSITORY, sha, "tests", "success")
    before = scheduled(walk.in_account(ACCOUNT))

    ended = walk.deploy({"app": APP, "environment": "sandbox", "ref": sha})

    assert ended.verdict in ("RolloutRolledBack", "RolloutFailed"), ended.cause
    assert "exit 1" in ended.cause
    assert "version in another account" in walk.page(walk.service_url("sandbox", APP))
    assert scheduled(walk.in_account(ACCOUNT)) == before
