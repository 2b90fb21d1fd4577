"""What is ours is taken back, step by step, and what is someone else's is left alone."""

from typing import Any

import pytest

from deploy_runner.aws.clients import TargetClients
from deploy_runner.aws.rollback import roll_back
from deploy_runner.domain.rollback import Over, PutBack, Step, Stop, Wait, combine, next_step
from deploy_runner.domain.rollout import Deployment, Observed, Rollout, ServiceDeployment
from tests.unit.fake_ecs import FakeEcs, client_error
from tests.unit.test_rollout import OLD, OURS, ROLLOUT, THEIRS
from tests.unit.test_waits import Logs


def seen(status: str | None, primary: str | None, state: str = "COMPLETED") -> Observed:
    deployments = (Deployment("PRIMARY", primary, state, 1, 1),) if primary else ()
    ours = (ServiceDeployment("sd-1", status, OURS, "", 1.0),) if status else ()
    return Observed("ACTIVE", 1, deployments, ours)


@pytest.mark.parametrize(
    ("observed", "step"),
    [
        (seen("PENDING", OURS, "IN_PROGRESS"), Stop("sd-1")),
        (seen("IN_PROGRESS", OURS, "IN_PROGRESS"), Stop("sd-1")),
        (seen("STOP_REQUESTED", OURS, "IN_PROGRESS"), Wait()),
        (seen("ROLLBACK_REQUESTED", OURS, "FAILED"), Wait()),
        (seen("ROLLBACK_IN_PROGRESS", OLD, "IN_PROGRESS"), Wait()),
        (seen("ROLLBACK_SUCCESSFUL", OLD, "IN_PROGRESS"), Wait()),
        (seen("ROLLBACK_SUCCESSFUL", OLD), Over(True, "revision 41 serves again")),
        (seen("ROLLBACK_FAILED", OURS, "FAILED"), Over(False, "cineos: ECS could not go back to revision 41")),
        (seen("ROLLBACK_FAILED", OLD, "FAILED"), Over(False, "cineos: revision 41 does not come up again")),
        (seen("SUCCESSFUL", OURS), PutBack(OLD)),
        (seen("STOPPED", OURS, "FAILED"), PutBack(OLD)),
        (seen(None, OURS), PutBack(OLD)),
        (seen(None, OURS, "IN_PROGRESS"), Wait()),  # the list of rollouts is old
        (seen(None, OLD), Over(True, "revision 41 still serves")),  # it was never updated
        (seen(None, None), Wait()),
        (
            seen("STOPPED", THEIRS, "IN_PROGRESS"),
            Over(False, "cineos: revision 43 was deployed meanwhile, and is left as it is"),
        ),
        (
            seen("SUCCESSFUL", THEIRS),
            Over(False, "cineos: revision 43 was deployed meanwhile, and is left as it is"),
        ),
        (Observed("INACTIVE", 0), Over(False, "the service cineos is gone")),
        (Observed(None, 0), Over(False, "the service cineos is gone")),
    ],
)
def test_the_next_step(observed: Observed, step: Step) -> None:
    assert next_step(ROLLOUT, observed) == step


def test_a_first_deployment_has_nothing_to_go_back_to() -> None:
    first = Rollout("cineos", "arn:service", "dev", OURS)
    assert next_step(first, seen("IN_PROGRESS", OURS)) == Stop("sd-1")  # the lock is not free while it rolls out
    assert next_step(first, seen("ROLLBACK_FAILED", OURS)) == Over(False, "cineos: there is nothing to go back to")


def test_all_services_must_be_back() -> None:
    back, not_back = Over(True, "revision 41 serves again"), Over(False, "worker: gone")
    assert combine([back, Wait()]) is None
    assert combine([back, not_back]) == not_back
    assert combine([back, back]) == back


def test_a_revision_that_was_rolled_out_before_counts_from_this_deployment_on() -> None:
    again = Rollout("cineos", "arn:service", "dev", OURS, OLD, since=5.0)
    assert next_step(again, seen("SUCCESSFUL", OLD)) == Over(True, "revision 41 still serves")
    newer = Observed(
        "ACTIVE",
        1,
        (Deployment("PRIMARY", OURS, "IN_PROGRESS"),),
        (ServiceDeployment("sd-2", "IN_PROGRESS", OURS, "", 6.0),),
    )
    assert next_step(again, newer) == Stop("sd-2")


# --- against ECS ------------------------------------------------------------------------------------------------------


