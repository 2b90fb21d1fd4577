"""The steps of a first day with the deploy runner on one machine, through the real command lines.

`deploy-runner local demo` shows them to a person, and the end-to-end tests assert on them. Everything goes through
what a user would type: `deploy-runner local up`, `sam`, `aws`, `git`.
"""

import contextlib
import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from deploy_runner.cli.local import LONGEST_END_SECONDS
from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.domain.phases import Phase, phases, transitions

STACK = "deploy-runner"


class StepFailed(DeployRunnerError):
    """A command of the walk-through ended otherwise than it should."""

    exit_code = 1


@dataclass(frozen=True)
class Execution:
    """What `describe-execution` and `get-execution-history` say of one deployment."""

    arn: str
    status: str
    phases: tuple[Phase, ...]
    transitions: int
    seconds: float
    error: str = ""
    cause: str = ""
    output: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """SUCCEEDED, or the name of what went wrong."""
        return str(self.output.get("verdict", self.status)) if self.status == "SUCCEEDED" else self.error


def run(
    command: list[str], *, env: dict[str, str], cwd: Path | None = None, expect: int = 0, feed: str | None = None
) -> str:
    """Run a program and return what it printed.

    Raises `StepFailed` with the end of its output if it ends with another exit code than `expect`.
    """
    done = subprocess.run(
        command, env=env, cwd=cwd, text=True, capture_output=True, input=feed, check=False, timeout=300
    )
    if done.returncode != expect:
        said = (done.stdout[-1500:] + done.stderr[-3000:]).strip()
        raise StepFailed(
            rule=f"`{' '.join(command[:4])}` must end with exit code {expect}",
            value=done.returncode,
            remedy=f"It said:\n{said}",
        )
    return done.stdout


