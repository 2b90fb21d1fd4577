"""What nearly every deploy script waits with: botocore's waiters, and the AWS CLI's, which look every 15 or 6 seconds.

Their acceptors: botocore/data/ecs/2014-11-13/waiters-2.json. A rollout that ECS gives up without going back keeps the
CLI waiting for 10 minutes, so that botocore's waiter alone shows it, with fewer attempts.
"""

import subprocess
from typing import Any

import pytest
from botocore.exceptions import WaiterError

from tests.waiting import until

from .conftest import BREAKER, CLUSTER, CRASH, GOOD, NO_IMAGE, ROLLBACK, Aws, ended

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("other_tools")]

STEADY = f"echo version 2; {GOOD}"
MISSING = 'For expression "failures[].reason" we matched expected path: "MISSING" at least once'


@pytest.fixture(scope="module", autouse=True)
def cli(aws: Aws) -> "dict[str, subprocess.Popen[str]]":
    """One `aws ecs wait` for each of what it may meet. They wait while the other tests run."""
    aws.serve(cli_good=BREAKER, cli_rolled_back=ROLLBACK)
    aws.deploy("cli_good", STEADY)
    aws.deploy("cli_rolled_back", CRASH)
    ends, cannot_start = aws.task(aws.register("ends", "exit 3")), aws.task(aws.register("none", image=NO_IMAGE))

    def wait(what: str, option: str, name: str) -> "subprocess.Popen[str]":
        return aws.start("aws", "ecs", "wait", what, "--cluster", CLUSTER, option, name)

    return {
        "good": wait("services-stable", "--services", "cli_good"),
        "rolled back": wait("services-stable", "--services", "cli_rolled_back"),
        "no service": wait("services-stable", "--services", "nothing"),
        "ends": wait("tasks-stopped", "--tasks", ends),
        "cannot start": wait("tasks-running", "--tasks", cannot_start),
    }


def wait(aws: Aws, waiter: str, attempts: int = 60, **what: Any) -> str:
    """Wait as boto3 does, but every half second; returns what the waiter complains of."""
    try:
        config = {"Delay": 0.5, "MaxAttempts": attempts}
        aws.ecs.get_waiter(waiter).wait(cluster=CLUSTER, WaiterConfig=config, **what)
    except WaiterError as error:
        return str(error)
    return ""


def test_services_are_stable_once_the_new_revision_runs_alone(aws: Aws) -> None:
    aws.serve(good=None, unchanged=None)
    aws.deploy("good", STEADY)

    assert wait(aws, "services_stable", services=["good", "unchanged"]) == ""

    assert (aws.revision("good"), aws.rollout("good")) == ("good:2", "SUCCESSFUL")
    assert aws.service("good")["runningCount"] == 1


def test_services_are_called_stable_after_a_rollback_too(aws: Aws) -> None:
    """The false success that this project is about: aws-actions/amazon-ecs-deploy-task-definition#191."""
    aws.serve(rolled_back=ROLLBACK)
    aws.deploy("rolled_back", CRASH)

    assert wait(aws, "services_stable", services=["rolled_back"]) == ""

    assert (aws.revision("rolled_back"), aws.rollout("rolled_back")) == ("rolled_back:1", "ROLLBACK_SUCCESSFUL")


def test_services_are_never_stable_while_the_new_revision_does_not_run(aws: Aws) -> None:
    aws.serve(given_up=BREAKER, tried_for_ever=None)
    for name in ("given_up", "tried_for_ever"):
        aws.deploy(name, CRASH)
    until(lambda: aws.rollout("given_up"), lambda status: status == "STOPPED")

    for name in ("given_up", "tried_for_ever"):
        complaint = wait(aws, "services_stable", attempts=3, services=[name])
        assert complaint == "Waiter ServicesStable failed: Max attempts exceeded"
        assert [d["status"] for d in aws.service(name)["deployments"]] == ["PRIMARY", "ACTIVE"]
    states = [aws.service(name)["deployments"][0]["rolloutState"] for name in ("given_up", "tried_for_ever")]
    assert states == ["FAILED", "IN_PROGRESS"]


def test_services_that_are_deleted_are_inactive_and_never_stable(aws: Aws) -> None:
    aws.serve(deleted=None)
    aws.ecs.delete_service(cluster=CLUSTER, service="deleted", force=True)

    assert 'we matched expected path: "DRAINING"' in wait(aws, "services_stable", services=["deleted"])
    assert wait(aws, "services_inactive", services=["deleted"]) == ""
    assert 'we matched expected path: "INACTIVE"' in wait(aws, "services_stable", services=["deleted"])
    assert MISSING in wait(aws, "services_inactive", services=["nothing"])


def test_tasks_run_and_stop(aws: Aws) -> None:
    good, fails = aws.task(aws.register("runs")), aws.task(aws.register("fails", "exit 3"))
    never = aws.task(aws.register("never", image=NO_IMAGE))

    assert wait(aws, "tasks_running", tasks=[good]) == ""
    assert 'we matched expected path: "STOPPED" at least once' in wait(aws, "tasks_running", tasks=[good, never])
    assert MISSING in wait(aws, "tasks_running", tasks=["0" * 32])

    assert wait(aws, "tasks_stopped", tasks=[fails, never]) == ""
    assert wait(aws, "tasks_stopped", attempts=2, tasks=[good, fails]).endswith("Max attempts exceeded")
    aws.ecs.stop_task(cluster=CLUSTER, task=good)
    assert wait(aws, "tasks_stopped", tasks=[good, fails]) == ""
    codes = [
        t["containers"][0].get("exitCode") for t in aws.ecs.describe_tasks(cluster=CLUSTER, tasks=[fails])["tasks"]
    ]
    assert codes == [3]


def test_the_cli_waits_until_the_new_revision_runs_alone(aws: Aws, cli: "dict[str, subprocess.Popen[str]]") -> None:
    assert ended(cli["good"]) == (0, "", "")
    assert (aws.revision("cli_good"), aws.rollout("cli_good")) == ("cli_good:2", "SUCCESSFUL")


def test_the_cli_takes_a_rollback_for_a_success(aws: Aws, cli: "dict[str, subprocess.Popen[str]]") -> None:
    assert ended(cli["rolled back"]) == (0, "", "")
    assert (aws.revision("cli_rolled_back"), aws.rollout("cli_rolled_back")) == (
        "cli_rolled_back:1", "ROLLBACK_SUCCESSFUL",
    )  # fmt: skip


def test_the_cli_says_what_it_cannot_wait_for(cli: "dict[str, subprocess.Popen[str]]") -> None:
    assert ended(cli["ends"]) == (0, "", "")
    for name, complaint in (
        ("no service", f"Waiter ServicesStable failed: Waiter encountered a terminal failure state: {MISSING}"),
        ("cannot start", 'For expression "tasks[].lastStatus" we matched expected path: "STOPPED" at least once'),
    ):
        code, said, complained = ended(cli[name])
        assert (code, said) == (255, "")
        assert complaint in complained
