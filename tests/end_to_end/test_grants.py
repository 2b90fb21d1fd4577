"""What the roles were granted, held against what the end-to-end tests used of it.

Runs after the others of this folder (conftest.py sees to it), and adds what a workflow does with the role of its own.
"""

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest

from deploy_runner.cli.walkthrough import Walkthrough
from deploy_runner.local_aws.iam.evaluate import glob
from tests.templates.grants import RoleGrant, granted
from tests.templates.stacks import REQUIRED, Stack, packaged, reasons, target_elsewhere
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("end_to_end")]

ISSUER = "https://token.actions.githubusercontent.com"
REPOSITORY = "lightwave-media/createos"
# Roles that are of our templates, and not of an app's own (examples/app-service.yaml).
OPTIONAL = {"TerraformRunnerImage": "x@sha256:" + "a" * 64, "AppDeployerImage": "x@sha256:" + "a" * 64}


def report(walk: Walkthrough) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{walk.endpoint}/_local/iam", timeout=30) as response:
        return list(json.loads(response.read()))


def as_workflow(walk: Walkthrough, service: str) -> Any:
    """A client with the credentials that GitHub's token gives a job in infrastructure-live."""
    claims = {
        "iss": ISSUER, "aud": "sts.amazonaws.com", "repository_id": "1000", "ref": "refs/heads/main",
        "sub": "repo:lightwave-media/infrastructure-live:environment:deploy-runner", "environment": "deploy-runner",
    }  # fmt: skip
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    role = walk.outputs["GitHubOidcRoleArn"]
    keys = walk.client("sts").assume_role_with_web_identity(
        RoleArn=role, RoleSessionName="a-workflow", WebIdentityToken=f"e30.{payload}.c2ln"
    )["Credentials"]
    session = boto3.Session(
        keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], walk.env["AWS_DEFAULT_REGION"]
    )
    return session.client(service, endpoint_url=walk.endpoint)  # type: ignore[call-overload]


def test_a_workflow_starts_follows_and_stops_a_deployment_by_its_own_role(walk: Walkthrough, createos: Path) -> None:
    # GIVEN a commit whose build takes its time
    walk.write_sample_app(createos, "1")
    with (createos / "Dockerfile").open("a") as dockerfile:
        dockerfile.write("RUN sleep 60\n")
    sha = walk.push(createos, "A slow build")
    walk.report_check(REPOSITORY, sha, "tests", "success")

    # WHEN a workflow asks for it to be built, and is cancelled while the builder runs and writes
    states, logs = as_workflow(walk, "stepfunctions"), as_workflow(walk, "logs")
    request = json.dumps({"app": "createos", "environment": "dev", "ref": sha, "action": "build"})
    started = states.start_execution(stateMachineArn=walk.outputs["StateMachineAliasArn"], input=request)
    execution, group = started["executionArn"], "/deploy-runner/docker-builder"
    since = int(started["startDate"].timestamp() * 1000)

    def builder() -> tuple[list[str], list[Any]]:
        running = walk.client("ecs").list_tasks(cluster="deploy-runner", desiredStatus="RUNNING")["taskArns"]
        ours = running[0].rpartition("/")[2] if running else "none"
        events = logs.filter_log_events(logGroupName=group, startTime=since)["events"]
        return running, [event for event in events if event["logStreamName"].endswith(ours)]

    running, written = until(builder, all, pause=0.1)
    states.stop_execution(executionArn=execution, error="Cancelled", cause="The workflow was cancelled")

    # THEN the builder stops as well
    assert states.describe_execution(executionArn=execution)["status"] == "ABORTED"
    last = states.get_execution_history(executionArn=execution, reverseOrder=True, maxResults=1)["events"][0]
    assert last["executionAbortedEventDetails"]["error"] == "Cancelled"
    walk.client("ecs").get_waiter("tasks_stopped").wait(
        cluster="deploy-runner", tasks=running, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    # AND the workflow may read what the builders wrote
    stream = written[0]["logStreamName"]
    assert logs.get_log_events(logGroupName=group, logStreamName=stream)["events"]


def test_nothing_that_was_needed_was_refused(walk: Walkthrough) -> None:
    assert [refused["message"] for role in report(walk) for refused in role["refused"]] == []


def test_each_grant_was_used_or_has_its_reason(walk: Walkthrough, everything_ran: bool) -> None:
    if not everything_ran:
        pytest.skip("only with all tests of this folder is it known what they use")
    stacks = [Stack(packaged(), REQUIRED | OPTIONAL), target_elsewhere()]
    used = {
        RoleGrant(role["role"], grant["statement"], grant["action"], grant["resource"]).as_written
        for role in report(walk)
        for grant in role["grants"]
        if grant["used"]
    }
    assert len(used) > 50
    unused = {grant for stack in stacks for grant, _ in granted(stack) if grant.as_written not in used}
    why = {
        (RoleGrant(role, sid, "", "").as_written.role, sid, pattern)  # a template's roles share what it says of them
        for stack in stacks
        for role, each in reasons(stack).items()
        for sid, reason in each.items()
        for pattern in reason.get("unused", {})
    }

    def explains(reason: tuple[str, str, str], grant: RoleGrant) -> bool:
        role, sid, pattern = reason
        return (role, sid) == (grant.as_written.role, grant.statement) and bool(glob(pattern).fullmatch(grant.action))

    explained = {grant.as_written for grant in unused if any(explains(reason, grant) for reason in why)}
    missing = {grant.as_written for grant in unused} - explained
    assert not missing, "nothing used this; write beside it why it is granted, or drop it:\n" + listing(missing)
    stale = {reason for reason in why if not any(explains(reason, grant) for grant in unused)}
    assert not stale, f"the tests use what this says that they do not:\n{listing(stale)}"


def listing(found: set[Any]) -> str:
    return "\n".join(sorted(map(str, found)))
