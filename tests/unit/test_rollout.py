"""Only SUCCESSFUL of our own service deployment is success; every other end has a name of its own."""

import pytest

from deploy_runner.domain.errors import (
    RolloutError,
    RolloutFailed,
    RolloutReplaced,
    RolloutRolledBack,
    RolloutStopped,
)
from deploy_runner.domain.rollout import (
    Deployment,
    Failed,
    Observed,
    Pending,
    Rollout,
    ServiceDeployment,
    StoppedTask,
    Succeeded,
    brief,
    combine,
    hopeless,
    is_visible,
    reason,
    stopped_task,
    verdict,
)

OLD, OURS, THEIRS = (f"arn:aws:ecs:us-east-1:1:task-definition/cineos:{n}" for n in (41, 42, 43))
ROLLOUT = Rollout("cineos", "arn:service", "dev", OURS, OLD)


def seen(
    *statuses: tuple[str, str], primary: Deployment | None = None, desired: int = 1, breaker: bool = True
) -> Observed:
    deployments = tuple(
        ServiceDeployment(f"sd-{n}", status, definition, "", float(n))
        for n, (status, definition) in enumerate(statuses)
    )
    return Observed("ACTIVE", desired, (primary,) if primary else (), deployments, breaker)


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        ([("ROLLBACK_REQUESTED", OURS)], RolloutRolledBack),
        ([("ROLLBACK_IN_PROGRESS", OURS)], RolloutRolledBack),
        ([("ROLLBACK_SUCCESSFUL", OURS)], RolloutRolledBack),
        ([("ROLLBACK_FAILED", OURS)], RolloutFailed),
        ([("STOPPED", OURS)], RolloutStopped),
        ([("STOPPED", OURS), ("IN_PROGRESS", THEIRS)], RolloutReplaced),
        ([("STOPPED", OURS), ("SUCCESSFUL", THEIRS)], RolloutReplaced),
    ],
)
def test_each_end_has_its_name(statuses: list[tuple[str, str]], error: type[RolloutError]) -> None:
    found = verdict(ROLLOUT, seen(*statuses))
    assert isinstance(found, Failed)
    assert found.error is error


@pytest.mark.parametrize("status", ["PENDING", "IN_PROGRESS", "STOP_REQUESTED", "SOMETHING_NEW"])
def test_what_has_not_ended_is_pending(status: str) -> None:
    assert verdict(ROLLOUT, seen((status, OURS))) == Pending()


def test_a_service_that_is_stable_on_another_revision_says_nothing_of_ours() -> None:
    stable = Deployment("PRIMARY", OLD, "COMPLETED", 1, 1)
    assert verdict(ROLLOUT, seen(("SUCCESSFUL", OLD), primary=stable)) == Pending()
    assert isinstance(verdict(ROLLOUT, seen(("ROLLBACK_SUCCESSFUL", OURS), primary=stable)), Failed)


def test_an_update_that_changed_nothing_is_a_success_once_it_is_healthy() -> None:
    assert verdict(ROLLOUT, seen(primary=Deployment("PRIMARY", OURS, "COMPLETED", 2, 2), desired=2)) == Succeeded()
    assert verdict(ROLLOUT, seen(primary=Deployment("PRIMARY", OURS, "COMPLETED", 2, 1), desired=2)) == Pending()


def test_with_no_task_desired_it_says_that_nothing_was_tried() -> None:
    found = verdict(ROLLOUT, seen(("SUCCESSFUL", OURS), desired=0))
    assert isinstance(found, Succeeded)
    assert "not exercised" in found.note


@pytest.mark.parametrize(("failed", "running", "ended"), [(2, 0, False), (3, 0, True), (3, 1, False)])
def test_a_crash_loop_without_circuit_breaker_is_judged_by_count(failed: int, running: int, ended: bool) -> None:
    primary = Deployment("PRIMARY", OURS, "IN_PROGRESS", 1, running, failed)
    found = verdict(ROLLOUT, seen(("IN_PROGRESS", OURS), primary=primary, breaker=False))
    assert isinstance(found, Failed) == ended
    assert verdict(ROLLOUT, seen(("IN_PROGRESS", OURS), primary=primary, breaker=True)) == Pending()


def test_a_service_that_is_gone_is_a_failure() -> None:
    assert verdict(ROLLOUT, Observed("INACTIVE", 0)) == Failed(RolloutFailed, "the service was deleted")


def test_all_services_must_succeed_and_the_first_failure_decides() -> None:
    failed = Failed(RolloutStopped, "x")
    assert combine([Succeeded(), Pending()]) == Pending()
    assert combine([Pending(), failed]) == failed
    assert combine([Succeeded(), Succeeded()]) == Succeeded()


def test_a_reason_is_one_line_that_says_what_how_often_and_what_serves() -> None:
    observed = Observed("ACTIVE", 1, (Deployment("PRIMARY", OURS, failed=3), Deployment("ACTIVE", OLD, running=1)))
    failed = Failed(RolloutRolledBack, "ECS rolled back")
    stopped = [StoppedTask("t", "app", 1)] * 2
    said = reason(ROLLOUT, observed, failed, stopped, "KeyError: 'DATABASE_URL'\n")
    assert said == "cineos: exit 1, 3 times, `KeyError: 'DATABASE_URL'`; revision 41 still serves"
    nothing = reason(Rollout("cineos", "a", "dev", OURS), Observed("ACTIVE", 1), failed)
    assert nothing == "cineos: ECS rolled back; nothing serves"
    assert len(reason(ROLLOUT, observed, failed, stopped, "x" * 5000)) <= 200


