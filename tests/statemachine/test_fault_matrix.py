"""The fault matrix: every state of `deploy-app`, and every kind of error that it can meet.

After each: no lock is held, one verdict is in the history and at GitHub, and it is the same, no task runs, each service
runs the old or the new revision wholly, and the cause is one line that names the state. A state without a row fails.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import fake_aws
import pytest
from botocore.exceptions import ClientError
from fake_aws import ServiceError
from world import APP_DEPLOYER, RELEASE, Fault, World

from deploy_runner.domain.outcome import VERDICTS
from deploy_runner.github.errors import GitHubUnavailable
from tests.property.fake_dynamodb import FakeDynamoDb, refused
from tests.waiting import until

DEFINITION = fake_aws.definition()
STATES: dict[str, Any] = DEFINITION["States"]
TRANSIENT = [
    "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException", "Lambda.ClientExecutionTimeoutException", "GitHubUnavailable", "AwsUnavailable",
]  # fmt: skip
KILLED = ["Lambda.Unknown", "Sandbox.Timedout", "Runtime.ExitError", "Runtime.OutOfMemory"]
FINAL = ("success", "failure", "error", "inactive")
# The states whose error changes no verdict: it is told, or written, by others later.
WITHOUT_CONSEQUENCE = ("ReportQueued", "ReportRollback", "Finish", "ReportOutcome")

# state: the function that it invokes, the step of its payload, and the way on which it lies
FUNCTIONS = {
    "ValidateRequest": ("validate_request", "", "plain"),
    "ReportQueued": ("report_status", "queued", "plain"),
    "AcquireBuild": ("acquire_lock", "build", "plain"),
    "AcquireLock": ("acquire_lock", "deploy", "plain"),
    "FindRollouts": ("deploy_service", "find", "deployer"),
    "RegisterRevisions": ("deploy_service", "register", "plain"),
    "DeployServices": ("deploy_service", "update", "plain"),
    "WaitForStable": ("watch_rollout", "rollout", "plain"),
    "RollBack": ("deploy_service", "roll_back", "failing"),
    "ReportRollback": ("report_status", "rollback", "failing"),
    "WaitForRollback": ("watch_rollout", "rollback", "failing"),
    "Finish": ("finish_deployment", "", "plain"),
    "ReportOutcome": ("report_status", "outcome", "plain"),
}
TASKS = {"BuildImage": "plain", "RunAppDeployer": "deployer", "RunRelease": "release"}
REGISTRY = {"FindImage": 0, "ReadDigest": 1}  # which of the calls to ECR it is
# A choice, a success and a failure can only meet an expression that gives nothing: test_expressions.py evaluates each.
NOTHING_TO_MEET = [name for name, state in STATES.items() if state["Type"] in ("Choice", "Succeed", "Fail")]


@dataclass(frozen=True)
class Row:
    """One execution of the matrix."""

    name: str
    way: str
    prepare: Callable[[World], object]
    verdicts: tuple[str, ...]
    machine: str = "deploy-app"
    stopped: bool = False  # the execution is stopped, or runs out of time: its clean-up ends it
    own: Callable[[World], object] = lambda world: None


def faults(*given: Fault) -> Callable[[World], object]:
    return lambda world: world.faults.extend(given)


def stops(function: str, step: str, when: str) -> Callable[[World], object]:
    """The execution is stopped while the function runs, which goes on as if nothing were."""
    return lambda world: world.faults.append(Fault(function, step, when=when, act=world.stop))


EXECUTIONS = "arn:aws:states:us-east-1:123456789012:execution:deploy-app"
USUAL = {"plain": "SUCCEEDED", "deployer": "SUCCEEDED", "release": "SUCCEEDED", "failing": "ROLLED_BACK"}


def of_functions() -> Iterator[Row]:
    for state, (function, step, way) in FUNCTIONS.items():
        usual = (USUAL[way],)
        # They all stand in one list of the definition, so one state meets every name, and the others some of each kind.
        for error in TRANSIENT + KILLED if state == "AcquireLock" else [*TRANSIENT[-3:], *KILLED[1:3]]:
            yield Row(f"{state}-once-{error}", way, faults(Fault(function, step, error)), usual)
        for error in KILLED[:2]:
            yield Row(f"{state}-killed-when-done-{error}", way, faults(Fault(function, step, error, "after")), usual)
        failed = usual if state in WITHOUT_CONSEQUENCE else ("FAILED",)
        for error in ("AwsUnavailable", "TargetMisconfigured", "KeyError"):
            lasting = Fault(function, step, error, times=99)
            # The sweeper's own call is the last to fail, and the next one does not.
            lasting.times = 5 if state in WITHOUT_CONSEQUENCE else 99
            yield Row(f"{state}-always-{error}", way, lambda w, f=lasting: w.faults.append(copy_of(f)), failed)
        late = ("TIMED_OUT",) if state not in WITHOUT_CONSEQUENCE else usual
        if state in ("RollBack", "WaitForRollback"):
            late = ("FAILED",)
        lasting = Fault(function, step, "States.Timeout", times=1)
        yield Row(f"{state}-times-out", way, lambda w, f=lasting: w.faults.append(copy_of(f)), late)
        if function != "watch_rollout" and "acquire" not in function:  # whose results nobody reads
            odd = Fault(function, step, when="after", result={"odd": 1})
            nonsense = usual if state in WITHOUT_CONSEQUENCE else ("FAILED",)
            yield Row(f"{state}-returns-nonsense", way, faults(odd), nonsense)
        for when in ("before", "after"):
            cancelled = ("CANCELLED",)
            if state == "ReportOutcome" or (state == "Finish" and when == "after"):
                cancelled = usual  # the verdict was there already
            elif state == "Finish":
                cancelled = ("CANCELLED", *usual)  # whoever comes first
            yield Row(f"{state}-stopped-{when}", way, stops(function, step, when), cancelled, stopped=True)


def copy_of(fault: Fault) -> Fault:
    return Fault(fault.function, fault.step, fault.error, fault.when, fault.times)


def of_tasks() -> Iterator[Row]:
    for state, way in TASKS.items():
        cluster = "dev" if state == "RunRelease" else "deploy-runner"

        def run(answers: list[Any], cluster: str = cluster) -> Callable[[World], object]:
            def prepare(world: World) -> None:
                well, left = world.aws.run_task, list(answers)

                def run_task(request: dict[str, Any]) -> Any:
                    if request["cluster"].rpartition("/")[2] != cluster or not left:
                        return well(request)
                    answer = left.pop(0)
                    if isinstance(answer, ServiceError):
                        raise answer
                    return answer(world, request) if callable(answer) else answer

                world.aws.run_task = run_task

            return prepare

        usual, failed = ("SUCCEEDED",), ("FAILED",)
        capacity = {"failures": [{"reason": "Capacity is unavailable at this time."}], "tasks": []}
        throttled = ServiceError("ThrottlingException", "Rate exceeded")
        yield Row(f"{state}-once-no-capacity", way, run([capacity]), usual)
        yield Row(f"{state}-once-throttled", way, run([throttled]), usual)
        lost = ServiceError("ServerException", "x")  # it may have begun, which only a build may do twice
        yield Row(f"{state}-once-server-error", way, run([lost]), failed if state == "RunRelease" else usual)
        yield Row(f"{state}-always-no-capacity", way, run([capacity] * 9), failed)
        yield Row(f"{state}-always-throttled", way, run([throttled] * 9), failed)
        yield Row(f"{state}-access-denied", way, run([ServiceError("AccessDeniedException", "no")] * 9), failed)
        for code, why in ((1, ""), (2, ""), (3, ""), (137, "OutOfMemoryError: Container killed due to memory usage")):
            container = {"name": "kaniko", "exitCode": code} | ({"reason": why} if why else {})
            yield Row(f"{state}-exit-{code}", way, run([{"containers": [container]}]), failed)
        pull = {"name": "kaniko", "reason": "CannotPullContainerError: not found"}
        yield Row(f"{state}-cannot-pull", way, run([{"containers": [pull], "stopCode": "TaskFailedToStart"}]), failed)
        ended: dict[str, Any] = {"lastStatus": "RUNNING"}
        hangs = run([ended])

        def hangs_too_long(world: World, hangs: Callable[[World], object] = hangs) -> None:
            hangs(world)
            short(world, "build", "release")

        yield Row(f"{state}-times-out", way, hangs_too_long, ("TIMED_OUT",))

        def stop(world: World, request: dict[str, Any]) -> dict[str, Any]:
            threading.Timer(0.05, world.stop).start()
            return {"lastStatus": "RUNNING"}

        yield Row(f"{state}-stopped", way, run([stop]), ("CANCELLED",), stopped=True)
        yield Row(
            f"{state}-machine-out-of-time", way, run([ended]), ("TIMED_OUT",), machine="deploy-app-1s", stopped=True
        )
    nothing = {"containers": [{"name": "kaniko", "exitCode": 0}]}
    yield Row(
        "ReadDigest-pushes-nothing", "plain", lambda w: setattr(w.aws, "run_task", lambda _: nothing), ("FAILED",)
    )


def short(world: World, *names: str) -> None:
    world.deployment["timeouts"] = world.deployment["timeouts"] | dict.fromkeys(names, 1)


def of_registry() -> Iterator[Row]:
    for state, index in REGISTRY.items():
        for code in ("ServerException", "ThrottlingException", "LimitExceededException"):
            for times in (1, 99):
                # The last is none of those that go away.
                verdict = "SUCCEEDED" if times == 1 and code != "LimitExceededException" else "FAILED"
                yield Row(
                    f"{state}-{'once' if times == 1 else 'always'}-{code}", "plain",
                    lambda w, c=code, i=index, n=times: ecr_fails(w, c, i, n), (verdict,),
                )  # fmt: skip
        yield Row(
            f"{state}-not-found",
            "plain",
            lambda w, i=index: ecr_fails(w, "RepositoryNotFoundException", i, 1),
            ("FAILED", "SUCCEEDED"),
        )
        yield Row(
            f"{state}-stopped", "plain",
            lambda w, i=index: ecr_fails(w, "", i, 1, w.stop), ("CANCELLED",), stopped=True,
        )  # fmt: skip


def ecr_fails(world: World, code: str, skip: int, times: int, act: Callable[[], object] | None = None) -> None:
    plain, left = world.aws._BatchGetImage, [skip, times]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if left[0]:
            left[0] -= 1
        elif left[1]:
            left[1] -= 1
            if act is None:
                raise ServiceError(code, "as the test wants it")
            act()
        return plain(request)

    world.aws._BatchGetImage = answer  # type: ignore[method-assign]


def of_rollouts() -> Iterator[Row]:
    """What ECS may say of our rollouts, and what may become of its events."""
    ends = {
        "breaker": ("ROLLED_BACK",), "crash": ("ROLLED_BACK",), "pull": ("ROLLED_BACK",), "replaced": ("FAILED",),
        "good": ("SUCCEEDED",), "zero": ("SUCCEEDED",), "stopped": ("FAILED",), "no way back": ("FAILED",),
    }  # fmt: skip
    for behaviour, verdicts in ends.items():
        for service in ("web", "worker"):

            def prepare(world: World, behaviour: str = behaviour, service: str = service) -> None:
                world.ecs.behaviour[service] = behaviour
                if behaviour == "zero":
                    world.ecs.services[service]["desiredCount"] = 0

            yield Row(f"WaitForStable-{service}-{behaviour}", "plain", prepare, verdicts)
        both = lambda w, b=behaviour: w.ecs.behaviour.update(web=b, worker=b)  # noqa: E731
        yield Row(f"WaitForStable-both-{behaviour}", "plain", both, verdicts)
        lost = lambda w, b=behaviour: (w.ecs.behaviour.update(worker=b), setattr(w, "lose_rollout_events", True))  # noqa: E731
        yield Row(f"WaitForStable-events-lost-{behaviour}", "plain", lost, verdicts, own=sweep_meanwhile)
        doubled = lambda w, b=behaviour: (w.ecs.behaviour.update(worker=b), setattr(w, "double_events", True))  # noqa: E731
        yield Row(f"WaitForStable-events-doubled-{behaviour}", "plain", doubled, verdicts)
        late = lambda w, b=behaviour: (w.ecs.behaviour.update(worker=b), vars(w).update(late_events=0.2))  # noqa: E731
        yield Row(f"WaitForStable-events-late-{behaviour}", "plain", late, verdicts, own=sweep_meanwhile)
    hangs = lambda w: (w.ecs.behaviour.update(worker="hang"), short(w, "rollout"))  # noqa: E731
    yield Row("WaitForStable-times-out-for-real", "plain", hangs, ("TIMED_OUT",))
    yield Row("WaitForStable-machine-out-of-time", "plain", lambda w: w.ecs.behaviour.update(worker="hang"),
              ("TIMED_OUT",), machine="deploy-app-1s", stopped=True)  # fmt: skip
    yield Row("WaitForRollback-events-lost", "failing", lambda w: setattr(w, "lose_rollout_events", True),
              ("ROLLED_BACK",), own=sweep_meanwhile)  # fmt: skip
    for state, (function, step, way) in FUNCTIONS.items():
        if state not in ("ValidateRequest", "Finish", "ReportOutcome"):

            def prepare_lost(world: World, function: str = function, step: str = step) -> None:
                world.lose_execution_events = True
                stops(function, step, "after")(world)

            yield Row(f"{state}-stopped-and-its-event-lost", way, prepare_lost, ("CANCELLED",), stopped=True)

            def prepare_doubled(world: World, function: str = function, step: str = step) -> None:
                world.double_events = True
                stops(function, step, "before")(world)

            yield Row(f"{state}-stopped-and-its-event-doubled", way, prepare_doubled, ("CANCELLED",), stopped=True)
    for state in ("ReportQueued", "ReportOutcome"):
        yield Row(f"{state}-github-is-down", "plain", github_down, ("SUCCEEDED",), own=github_up)


def sweep_meanwhile(world: World) -> None:
    def is_over() -> bool:
        if world.sfn.describe_execution(executionArn=world.arn)["status"] != "RUNNING":
            return True
        world.call("sweep", {})
        world.settle()
        return False

    until(is_over)


def github_down(world: World) -> None:
    world.github.error = GitHubUnavailable("GitHub must answer")


def github_up(world: World) -> None:
    world.finish(world.arn)
    world.settle()
    world.github.error = None


def of_the_table() -> Iterator[Row]:
    """DynamoDB is busy: at any of the calls that a state makes, once or for long; each state is tried again."""
    busy = {
        "conflict": transaction_refused("TransactionConflict"), "throttled": transaction_refused("ThrottlingError"),
        "too-busy": refused("ProvisionedThroughputExceededException", "TransactWriteItems"),
        "broken": refused("InternalServerError", "TransactWriteItems"),
    }  # fmt: skip
    for state, (function, step, way) in FUNCTIONS.items():
        for name, error in busy.items():

            def prepare(world: World, function: str = function, step: str = step, error: ClientError = error) -> None:
                table_fails(world, function, step, error)

            yield Row(f"{state}-table-{name}", way, prepare, (USUAL[way],))


def transaction_refused(code: str) -> ClientError:
    reasons = [{"Code": code}]
    return refused("TransactionCanceledException", "TransactWriteItems", CancellationReasons=reasons)


def table_fails(world: World, function: str, step: str, error: ClientError) -> None:
    """From the moment that a function is invoked, the next three calls of the table fail that can."""
    left, table = [0], cast("FakeDynamoDb", world.table._dynamodb)

    def before(operation: str) -> None:
        if left[0] and (operation == "TransactWriteItems" or "Transaction" not in str(error)):
            left[0] -= 1
            raise error

    table.before = before
    world.faults.append(Fault(function, step, act=lambda: left.__setitem__(0, 3)))


def of_the_lock() -> Iterator[Row]:
    def another(world: World) -> dict[str, Any]:
        more = {"id": "another", "execution_arn": f"{EXECUTIONS}:another", "started_at": "2020-01-01T00:00:00.000Z"}
        made = world.deployment | more
        world.table.accept(made)
        return made

    def held(world: World, lock: str) -> None:
        made = another(world)
        for answer in world.table.claim(made, "token", made["locks"][lock]):
            world.table.answered(answer)
        world.deployment["timeouts"] = world.deployment["timeouts"] | {"queue": 1}

    def let_go(world: World) -> None:
        world.finish(world.arn)  # in vain
        world.table.told(world.deployment | {"id": "another", "started_at": "2020-01-01T00:00:00.000Z"}, "now")

    for state, lock in (("AcquireBuild", "build"), ("AcquireLock", "deploy")):
        # The other's execution is not there, so the sweeper ends it; ours has given up before.
        yield Row(f"{state}-waits-too-long", "plain", lambda w, k=lock: held(w, k), ("TIMED_OUT",), own=let_go)

    def superseded(world: World) -> None:
        newer = {"id": "another", "execution_arn": f"{EXECUTIONS}:another", "started_at": "2999-01-01T00:00:00.000Z"}
        made = world.deployment | newer
        world.table.accept(made)
        world.table.claim(made, "token", made["locks"]["deploy"])
        found = world.table.find("another")
        assert found
        from deploy_runner.domain.outcome import Outcome

        world.table.end(found, Outcome("SUCCEEDED"), "finish", {"digest": "sha256:newer"})
        world.table.told(made, "now")

    yield Row("AcquireLock-superseded", "plain", superseded, ("SUPERSEDED",))
    for state in ("RegisterRevisions", "DeployServices"):
        function, step, way = FUNCTIONS[state]
        lost = Fault(function, step, act=lambda: None)

        def prepare_lost(world: World, lost: Fault = lost) -> None:
            world.faults.append(Fault(lost.function, lost.step, act=lambda: lock_lost(world)))

        yield Row(f"{state}-lock-lost", way, prepare_lost, ("CANCELLED",), stopped=True)


def lock_lost(world: World) -> None:
    """Another has ended the deployment, and handed its lock over, while a function is about to go on for it."""
    from deploy_runner.domain.outcome import Outcome

    found = world.table.find(world.name)
    assert found
    stopped = Outcome("CANCELLED", "Cancelled", "DeployServices: by another", "DeployServices")
    world.table.end(found, stopped, "other", {})


def of_schedules() -> Iterator[Row]:
    """Scheduled tasks that follow the image: what is changed of them is taken back with the services."""
    for state, fails, behaviour, verdict in (
        ("DeployServices", "", "good", "SUCCEEDED"), ("DeployServices", "UpdateSchedule", "good", "FAILED"),
        ("RegisterRevisions", "GetSchedule", "good", "FAILED"), ("WaitForStable", "", "breaker", "ROLLED_BACK"),
    ):  # fmt: skip

        def prepare(world: World, fails: str = fails, behaviour: str = behaviour) -> None:
            world.with_schedule(fails)
            world.ecs.behaviour["worker"] = behaviour

        yield Row(f"{state}-schedule-{fails or 'well'}-{behaviour}", "plain", prepare, (verdict,))


ROWS = [
    *of_functions(), *of_tasks(), *of_registry(), *of_rollouts(), *of_the_table(), *of_the_lock(), *of_schedules(),
]  # fmt: skip


def test_every_state_has_its_rows() -> None:
    with_rows = {row.name.partition("-")[0] for row in ROWS}
    assert with_rows | set(NOTHING_TO_MEET) == set(STATES)
    assert len({row.name for row in ROWS}) == len(ROWS)
    print(f"{len(ROWS)} executions")


# --- running it -------------------------------------------------------------------------------------------------------


WAYS: dict[str, Callable[[World], object]] = {
    "plain": lambda world: None,
    "deployer": lambda world: world.deployment.update(runner="app-deployer", app_deployer=APP_DEPLOYER),
    "release": lambda world: world.deployment.update(release=RELEASE),
    "failing": lambda world: world.ecs.behaviour.update(worker="breaker"),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_fault(world: World, row: Row) -> None:
    old = {name: world.ecs.runs(name) for name in ("web", "worker")}
    WAYS[row.way](world)
    row.prepare(world)

    world.machine = row.machine
    arn = world.start()
    row.own(world)
    world.finish(arn)
    world.settle()
    world.sweep()

    check(world, row, old)


def check(world: World, row: Row, old: dict[str, str]) -> None:
    """Hold what is left to what the issue of the matrix promises after each execution."""
    record = world.record(world.name)
    assert record.get("verdict") in row.verdicts, (record, world.errors, world.invoked)
    assert record["verdict"] in VERDICTS
    assert world.locks() == [], world.invoked
    assert [each.id for each in world.table.unfinished()] == []
    assert [arn for arn, task in world.aws.tasks.items() if task["lastStatus"] != "STOPPED"] == []
    assert world.ecs.together <= 1
    for name, before in old.items():
        definition, _, state = world.ecs.runs(name).partition(" ")
        assert state == "COMPLETED", (name, definition, world.ecs.service_deployments)
        left = {"replaced", "no way back"} & set(row.name.split("-")) or row.name in LEFT_AS_THEY_ARE
        if record["verdict"] != "SUCCEEDED" and not left:
            assert f"{definition} {state}" == before, (name, record)
        if record["verdict"] == "SUCCEEDED":
            assert f"{definition} {state}" != before
    if world.schedules:
        assert (world.schedules.runs == world.schedules.before) == (record["verdict"] != "SUCCEEDED")
    if record["verdict"] != "SUCCEEDED":
        state = row.name.partition("-")[0]
        assert record["state"] in STATES
        assert "\n" not in record["cause"]
        assert record["cause"]
        if not row.stopped:
            expected = {
                "RollBack": "WaitForStable",
                "ReportRollback": "WaitForStable",
                "WaitForRollback": "WaitForStable",
            }
            assert record["state"] == expected.get(state, state)
    if record["sk"].startswith("DEPLOYMENT") and record["pk"] != "REJECTED":
        told = [given["state"] for what, given in world.github.calls if what == "status" and given["state"] in FINAL]
        checks = [given for what, given in world.github.calls if what == "check run"]
        assert (len(told), len(checks)) == (1, 1), world.github.calls
        assert checks[0]["title"].endswith(record["verdict"])
        assert (told[0] == "success") == (record["verdict"] == "SUCCEEDED")
        assert "reported_at" in record


# Where the way back itself cannot be gone for good, each service is left as it is, wholly the one or the other.
LEFT_AS_THEY_ARE = {f"RollBack-always-{error}" for error in ("AwsUnavailable", "TargetMisconfigured", "KeyError")} | {
    "RollBack-times-out"
}
