"""A small AWS for the state machine: moto's server with our Step Functions; Lambda, ECR and ECS answer as a test says.

The fakes sit behind HTTP, so everything from the interpreter to the wire is the real thing.
"""

import json
import re
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml
from moto.core.config import default_user_config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from deploy_runner.local_aws import stepfunctions
from deploy_runner.local_aws.machine import ACCOUNT_ID, REGION, Machine
from deploy_runner.local_aws.server import read_files_once
from deploy_runner.local_aws.stepfunctions import tasks
from deploy_runner.local_aws.stepfunctions.tasks import Clients

ROOT = Path(__file__).parents[2]
ROLE = f"arn:aws:iam::{ACCOUNT_ID}:role/state-machine"
FUNCTIONS = (
    "ValidateRequest", "ReportStatus", "DeployService", "WatchRollout", "AcquireLock", "FinishDeployment"
)  # fmt: skip
SUBSTITUTIONS = {name: f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{name}:7" for name in FUNCTIONS} | {
    "RunnerCluster": "deploy-runner",
    "RunnerSubnets": "subnet-a,subnet-b",
    "RunnerSecurityGroup": "sg-1",
    "AssignPublicIp": "DISABLED",
}


def definition(name: str = "deploy_app") -> dict[str, Any]:
    """The state machine's definition, with the template's substitutions done."""
    text = (ROOT / "statemachines" / f"{name}.asl.yaml").read_text()
    substituted: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda m: SUBSTITUTIONS[m[1]], text))
    return substituted


class FunctionError(Exception):
    """What a function raises in a test: its error's type and message."""


class ServiceError(Exception):
    """What a service answers in a test: an error code and a message."""


@dataclass
class FakeAws:
    """What a test sets up, and what it can look at afterwards."""

    functions: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)  # "repository:tag" -> digest
    run_task: Callable[[dict[str, Any]], dict[str, Any]] = lambda request: {}
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    port: int = 0
    _made: Clients | None = None  # of the tasks

    def use(self) -> None:
        """Have the tasks of state machines call this one; the last that was started has them otherwise."""
        # The same clients for every test: to make them takes longer than most executions.
        if self._made is None:
            machine = Machine(port=self.port, state_dir=Path("nowhere"), engine=None)  # type: ignore[arg-type]
            self._made = Clients(machine)
        tasks._Task.clients = self._made

    def reset(self) -> None:
        for kept in (self.functions, self.images, self.tasks, self.calls):
            kept.clear()

    def called(self, action: str) -> list[Any]:
        return [arguments for name, arguments in self.calls if name == action]

    def client(self, service: str, **options: Any) -> Any:
        return boto3.client(
            service, region_name=REGION, endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="test", aws_secret_access_key="test", **options,
        )  # fmt: skip

    # --- the services -----------------------------------------------------------------------------------------------

    def answer(self, path: str, target: str, body: bytes) -> tuple[str, dict[str, str], Any] | None:
        """Status, headers and body of a call that a fake answers, or None."""
        invoked = re.fullmatch(r"/2015-03-31/functions/(.+)/invocations", path)
        if invoked:
            function = re.fullmatch(r"(?:.*:function:)?([\w-]+)(?::(.+))?", urllib.parse.unquote(invoked[1]))
            assert function
            payload = json.loads(body or b"{}")
            self.calls.append((function[1], payload))
            headers = {"X-Amz-Executed-Version": function[2] or "$LATEST"}
            try:
                return "200 OK", headers, self.functions[function[1]](payload)
            except FunctionError as error:
                kind, message = error.args
                failed = {"errorMessage": message, "errorType": kind, "requestId": "1", "stackTrace": []}
                return "200 OK", headers | {"X-Amz-Function-Error": "Unhandled"}, failed
            except ServiceError as error:
                code, message = error.args
                return "429 Too Many", {"X-Amzn-ErrorType": code}, {"Type": "User", "message": message}
        service, _, action = target.rpartition(".")
        if not service.startswith(("AmazonEC2ContainerRegistry", "AmazonEC2ContainerService")):
            return None
        request = json.loads(body)
        self.calls.append((action, request))
        try:
            return "200 OK", {}, getattr(self, f"_{action}")(request)
        except ServiceError as error:
            return "400 Bad Request", {}, {"__type": error.args[0], "message": error.args[1]}

    def _BatchGetImage(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        tag = request["imageIds"][0]["imageTag"]
        digest = self.images.get(f"{request['repositoryName']}:{tag}")
        if digest is None:
            return {"images": [], "failures": [{"imageId": {"imageTag": tag}, "failureCode": "ImageNotFound"}]}
        image = {"registryId": ACCOUNT_ID, "repositoryName": request["repositoryName"], "imageManifest": "{}"}
        return {"images": [image | {"imageId": {"imageDigest": digest, "imageTag": tag}}], "failures": []}

    def _RunTask(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        ended = self.run_task(request)
        if "failures" in ended:
            return ended
        cluster = f"arn:aws:ecs:{REGION}:{ACCOUNT_ID}:cluster/{request['cluster']}"
        arn = f"{cluster.replace(':cluster/', ':task/')}/{len(self.tasks):032x}"
        definition = request["taskDefinition"]
        if not definition.startswith("arn:"):
            definition = f"arn:aws:ecs:{REGION}:{ACCOUNT_ID}:task-definition/{definition}:1"
        task = {
            "taskArn": arn, "clusterArn": cluster, "lastStatus": "PROVISIONING", "group": request.get("group"),
            "taskDefinitionArn": definition, "createdAt": 1767225600.25, "containers": [],
        }  # fmt: skip
        self.tasks[arn] = task | {"lastStatus": "STOPPED", "stopCode": "EssentialContainerExited"} | ended
        return {"tasks": [task], "failures": []}

    def _DescribeTasks(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"tasks": [self.tasks[arn] for arn in request["tasks"]], "failures": []}

    def _ListTasks(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        live = [arn for arn, task in self.tasks.items() if task["lastStatus"] != "STOPPED"]
        return {"taskArns": live if request.get("desiredStatus") == "RUNNING" else list(self.tasks)}

    def _StopTask(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        task = self.tasks[request["task"]]
        task |= {"lastStatus": "STOPPED", "stopCode": "UserInitiated", "stoppedReason": request["reason"]}
        return {"task": task}


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing of each request."""


def start() -> tuple[FakeAws, Callable[[], None]]:
    """Start it on a free port. Returns it, and what ends it."""
    read_files_once()
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    fake = FakeAws()
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        path = environ["PATH_INFO"]
        if not path.startswith("/2015-03-31/") and not target.startswith("AmazonEC2Container"):
            return moto(environ, start_response)  # type: ignore[no-any-return]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answered = fake.answer(path, target, body)
        assert answered
        status, headers, content = answered
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        start_response(status, [("Content-Type", "application/json"), *headers.items()])
        return [text]

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    fake.port = server.port
    threading.Thread(target=server.serve_forever, args=(0.05,), name="fake AWS", daemon=True).start()
    machine = Machine(port=fake.port, state_dir=Path("nowhere"), engine=None)  # type: ignore[arg-type]
    stepfunctions.install(machine)
    return fake, server.shutdown


def node(script: str, data: Any) -> Any:
    """What a Node program of this folder answers to JSON. Fails where the Node packages are not installed."""
    installed = ROOT / "node_modules" / ".package-lock.json"
    assert installed.exists(), "The tests need the Node packages of package-lock.json. Run `make test`, which sets up."
    done = subprocess.run(
        ["node", str(Path(__file__).with_name(script))],
        input=json.dumps(data), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
