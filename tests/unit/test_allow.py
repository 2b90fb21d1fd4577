"""Each rule of apps.yaml refuses by its own name, and the deployment holds what was accepted."""

from dataclasses import replace
from typing import Any

import pytest

from deploy_runner.domain import errors
from deploy_runner.domain.allow import decide
from deploy_runner.domain.apps import Allowlist, App, Environment, Service, Target, load
from deploy_runner.domain.deployment import Execution, Installation, build_deployment, image_tag, kaniko_command
from deploy_runner.domain.request import parse_request
from deploy_runner.github.facts import RepositoryFacts
from tests.unit.fake_github import SHA, FakeGitHub

RUN = {"repository": "lightwave-media/cineos", "run_id": "7", "run_url": "https://github.example/run/7"}
FILE = """
version: 1
environments:
  dev: {account: "123456789012", region: us-east-1, cluster: dev, refs: {branches: ["feature/*", main]}}
  prod:
    account: "210987654321"
    region: eu-west-1
    cluster: prod
    refs: {tags: ["v*"]}
    requesters: [Octocat]
  old: {account: "123456789012", region: us-east-1, cluster: old, refs: {branches: ["**"]}, freeze: it is closed}
apps:
  cineos:
    repository: {name: lightwave-media/cineos, id: 1001}
    environments:
      dev: {services: {web: [app], worker: [app, cron]}}
      prod: {services: {web: [app]}}
      old: {services: {web: [app]}}
"""


class GitHub(FakeGitHub):
    """With a tag v1 on the commit, and a run of it."""

    actor, head_sha = "octocat", SHA

    def resolve_ref(self, repository: str, ref: str) -> Any:
        found = super().resolve_ref(repository, ref)
        return replace(found or super().resolve_ref(repository, "main"), kind="tag", name=ref) if ref == "v1" else found

    def tags_of(self, repository: str, sha: str) -> tuple[str, ...]:
        return ("v1",) if sha == SHA else ()

    def workflow_run(self, repository: str, run_id: int) -> Any:
        from deploy_runner.github.client import WorkflowRun

        return WorkflowRun(run_id, self.actor, self.head_sha, "main", "push") if run_id == 7 else None


@pytest.fixture
def allowlist() -> Allowlist:
    return load(FILE)


def ask(allowlist: Allowlist, github: GitHub | None = None, **request: Any) -> Any:
    full = {"app": "cineos", "environment": "dev", "ref": "main", **request}
    return decide(allowlist, parse_request(full), RepositoryFacts(github or GitHub(), "lightwave-media/cineos"))


@pytest.mark.parametrize(
    ("request_", "because"),
    [
        ({"ref": "main"}, "branch main matches main"),
        ({"ref": "refs/heads/main"}, "branch main matches main"),
        ({"ref": SHA}, "commit is on branch main"),
        ({"environment": "prod", "ref": "v1", "source": RUN}, "tag v1 matches v*"),
        ({"environment": "prod", "ref": SHA, "source": RUN}, "commit is tag v1"),
        ({"environment": "old", "action": "build"}, "branch main matches **"),
    ],
)
def test_what_a_rule_lets_pass_says_which(allowlist: Allowlist, request_: dict[str, Any], because: str) -> None:
    accepted = ask(allowlist, **request_)
    assert (accepted.sha, accepted.because) == (SHA, because)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"app": "billing"}, errors.AppNotAllowed),
        ({"environment": "moon"}, errors.EnvironmentNotAllowed),
        ({"environment": "old"}, errors.EnvironmentFrozen),
        ({"ref": "nowhere"}, errors.RefNotFound),
        ({"ref": "f" * 40}, errors.RefNotFound),
        ({"ref": "refs/tags/main"}, errors.RefNotFound),
        ({"ref": "experiment"}, errors.RefNotAllowed),
        ({"environment": "prod", "ref": "main", "source": RUN}, errors.RefNotAllowed),
        ({"environment": "prod", "ref": "v1"}, errors.RequesterNotAllowed),
        ({"environment": "prod", "ref": "v1", "source": RUN | {"run_id": 8}}, errors.RequesterNotAllowed),
        ({"environment": "prod", "ref": "v1", "source": RUN | {"repository": "o/x"}}, errors.RequesterNotAllowed),
    ],
)
def test_each_rule_refuses_by_its_name(
    allowlist: Allowlist, request_: dict[str, Any], error: type[errors.RequestRejected]
) -> None:
    with pytest.raises(errors.RequestRejected) as raised:
        ask(allowlist, **request_)
    assert type(raised.value) is error


def test_who_asks_is_what_github_says_and_of_this_very_commit(allowlist: Allowlist) -> None:
    github, prod = GitHub(), {"environment": "prod", "ref": "v1", "source": RUN, "requested_by": "octocat"}
    github.actor = "mallory"
    with pytest.raises(errors.RequesterNotAllowed, match="mallory"):
        ask(allowlist, github, **prod)
    github.actor, github.head_sha = "octocat", "d" * 40
    with pytest.raises(errors.RequesterNotAllowed, match=r"d{40}"):
        ask(allowlist, github, **prod)


