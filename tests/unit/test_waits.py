"""A wait is answered once, by what ECS says, whatever the order in which events come."""

import json
from typing import Any

import pytest

from deploy_runner.aws.clients import TargetClients
from deploy_runner.aws.waits import Wait, Waits, settle
from deploy_runner.domain.errors import TargetMisconfigured
from deploy_runner.domain.rollout import Failed, Pending, Rollout, Succeeded
from tests.unit.fake_ecs import CLUSTER, FakeEcs, client_error, service_arn

TABLE = "deploy-runner-deployments"


class States:
    """Step Functions, which takes only the first answer to a token."""

    def __init__(self, error: str = "") -> None:
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def _answer(self, kind: str, given: dict[str, Any]) -> None:
        if self.error:
            raise client_error(self.error)
        if any(earlier["taskToken"] == given["taskToken"] for _, earlier in self.answers):
            raise client_error("TaskTimedOut")
        self.answers.append((kind, given))

    def send_task_success(self, **given: Any) -> None:
        self._answer("success", given)

    def send_task_failure(self, **given: Any) -> None:
        self._answer("failure", given)


class Logs:
    def get_log_events(self, **_: Any) -> dict[str, Any]:
        return {"events": [{"message": "KeyError: 'DATABASE_URL'"}]}


@pytest.fixture
def fake() -> FakeEcs:
    fake = FakeEcs()
    options = {"awslogs-group": "/apps/cineos", "awslogs-stream-prefix": "cineos"}
    app = {"name": "app", "image": "i", "logConfiguration": {"logDriver": "awslogs", "options": options}}
    old, _ = (fake.add_definition("cineos", {}, containerDefinitions=[app]) for _ in range(2))
    fake.add_service("cineos", old)
    return fake


def wait_for(fake: FakeEcs, token: str = "token-1") -> Wait:  # noqa: S107
    old, new = fake.definitions
    rollout = Rollout("cineos", service_arn("cineos"), CLUSTER, new, old)
    return Wait(token, "arn:execution:1", "d-1", {"role_arn": "r", "region": "us-east-1"}, (rollout,), 600)


class Run:
    """One deployment's wait with everything that it needs."""

    def __init__(self, aws: Any, fake: FakeEcs) -> None:
        self.fake, self.states, self.naps = fake, States(), list[float]()
        self.table = aws.client("dynamodb")
        self.waits = Waits(self.table, TABLE)
        self.wait = wait_for(fake)
        self.waits.store(self.wait)

    def settle(self, ended: str | None = None) -> object:
        clients = TargetClients(self.fake, Logs())
        return settle(self.wait, clients, self.states, self.waits, ended, self.naps.append)

    def stored(self) -> list[Wait]:
        return self.waits.of_service(service_arn("cineos"))


@pytest.fixture
def run(aws: Any, fake: FakeEcs) -> Run:
    return Run(aws, fake)


def test_a_stored_wait_is_found_by_its_service_and_reads_back_the_same(run: Run) -> None:
    [found] = run.stored()
    assert (found.task_token, found.rollouts, found.target) == ("token-1", run.wait.rollouts, run.wait.target)
    assert run.waits.of_service(service_arn("another")) == []
    [item] = run.table.scan(TableName=TABLE)["Items"]
    assert item["pk"]["S"] == f"ROLLOUT#{service_arn('cineos')}"
    assert item["sk"]["S"] == "TOKEN#arn:execution:1"
    assert int(item["expires_at"]["N"]) > 600


def test_a_rollout_in_progress_answers_nothing_and_waits_no_second(run: Run) -> None:
    run.fake.update_service(service="cineos", taskDefinition=run.wait.rollouts[0].task_definition)
    assert run.settle() == Pending()
    assert (run.states.answers, run.naps, len(run.stored())) == ([], [], 1)


def test_success_is_answered_and_the_token_forgotten(run: Run) -> None:
    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "SUCCESSFUL")
    assert isinstance(run.settle(), Succeeded)
    [(kind, given)] = run.states.answers
    assert (kind, json.loads(given["output"])) == ("success", {"verdict": "SUCCEEDED"})
    assert run.stored() == []


def test_a_rollback_is_a_failure_with_its_reason_in_one_line(run: Run) -> None:
    new = run.wait.rollouts[0].task_definition
    run.fake.add_rollout(new, "ROLLBACK_IN_PROGRESS", "deployment circuit breaker: tasks failed to start")
    for number in range(3):
        containers = [{"name": "app", "exitCode": 1}]
        run.fake.tasks.append({"taskArn": f"task/t{number}", "taskDefinitionArn": new, "containers": containers})
    assert isinstance(run.settle(), Failed)
    [(kind, given)] = run.states.answers
    assert (kind, given["error"]) == ("failure", "RolloutRolledBack")
    assert given["cause"] == "cineos: exit 1, 3 times, `KeyError: 'DATABASE_URL'`; revision 1 still serves"


def test_what_is_read_right_after_the_update_may_be_old(run: Run) -> None:
    """GIVEN readings that do not know our revision yet WHEN they do later THEN nobody had to send another event."""
    naps = run.naps

    class Late(FakeEcs):
        def list_service_deployments(self, **given: Any) -> dict[str, Any]:
            return super().list_service_deployments(**given) if len(naps) >= 3 else {"serviceDeployments": []}

    run.fake.__class__ = Late
    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "SUCCESSFUL")
    assert isinstance(run.settle(), Succeeded)
    assert len(naps) == 3


