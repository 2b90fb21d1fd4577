"""ecs-deploy, which many deploy to ECS with, tells of each rollout what it tells of it on AWS: ecs_deploy/cli.py."""

import re

import pytest

from tests.waiting import until

from .conftest import BREAKER, CLUSTER, NO_IMAGE, ROLLBACK, Aws, ended

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("other_tools")]

Told = tuple[int, str, str]  # exit code, stdout, stderr


@pytest.fixture(scope="module")
def deploys(aws: Aws) -> dict[str, Told]:
    """Six rollouts at once, and what `ecs deploy` says of each."""
    aws.serve(changed=BREAKER, tripped=BREAKER, back=ROLLBACK, looping=None, missing=None, waiting=None)
    options = {
        "changed": ["-e", "web", "GREETING", "hello"],
        "tripped": ["-c", "web", "false"],
        "back": ["-c", "web", "false"],
        "looping": ["-c", "web", "false", "--timeout", "10"],
        "missing": ["-i", "web", NO_IMAGE, "--rollback"],
        "waiting": ["-h", "web", "false", "300", "2", "1", "0", "--timeout", "4"],  # its first check is far away
    }
    running = {name: aws.start("ecs", "deploy", CLUSTER, name, *more) for name, more in options.items()}
    return {name: ended(process) for name, process in running.items()}


def test_a_good_deployment(aws: Aws, deploys: dict[str, Told]) -> None:
    code, said, complained = deploys["changed"]

    assert (code, complained) == (0, "")
    assert "Successfully changed task definition to: changed:2" in said
    assert "Deployment successful" in said
    assert "Successfully deregistered revision: 1" in said
    assert (aws.revision("changed"), aws.rollout("changed")) == ("changed:2", "SUCCESSFUL")
    assert (aws.status("changed:1"), aws.status("changed:2")) == ("INACTIVE", "ACTIVE")
    definition = aws.ecs.describe_task_definition(taskDefinition="changed:2")["taskDefinition"]
    assert definition["containerDefinitions"][0]["environment"] == [{"name": "GREETING", "value": "hello"}]


def test_a_deployment_that_ecs_gives_up(aws: Aws, deploys: dict[str, Told]) -> None:
    code, said, complained = deploys["tripped"]

    assert code == 1
    assert "Deployment Failed! ECS deployment circuit breaker: tasks failed to start." in complained
    assert "Deployment successful" not in said
    assert (aws.rollout("tripped"), aws.service("tripped")["runningCount"]) == ("STOPPED", 1)


def test_a_deployment_that_ecs_takes_back_is_told_as_a_success(aws: Aws, deploys: dict[str, Told]) -> None:
    """As on AWS, with the revision deregistered that runs: fabfuel/ecs-deploy#185."""
    code, said, _ = deploys["back"]

    assert code == 0
    assert "Deployment successful" in said
    assert "Successfully deregistered revision: 1" in said
    assert (aws.revision("back"), aws.rollout("back")) == ("back:1", "ROLLBACK_SUCCESSFUL")
    assert aws.status("back:1") == "INACTIVE"

    # AND ECS scales a service of an INACTIVE revision, but updates none to one, as `ecs scale` asks it to:
    # docs.aws.amazon.com/AmazonECS/latest/developerguide/deregister-task-definition-v2.html
    code, _, complained = aws.run("ecs", "scale", CLUSTER, "back", "2")
    assert (code, "TaskDefinition is inactive" in complained) == (1, True)
    aws.ecs.update_service(cluster=CLUSTER, service="back", desiredCount=2)
    until(lambda: aws.service("back")["runningCount"], lambda count: count == 2)


def test_a_deployment_that_crashes_again_and_again_is_told_when_one_does_not_wait_longer(
    aws: Aws, deploys: dict[str, Told]
) -> None:
    code, _, complained = deploys["looping"]

    assert code == 1
    assert re.search(r"\d+ tasks failed to start", complained)
    assert "Deployment failed due to timeout" in complained
    assert aws.rollout("looping") == "IN_PROGRESS"


def test_a_deployment_that_cannot_start_is_told_at_once_and_taken_back_by_the_tool(
    aws: Aws, deploys: dict[str, Told]
) -> None:
    """Only of tasks that never ran ECS says this: AmazonECS/latest/developerguide/service-throttle-logic.html."""
    code, said, complained = deploys["missing"]

    assert code == 1
    assert re.search(r"ERROR: \(service missing\) is unable to consistently start tasks successfully\.", complained)
    assert "Rolling back to task definition: missing:1" in said
    assert "Rollback successful" in said
    assert "service has been rolled back to previous task definition: missing:1" in complained
    assert (aws.revision("missing"), aws.status("missing:2")) == ("missing:1", "INACTIVE")


def test_a_deployment_that_takes_longer_than_one_waits(aws: Aws, deploys: dict[str, Told]) -> None:
    code, _, complained = deploys["waiting"]

    assert code == 1
    assert "Deployment failed due to timeout" in complained
    assert [d["rolloutState"] for d in aws.service("waiting")["deployments"]] == ["IN_PROGRESS", "COMPLETED"]


def test_scale(aws: Aws) -> None:
    aws.serve(scaled=None)

    for count in ("2", "0"):
        code, said, complained = aws.run("ecs", "scale", CLUSTER, "scaled", count)
        assert (code, complained) == (0, "")
        assert f"Successfully changed desired count to: {count}" in said
        assert "Scaling successful" in said
        until(lambda: str(aws.service("scaled")["runningCount"]), lambda running, count=count: running == count)
    code, _, complained = aws.run("ecs", "scale", CLUSTER, "nothing", "2")
    assert (code, "Service not found" in complained) == (1, True)


def test_update(aws: Aws) -> None:
    aws.register("updated")

    code, said, complained = aws.run("ecs", "update", "updated", "-e", "web", "GREETING", "hello")

    assert (code, complained) == (0, "")
    assert "Successfully created revision: 2" in said
    assert (aws.status("updated:1"), aws.status("updated:2")) == ("INACTIVE", "ACTIVE")
    code, _, complained = aws.run("ecs", "update", "nothing")
    assert (code, complained.strip()) == (1, "Unknown task definition arn: nothing")


def test_run(aws: Aws) -> None:
    aws.register("ran")

    def run(subnet: str) -> Told:
        network = ["--launchtype", "FARGATE", "--subnet", subnet, "--securitygroup", aws.group]
        return aws.run("ecs", "run", CLUSTER, "ran", "2", *network, "-c", "web", "false")

    code, said, complained = run(aws.subnet)

    assert (code, complained) == (0, "")
    assert "Successfully started 2 instances of task: ran:1" in said
    arns = re.findall(r"arn:aws:ecs:\S+", said)
    until(
        lambda: aws.ecs.describe_tasks(cluster=CLUSTER, tasks=arns)["tasks"],
        lambda tasks: [task["containers"][0].get("exitCode") for task in tasks] == [1, 1],
    )
    code, _, complained = run("subnet-0123456789abcdef0")
    assert code == 1
    assert "(InvalidParameterException) when calling the RunTask operation" in complained
    assert "InvalidSubnetID.NotFound" in complained