class Walkthrough:
    """One local AWS with the stack in it, and a folder to work in. Use it as a context manager: it takes all down."""

    def __init__(self, checkout: Path, folder: Path, port: int = 4566) -> None:
        """`checkout` holds template.yaml; `folder` is for our files, and stays."""
        self.checkout, self.folder, self.port = checkout, folder, port
        self.endpoint = f"http://127.0.0.1:{port}"
        self._aws: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Walkthrough":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- AWS ------------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 60) -> None:
        """`deploy-runner local up`, and wait until it answers."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            raise StepFailed(
                rule="The walk-through needs a local AWS of its own",
                value=f"port {self.port} is taken already",
                remedy=f"End what listens there, or: deploy-runner local demo --port {self.port + 100}",
            )
        log = self.folder / "local-aws.log"
        with log.open("wb") as output:
            self._aws = subprocess.Popen(
                [sys.executable, "-m", "deploy_runner.cli.main", "local", "up", "--port", str(self.port)],
                stdout=output, stderr=subprocess.STDOUT, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._aws.poll() is not None:
                raise StepFailed(
                    rule="`deploy-runner local up` keeps running",
                    value=f"exit code {self._aws.returncode}",
                    remedy=f"read what it said:\n{log.read_text(errors='replace')[-3000:].strip()}",
                )
            try:
                with urllib.request.urlopen(f"{self.endpoint}/_local/health", timeout=1):  # noqa: S310 - our own
                    return
            except OSError:
                time.sleep(0.05)
        raise StepFailed(rule=f"local AWS answers within {timeout:.0f} s", value="no answer", remedy=f"read {log}")

    def stop(self) -> None:
        """Take local AWS down as Ctrl-C would."""
        if self._aws and self._aws.poll() is None:
            self._aws.terminate()
            try:
                self._aws.wait(LONGEST_END_SECONDS + 10)
            except subprocess.TimeoutExpired:
                self._aws.kill()
                self._aws.wait()
        self._aws = None

    @cached_property
    def env(self) -> dict[str, str]:
        """The environment of a shell after `eval "$(deploy-runner local env)"`."""
        bin_folder = Path(sys.executable).parent
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") or k == "AWS_CA_BUNDLE"}
        clean["PATH"] = f"{bin_folder}{os.pathsep}{clean['PATH']}"
        exports = run(["deploy-runner", "local", "env", "--port", str(self.port), "--format", "json"], env=clean)
        return {**clean, **json.loads(exports), "AWS_PAGER": ""}

    def fault(self, *arguments: str) -> None:
        """`deploy-runner local fault`."""
        run(["deploy-runner", "local", "fault", *arguments, "--port", str(self.port)], env=self.env)

    def faults(self) -> list[dict[str, Any]]:
        """The faults that have not ended."""
        command = ["deploy-runner", "local", "fault", "list", "--format", "json", "--port", str(self.port)]
        return list(json.loads(run(command, env=self.env)))

    def client(self, service: str) -> Any:
        """A boto3 client, for what is asked too often for a command line."""
        import boto3

        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.endpoint,
            region_name=self.env["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self.env.get("AWS_SESSION_TOKEN"),
        )

    def in_account(self, account: str) -> "Walkthrough":
        """The same walk-through, with an administrator's shell in another account of the organization."""
        role = f"arn:aws:iam::{account}:role/OrganizationAccountAccessRole"
        keys = self.aws("sts", "assume-role", "--role-arn", role, "--role-session-name", "me")["Credentials"]
        there = copy.copy(self)
        there.__dict__["env"] = self.env | {
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["SessionToken"],
        }
        return there

    def aws(self, *arguments: str, expect: int = 0) -> Any:
        """The real AWS CLI; returns its JSON."""
        said = run(["aws", *arguments, "--output", "json"], env=self.env, expect=expect)
        return json.loads(said) if said.strip() else None

    # --- the stack ------------------------------------------------------------------------------------------------

    def build_stack(self) -> None:
        """`sam build`."""
        run(["sam", "build", "--config-env", "local"], env=self.env, cwd=self.checkout)

    def deploy_stack(self) -> None:
        """`sam deploy`, and the runners' images."""
        command = ["sam", "deploy", "--config-env", "local", "--parameter-overrides", *self.parameters()]
        run(command, env=self.env, cwd=self.checkout)

    def parameters(self) -> list[str]:
        """The parameters of samconfig.toml's section `local`, with this port's addresses and this machine's CPU."""
        import tomllib

        config = tomllib.loads((self.checkout / "samconfig.toml").read_text())
        overrides = config["local"]["deploy"]["parameters"]["parameter_overrides"]
        words = overrides.split() if isinstance(overrides, str) else list(overrides)
        words = [word for word in words if not word.startswith("LambdaArchitecture=")]
        words.append(f"LambdaArchitecture={self.env['LAMBDA_ARCHITECTURE']}")
        return [word.replace("127.0.0.1:4567", f"127.0.0.1:{self.port + 1}") for word in words]

    def push_runner_images(self) -> None:
        """`deploy-runner images`: the runners' images, for this machine's CPU, into the stack's repositories."""
        run(["deploy-runner", "images", "--platform", "native"], env=self.env, cwd=self.checkout)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        stack = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    # --- GitHub ---------------------------------------------------------------------------------------------------

    @property
    def github(self) -> str:
        """The local GitHub's address."""
        return f"http://127.0.0.1:{self.port + 1}"

    def github_api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call of GitHub's API as a person would make it."""
        request = urllib.request.Request(  # noqa: S310 - our own
            f"{self.github}/api/v3{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.env['LOCAL_GITHUB_TOKEN']}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - our own
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            raise StepFailed(
                rule=f"GitHub takes {method} {path}", value=f"HTTP {error.code}", remedy=error.read().decode()[:500]
            ) from error

    def create_repository(self, name: str, repository_id: int) -> Path:
        """Create OWNER/NAME at the local GitHub and a fresh clone of it with an empty first commit on main."""
        owner, short = name.split("/")
        self.github_api("POST", f"/orgs/{owner}/repos", {"name": short, "id": repository_id, "private": True})
        clone = self.folder / short
        clone.mkdir()
        git = self._git(clone)
        git("init", "-q", "-b", "main")
        git("config", "user.name", "A developer")
        git("config", "user.email", "developer@example.com")
        git("remote", "add", "origin", f"{self.env['LOCAL_GIT_URL']}/{name}.git")
        return clone

    def push(self, clone: Path, message: str, branch: str = "main") -> str:
        """Commit everything in the clone and push it to `branch`. Returns the commit's SHA."""
        git = self._git(clone)
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", message)
        git("push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        return git("rev-parse", "HEAD").strip()

    def _git(self, folder: Path) -> Callable[..., str]:
        return lambda *arguments: run(["git", *arguments], env=self.env | {"GIT_TERMINAL_PROMPT": "0"}, cwd=folder)

    def report_check(self, repository: str, sha: str, name: str, conclusion: str) -> None:
        """Say, as the app repository's CI would, how a check ended on a commit."""
        self.github_api(
            "POST",
            f"/repos/{repository}/check-runs",
            {"name": name, "head_sha": sha, "status": "completed", "conclusion": conclusion},
        )

    # --- the sample app -------------------------------------------------------------------------------------------

    def create_service(
        self, app: str, environment: str, secret: str | None = None, images_account: str | None = None
    ) -> None:
        """`aws cloudformation create-stack` of an app's service in the default network. It serves a placeholder."""
        clusters = self.client("ecs").describe_clusters(clusters=[environment])["clusters"]
        subnets = self._subnets()
        parameters = {
            "App": app,
            "Environment": environment,
            "CreateCluster": "false" if clusters else "true",
            "VpcId": subnets[0]["VpcId"],
            "SubnetIds": _ids(subnets),
            **({"Secret": secret} if secret else {}),
            **({"ImagesAccount": images_account} if images_account else {}),
        }
        self._create_stack(f"{app}-{environment}", "examples/app-service.yaml", parameters)

    def create_scheduled_task(self, app: str, environment: str, when: str) -> None:
        """`aws cloudformation create-stack` of a task that is run at times, beside the app's service."""
        parameters = {"App": app, "Environment": environment, "SubnetIds": _ids(self._subnets()), "When": when}
        self._create_stack(f"{app}-{environment}-nightly", "examples/scheduled-task.yaml", parameters)

    def create_target(self, environment: str, deploy_runner_account: str) -> None:
        """`aws cloudformation create-stack` of an environment that has an account of its own, which is this one."""
        parameters = {"Environment": environment, "DeployRunnerAccount": deploy_runner_account}
        self._create_stack(f"deploy-target-{environment}", "templates/rendered/deploy_target.yaml", parameters)

    def _subnets(self) -> list[dict[str, Any]]:
        found = self.aws("ec2", "describe-subnets", "--filters", "Name=default-for-az,Values=true")
        return list(found["Subnets"])

    def _create_stack(self, stack: str, template: str, parameters: dict[str, str]) -> None:
        self.aws(
            "cloudformation", "create-stack", "--stack-name", stack, "--capabilities", "CAPABILITY_NAMED_IAM",
            "--template-body", f"file://{self.checkout / template}", "--parameters",
            json.dumps([{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]),
        )  # fmt: skip
        # `aws cloudformation deploy` and `wait` look every 30 seconds.
        waiter = self.client("cloudformation").get_waiter("stack_create_complete")
        try:
            waiter.wait(StackName=stack, WaiterConfig={"Delay": 0.2, "MaxAttempts": 600})
        except Exception as error:
            events = self.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
            why = [e.get("ResourceStatusReason", "") for e in events if e["ResourceStatus"].endswith("FAILED")]
            raise StepFailed(
                rule=f"the stack {stack} is created", value=why[-1] if why else str(error), remedy="read its events"
            ) from error

    def write_sample_app(self, clone: Path, version: str, *, crash: bool = False) -> None:
        """Write a version of the sample app into a clone; with `crash`, one that ends at its start with exit code 1."""
        examples = self.checkout / "examples"
        shutil.copytree(examples / "sample-app", clone, dirs_exist_ok=True)
        (clone / "www" / "index.html").write_text(f"version {version}\n")
        if crash:
            shutil.copy(examples / "sample-app-that-crashes" / "start", clone / "start")

    def count_tasks(self) -> int:
        """How many runner tasks there were, running or stopped; ECS shows stopped ones for about an hour."""
        tasks = self.client("ecs").get_paginator("list_tasks")
        return sum(
            len(page["taskArns"])
            for status in ("RUNNING", "STOPPED")
            for page in tasks.paginate(cluster="deploy-runner", desiredStatus=status)
        )

    # --- deployments ----------------------------------------------------------------------------------------------

    def start_execution(self, request: Any, *, expect: int = 0) -> str:
        """`aws stepfunctions start-execution` on the alias `live`. Returns the execution's ARN."""
        text = request if isinstance(request, str) else json.dumps(request)
        started = self.aws(
            "stepfunctions", "start-execution",
            "--state-machine-arn", self.outputs["StateMachineAliasArn"], "--input", text, expect=expect,
        )  # fmt: skip
        return str(started["executionArn"]) if started else ""

    def follow(self, arn: str, interval: float = 0.2, timeout: float = 300) -> Iterator[Execution]:
        """What the execution says of itself, again and again, until it has ended."""
        client = self.client("stepfunctions")
        deadline = time.monotonic() + timeout
        while True:
            execution = self._read(client, arn)
            yield execution
            if execution.status != "RUNNING":
                return
            if time.monotonic() > deadline:
                raise StepFailed(
                    rule=f"a deployment ends within {timeout:.0f} s", value=arn, remedy="look at its history"
                )
            time.sleep(interval)

    def finish(self, arn: str) -> Execution:
        """Wait for the end of an execution; its history is read once it is whole."""
        client, deadline = self.client("stepfunctions"), time.monotonic() + 300
        while client.describe_execution(executionArn=arn)["status"] == "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.2)
        *_, last = self.follow(arn)
        return last

    def deploy(self, request: Any) -> Execution:
        """Start an execution and wait for its end."""
        return self.finish(self.start_execution(request))

    def _read(self, client: Any, arn: str) -> Execution:
        described = client.describe_execution(executionArn=arn)
        events = [
            event
            for page in client.get_paginator("get_execution_history").paginate(executionArn=arn, maxResults=1000)
            for event in page["events"]
        ]
        end = described.get("stopDate")
        seconds = (end - described["startDate"]).total_seconds() if end else 0.0
        return Execution(
            arn=arn,
            status=described["status"],
            phases=phases(events),
            transitions=transitions(events),
            seconds=seconds,
            error=described.get("error", ""),
            cause=described.get("cause", ""),
            output=json.loads(described.get("output") or "{}"),
        )

    def service_url(self, cluster: str, service: str) -> str:
        """The loopback URL of a service."""
        said = run(["deploy-runner", "local", "services", "--port", str(self.port), "--format", "json"], env=self.env)
        return next(str(s["url"]) for s in json.loads(said) if (s["cluster"], s["service"]) == (cluster, service))

    def page(self, url: str) -> str:
        """What a browser would get."""
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own
            return str(response.read().decode()).strip()


def _ids(subnets: Sequence[Mapping[str, Any]]) -> str:
    """Subnets as CloudFormation takes a list of them."""
    return ",".join(subnet["SubnetId"] for subnet in subnets)