def test_a_rollout_without_tasks_may_have_ended_before_its_token_was_stored(run: Run) -> None:
    """GIVEN readings that still say in progress WHEN no event comes any more THEN they are read again all the same."""
    naps = run.naps

    class Late(FakeEcs):
        def list_service_deployments(self, **given: Any) -> dict[str, Any]:
            self.service_deployments[0]["status"] = "SUCCESSFUL" if len(naps) >= 3 else "IN_PROGRESS"
            return super().list_service_deployments(**given)

    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "IN_PROGRESS")
    run.fake.services["cineos"]["desiredCount"] = 0
    run.fake.__class__ = Late
    assert run.settle() == Succeeded("not exercised: the service's desired count is 0")
    assert len(naps) == 3


def test_an_event_that_says_it_ended_is_read_again_until_ecs_says_so_too(run: Run) -> None:
    new = run.wait.rollouts[0].task_definition
    run.fake.add_rollout(new, "IN_PROGRESS")
    assert run.settle(ended=service_arn("cineos")) == Pending()
    assert 10 <= sum(run.naps) < 15
    run.naps.clear()
    assert run.settle(ended=service_arn("another")) == Pending()
    assert run.naps == []


@pytest.mark.parametrize("error", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_token_that_was_answered_already_is_forgotten_in_silence(run: Run, error: str) -> None:
    run.states.error = error
    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "SUCCESSFUL")
    run.settle()
    assert run.stored() == []


def test_a_token_that_cannot_be_answered_is_kept(run: Run) -> None:
    run.states.error = "AccessDeniedException"
    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "SUCCESSFUL")
    with pytest.raises(TargetMisconfigured):
        run.settle()
    assert len(run.stored()) == 1


def test_an_older_token_does_not_take_the_newer_one_with_it(run: Run) -> None:
    run.waits.store(wait_for(run.fake, "token-2"))  # the state was tried again
    run.waits.forget(run.wait)
    assert [wait.task_token for wait in run.stored()] == ["token-2"]
    run.waits.forget(run.stored()[0])
    run.waits.forget(wait_for(run.fake, "token-2"))  # twice does no harm
    assert run.stored() == []


def test_events_that_come_twice_answer_once(run: Run) -> None:
    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "SUCCESSFUL")
    run.settle()
    run.settle()
    assert len(run.states.answers) == 1


def test_a_reason_that_cannot_be_read_does_not_hold_up_the_verdict(run: Run) -> None:
    def refuse(**_: Any) -> Any:
        raise client_error("AccessDeniedException")

    run.fake.list_tasks = refuse
    run.fake.add_rollout(run.wait.rollouts[0].task_definition, "STOPPED", "by a person")
    run.settle()
    assert run.states.answers[0][1]["error"] == "RolloutStopped"


def test_a_longer_report_is_kept_with_the_history_of_every_service_that_failed(run: Run, fake: FakeEcs) -> None:
    # GIVEN two services whose rollouts crash, and the deployment's record
    from dataclasses import replace

    record = {"app": "cineos", "environment": "dev", "started_at": "2026-01-01T00:00:00Z", "id": "d-1"}
    key = {"pk": {"S": "APP#cineos#dev"}, "sk": {"S": "DEPLOYMENT#2026-01-01T00:00:00Z#d-1"}}
    run.table.put_item(TableName=TABLE, Item=key)
    first = run.wait.rollouts[0]
    worker = replace(first, service="worker", service_arn=service_arn("worker"))
    fake.add_service("worker", str(first.previous_task_definition))
    fake.add_rollout(first.task_definition, "ROLLBACK_IN_PROGRESS", "deployment circuit breaker", created=1e9)
    container = {"name": "app", "exitCode": 1, "lastStatus": "STOPPED"}
    fake.tasks = [
        {"taskArn": f"t/{n}", "taskDefinitionArn": first.task_definition, "containers": [container]} for n in range(3)
    ]
    run.wait = replace(run.wait, rollouts=(first, worker), record=record)

    run.settle()

    kept = run.table.get_item(TableName=TABLE, Key=key)["Item"]["report"]["S"]
    assert "cineos: revision 2: ECS rolled back" in kept
    assert "worker: revision 2: ECS rolled back" in kept
    assert "  3 × app: exit 1\n" in kept
    assert "  KeyError: 'DATABASE_URL'\n" in kept
    assert "2001-09-09 01:46:40  revision 2  ROLLBACK_IN_PROGRESS  deployment circuit breaker" in kept


def test_a_way_back_is_answered_once_what_ran_before_runs_again(run: Run, fake: FakeEcs) -> None:
    from dataclasses import replace

    run.wait = replace(run.wait, rollback=True)
    rollout = run.wait.rollouts[0]
    fake.update_service(service="cineos", taskDefinition=rollout.task_definition)
    fake.service_deployments[-1]["status"] = "ROLLBACK_IN_PROGRESS"

    run.settle()
    assert run.states.answers == []
    fake.gone_back("cineos", str(rollout.previous_task_definition))
    run.settle()

    [(kind, given)] = run.states.answers
    assert kind == "success"
    assert json.loads(given["output"]) == {"restored": True, "serves": "revision 1 serves again"}
