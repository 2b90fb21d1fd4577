"""The program of app-deployer deploys what was built beside it, once per deployment, and says why where it does not."""

import ast
import importlib.util
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy_runner.domain.apps import App, Environment, Refs, Repository, Service, Target
from deploy_runner.domain.deployment import deploy_command, runner_environment
from deploy_runner.domain.runner_task import RunnerTask, first_of
from tests.unit.fake_ecs import FakeEcs, client_error

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "runners/app-deployer/deploy.py"
SHA, DIGEST = "b" * 40, "sha256:" + "a" * 64
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/cineos"
APP = App("cineos", Repository("lightwave-media/cineos", 1001), {}, "cineos", runner="app-deployer")
PLACE = Environment("dev", Target("123456789012", "us-east-1", "r"), "dev", (Service("cineos", ("app",)),), Refs())


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


program = load()


class Pages:
    def __init__(self, ecs: "Ecs") -> None:
        self.ecs = ecs

    def paginate(self, cluster: str, family: str, desiredStatus: str) -> Iterator[dict[str, Any]]:  # noqa: N803
        assert (cluster, family) == ("runners", "app-deployer-arm64")
        yield {"taskArns": [t["taskArn"] for t in self.ecs.runners if t["desiredStatus"] == desiredStatus]}


class Ecs(FakeEcs):
    """ECS with runner tasks as well: the own one and others of the same family."""

    def __init__(self) -> None:
        super().__init__()
        self.runners: list[dict[str, Any]] = []

    def add_runner(
        self, name: str, created: float, status: str = "RUNNING", code: int | None = None, group: str = "d-1"
    ) -> None:
        deploy = {"name": "deploy", **({} if code is None else {"exitCode": code})}
        self.runners.append({
            "taskArn": f"task/{name}", "group": group, "desiredStatus": status, "containers": [deploy],
            "createdAt": datetime.fromtimestamp(created, UTC),
        })  # fmt: skip

    def get_paginator(self, operation: str) -> Pages:
        assert operation == "list_tasks"
        return Pages(self)

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        self._may_fail("DescribeTasks")
        return {"tasks": [task for task in self.runners if task["taskArn"] in tasks]}