class Scheduler:
    def __init__(self, *runs: str) -> None:
        self.schedules: dict[str, dict[str, Any]] = {}
        self.updates: list[dict[str, Any]] = []
        for number, arn in enumerate(runs):
            self.add(f"default/s{number}", arn)

    def add(self, name: str, runs: str) -> None:
        group, _, own = name.partition("/")
        self.schedules[name] = {
            "Name": own, "GroupName": group, "ScheduleExpression": "rate(1 hour)", "State": "DISABLED",
            "FlexibleTimeWindow": {"Mode": "OFF"}, "Arn": "output only",
            "Target": {"Arn": "cluster", "RoleArn": "role", "EcsParameters": {"TaskDefinitionArn": runs}},
        }  # fmt: skip

    def get_schedule(self, GroupName: str, Name: str) -> dict[str, Any]:  # noqa: N803
        if f"{GroupName}/{Name}" not in self.schedules:
            raise client_error("ResourceNotFoundException")
        return self.schedules[f"{GroupName}/{Name}"]

    def update_schedule(self, **given: Any) -> None:
        self.updates.append(given)
        self.schedules[f"{given['GroupName']}/{given['Name']}"] |= given


class Run:
    """A deployment of two services, each with a revision before ours, and what ECS has of them."""

    def __init__(self) -> None:
        self.fake, self.naps = FakeEcs(), list[float]()
        self.rollouts = []
        for name in ("web", "worker"):
            before, ours = (self.fake.add_definition(name) for _ in range(2))
            self.fake.add_service(name, before)
            self.rollouts.append(Rollout(name, f"arn:{name}", "dev", ours, before))
        self.scheduler = Scheduler()

    def update(self, *names: str, status: str = "IN_PROGRESS") -> None:
        for rollout in self.rollouts:
            if rollout.service in names:
                self.fake.update_service(service=rollout.service, taskDefinition=rollout.task_definition)
                self.fake.service_deployments[-1]["status"] = status
        self.fake.changes.clear()

    def back(self, **more: Any) -> Any:
        from dataclasses import asdict

        clients: Any = TargetClients(self.fake, Logs(), lambda: self.scheduler)  # type: ignore[arg-type, return-value]
        revisions = [asdict(rollout) for rollout in [*self.rollouts, *more.get("schedules", [])]]
        return roll_back(clients, {}, revisions, self.naps.append)

    @property
    def changes(self) -> list[str]:
        return [f"{name} {given.get('service', '')}".strip() for name, given in self.fake.changes]


@pytest.fixture
def run() -> Run:
    return Run()


def test_of_several_services_those_that_succeeded_are_put_back_too(run: Run) -> None:
    run.update("web", status="SUCCESSFUL")
    run.update("worker")
    assert run.back().end is None
    assert run.changes == ["UpdateService web", "StopServiceDeployment"]
    assert run.fake.changes[0][1]["taskDefinition"] == run.rollouts[0].previous_task_definition


def test_what_was_never_updated_is_over_once_ecs_had_time_to_say_otherwise(run: Run) -> None:
    assert run.back().end == Over(True, "revision 1 still serves")
    assert run.changes == []
    assert sum(run.naps) > 10


def test_an_inactive_revision_cannot_be_put_back(run: Run) -> None:
    run.update("web", status="SUCCESSFUL")
    run.rollouts = run.rollouts[:1]
    before = run.rollouts[0].previous_task_definition
    assert before
    run.fake.definitions[before][0]["status"] = "INACTIVE"
    assert run.back().end == Over(False, "web: revision 1 is INACTIVE, so it cannot be put back")
    assert run.changes == []


def test_a_rollout_that_ended_a_moment_ago_is_read_again(run: Run) -> None:
    run.update("web")
    run.rollouts = run.rollouts[:1]
    run.fake.fail_next["StopServiceDeployment"] = client_error("ConflictException")
    assert run.back().end is None
    assert run.changes == ["StopServiceDeployment"]


def test_a_schedule_goes_back_with_all_that_it_had_if_it_runs_ours(run: Run) -> None:
    run.rollouts, run.scheduler = [], Scheduler("td:2", "td:9")
    schedules = [Rollout("", "", "", "td:2", "td:1", schedule=f"default/s{number}") for number in range(2)]
    problem = run.back(schedules=schedules).problem
    (update,) = run.scheduler.updates
    assert update == {
        "Name": "s0", "GroupName": "default", "ScheduleExpression": "rate(1 hour)", "State": "DISABLED",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": "cluster", "RoleArn": "role", "EcsParameters": {"TaskDefinitionArn": "td:1"}},
    }  # fmt: skip
    assert "default/s1 must run td:2" in problem


def test_a_schedule_that_is_gone_keeps_no_service_from_going_back(run: Run) -> None:
    run.update("web")
    run.rollouts = run.rollouts[:1]
    back = run.back(schedules=[Rollout("", "", "", "td:2", "td:1", schedule="default/s0")])
    assert run.changes == ["StopServiceDeployment"]
    assert "default/s0 must exist" in back.problem


def test_many_services_that_were_never_updated_share_the_pauses() -> None:
    run = Run()
    for number in range(20):
        name = f"s{number}"
        before, ours = (run.fake.add_definition(name) for _ in range(2))
        run.fake.add_service(name, before)
        run.rollouts.append(Rollout(name, f"arn:{name}", "dev", ours, before))

    assert run.back().is_over
    assert sum(run.naps) < 15