@pytest.mark.parametrize("conclusion", [None, "failure", "skipped", "cancelled", "neutral"])
def test_only_success_is_green(conclusion: str | None) -> None:
    github = GitHub()
    allowlist = load(FILE.replace('branches: ["feature/*", main]}', "branches: [main]}, checks: [tests]"))
    assert ask(allowlist, github).sha == SHA
    github.conclusions = {"tests": conclusion}
    with pytest.raises(errors.ChecksNotGreen):
        ask(allowlist, github)
    github.conclusions = {}
    with pytest.raises(errors.ChecksNotGreen, match="missing"):
        ask(allowlist, github)


# --- the deployment ---------------------------------------------------------------------------------------------------


DEPLOYERS = [f"arn:aws:ecs:us-east-1:123456789012:task-definition/app-deployer-{cpu}:1" for cpu in ("arm", "x86")]
ROLES = ("arn:aws:iam::1:role/deploy-runner/push/", "arn:aws:iam::1:role/deploy-runner/deployer/deployer-")
HERE = Installation("arm", "x86", *DEPLOYERS, *ROLES, "registry")


def test_changed_build_settings_are_a_new_image_and_all_else_is_not(allowlist: Allowlist) -> None:
    app = allowlist.apps["cineos"]
    settings: list[dict[str, Any]] = [
        {}, {"build_args": (("A", "1"),)}, {"build_args": (("A", "2"),)}, {"architecture": "X86_64"},
        {"dockerfile": "x"}, {"context": "x"}, {"submodules": True},
    ]  # fmt: skip
    tags = {image_tag(replace(app, **changed), SHA) for changed in settings}
    assert len(tags) == len(settings)
    assert all(tag.startswith(f"{SHA}-") and len(tag) <= 128 for tag in tags)
    assert image_tag(replace(app, immutable_tags=True, environments={}), SHA) == image_tag(app, SHA)
    assert image_tag(app, "d" * 40) != image_tag(app, SHA)


def destinations(app: App) -> list[str]:
    return [part.partition("=")[2] for part in kaniko_command(app, SHA, "uri") if part.startswith("--destination=")]


def test_latest_is_pushed_unless_tags_are_immutable_and_the_identity_last(allowlist: Allowlist) -> None:
    app = allowlist.apps["cineos"]
    assert destinations(app) == [f"uri:{SHA}", "uri:latest", f"uri:{image_tag(app, SHA)}"]
    assert destinations(replace(app, immutable_tags=True)) == [f"uri:{SHA}", f"uri:{image_tag(app, SHA)}"]


def test_the_builder_is_that_of_the_architecture_and_pushes_as_the_app(allowlist: Allowlist) -> None:
    accepted = ask(allowlist)
    request = parse_request({"app": "cineos", "environment": "dev", "ref": "main", "source": RUN})

    def deployment(app: App) -> dict[str, Any]:
        return build_deployment(request, app, accepted.environment, SHA, Execution("arn", "d-1"), HERE)

    built = deployment(accepted.app)
    assert built["build"]["task_definition"] == "arm"
    assert deployment(replace(accepted.app, architecture="X86_64"))["build"]["task_definition"] == "x86"
    assert built["build"]["task_role"] == "arn:aws:iam::1:role/deploy-runner/push/cineos"
    assert built["source"]["run_id"] == 7
    environment = {entry["Name"]: entry["Value"] for entry in built["build"]["environment"]}
    assert environment["ECS_SERVICE"] == "web,worker"
    assert set(environment) == {
        "APP_NAME", "GIT_REF", "ENVIRONMENT", "ECR_REPOSITORY", "ECS_CLUSTER", "ECS_SERVICE", "DEPLOYMENT_ID",
    }  # fmt: skip
    assert built["build"]["clone_command"] == [
        "--repository", "lightwave-media/cineos", "--repository-id", "1001", "--sha", SHA,
        "--directory", "/deploy-runner/source",
    ]  # fmt: skip


def test_an_app_deployer_gets_what_it_needs_for_its_one_service_and_a_role_of_its_environment(
    allowlist: Allowlist,
) -> None:
    accepted = ask(allowlist)
    request = parse_request({"app": "cineos", "environment": "dev", "ref": "main", "source": RUN})
    target = Target("123456789012", "us-east-1", "r")
    environment = replace(accepted.environment, services=(Service("web", ("app", "cron")),), target=target)

    def deployment(place: Environment, **changes: Any) -> dict[str, Any]:
        app = replace(accepted.app, runner="app-deployer")
        return build_deployment(replace(request, **changes), app, place, SHA, Execution("arn", "d-1"), HERE)

    built = deployment(environment)
    assert built["runner"] == "app-deployer"
    assert built["app_deployer"] == {
        "task_definition": DEPLOYERS[0],
        "task_role": f"{ROLES[1]}cineos-dev",
        "deploy_command": [f"--image=registry/cineos:{built['image']['tag']}", "--container=app", "--container=cron"],
    }
    assert deployment(environment, action="build")["app_deployer"] is None  # docker-builder does that
    for elsewhere in (Target("999999999999", "us-east-1", "r"), Target("123456789012", "eu-west-1", "r")):
        with pytest.raises(errors.TargetMisconfigured, match="account and region that it runs in"):
            deployment(replace(environment, target=elsewhere))
