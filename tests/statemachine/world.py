"""The real functions, run in this process when the state machine invokes them, on a table of moto's.

ECS, ECR and GitHub are small and quick, and do what a test says; events of ECS and of executions reach the functions
that the template's rules name. Faults strike at the edges: before or after a function has done its work, in any number.
"""

import json
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import boto3
import fake_aws
import pytest
from fake_aws import FakeAws, FunctionError, ServiceError
from moto.core.botocore_stubber import BotocoreStubber

from deploy_runner.aws import clients
from deploy_runner.aws.clients import TargetClients
from deploy_runner.aws.deployments import Deployments
from deploy_runner.local_aws.events import matches
from deploy_runner.local_aws.machine import ACCOUNT_ID, REGION
from tests.unit.conftest import ENVIRONMENT
from tests.unit.fake_ecs import PREFIX, FakeEcs, client_error, service_arn
from tests.unit.fake_github import SHA, FakeGitHub
from tests.unit.test_rollback import Scheduler
from tests.unit.test_waits import Logs
from tests.waiting import LONGEST

BY_NAME = {  # of the state machine's substitutions and of the functions' own names
    "ValidateRequest": "validate_request", "ReportStatus": "report_status", "DeployService": "deploy_service",
    "WatchRollout": "watch_rollout", "AcquireLock": "acquire_lock", "FinishDeployment": "finish_deployment",
}  # fmt: skip
DIGEST = f"sha256:{'d' * 64}"
DEFINITIONS = f"arn:aws:ecs:{REGION}:{ACCOUNT_ID}:task-definition"
APP_DEPLOYER = {"task_definition": f"{DEFINITIONS}/app-deployer-arm64:3", "task_role": "r", "deploy_command": []}
RELEASE = {"service": "web", "container": "app", "command": ["migrate"]}


WAY_BACK = 0.25  # seconds at least: what is back already is not waited for


def in_process(service: str) -> Any:
    """A client of moto in this process, without HTTP between; one call at a time, as DynamoDB's transactions are."""
    session = boto3.Session("test", "test", region_name=REGION)
    client, stub, lock = session.client(service), BotocoreStubber(), threading.Lock()  # type: ignore[call-overload]
    stub.enabled = True

    def answer(event_name: str, request: Any, **more: Any) -> Any:
        with lock:
            return stub(event_name, request, **more)

    client.meta.events.register("before-send", answer)
    return client


