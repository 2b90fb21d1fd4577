"""How a deployment ends: by its own Finish, by its clean-up, or by what the sweeper finds; and who is woken then."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from deploy_runner.aws.deployments import Answer, Deployments, Unfinished
from deploy_runner.domain.outcome import Outcome
from functions.clean_up import handler as clean_up
from functions.finish_deployment import handler as finish
from functions.sweep import handler as sweep
from tests.unit.conftest import ENVIRONMENT, Context
from tests.unit.fake_ecs import client_error
from tests.unit.test_deployments import deployment as plain

PREFIX = "arn:aws:states:us-east-1:123456789012:execution:deploy-app:"
TARGET = {"role_arn": "r", "region": "us-east-1", "cluster": "dev", "services": []}
REVISION = {"service": "cineos", "service_arn": "arn:cineos", "cluster": "dev", "task_definition": "td:2"}


def deployment(name: str, **more: Any) -> dict[str, Any]:
    extra = {"execution_arn": PREFIX + name, "target": TARGET, "release": None, "app_deployer": None}
    return plain(name) | extra | {"timeouts": {"rollout": 900}} | more


class World:
    """Step Functions, Lambda and ECS as the functions meet them, and the table."""

    def __init__(self, aws: Any) -> None:
        self.table = Deployments(aws.client("dynamodb"), ENVIRONMENT["DEPLOYMENTS_TABLE"])
        self.executions: dict[str, dict[str, Any]] = {}
        self.answers: list[tuple[str, str]] = []
        self.dead: set[str] = set()
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.tasks: list[dict[str, Any]] = []
        self.rolled_back: list[Any] = []
        self.is_over = [True]
        self.history: Any = []

    def client(self, name: str) -> Any:
        return {"stepfunctions": self, "lambda": self, "ecs": self}.get(name) or self.table._dynamodb

    def go(self, name: str, status: str = "RUNNING", **more: Any) -> dict[str, Any]:
        made = deployment(name, **more)
        self.executions[PREFIX + name] = {"status": status}
        self.table.accept(made)
        for answer in self.table.claim(made, f"token-{name}", made["locks"]["deploy"]):
            self.table.answered(answer)
        return made

    def one(self, name: str) -> Unfinished:
        found = self.table.find(name)
        assert found
        return found

    # --- what AWS does ---

    def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        if executionArn not in self.executions:
            raise client_error("ExecutionDoesNotExist")
        return self.executions[executionArn]

    def get_paginator(self, name: str) -> Any:
        if name == "list_tasks":
            return SimpleNamespace(paginate=lambda **_: [{"taskArns": [t["taskArn"] for t in self.tasks]}])
        if isinstance(self.history, Exception):
            raise self.history
        return SimpleNamespace(paginate=lambda **_: [{"events": self.history}])

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        return {"tasks": [dict(task) for task in self.tasks]}

    def stop_task(self, task: str, **_: Any) -> None:
        next(each for each in self.tasks if each["taskArn"] == task)["lastStatus"] = "STOPPED"

    def send_task_success(self, taskToken: str, output: str) -> None:  # noqa: N803
        if taskToken in self.dead:
            raise client_error("TaskTimedOut")
        self.answers.append((taskToken, "go on"))

    def send_task_failure(self, taskToken: str, error: str, cause: str) -> None:  # noqa: N803
        self.answers.append((taskToken, error))

    def invoke(self, FunctionName: str, InvocationType: str, Payload: bytes) -> None:  # noqa: N803
        assert InvocationType == "Event"
        self.started.append((FunctionName, json.loads(Payload)))


@pytest.fixture
def world(aws: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    import functions.table

    made = World(aws)
    for module in (functions.table, finish, clean_up, sweep):
        monkeypatch.setattr(module, "client", made.client)
    monkeypatch.setattr(clean_up, "in_target", lambda target, name: SimpleNamespace(ecs=made))
    monkeypatch.setattr(clean_up.time, "sleep", lambda _: None)

    def roll_back(_: Any, deployment: Any, revisions: Any) -> Any:
        made.rolled_back.append(revisions)
        return SimpleNamespace(is_over=made.is_over.pop(0) if len(made.is_over) > 1 else made.is_over[0])

    monkeypatch.setattr(clean_up, "roll_back", roll_back)
    return made


def end(name: str, context: Context, **more: Any) -> dict[str, Any]:
    execution = {"arn": PREFIX + name, "name": name, "started_at": "2026-01-01T00:00:00Z"}
    event = {
        "execution": execution,
        "deployment": {"id": name},
        "failure": None,
        "note": None,
        "rollback": None,
        "digest": None,
    }
    return finish.lambda_handler(event | more, context)


# --- finish_deployment ------------------------------------------------------------------------------------------------


def test_the_end_is_written_with_its_phases_and_the_next_is_woken(world: World, context: Context) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    states = ["ValidateRequest", "BuildImage", "WaitForStable"]
    world.history = [
        {"type": "TaskStateEntered", "timestamp": start + timedelta(seconds=n), "stateEnteredEventDetails": {"name": s}}
        for n, s in enumerate(states)
    ]
    first = world.go("d1")
    world.go("d2")
    world.table.keep(first, revisions=[REVISION])

    said = end("d1", context, digest="sha256:1")

    assert said == {"verdict": "SUCCEEDED", "error": "", "cause": "", "state": "", "tell": True}
    assert world.answers == [("token-d2", "go on")]
    assert (world.one("d2").answer, world.one("d1").released) == (None, True)
    good = world.table.named("cineos", "dev", "d1")
    assert good
    assert (good.digest, good.revisions) == ("sha256:1", {"cineos": "td:2"})
    key = {"pk": {"S": "APP#cineos#dev"}, "sk": {"S": "DEPLOYMENT#2026-01-01T00:00:01Z#d1"}}
    item = world.table._get(key)
    assert item
    assert json.loads(item["phases"]["L"][0]["S"])[:2] == [
        {"name": "ValidateRequest", "seconds": 1.0}, {"name": "BuildImage", "seconds": 1.0}
    ]  # fmt: skip
    assert (item["transitions"]["N"], float(item["cost"]["N"]) > 0) == ("3", True)


def test_a_function_that_was_killed_after_it_wrote_the_end_tells_of_it_when_it_is_tried_again(
    world: World, context: Context
) -> None:
    world.go("d1")
    assert end("d1", context) == end("d1", context)


def test_a_verdict_that_is_there_stands_and_is_told_by_its_writer(world: World, context: Context) -> None:
    world.go("d1")
    world.table.end(world.one("d1"), Outcome("CANCELLED", "Cancelled", "stopped"), "clean_up", {}, releases=False)
    stopped = {"verdict": "CANCELLED", "error": "Cancelled", "cause": "stopped", "state": ""}
    assert end("d1", context) == stopped | {"tell": False}


def test_an_end_does_not_wait_for_a_history_that_cannot_be_read(world: World, context: Context) -> None:
    world.go("d1")
    world.history = client_error("ThrottlingException")
    assert end("d1", context)["verdict"] == "SUCCEEDED"


def test_a_rejected_request_is_kept_and_told(world: World, context: Context) -> None:
    failure = {"state": "ValidateRequest", "error": "RefNotAllowed", "cause": json.dumps({"errorMessage": "no"})}
    said = end("x", context, deployment=None, failure=failure)
    rejected = {"verdict": "REJECTED", "error": "RefNotAllowed", "cause": "no", "state": "ValidateRequest"}
    assert said == rejected | {"tell": True}
    assert world.table._get({"pk": {"S": "REJECTED"}, "sk": {"S": "DEPLOYMENT#2026-01-01T00:00:00Z#x"}})


def test_what_was_accepted_before_its_function_was_killed_ends_as_what_it_is(world: World, context: Context) -> None:
    world.go("d1")
    said = end(
        "d1", context, deployment=None, failure={"state": "ValidateRequest", "error": "Sandbox.Timedout", "cause": ""}
    )
    assert (said["verdict"], said["cause"]) == ("FAILED", "ValidateRequest failed with Sandbox.Timedout")
    assert world.one("d1").outcome


@pytest.mark.parametrize(
    ("error", "restored", "verdict", "cause"),
    [
        ("RolloutRolledBack", True, "ROLLED_BACK", "exit 1; revision 41 still serves"),
        ("RolloutFailed", True, "ROLLED_BACK", "exit 1; revision 41 still serves"),
        ("RolloutFailed", False, "FAILED", "exit 1; revision 41 still serves; web: gone"),
        ("RolloutRolledBack", False, "FAILED", "exit 1; revision 41 still serves; web: gone"),
        ("RolloutReplaced", False, "FAILED", "exit 1; revision 41 still serves; web: gone"),
    ],
)
def test_a_rollout_is_rolled_back_only_if_what_ran_before_runs_again(
    world: World, context: Context, error: str, restored: bool, verdict: str, cause: str
) -> None:
    world.go("d1")
    failure = {"state": "WaitForStable", "error": error, "cause": "exit 1; revision 41 still serves"}
    serves = "revision 41 serves again" if restored else "web: gone"
    said = end("d1", context, failure=failure, rollback={"restored": restored, "serves": serves})
    assert (said["verdict"], said["cause"]) == (verdict, cause)


# --- clean_up ---------------------------------------------------------------------------------------------------------


def ended_event(name: str) -> dict[str, Any]:
    return {"source": "aws.states", "detail": {"executionArn": PREFIX + name, "status": "ABORTED"}}


def test_an_execution_that_runs_or_ended_in_order_is_left_alone(world: World, context: Context) -> None:
    clean_up.lambda_handler(ended_event("unknown"), context)
    world.go("d1")
    clean_up.lambda_handler(ended_event("d1"), context)
    assert (world.one("d1").outcome, world.started) == (None, [])


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        ({"status": "ABORTED", "error": "", "cause": "by a person"}, "CANCELLED"),
        ({"status": "TIMED_OUT"}, "TIMED_OUT"),
        ({"status": "FAILED", "error": "RolloutRolledBack", "cause": "exit 1"}, "ROLLED_BACK"),
        ({"status": "FAILED", "error": "States.Runtime", "cause": "x"}, "FAILED"),
        ({"status": "SUCCEEDED", "output": '{"verdict": "SUCCEEDED"}'}, "SUCCEEDED"),
    ],
)
def test_what_ended_without_its_end_is_ended_told_and_followed(
    world: World, context: Context, ended: dict[str, str], verdict: str
) -> None:
    made = world.go("d1")
    world.go("d2")
    world.table.keep(made, revisions=[REVISION])
    world.executions[PREFIX + "d1"] = ended
    for _ in range(2):  # everything may come twice
        clean_up.lambda_handler(ended_event("d1"), context)
    outcome = world.one("d1").outcome
    assert outcome
    assert outcome.verdict == verdict
    assert [(name, event["outcome"]["verdict"]) for name, event in world.started] == [
        ("deploy-runner-report-status:live", verdict)
    ]
    assert world.answers == [("token-d2", "go on")]
    assert len(world.rolled_back) == (0 if verdict == "SUCCEEDED" else 1)


def test_the_lock_is_kept_until_tasks_are_stopped_functions_over_and_rollouts_back(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world.go("d1")
    world.go("d2")
    now = [1000.0]
    monkeypatch.setattr(clean_up.time, "time", lambda: now[0])
    world.table.keep(made, revisions=[REVISION], changing_until=1100)
    world.executions[PREFIX + "d1"] = {"status": "ABORTED"}
    world.tasks = [{"taskArn": "t1", "group": "d1", "lastStatus": "RUNNING"}, {"taskArn": "t2", "group": "d2"}]
    left = iter([50_000, 50_000, 1_000, 50_000, 1_000])
    monkeypatch.setattr(Context, "get_remaining_time_in_millis", lambda _: next(left))

    clean_up.lambda_handler(ended_event("d1"), context)
    assert [task.get("lastStatus") for task in world.tasks] == ["STOPPED", None]
    assert (world.answers, world.rolled_back) == ([], [])
    now[0], world.is_over = 1101.0, [False, False, True]
    clean_up.lambda_handler(ended_event("d1"), context)
    assert (world.answers, len(world.rolled_back)) == ([], 2)
    clean_up.lambda_handler(ended_event("d1"), context)
    assert (world.answers, len(world.rolled_back)) == ([("token-d2", "go on")], 3)


def test_one_that_waits_no_longer_is_cleaned_up(world: World, context: Context) -> None:
    world.go("d1")
    world.go("d2")
    world.dead.add("token-d2")
    end("d1", context)
    assert world.started == [("deploy-runner-clean-up:live", {"execution_arn": PREFIX + "d2"})]


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_the_sweeper_leaves_alone_what_is_on_its_way(world: World, context: Context) -> None:
    world.go("d1")
    sweep.lambda_handler({}, context)
    assert (world.started, world.answers) == ([], [])


def test_the_sweeper_has_done_what_was_missed(world: World, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.go("d1")
    world.go("d2")
    world.table.keep(made, revisions=[REVISION])  # its rollout's event may be lost
    _, _, (answer,) = world.table.end(world.one("d1"), Outcome("SUCCEEDED"), "finish", {})  # and then it was killed
    other = world.go("d3", locks={"build": [], "deploy": ["app/other/dev"]})
    world.table.keep(other, revisions=[REVISION])
    world.go("d4", locks={"build": [], "deploy": ["app/third/dev"]})
    del world.executions[PREFIX + "d4"]  # 90 days ago
    later = datetime.now(UTC).timestamp() + 600
    monkeypatch.setattr(sweep.time, "time", lambda: later)

    sweep.lambda_handler({}, context)

    assert world.answers == [(answer.token, "go on")]
    assert world.one("d2").answer is None
    told = [(name, e.get("execution_arn") or e.get("services") or e["step"]) for name, e in world.started]
    assert sorted(told, key=str) == [
        ("deploy-runner-clean-up:live", PREFIX + "d4"),
        ("deploy-runner-report-status:live", "outcome"),
        ("deploy-runner-watch-rollout:live", ["arn:cineos"]),
    ]  # fmt: skip


def test_one_that_cannot_be_looked_at_does_not_hold_up_the_others(world: World, context: Context) -> None:
    world.go("d1", locks={"build": [], "deploy": ["app/other/dev"]})
    world.go("d2", status="FAILED")
    plain_describe = world.describe_execution

    def describe(executionArn: str) -> dict[str, Any]:  # noqa: N803
        if executionArn.endswith("d1"):
            raise client_error("ThrottlingException")
        return plain_describe(executionArn)

    world.describe_execution = describe  # type: ignore[method-assign]
    with pytest.raises(Exception, match="ThrottlingException"):
        sweep.lambda_handler({}, context)
    assert world.started == [("deploy-runner-clean-up:live", {"execution_arn": PREFIX + "d2"})]


def test_an_answer_reads_back_as_it_was_written(world: World) -> None:
    world.go("d1")
    world.go("d2")
    _, _, (answer,) = world.table.end(world.one("d1"), Outcome("SUCCEEDED"), "finish", {})
    assert world.one("d2").answer == answer == Answer("d2", PREFIX + "d2", "token-d2")


# --- what is not settled yet ------------------------------------------------------------------------------------------


def test_a_lock_is_kept_while_a_task_takes_its_time_to_stop(world: World, context: Context, monkeypatch: Any) -> None:
    # GIVEN a task that Step Functions has stopped already, and whose containers run on
    made = world.go("d1", "ABORTED")
    world.tasks = [{"taskArn": "t1", "group": "d1", "lastStatus": "RUNNING", "desiredStatus": "STOPPED"}]
    monkeypatch.setattr(context.__class__, "get_remaining_time_in_millis", lambda _: 5_000)

    clean_up.lambda_handler({"execution_arn": made["execution_arn"]}, context)
    assert not world.one("d1").released

    world.tasks[0]["lastStatus"] = "STOPPED"
    clean_up.lambda_handler({"execution_arn": made["execution_arn"]}, context)
    assert world.one("d1").released


def test_what_ran_out_of_time_is_stopped_before_its_lock_is_handed_over(world: World, context: Context) -> None:
    world.go("d1", release={"service": "cineos"})
    world.go("d2")
    failure = {"state": "RunRelease", "error": "States.Timeout", "cause": ""}

    assert end("d1", context, failure=failure)["verdict"] == "TIMED_OUT"
    assert world.answers == []

    world.executions[PREFIX + "d1"] = {"status": "FAILED"}
    clean_up.lambda_handler({"execution_arn": PREFIX + "d1"}, context)
    assert world.answers == [("token-d2", "go on")]


def test_a_build_is_cleaned_up_without_its_target(world: World, context: Context, monkeypatch: Any) -> None:
    def not_there(*_: Any) -> Any:
        raise AssertionError("there is no such role")

    monkeypatch.setattr(clean_up, "in_target", not_there)
    world.go("d1", "ABORTED", action="build")

    clean_up.lambda_handler({"execution_arn": PREFIX + "d1"}, context)

    assert world.one("d1").released


def test_a_way_back_without_an_end_does_not_keep_the_lock_from_a_repair(
    world: World, context: Context, monkeypatch: Any
) -> None:
    made = world.go("d1", "ABORTED", timeouts={"rollout": 600})
    world.table.keep(made, revisions=[REVISION])
    world.is_over = [False]
    monkeypatch.setattr(context.__class__, "get_remaining_time_in_millis", lambda _: 5_000)

    clean_up.lambda_handler({"execution_arn": PREFIX + "d1"}, context)
    assert not world.one("d1").released

    later = world.one("d1").ended_at + 601
    monkeypatch.setattr(clean_up.time, "time", lambda: later)
    clean_up.lambda_handler({"execution_arn": PREFIX + "d1"}, context)
    assert world.one("d1").released


def test_a_success_that_only_the_clean_up_could_write_can_be_gone_back_to(world: World, context: Context) -> None:
    made = world.go("d1", "SUCCEEDED")
    world.table.keep(made, revisions=[REVISION | {"digest": "sha256:1"}])

    clean_up.lambda_handler({"execution_arn": PREFIX + "d1"}, context)

    good = world.table.named("cineos", "dev", "d1")
    assert good
    assert good.digest == "sha256:1"