class Ecr:
    images: tuple[str, ...] = (DIGEST,)

    def batch_get_image(self, repositoryName: str, imageIds: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        assert (repositoryName, imageIds[0]["imageTag"][:40]) == ("cineos", SHA)
        return {"images": [{"imageId": {"imageDigest": digest}} for digest in self.images]}


class Run:
    """One task, whose other containers go on while it sleeps."""

    def __init__(self, may_build: Path) -> None:
        self.ecs, self.ecr, self.may_build = Ecs(), Ecr(), may_build
        self.ecs.add_service("cineos", self.ecs.add_definition("cineos-dev", {}))
        self.ecs.add_runner("own", 20.0)
        self.containers: list[dict[str, tuple[str, int | None]]] = [
            {}, {"clone": ("RUNNING", None)}, {"clone": ("STOPPED", 0), "kaniko": ("RUNNING", None)},
            {"clone": ("STOPPED", 0), "kaniko": ("STOPPED", 0)},
        ]  # fmt: skip
        self.naps: list[float] = []
        self.environment = {e["Name"]: e["Value"] for e in runner_environment("d-1", APP, PLACE, SHA)}
        self.environment["ECS_CONTAINER_METADATA_URI_V4"] = "http://metadata"
        self.opened = False  # the gate, when the metadata was asked for the first time

    def metadata(self, environment: dict[str, str]) -> dict[str, Any]:
        self.opened = self.opened or self.may_build.exists()
        now = self.containers.pop(0) if len(self.containers) > 1 and self.opened else self.containers[0]
        stand = [
            {"Name": name, "KnownStatus": status, **({} if code is None else {"ExitCode": code})}
            for name, (status, code) in now.items()
        ]
        return {"TaskARN": "task/own", "Cluster": "runners", "Family": "app-deployer-arm64", "Containers": stand}

    def deploy(self) -> dict[str, str]:
        options = program.parse(deploy_command(APP, PLACE, SHA, IMAGE))
        result: dict[str, str] = program.deploy(options, self.environment, self.ecs, self.ecr, self.sleep)
        return result

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        assert len(self.naps) < 50


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run(tmp_path / "may-build")
    monkeypatch.setattr(program, "MAY_BUILD", str(run.may_build))
    monkeypatch.setattr(program, "metadata", run.metadata)
    return run


def test_it_lets_the_build_begin_waits_for_it_and_deploys_its_digest(run: Run) -> None:
    done = run.deploy()

    assert run.may_build.exists()
    [(_, revision), (_, update)] = run.ecs.changes
    assert revision["containerDefinitions"][0]["image"] == f"{IMAGE}@{DIGEST}"
    tags = {tag["key"]: tag["value"] for tag in revision["tags"]}
    assert (tags["deploy-runner:deployment"], tags["deploy-runner:sha"]) == ("d-1", SHA)
    # what the role's condition asks for: templates/app_roles.py
    assert (tags["deploy-runner:app"], tags["deploy-runner:environment"]) == ("cineos", "dev")
    assert update == {"cluster": "dev", "service": "cineos", "taskDefinition": done["task_definition"]}
    assert done["digest"] == DIGEST


@pytest.mark.parametrize(
    ("containers", "told"),
    [
        ({"clone": ("STOPPED", 2), "kaniko": ("STOPPED", None)}, "clone ended with exit code 2"),
        ({"clone": ("STOPPED", 0), "kaniko": ("STOPPED", 1)}, "kaniko ended with exit code 1"),
        ({"clone": ("STOPPED", 0), "kaniko": ("STOPPED", None)}, "kaniko did not run"),
    ],
)
def test_a_build_that_fails_ends_it_and_changes_nothing(run: Run, containers: Any, told: str) -> None:
    run.containers[-1] = containers
    with pytest.raises(program.DeployError, match=told) as raised:
        run.deploy()
    assert (raised.value.exit_code, run.ecs.changes) == (1, [])


def test_a_build_that_pushed_nothing_is_named(run: Run) -> None:
    run.ecr.images = ()
    with pytest.raises(program.DeployError, match="must leave its image in the registry"):
        run.deploy()


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_second_task_of_a_deployment_builds_nothing_and_ends_as_the_first(run: Run, code: int) -> None:
    """GIVEN a RunTask that was tried again though its first task lives THEN only that one does the work."""
    run.ecs.add_runner("first", 10.0)
    sleep = run.sleep

    def end_it(seconds: float) -> None:
        sleep(seconds)
        if len(run.naps) == 3:
            run.ecs.runners[-1] |= {"desiredStatus": "STOPPED", "containers": [{"name": "deploy", "exitCode": code}]}

    run.sleep = end_it  # type: ignore[method-assign]
    if code:
        with pytest.raises(program.DeployError, match="task/first") as raised:
            run.deploy()
        assert raised.value.exit_code == code
    else:
        assert run.deploy() == {"done_by": "task/first"}
    assert not run.may_build.exists()
    assert (run.ecs.changes, run.naps) == ([], [5.0] * 3)


def test_what_a_task_did_that_has_ended_is_not_done_again(run: Run) -> None:
    run.ecs.add_runner("first", 10.0, "STOPPED", 0)
    assert run.deploy() == {"done_by": "task/first"}
    assert not run.may_build.exists()


def test_tasks_that_do_no_work_of_this_deployment_are_no_reason_to_wait(run: Run) -> None:
    run.ecs.add_runner("failed", 10.0, "STOPPED", 1)  # a person has the execution tried again
    run.ecs.add_runner("second", 30.0)  # waits for this one
    run.ecs.add_runner("of another deployment", 10.0, group="d-2")
    assert run.deploy()["service"] == "cineos"


def test_of_any_tasks_of_a_deployment_one_does_the_work() -> None:
    tasks = [RunnerTask(f"t{number}", created, live=True) for number, created in enumerate((2.0, 1.0, 1.0, 3.0))]
    workers = [task.arn for task in tasks if first_of(tasks, task.arn) is None]
    assert workers == ["t1"]
    assert all(first_of(tasks, task.arn) == tasks[1] for task in tasks if task.arn != "t1")
    assert first_of(tasks[1:], "not listed yet") == tasks[1]


def test_what_aws_refuses_for_a_moment_is_tried_again(run: Run) -> None:
    for operation in ("DescribeTasks", "RegisterTaskDefinition", "UpdateService"):
        run.ecs.fail_next[operation] = client_error("ThrottlingException")
    assert run.deploy()["digest"] == DIGEST
    assert run.naps.count(1) >= 3


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def main(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run it as a process would; returns the exit code, and the last lines of stdout and stderr."""
    monkeypatch.setattr(program, "client", lambda name: {"ecs": run.ecs, "ecr": run.ecr}[name])
    monkeypatch.setattr(program.time, "sleep", run.sleep)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(program.os, "environ", run.environment)
        code = program.main(list(arguments) or deploy_command(APP, PLACE, SHA, IMAGE))
        said = capsys.readouterr()
        return code, said.out.strip(), said.err.strip()

    return call


def test_done_is_0_and_one_line_of_json(main: Any) -> None:
    code, out, err = main()
    assert (code, err) == (0, "")
    assert json.loads(out)["digest"] == DIGEST


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image=x"],
        ["--container=app"],
        [f"--image={IMAGE}:t", "--container=a b"],
        [f"--image={IMAGE}", "--container=a"],
    ],
)
def test_wrong_arguments_are_2(main: Any, arguments: list[str]) -> None:
    code, _, err = main(*arguments)
    assert code == 2
    assert err.startswith("deploy: The arguments must be right")
    assert "\n" not in err


def test_an_environment_without_what_is_needed_is_2(main: Any, run: Run) -> None:
    del run.environment["GIT_REF"]
    assert main()[::2] == (
        2,
        "deploy: The environment must have GIT_REF. The state machine and ECS set it: report this.",
    )


def test_a_role_that_may_not_is_3_and_says_what(main: Any, run: Run) -> None:
    run.ecs.fail_next["UpdateService"] = client_error("AccessDeniedException", "not authorized: ecs:UpdateService")
    code, _, err = main()
    assert code == 3
    assert "ecs:UpdateService" in err


def test_a_bug_of_ours_is_3_and_quotes_nothing(main: Any, run: Run) -> None:
    def broken(**_: Any) -> Any:
        raise KeyError("a secret")

    run.ecr.batch_get_image = broken  # type: ignore[method-assign]
    code, _, err = main()
    assert code == 3
    assert "KeyError in line" in err
    assert "secret" not in err


# --- the image --------------------------------------------------------------------------------------------------------


def ours(path: Path) -> set[str]:
    """Return the modules of ours that a file imports."""
    nodes = ast.walk(ast.parse(path.read_text()))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name for name in names if name.startswith("deploy_runner.")}


def test_the_image_has_every_module_of_ours_that_the_program_imports() -> None:
    dockerfile = (PROGRAM.parent / "Dockerfile").read_text()
    known: set[str] = set()
    todo = ours(PROGRAM)
    while todo:
        name = todo.pop()
        known.add(name)
        path = ROOT / "src" / f"{name.replace('.', '/')}.py"
        todo |= ours(path) - known
    assert len(known) == 8
    for name in known:
        assert f"src/{name.replace('.', '/')}.py" in dockerfile, name
