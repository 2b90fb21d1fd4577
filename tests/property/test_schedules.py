"""Several deployments at once, in any order, with functions that die, events that come twice, late or not at all.

The real functions run on a small DynamoDB and Step Functions, on virtual time; at the end, with nothing failing any
more, the sweeper must have brought all to a good end. SCHEDULES_SEED=N runs the schedules of an earlier day again, and
SCHEDULES_SHRINK=1 makes a failing one as short as may be, which takes longer.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deploy_runner.aws.deployments import Deployments, Unfinished, _lock
from deploy_runner.domain.errors import AwsUnavailable, DeployRunnerError, LockLost
from deploy_runner.domain.lock import Lock
from tests.property.fake_dynamodb import FakeDynamoDb, refused
from tests.unit.conftest import ENVIRONMENT

SEED = int(os.environ.get("SCHEDULES_SEED", datetime.now(UTC).strftime("%Y%m%d")))
SCHEDULES, PARTS = 2000, 8  # in parts, so that several processes share them: a minute of a processor together
PREFIX = "arn:aws:states:us-east-1:123456789012:execution:deploy-app:"
TABLE = ENVIRONMENT["DEPLOYMENTS_TABLE"]
FINAL = ("success", "failure", "error", "inactive")
APPS = ("cineos", "createos")


class Crash(BaseException):
    """The function dies here, as Lambda kills one: nothing catches it."""


class World:
    """AWS and GitHub as the functions meet them."""

    def __init__(self) -> None:
        self.now, self.calls_left = 1_000_000.0, -1
        self.dynamodb = FakeDynamoDb(self.call)
        self.table = Deployments(self.dynamodb, TABLE, lambda _: None, lambda: self.now)  # type: ignore[arg-type]
        self.status: dict[str, str] = {}
        self.waits: dict[str, str] = {}  # token -> execution, while it waits
        self.answers: dict[str, tuple[str, str]] = {}  # execution -> error and cause of its answer
        self.queue: list[tuple[str, dict[str, Any]]] = []  # functions that are started for an event
        self.told: dict[str, list[str]] = {}  # final states at GitHub
        self.checks: dict[str, int] = {}
        self.rolling: dict[str, str] = {}  # app -> deployment whose rollout is in progress
        self.runs: dict[str, str] = dict.fromkeys(APPS, "")  # app -> deployment
        self.changed: set[str] = set()
        self.succeeded: list[str] = []

    def call(self, _: str = "") -> None:
        """A call to AWS: here a function may die, and from then on it calls nothing."""
        if self.calls_left == 0:
            raise Crash
        self.calls_left -= self.calls_left > 0

    def client(self, name: str) -> Any:
        return {"dynamodb": self.dynamodb}.get(name, self)

    # --- Step Functions, Lambda, EventBridge, SNS, ECS ---

    def _answer(self, token: str, error: str, cause: str) -> None:
        self.call()
        execution = self.waits.pop(token, None)
        if execution is None or self.status[execution] != "RUNNING":
            raise refused("TaskTimedOut", "SendTaskSuccess")
        self.answers[execution] = (error, cause)

    def send_task_success(self, taskToken: str, output: str) -> None:  # noqa: N803
        self._answer(taskToken, "", "")

    def send_task_failure(self, taskToken: str, error: str, cause: str) -> None:  # noqa: N803
        self._answer(taskToken, error, cause)

    def describe_execution(self, executionArn: str) -> dict[str, str]:  # noqa: N803
        self.call()
        return {"status": self.status[executionArn.removeprefix(PREFIX)], "error": "E", "cause": "c", "output": "{}"}

    def get_execution_history(self, **_: Any) -> dict[str, Any]:
        return {"events": []}

    def get_paginator(self, _: str) -> Any:
        return SimpleNamespace(paginate=lambda **_: [])

    def invoke(self, FunctionName: str, InvocationType: str, Payload: bytes) -> None:  # noqa: N803
        self.call()
        self.queue.append((FunctionName.removeprefix("deploy-runner-").removesuffix(":live"), json.loads(Payload)))

    def put_events(self, **_: Any) -> dict[str, Any]:
        self.call()
        return {"FailedEntryCount": 0}

    def publish(self, **_: Any) -> None:
        self.call()

    # --- GitHub ---

    def create_deployment(self, *_: Any, deployment_id: str, **__: Any) -> str:
        self.call()
        return deployment_id

    def deployment_state(self, _: str, number: Any) -> str | None:
        return next(iter(self.told.get(self._of(number), [])), None)

    def set_deployment_status(self, _: str, number: Any, state: str, **__: Any) -> None:
        self.call()
        if state in FINAL:
            self.told.setdefault(self._of(number), []).append(state)

    def find_check_run(self, *given: Any) -> int | None:
        return self.checks.get(given[3])

    def create_check_run(self, *_: Any, external_id: str, **__: Any) -> None:
        self.call()
        self.checks[external_id] = self.checks.get(external_id, 0) + 1

    def _of(self, number: Any) -> str:
        return str(number)

    # --- what a rollout comes to ---

    def take_back(self, app: str, name: str) -> None:
        if self.rolling.get(app) == name:
            del self.rolling[app]
        elif self.runs[app] == name:
            self.runs[app] = self.before(app, name)

    def before(self, app: str, name: str) -> str:
        return next((done for done in reversed(self.succeeded) if done.split("/")[0] == app and done != name), "")

    def lock(self, name: str) -> Lock:
        return _lock(name, self.dynamodb.items.get((f"LOCK#{name}", "LOCK")))


WORLD: list[World] = []


@pytest.fixture(scope="module", autouse=True)
def real_functions() -> Iterator[None]:
    """The functions, with the world of the schedule that runs in the place of AWS and GitHub.

    All that is ever run is imported here: a module first imported under these patches would keep them for ever.
    """
    from functions import github_app, observability, table
    from functions.acquire_lock import handler as acquire
    from functions.clean_up import handler as clean_up
    from functions.finish_deployment import handler as finish
    from functions.report_status import handler as report
    from functions.report_status import tell
    from functions.sweep import handler as sweep

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for method in ("append_keys", "info", "warning", "error", "exception"):
            patch.setattr(observability.logger, method, lambda *_, **__: None)
        patch.setattr(observability.metrics, "add_metric", lambda **_: None)
        for module in (table, acquire, report, finish, clean_up, sweep, tell):
            for name, given in (("client", _client), ("deployments", _deployments)):
                if hasattr(module, name):
                    patch.setattr(module, name, given)
        clock = SimpleNamespace(time=lambda: WORLD[0].now, sleep=lambda _: None)
        patch.setattr(clean_up, "time", clock)
        patch.setattr(sweep, "time", clock)
        patch.setattr(tell, "time", clock)
        patch.setattr(clean_up, "in_target", lambda *_: SimpleNamespace(ecs=None))
        patch.setattr(clean_up, "stop_tasks_of", lambda *_: 0)
        patch.setattr(clean_up, "roll_back", _roll_back)
        patch.setattr(github_app, "github", lambda *_: WORLD[0])
        yield


def _client(name: str) -> Any:
    return WORLD[0].client(name)


def _deployments() -> Deployments:
    return WORLD[0].table


def _roll_back(_: Any, deployment: dict[str, Any], __: Any) -> Any:
    WORLD[0].call()
    WORLD[0].take_back(deployment["app"], deployment["id"])
    return SimpleNamespace(is_over=True)


def run(function: str, event: dict[str, Any], milliseconds: int = 5_000) -> Any:
    """Call a function as Lambda does, without Powertools around it."""
    import importlib

    handler = importlib.import_module(f"functions.{function.replace('-', '_')}.handler").lambda_handler
    return handler.__wrapped__.__wrapped__(event, SimpleNamespace(get_remaining_time_in_millis=lambda: milliseconds))


class Execution:
    """One execution of the state machine: its next state, and what its variables hold."""

    def __init__(self, world: World, app: str, number: int, order: bool, unit: bool) -> None:
        self.world, self.id, self.app = world, f"{app}/{number}", app
        self.until = 0.0
        self.state, self.failure, self.outcome, self.tokens = "Validate", dict[str, str](), dict[str, Any](), 0
        locks = [f"app/{app}/dev", *(["unit/live/dev"] if unit else [])]
        self.deployment = {
            "id": self.id, "execution_arn": PREFIX + self.id, "started_at": f"2026-01-01T00:00:00.{number:03}Z",
            "app": app, "environment": "dev", "action": "deploy", "ref": "main", "sha": "c" * 40, "requested_by": None,
            "queue": "all" if order else "latest", "locks": {"build": [], "deploy": locks}, "origin": None,
            "repository": f"o/{app}", "repository_id": 1, "image": {"tag": "t", "repository_name": app},
            "target": {"cluster": "dev"}, "release": None, "app_deployer": None, "timeouts": {"rollout": 9},
        }  # fmt: skip

    @property
    def running(self) -> bool:
        return self.world.status.get(self.id) == "RUNNING"

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or at least its function does, which has looked whether it may change a service."""
        return self.running or (self.state == "Change" and self.world.now < self.until)

    def step(self, good: bool) -> None:
        """Do what the state does, and go on to the next; a function that dies is tried again in the same state."""
        getattr(self, f"_{self.state}")(good)

    def _Validate(self, _: bool) -> None:  # noqa: N802
        self.world.table.accept(self.deployment)
        self.state = "Acquire"

    def _Acquire(self, _: bool) -> None:  # noqa: N802
        answered = self.world.answers.pop(self.id, None)
        if answered is None and f"{self.id}#{self.tokens}" in self.world.waits:
            return  # it waits, which costs nothing
        if answered is None:
            self.tokens += 1
            token = f"{self.id}#{self.tokens}"
            self.world.waits[token] = self.id
            event = {"task_token": token, "deployment": self.deployment, "wanted": self.deployment["locks"]["deploy"]}
            try:
                run("acquire-lock", event | {"given_up": []})
            except (Crash, DeployRunnerError):
                self.world.waits.pop(token, None)  # a new try has a new token
                raise
            answered = self.world.answers.pop(self.id, None)
            if answered is None:
                return
        error, cause = answered
        self.state = "Finish" if error else "Register"
        self.failure = {"state": "AcquireLock", "error": error, "cause": cause} if error else {}

    def _Register(self, _: bool) -> None:  # noqa: N802
        self._keep(revisions=[{"service": self.app, "service_arn": f"arn:{self.app}"}])
        self.state = "Update"

    def _Update(self, _: bool) -> None:  # noqa: N802
        self.until = self.world.now + 110  # the function may live as long, also if its execution does not
        self._keep(changing_until=self.until)
        self.state = "Change"

    def _Change(self, _: bool) -> None:  # noqa: N802
        if self.world.rolling.get(self.app) != self.id and self.id not in self.world.changed:
            owner = self.world.lock(f"app/{self.app}/dev").owner
            assert owner
            assert owner.deployment_id == self.id, "a service is changed by who does not own its lock"
            assert self.app not in self.world.rolling, "two rollouts of one app at once"
            newer = [name for name in self.world.succeeded if name.split("/")[0] == self.app]
            if self.deployment["queue"] == "latest":
                assert all(_number(name) < _number(self.id) for name in newer), "an older request undid a newer one"
            self.world.rolling[self.app] = self.id
            self.world.changed.add(self.id)
        self._keep(changing_until=0)
        self.state = "Wait"

    def _Wait(self, good: bool) -> None:  # noqa: N802
        if self.world.rolling.get(self.app) == self.id:
            del self.world.rolling[self.app]
            if good:
                self.world.runs[self.app] = self.id
            else:
                self.failure = {"state": "WaitForStable", "error": "RolloutRolledBack", "cause": "exit 1"}
        self.state = "Finish"

    def _Finish(self, _: bool) -> None:  # noqa: N802
        execution = {"arn": PREFIX + self.id, "name": self.id, "started_at": self.deployment["started_at"]}
        event = {"execution": execution, "deployment": self.deployment, "failure": self.failure or None, "note": None}
        self.outcome = run("finish-deployment", event | {"rollback": None, "digest": "sha256:" + self.id})
        self.state = "Report"

    def _Report(self, _: bool) -> None:  # noqa: N802
        event = {"step": "outcome", "deployment": self.deployment, "outcome": self.outcome}
        run("report-status", event | {"execution": {"arn": PREFIX + self.id, "started_at": "t", "name": self.id}})
        self.end("SUCCEEDED" if self.outcome["verdict"] == "SUCCEEDED" else "FAILED")

    def _keep(self, **values: object) -> None:
        try:
            self.world.table.keep(self.deployment, **values)
        except LockLost as error:
            self.failure = {"state": "RegisterRevisions", "error": "LockLost", "cause": str(error)}
            self.state = "Finish"
            raise

    def end(self, status: str) -> None:
        self.world.status[self.id] = status
        self.world.queue.append(("clean-up", {"execution_arn": PREFIX + self.id}))