class Ecs(FakeEcs):
    """ECS with rollouts that end by themselves, as `behaviour` says for a service, and with events about them."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell, self.behaviour, self.lock = tell, dict[str, str](), threading.RLock()
        self.in_progress: dict[str, int] = defaultdict(int)
        self.together = 0  # the most rollouts of one service that were in progress at once
        self.release_tasks: dict[str, dict[str, Any]] = {}
        self.to_come: list[threading.Timer] = []
        self.may_be_back = threading.Event()  # once it is waited for, or nobody is left who would

    def add(self, name: str) -> str:
        self.behaviour.setdefault(name, "good")
        arn = self.add_definition(name, {})
        self.add_service(name, arn)
        return arn

    def register_task_definition(self, **given: Any) -> dict[str, Any]:
        with self.lock:
            return super().register_task_definition(**given)

    def list_task_definitions(self, **given: Any) -> dict[str, Any]:
        with self.lock:
            return super().list_task_definitions(**given)

    def update_service(self, **given: Any) -> dict[str, Any]:
        with self.lock:
            self._may_fail("UpdateService")
            name, wanted = given["service"], given["taskDefinition"]
            service = self.services[name]
            before = service["deployments"][0]
            if before["taskDefinition"] == wanted:
                return {"service": dict(service)}
            for known in self.of(name):
                if known["status"] in ("PENDING", "IN_PROGRESS"):
                    known["status"] = "STOPPED"
                    self.in_progress[name] -= 1
            back = service.get("before") == wanted
            answer = super().update_service(**given)
            service["before"] = before["taskDefinition"]
            rollout = self.service_deployments[-1]
            rollout |= {"service": name}
            self.in_progress[name] += 1
            self.together = max(self.together, self.in_progress[name])
        behaviour = "good" if back else self.behaviour[name]
        self.after(lambda: self._goes_on(name, rollout, behaviour))
        return answer

    def stop_service_deployment(self, **given: Any) -> dict[str, Any]:
        with self.lock:
            answer = super().stop_service_deployment(**given)
            stopped = next(
                d for d in self.service_deployments if d["serviceDeploymentArn"] == given["serviceDeploymentArn"]
            )
        self.after(lambda: self._back(stopped["service"], stopped), WAY_BACK)
        return answer

    def after(self, action: Callable[[], None], seconds: float = 0.005) -> None:
        timer = threading.Timer(seconds, action)
        timer.start()
        self.to_come.append(timer)

    def of(self, service: str) -> list[dict[str, Any]]:
        return [each for each in self.service_deployments if each.get("service") == service]

    def _goes_on(self, name: str, rollout: dict[str, Any], behaviour: str) -> None:
        with self.lock:
            if rollout["status"] != "IN_PROGRESS":
                return
            service = self.services[name]
            primary = service["deployments"][0]
            ours = primary["taskDefinition"]
            if behaviour in ("good", "zero"):
                rollout["status"] = "SUCCESSFUL"
                primary |= {"rolloutState": "COMPLETED", "runningCount": 1}
                service["deployments"] = [primary]
                self.in_progress[name] -= 1
            elif behaviour == "breaker":
                rollout |= {"status": "ROLLBACK_IN_PROGRESS", "statusReason": "deployment circuit breaker"}
                self.after(lambda: self._back(name, rollout), WAY_BACK)
            elif behaviour == "stopped":  # by a person, without a way back
                rollout["status"] = "STOPPED"
                self.in_progress[name] -= 1
            elif behaviour == "no way back":
                rollout |= {"status": "ROLLBACK_FAILED", "statusReason": "the tasks of the revision before do not run"}
                primary |= {"rolloutState": "COMPLETED", "runningCount": 1}
                service["deployments"] = [primary]
                self.in_progress[name] -= 1
            elif behaviour in ("crash", "pull"):
                reason = "CannotPullContainerError: not found" if behaviour == "pull" else ""
                container = {"name": "app", "reason": reason} | ({} if reason else {"exitCode": 1})
                self.tasks += [
                    {"taskArn": f"task/{name}-{n}", "taskDefinitionArn": ours, "containers": [container]}
                    for n in range(3)
                ]
            elif behaviour == "replaced":
                rollout["status"] = "STOPPED"
                self.in_progress[name] -= 1
                theirs = self.add_definition(name, {})
                self.add_rollout(theirs, "SUCCESSFUL", created=time.time() + 1)
                self.service_deployments[-1]["service"] = name
                service["deployments"] = [primary | {"taskDefinition": theirs, "rolloutState": "COMPLETED"}]
        self.tell(name)

    def _back(self, name: str, rollout: dict[str, Any]) -> None:
        self.may_be_back.wait(LONGEST)
        with self.lock:
            service = self.services[name]
            rollout["status"] = "ROLLBACK_SUCCESSFUL"
            primary = service["deployments"][0] | {"taskDefinition": service["before"], "rolloutState": "COMPLETED"}
            service |= {"taskDefinition": service["before"], "deployments": [primary | {"runningCount": 1}]}
            self.in_progress[name] -= 1
        self.tell(name)

    def list_service_deployments(self, **given: Any) -> dict[str, Any]:
        with self.lock:
            return {"serviceDeployments": [dict(each) for each in self.of(given["service"])]}

    def list_tasks(self, **given: Any) -> dict[str, Any]:
        name = given["serviceName"]
        return {"taskArns": [t["taskArn"] for t in self.tasks if t["taskArn"].startswith(f"task/{name}-")]}

    def runs(self, service: str) -> str:
        """What a service works towards, and whether it is there."""
        primary = self.services[service]["deployments"][0]
        return f"{primary['taskDefinition']} {primary['rolloutState']}"

    def get_paginator(self, name: str) -> Any:
        assert name == "list_tasks"
        return SimpleNamespace(paginate=lambda **_: [{"taskArns": []}])


class Schedules(Scheduler):
    """EventBridge Scheduler that may refuse an operation."""

    def __init__(self, fails: str, *runs: str) -> None:
        super().__init__(*runs)
        self.fails, self.before = fails, runs[0]

    @property
    def runs(self) -> str:
        return str(self.schedules["default/s0"]["Target"]["EcsParameters"]["TaskDefinitionArn"])

    def get_schedule(self, **given: Any) -> dict[str, Any]:
        if self.fails == "GetSchedule":
            raise client_error("AccessDeniedException", operation=self.fails)
        return super().get_schedule(**given)

    def update_schedule(self, **given: Any) -> None:
        if self.fails == "UpdateSchedule":
            raise client_error("AccessDeniedException", operation=self.fails)
        super().update_schedule(**given)


@dataclass
class Fault:
    """What strikes a function, or what it is made to do."""

    function: str
    step: str  # of its payload, or the wait's kind; empty: any
    error: str = ""
    when: str = "before"  # or after
    times: int = 1
    act: Callable[[], object] | None = None  # done instead of an error
    result: Any = None  # what it returns, instead of an error, though it did its work

    def strikes(self, function: str, payload: Any, when: str) -> bool:
        return (self.function, self.when) == (function, when) and self.times > 0 and self.step in ("", step_of(payload))


def step_of(payload: Any) -> str:
    """What a function is invoked for."""
    if "wanted" in payload:
        return "build" if payload["wanted"] and payload["wanted"][0].startswith("image/") else "deploy"
    if "task_token" in payload:
        return "rollback" if payload.get("rollback") else "rollout"
    return str(payload.get("step", "event" if "source" in payload else ""))


@dataclass
class World:
    """Everything around one or more deployments, and what a test looks at afterwards."""

    aws: FakeAws
    ecs: Ecs
    github: FakeGitHub
    table: Deployments
    machines: dict[str, str]
    sfn: Any
    deployment: dict[str, Any]
    faults: list[Fault] = field(default_factory=list)
    lose_rollout_events: bool = False
    late_events: float = 0.0  # seconds at most: then they come in any order
    lose_execution_events: bool = False
    double_events: bool = False
    errors: list[str] = field(default_factory=list)
    invoked: list[tuple[str, str]] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"d-{uuid.uuid4()}")  # of the execution that most tests start
    machine: str = "deploy-app"
    request: dict[str, Any] = field(default_factory=dict)  # of the execution that is started next
    schedules: "Schedules | None" = None
    accepted: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # the deployment of a request, if not the one
    _threads: list[threading.Thread] = field(default_factory=list)
    _handlers: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _end: threading.Condition = field(default_factory=threading.Condition)
    _ended: set[str] = field(default_factory=set)

    # --- functions --------------------------------------------------------------------------------------------------

    def call(self, function: str, payload: Any) -> Any:
        """Run a function as Lambda does: its error is a type and a message."""
        self.invoked.append((function, step_of(payload)))
        self._strike(function, payload, "before")
        try:
            result = self._handlers[function](payload, self)
        except (FunctionError, ServiceError):
            raise
        except Exception as error:
            raise FunctionError(type(error).__name__, str(error)) from error
        if (function, step_of(payload)) == ("watch_rollout", "rollback"):
            self.ecs.may_be_back.set()
        result = self._strike(function, payload, "after") or result
        return json.loads(json.dumps(result))

    def get_remaining_time_in_millis(self) -> int:  # as the context of an invocation
        return 30_000

    def _strike(self, function: str, payload: Any, when: str) -> Any:
        for fault in self.faults:
            with self._lock:
                if not fault.strikes(function, payload, when):
                    continue
                fault.times -= 1
            if fault.result is not None:
                return fault.result
            if fault.act:
                fault.act()
            elif fault.error == "Lambda.TooManyRequestsException":
                raise ServiceError("TooManyRequestsException", "Rate exceeded")
            else:
                raise FunctionError(fault.error, f"{fault.error} as the test wants it")
        return None

    def in_background(self, function: str, payload: Any) -> None:
        """Run a function for an event. Lambda tries three times, and what fails then is for the sweeper."""

        pause = random.uniform(0, self.late_events)  # noqa: S311 - no secret

        def run() -> None:
            time.sleep(pause)
            for _ in range(3):
                try:
                    self.call(function, payload)
                    return
                except Exception as error:
                    self.errors.append(f"{function}: {error}")

        for _ in range(2 if self.double_events else 1):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def settle(self) -> None:
        """Wait until nothing runs in the background, and ECS has nothing on its way."""
        for under_way in (self.ecs.to_come, self._threads):
            while under_way:
                under_way.pop().join(LONGEST)
        if self.ecs.to_come:
            self.settle()

    def tell_of(self, service: str) -> None:
        """An event of ECS about a service."""
        if self.lose_rollout_events:
            return
        event = {
            "source": "aws.ecs", "detail-type": "ECS Deployment State Change", "resources": [service_arn(service)],
            "detail": {"eventName": "SERVICE_DEPLOYMENT_IN_PROGRESS"},
        }  # fmt: skip
        self.in_background("watch_rollout", event)

    def tell_of_end(self, event: dict[str, Any]) -> None:
        """An event of Step Functions, if the template's rule asks for it."""
        if not matches({"detail": {"status": ENDED}}, event):
            return
        self.ecs.may_be_back.set()
        if not self.lose_execution_events:
            self.in_background("clean_up", event)
        with self._end:
            self._ended.add(event["detail"]["executionArn"])
            self._end.notify_all()

    def with_schedule(self, fails: str) -> None:
        """Let the app have a scheduled task, whose schedule may refuse an operation."""
        self.schedules = Schedules(fails, self.ecs.add_definition("nightly", {}))
        schedule = {"group": "default", "name": "s0", "containers": ["app"]}
        self.deployment = self.deployment | {"schedules": [schedule]}

    # --- deployments ------------------------------------------------------------------------------------------------

    @property
    def arn(self) -> str:
        """The execution's, also before it has started."""
        return f"{self.machines[self.machine].replace(':stateMachine:', ':execution:')}:{self.name}"

    def start(self, name: str = "") -> str:
        machine = self.machines[self.machine]
        started = self.sfn.start_execution(
            stateMachineArn=machine, name=name or self.name, input=json.dumps(self.request)
        )
        return str(started["executionArn"])

    def stop(self) -> None:
        self.sfn.stop_execution(executionArn=self.arn, error="Cancelled", cause="by a person")

    def finish(self, arn: str) -> dict[str, Any]:
        """Wait for the event of an execution's end, which costs less than asking for it."""
        with self._end:
            assert self._end.wait_for(lambda: arn in self._ended, LONGEST), (arn, self.invoked[-6:], self.errors[-3:])
        return dict(self.sfn.describe_execution(executionArn=arn))

    def sweep(self) -> None:
        """Have the sweeper look until nothing is left to do."""
        for _ in range(6):
            self.settle()
            if not list(self.table.unfinished()):
                return
            self.call("sweep", {})
        self.settle()

    def record(self, name: str) -> dict[str, Any]:
        from deploy_runner.aws.deployments import _values

        items = self.table._query("pk = :pk", {":pk": {"S": "APP#cineos#dev"}})
        found = [_values(item) for item in items]
        rejected = [_values(item) for item in self.table._query("pk = :pk", {":pk": {"S": "REJECTED"}})]
        return next((each for each in [*found, *rejected] if each.get("id") == name and each["sk"] != "NOW"), {})

    def locks(self) -> list[str]:
        """Locks that someone owns or waits for."""
        scanned = self.table._dynamodb.scan(TableName=ENVIRONMENT["DEPLOYMENTS_TABLE"])["Items"]
        held = [item for item in scanned if item["pk"]["S"].startswith("LOCK#")]
        return [
            item["pk"]["S"] for item in held if "owner" in item or json.loads(item["state"]["L"][0]["S"])["waiting"]
        ]