def test_the_container_that_failed_first_is_named_not_those_that_were_stopped_with_it() -> None:
    containers = [{"name": "proxy", "exitCode": 143}, {"name": "app", "exitCode": 2}]
    assert stopped_task({"taskArn": "a/t1", "containers": containers}) == StoppedTask("t1", "app", 2)
    pull = {"name": "app", "reason": "CannotPullContainerError: not found"}
    assert stopped_task({"containers": [pull]}).reason.startswith("CannotPull")
    assert stopped_task({"stoppedReason": "Scaling activity"}).reason == "Scaling activity"
    killed = {"name": "app", "exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}
    told = stopped_task({"containers": [{"name": "proxy", "exitCode": 1}, {"name": "log", "exitCode": 137}, killed]})
    assert (told.container, told.exit_code) == ("app", 137)


SECRET = (
    "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable "
    "to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret arn:aws:"
    "secretsmanager:us-east-1:123456789012:secret:cineos from secrets manager: ResourceNotFoundException: "
    "Secrets Manager can't find the specified secret."
)
EXEC = (
    "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: failed to "
    "create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "
    '"gunicron": executable file not found in $PATH: unknown'
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("CannotPullContainerError: not found", "CannotPullContainerError: not found"),
        (SECRET, "ResourceInitializationError: … ResourceNotFoundException: "
                 "Secrets Manager can't find the specified secret."),
        (EXEC, 'CannotStartContainerError: … exec: "gunicron": executable file not found in $PATH: unknown'),
        ("x" * 200, "x" * 119 + "…"),
        ("a: " + "x" * 200, "a: " + "x" * 116 + "…"),
        ("", ""),
    ],
)  # fmt: skip
def test_of_a_long_reason_its_two_ends_are_told(said: str, told: str) -> None:
    assert brief(said, 120) == told
    assert len(brief(said, 30)) <= 30


# --- what cannot heal -------------------------------------------------------------------------------------------------

PULL = (
    "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref cineos: not found"
)
SECRET = "ResourceInitializationError: unable to pull secrets or registry auth: Secrets Manager can't find the secret."
SLOW = "ResourceInitializationError: unable to pull secrets or registry auth: context deadline exceeded"
BUSY = "CannotPullContainerError: toomanyrequests: Rate exceeded"
CAPACITY = "TaskFailedToStart: Capacity is unavailable at this time. Please try again later"
UNHEALTHY = "Task failed container health checks"
SPOT = "Your Spot Task was interrupted."


def stops(*reasons: str, code: int | None = None) -> list[StoppedTask]:
    return [StoppedTask(f"t{number}", "app", code, why) for number, why in enumerate(reasons)]


@pytest.mark.parametrize(
    ("stopped", "running", "ended"),
    [
        (stops(PULL), 0, False),
        (stops(PULL, PULL), 0, True),
        (stops(SECRET, SECRET), 1, True),
        (stops(PULL, SECRET), 0, True),
        (stops(*[SLOW] * 9), 0, False),
        (stops(*[BUSY] * 9), 0, False),
        (stops(*[CAPACITY] * 9), 0, False),
        (stops(*[SPOT] * 9), 0, False),
        (stops(*[UNHEALTHY] * 2), 0, False),
        (stops(*[UNHEALTHY] * 3), 0, True),
        (stops(*[""] * 3, code=1), 0, True),
        (stops(*[""] * 3, code=0), 0, True),  # one that ends is no service either
        (stops(*[""] * 3, code=1), 2, False),  # others of ours run
        (
            [StoppedTask("t", "app", 1, "", code) for code in ("SpotInterruption", "ServiceSchedulerInitiated") * 3],
            0,
            False,
        ),
        ([StoppedTask("t", "app", 1, "", "EssentialContainerExited")] * 3, 0, True),
        (stops(*[""] * 10, code=1), 2, True),
    ],
)
def test_what_cannot_heal_is_stopped_and_what_can_is_waited_for(
    stopped: list[StoppedTask], running: int, ended: bool
) -> None:
    primary = Deployment("PRIMARY", OURS, "IN_PROGRESS", 10, running)
    found = hopeless(ROLLOUT, seen(("IN_PROGRESS", OURS), primary=primary, desired=10, breaker=True), stopped)
    assert (found is not None) == ended


def test_what_exits_is_left_to_a_circuit_breaker_that_comes_as_early() -> None:
    primary = Deployment("PRIMARY", OURS, "IN_PROGRESS", 1, 0)
    for breaker in (True, False):
        observed = seen(("IN_PROGRESS", OURS), primary=primary, breaker=breaker)
        assert (hopeless(ROLLOUT, observed, stops(*[""] * 3, code=1)) is None) == breaker


def test_another_digest_than_ours_is_no_success() -> None:
    rollout = Rollout("cineos", "arn:service", "dev", OURS, OLD, digest="sha256:ours")
    for digests, good in ((("sha256:ours", "sha256:proxy"), True), (("sha256:other",), False), ((), True)):
        deployment = ServiceDeployment("sd", "SUCCESSFUL", OURS, "", 1.0, digests)
        found = verdict(rollout, Observed("ACTIVE", 1, (), (deployment,)))
        assert isinstance(found, Succeeded) == good


def test_a_revision_that_was_rolled_out_before_is_ours_only_from_this_deployment_on() -> None:
    again = Rollout("cineos", "arn:service", "dev", OURS, OLD, since=5.0)
    old = Deployment("PRIMARY", OLD, "COMPLETED", 1, 1)
    draining = Deployment("ACTIVE", OURS, None, 0, 1)
    earlier = Observed("ACTIVE", 1, (old, draining), (ServiceDeployment("sd", "SUCCESSFUL", OURS, "", 1.0),))
    assert (is_visible(again, earlier), verdict(again, earlier)) == (False, Pending())
    assert is_visible(ROLLOUT, earlier)