def _number(name: str) -> int:
    return int(name.split("/")[1])


class Schedules(RuleBasedStateMachine):
    """Rules are what may happen next, in any order."""

    @initialize(order=st.booleans(), unit=st.booleans())
    def begin(self, order: bool, unit: bool) -> None:
        self.world = World()
        WORLD[:] = [self.world]
        self.executions: list[Execution] = []
        self.order, self.unit = order, unit

    @precondition(lambda self: len(self.executions) < 7)
    @rule(app=st.sampled_from(APPS))
    def request(self, app: str) -> None:
        made = Execution(self.world, app, len(self.executions), self.order, self.unit)
        self.world.status[made.id] = "RUNNING"
        self.executions.append(made)
        self._do(made, True, -1)

    @precondition(lambda self: any(each.goes_on for each in self.executions))
    @rule(index=st.integers(0, 6), good=st.booleans(), calls=st.integers(-8, 9), states=st.sampled_from([1, 2, 3, 8]))
    def advance(self, index: int, good: bool, calls: int, states: int) -> None:
        """One goes on by some states, and the function of the last may die at any of its calls."""
        going = [each for each in self.executions if each.goes_on]
        one = going[index % len(going)]
        for left in reversed(range(states)):
            if one.goes_on:
                self._do(one, good, -1 if left else max(calls, -1))

    @precondition(lambda self: any(each.running for each in self.executions))
    @rule(index=st.integers(0, 6), lost=st.booleans(), status=st.sampled_from(["ABORTED", "TIMED_OUT", "FAILED"]))
    def stop(self, index: int, lost: bool, status: str) -> None:
        """An execution is stopped, or breaks; the event of it may be lost."""
        running = [each for each in self.executions if each.running]
        running[index % len(running)].end(status)
        if lost:
            self.world.queue.pop()

    @precondition(lambda self: self.world.queue)
    @rule(index=st.integers(0, 20), again=st.booleans(), calls=st.integers(-8, 9))
    def deliver(self, index: int, again: bool, calls: int) -> None:
        """An event comes, not in its order, perhaps to come again; its function may die."""
        queue = self.world.queue
        function, event = queue[index % len(queue)] if again else queue.pop(index % len(queue))
        self._call(function, event, max(calls, -1))

    @rule(calls=st.integers(-8, 9), seconds=st.sampled_from([0, 1, 30, 120]))
    def sweep(self, calls: int, seconds: int) -> None:
        self.world.now += seconds
        self._call("sweep", {}, max(calls, -1))

    def _do(self, execution: Execution, good: bool, calls: int) -> None:
        self.world.calls_left = calls
        with suppress(Crash, LockLost, AwsUnavailable):
            execution.step(good)
        self.world.calls_left = -1
        self._note_successes()

    def _call(self, function: str, event: dict[str, Any], calls: int) -> None:
        if function == "watch-rollout":
            return  # the rollouts here end by themselves
        self.world.calls_left = calls
        with suppress(Crash, AwsUnavailable):
            run(function, event)
        self.world.calls_left = -1
        self._note_successes()

    def _note_successes(self) -> None:
        for execution in self.executions:
            item = self.world.dynamodb.items.get((f"APP#{execution.app}#dev", "NOW"))
            if item and item["id"]["S"] == execution.id and execution.id not in self.world.succeeded:
                self.world.succeeded.append(execution.id)

    @invariant()
    def locks_are_as_they_should_be(self) -> None:
        for app in APPS if hasattr(self, "world") else ():
            lock = self.world.lock(f"app/{app}/dev")
            if not self.order:
                assert len(lock.waiting) <= 1, "of those that wait only the newest is left"
            assert [each.age for each in lock.waiting] == sorted(each.age for each in lock.waiting)
            owner = lock.owner and lock.owner.deployment_id
            if app in self.world.rolling:
                assert self.world.rolling[app] == owner, "a lock was handed over during a rollout"

    def teardown(self) -> None:
        """Nothing fails any more: everything must come to a good end."""
        if not hasattr(self, "world"):
            return
        note(f"SCHEDULES_SEED={SEED} reproduces this, in the same part")
        for _ in range(60):
            for execution in self.executions:
                if execution.running:
                    self._do(execution, True, -1)
            while self.world.queue:
                self._call(*self.world.queue.pop(0), -1)
            self.world.now += 60
            self._call("sweep", {}, -1)
            if not any(e.running for e in self.executions) and not self.world.queue and not self._unfinished():
                break
        self.check()

    def _unfinished(self) -> list[Unfinished]:
        return list(self.world.table.unfinished())

    def check(self) -> None:
        assert not any(execution.running for execution in self.executions), "one is stuck"
        assert self._unfinished() == [], "something is left to do"
        held = [key for key in self.world.dynamodb.items if key[0].startswith("LOCK#")]
        locks = [self.world.lock(pk.removeprefix("LOCK#")) for pk, _ in held]
        assert not [lock for lock in locks if lock.owner or lock.waiting], "a lock is held"
        assert self.world.rolling == {}
        for execution in self.executions:
            sort = f"DEPLOYMENT#{execution.deployment['started_at']}#{execution.id}"
            record = self.world.dynamodb.items.get((f"APP#{execution.app}#dev", sort))
            assert record, "one is lost"
            verdict = record["verdict"]["S"]
            assert len(self.world.told[execution.id]) == 1, "GitHub has one end of each"
            assert self.world.checks[execution.id] == 1
            assert (self.world.told[execution.id] == ["success"]) == (verdict == "SUCCEEDED")
            if execution.outcome and execution.outcome["tell"]:
                assert execution.outcome["verdict"] == verdict
            if verdict == "SUPERSEDED":
                assert execution.id not in self.world.changed
            if verdict == "SUCCEEDED":
                assert execution.id in self.world.changed
        for app in APPS:
            now = self.world.dynamodb.items.get((f"APP#{app}#dev", "NOW"))
            assert self.world.runs[app] == (now["id"]["S"] if now else ""), "what runs is not what the table says"


@pytest.mark.parametrize("part", range(PARTS))
def test_schedules(part: int) -> None:
    seed(SEED * PARTS + part)(Schedules)
    phases = (Phase.explicit, Phase.generate, *([Phase.shrink] if "SCHEDULES_SHRINK" in os.environ else []))
    given = settings(
        max_examples=SCHEDULES // PARTS,
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )
    run_state_machine_as_test(Schedules, settings=given)