ENDED = ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]


def raw(handler: Any) -> Any:
    """A handler without Powertools around it, which is made for one invocation at a time."""
    return handler.__wrapped__.__wrapped__


def make(aws: FakeAws, machines: dict[str, str], monkeypatch: pytest.MonkeyPatch, clients_of: dict[str, Any]) -> World:
    """Make a world on a fake AWS, with one app of two services in dev."""
    from functions import github_app, observability, table
    from functions.acquire_lock import handler as acquire_lock
    from functions.clean_up import handler as clean_up
    from functions.deploy_service import handler as deploy_service
    from functions.finish_deployment import handler as finish_deployment
    from functions.report_status import handler as report_status
    from functions.report_status import tell
    from functions.sweep import handler as sweep
    from functions.watch_rollout import handler as watch_rollout

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for method in ("append_keys", "info", "warning", "error", "exception"):
        monkeypatch.setattr(observability.logger, method, lambda *_, **__: None)
    monkeypatch.setattr(observability.metrics, "add_metric", lambda **_: None)

    made: list[World] = []

    class Lambda:
        def invoke(self, FunctionName: str, InvocationType: str, Payload: bytes) -> None:  # noqa: N803
            name = FunctionName.removeprefix("deploy-runner-").removesuffix(":live").replace("-", "_")
            made[0].in_background(name, json.loads(Payload))

    ours: dict[str, Any] = {**clients_of, "lambda": Lambda()}
    ecs = Ecs(lambda service: made[0].tell_of(service))
    github = FakeGitHub()
    target: Any = TargetClients(ecs, Logs(), lambda: made[0].schedules)  # type: ignore[arg-type, return-value]
    for module in (clients, table, finish_deployment, clean_up, sweep, watch_rollout, tell):
        monkeypatch.setattr(module, "client", lambda name: ours[name])
    for module in (deploy_service, watch_rollout, clean_up, finish_deployment):
        monkeypatch.setattr(module, "in_target", lambda *_: target)
    monkeypatch.setattr(github_app, "github", lambda *_: github)
    monkeypatch.setattr(clean_up, "LOOKS_AGAIN_AFTER", 0.01)
    monkeypatch.setattr(tell, "LOOKS_AGAIN_AFTER", (0.01,) * 300)
    monkeypatch.setattr(sweep, "OVERDUE", -1.0)
    monkeypatch.setattr(sweep, "REPORT_OVERDUE", -1.0)
    monkeypatch.setattr("deploy_runner.aws.rollback.LOOKS_AGAIN_AFTER", (0.005,) * 4)
    monkeypatch.setattr("deploy_runner.aws.waits.READ_AGAIN_AFTER", (0.005,) * 3)
    for name in ("web", "worker"):
        ecs.add(name)

    world = World(
        aws=aws, ecs=ecs, github=github, machines=machines, sfn=clients_of["stepfunctions"],
        table=Deployments(clients_of["dynamodb"], ENVIRONMENT["DEPLOYMENTS_TABLE"]),
        deployment=deployment(),
    )  # fmt: skip
    made.append(world)

    def validate(event: Any, _: Any) -> dict[str, Any]:
        execution = event["execution"]
        accepted = (world.accepted(event["request"]) if world.accepted else world.deployment) | {
            "id": execution["name"],
            "execution_arn": execution["arn"],
            "started_at": execution["started_at"],
        }
        world.table.accept(accepted)
        return accepted

    world._handlers = {
        "validate_request": validate,  # which request is accepted is others' business
        "report_status": raw(report_status.lambda_handler), "deploy_service": raw(deploy_service.lambda_handler),
        "watch_rollout": raw(watch_rollout.lambda_handler), "acquire_lock": raw(acquire_lock.lambda_handler),
        "finish_deployment": raw(finish_deployment.lambda_handler), "clean_up": raw(clean_up.lambda_handler),
        "sweep": raw(sweep.lambda_handler),
    }  # fmt: skip
    aws.functions |= {
        name: lambda payload, function=function: world.call(function, payload) for name, function in BY_NAME.items()
    }
    aws.run_task = lambda request: run_task(world, request)
    return world


def run_task(world: World, request: dict[str, Any]) -> dict[str, Any]:
    """A build pushes; an app-deployer builds nothing here; a release ends well."""
    world.aws.images[f"cineos:{world.deployment['image']['tag']}"] = DIGEST
    if request["taskDefinition"].split("/")[1].startswith("app-deployer"):
        from deploy_runner.aws.ecs import register_revision, update_service

        deployment = world.deployment | {"id": request["group"]}
        for service in deployment["target"]["services"]:
            update_service(world.ecs, register_revision(world.ecs, deployment, service, DIGEST))  # type: ignore[arg-type]
        return {"containers": [{"name": name, "exitCode": 0} for name in ("deploy", "clone", "kaniko")]}
    return {"containers": [{"name": "app", "exitCode": 0}, {"name": "kaniko", "exitCode": 0}]}


def deployment() -> dict[str, Any]:
    """What ValidateRequest accepts."""
    return {
        "app": "cineos", "environment": "dev", "action": "deploy", "ref": "main", "sha": SHA, "queue": "latest",
        "repository": "lightwave-media/cineos", "repository_id": 1001, "requested_by": None, "runner": "docker-builder",
        "digest": None, "origin": None, "exact": None, "from": None, "emergency": False, "source": None,
        "image": {"repository_name": "cineos", "repository_uri": "registry/cineos", "tag": f"{SHA}-1"},
        "locks": {"build": [f"image/cineos:{SHA}-1"], "deploy": ["app/cineos/dev"]},
        "build": {
            "task_definition": f"{DEFINITIONS}/docker-builder-arm64:3", "task_role": "r",
            "clone_command": ["--sha", SHA], "kaniko_command": ["--x"], "environment": [{"Name": "A", "Value": "b"}],
        },
        "app_deployer": None,
        "target": {
            "account": ACCOUNT_ID, "region": REGION, "role_arn": fake_aws.ROLE, "cluster": "dev",
            "services": [{"name": name, "containers": ["app"]} for name in ("web", "worker")],
            "task_definition_base": "service",
        },
        "release": None, "schedules": [],
        "timeouts": {"build": 20, "rollout": 20, "queue": 20, "release": 20},
    }  # fmt: skip


__all__ = ["DIGEST", "PREFIX", "Ecs", "Fault", "World", "deployment", "make"]
