"""Each rule of apps.yaml refuses by its own name, and the deployment holds what was accepted."""

import json
from dataclasses import replace
from typing import Any

import pytest

from deploy_runner.aws.running import Current
from deploy_runner.domain import errors
from deploy_runner.domain.allow import Accepted, decide
from deploy_runner.domain.apps import Allowlist, App, Environment, Service, Target, load
from deploy_runner.domain.deployment import Execution, Installation, build_deployment, image_tag, kaniko_command
from deploy_runner.domain.request import parse_request
from deploy_runner.github.facts import RepositoryFacts
from tests.unit.fake_github import SHA, FakeGitHub
from tests.unit.fake_history import DIGEST, GOOD, FakeHistory, FakeRunning

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
    checks: [tests]
  old: {account: "123456789012", region: us-east-1, cluster: old, refs: {branches: ["**"]}, freeze: it is closed}
apps:
  cineos:
    repository: {name: lightwave-media/cineos, id: 1001}
    environments:
      dev: {services: {web: [app], worker: [app, cron]}}
      prod: {services: {web: [app]}}
      old: {services: {web: [app]}}
  frozen:
    repository: {name: lightwave-media/cineos, id: 1001}
    environments:
      old: {services: {frozen: [app]}, emergency: [Octocat, hubot]}
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


def ask(allowlist: Allowlist, github: GitHub | None = None, **request: Any) -> Accepted:
    """What is decided of a request in this history: GOOD succeeded everywhere, and dev runs it."""
    full = {"app": "cineos", "environment": "dev", "action": "deploy", **request}
    if full["action"] in ("deploy", "build"):
        full.setdefault("ref", "main")
    facts = RepositoryFacts(github or GitHub(), "lightwave-media/cineos")
    places = [(app, environment) for app in ("cineos", "frozen") for environment in ("dev", "prod", "old")]
    history = FakeHistory({(*place, GOOD.deployment): GOOD for place in places})
    running = FakeRunning({("cineos", "dev"): Current(GOOD.deployment, SHA, DIGEST)})
    return decide(allowlist, parse_request(full), facts, history, running)


@pytest.mark.parametrize(
    ("request_", "because"),
    [
        ({"ref": "main"}, "branch main matches main"),
        ({"ref": "refs/heads/main"}, "branch main matches main"),
        ({"ref": SHA}, "commit is on branch main"),
        ({"environment": "prod", "ref": "v1", "source": RUN}, "tag v1 matches v*"),
        ({"environment": "prod", "ref": SHA, "source": RUN}, "commit is tag v1"),
        ({"environment": "old", "action": "build"}, "branch main matches **"),
        ({"action": "rollback"}, "deployment d-0 of 2025-12-31T00:00:00Z succeeded"),
        ({"action": "rollback", "deployment": "d-0"}, "deployment d-0 of 2025-12-31T00:00:00Z succeeded"),
        (
            {"environment": "prod", "action": "promote", "from": "dev", "source": RUN},
            "commit is tag v1; it runs in dev",
        ),
        (
            {"app": "frozen", "environment": "old", "source": RUN, "emergency": True},
            "branch main matches **; emergency by octocat in spite of the freeze (it is closed)",
        ),
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
        ({"environment": "old", "action": "rollback"}, errors.EnvironmentFrozen),
        ({"environment": "old", "action": "promote", "from": "dev"}, errors.EnvironmentFrozen),
        ({"environment": "old", "source": RUN, "emergency": True}, errors.EnvironmentFrozen),
        ({"app": "frozen", "environment": "old", "source": RUN}, errors.EnvironmentFrozen),
        ({"app": "frozen", "environment": "old", "emergency": True}, errors.EnvironmentFrozen),
        ({"action": "rollback", "deployment": "d-9"}, errors.NothingToGoBackTo),
        ({"environment": "prod", "action": "rollback"}, errors.RequesterNotAllowed),
        ({"environment": "prod", "action": "promote", "from": "dev"}, errors.RequesterNotAllowed),
        ({"action": "promote", "from": "moon"}, errors.EnvironmentNotAllowed),
        ({"action": "promote", "from": "prod"}, errors.NotPromotable),
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


# --- what nothing is built for ----------------------------------------------------------------------------------------


def test_what_is_put_back_may_be_on_no_branch_and_red_by_now(allowlist: Allowlist) -> None:
    """It was allowed when it was deployed. Who asks is checked, but that person's run need not be of that commit."""
    github, prod = GitHub(), {"environment": "prod", "action": "rollback", "source": RUN}
    github.branches, github.conclusions, github.head_sha = {}, {"tests": "failure"}, "e" * 40
    accepted = ask(allowlist, github, **prod)
    assert (accepted.sha, accepted.digest, accepted.origin) == (SHA, DIGEST, GOOD)
    github.actor = "mallory"
    with pytest.raises(errors.RequesterNotAllowed, match=r"only by Octocat.*someone else: 'mallory'"):
        ask(allowlist, github, **prod)
    github.repository_id = 666
    with pytest.raises(errors.AppNotAllowed):
        ask(allowlist, github, **prod)


def test_there_may_be_nothing_to_go_back_to(allowlist: Allowlist) -> None:
    request = parse_request({"app": "cineos", "environment": "dev", "action": "rollback"})
    with pytest.raises(errors.NothingToGoBackTo, match="before what runs now"):
        decide(allowlist, request, RepositoryFacts(GitHub(), "lightwave-media/cineos"), FakeHistory(), FakeRunning())


def test_exactly_what_ran_can_only_be_had_where_every_service_ran(allowlist: Allowlist) -> None:
    services = (Service("web", ("app",)), Service("cron", ("app",)))
    place = replace(allowlist.apps["cineos"].environments["dev"], services=services)
    app = replace(allowlist.apps["cineos"], environments={"dev": place})
    changed = replace(allowlist, apps={"cineos": app})
    assert ask(changed, action="rollback").origin == GOOD
    with pytest.raises(errors.NothingToGoBackTo, match="did not deploy cron"):
        ask(changed, action="rollback", exact=True)


def test_a_promoted_commit_is_held_to_the_rules_of_where_it_goes(allowlist: Allowlist) -> None:
    promote = {"environment": "prod", "action": "promote", "from": "dev", "source": RUN}
    github = GitHub()
    github.head_sha = "e" * 40  # the run of whoever asks need not be of that commit
    assert ask(allowlist, github, **promote).digest == DIGEST
    github.conclusions = {"tests": "failure"}
    with pytest.raises(errors.ChecksNotGreen):
        ask(allowlist, github, **promote)
    untagged = GitHub()
    untagged.tags_of = lambda repository, sha: ()  # type: ignore[method-assign]
    with pytest.raises(errors.RefNotAllowed, match="commit c"):
        ask(allowlist, untagged, **promote)


@pytest.mark.parametrize("forged", [{"sha": "e" * 40}, {"digest": "sha256:" + "e" * 64}, {"deployment": "d-9"}])
def test_what_runs_elsewhere_is_promoted_only_if_our_own_history_knows_it(
    allowlist: Allowlist, forged: dict[str, str]
) -> None:
    """The tags that name deployment and commit can be set by whoever may register task definitions there."""
    history = FakeHistory({("cineos", "dev", GOOD.deployment): GOOD})
    running = FakeRunning({("cineos", "dev"): replace(Current(GOOD.deployment, SHA, DIGEST), **forged)})
    request = {"app": "cineos", "environment": "prod", "action": "promote", "from": "dev", "source": RUN}
    with pytest.raises(errors.NotPromotable, match="with success"):
        decide(allowlist, parse_request(request), RepositoryFacts(GitHub(), "lightwave-media/cineos"), history, running)


# --- freeze -----------------------------------------------------------------------------------------------------------


def test_a_freeze_says_who_may_deploy_in_an_emergency_and_only_they_may(allowlist: Allowlist) -> None:
    frozen, github = {"app": "frozen", "environment": "old", "source": RUN}, GitHub()
    with pytest.raises(errors.EnvironmentFrozen, match=r"it is closed.*Octocat, hubot may .*`emergency: true`"):
        ask(allowlist, **frozen)
    for action in ("deploy", "rollback"):
        accepted = ask(allowlist, action=action, emergency=True, **frozen)
        assert accepted.emergency
        assert "emergency by octocat" in accepted.because
    github.actor = "mallory"
    with pytest.raises(errors.EnvironmentFrozen, match=r"mallory.*Octocat, hubot may"):
        ask(allowlist, github, emergency=True, requested_by="Octocat", **frozen)
    github.actor, github.head_sha = "octocat", "e" * 40
    with pytest.raises(errors.EnvironmentFrozen, match="of the commit"):
        ask(allowlist, github, emergency=True, **frozen)
    with pytest.raises(errors.EnvironmentFrozen, match="nobody is listed"):
        ask(allowlist, environment="old", source=RUN, emergency=True)


def test_an_emergency_lifts_no_other_rule_and_is_none_without_a_freeze(allowlist: Allowlist) -> None:
    github = GitHub()
    github.repository_id = 666
    with pytest.raises(errors.AppNotAllowed):
        ask(allowlist, github, app="frozen", environment="old", source=RUN, emergency=True)
    with pytest.raises(errors.RefNotFound):
        ask(allowlist, app="frozen", environment="old", source=RUN, emergency=True, ref="nowhere")
    assert not ask(allowlist, source=RUN, emergency=True).emergency


# --- the deployment ---------------------------------------------------------------------------------------------------


BUILDERS = [f"arn:aws:ecs:us-east-1:123456789012:task-definition/docker-builder-{cpu}:1" for cpu in ("arm", "x86")]
DEPLOYERS = [f"arn:aws:ecs:us-east-1:123456789012:task-definition/app-deployer-{cpu}:1" for cpu in ("arm", "x86")]
ROLES = ("arn:aws:iam::1:role/deploy-runner/push/", "arn:aws:iam::1:role/deploy-runner/deployer/deployer-")
EXECUTION = Execution("arn", "d-1", "2026-01-01T00:00:00Z")
HERE = Installation(*BUILDERS, *DEPLOYERS, *ROLES, "registry")


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
        return build_deployment(request, replace(accepted, app=app), EXECUTION, HERE)

    built = deployment(accepted.app)
    assert built["build"]["task_definition"] == BUILDERS[0]
    assert deployment(replace(accepted.app, architecture="X86_64"))["build"]["task_definition"] == BUILDERS[1]
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
        found = replace(accepted, app=app, environment=place)
        return build_deployment(replace(request, **changes), found, EXECUTION, HERE)

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


EXTRA = """
        queue: all
        unit: live/dev/cineos
        release_command: [python, manage.py, migrate]
        scheduled_tasks: {nightly: [app], jobs/weekly: [app, cron]}
        timeouts: {release: 60, queue: 120}
"""


def built(**request: Any) -> dict[str, Any]:
    """The deployment of a request to an environment with all settings."""
    allowlist = load(FILE.replace("dev: {services: {web: [app], worker: [app, cron]}}", "dev:\n        services: "
                                  "{web: [app], worker: [app, cron]}" + EXTRA.rstrip()))  # fmt: skip
    full = {"app": "cineos", "environment": "dev", **request}
    return build_deployment(parse_request(full), ask(allowlist, **full), EXECUTION, HERE)


def test_a_deployment_has_what_it_waits_for_runs_before_and_takes_with_it() -> None:
    deployment = built(ref="main")
    tag = deployment["image"]["tag"]
    assert deployment["locks"] == {
        "build": [f"image/cineos:{tag}"],
        "deploy": ["app/cineos/dev", "unit/live/dev/cineos"],
    }
    assert deployment["queue"] == "all"
    assert deployment["started_at"] == EXECUTION.started_at
    assert deployment["release"] == {
        "service": "web",
        "container": "app",
        "command": ["python", "manage.py", "migrate"],
    }
    assert deployment["schedules"] == [
        {"group": "default", "name": "nightly", "containers": ["app"]},
        {"group": "jobs", "name": "weekly", "containers": ["app", "cron"]},
    ]
    assert deployment["timeouts"] == {"build": 1800, "rollout": 1200, "queue": 120, "release": 60}
    nothing = {"digest": None, "origin": None, "exact": None, "from": None, "emergency": False}
    assert deployment | nothing == deployment
    assert built(ref="main", action="build")["release"] is None


def test_a_rollback_restores_a_digest_builds_nothing_and_runs_no_older_migration() -> None:
    deployment = built(action="rollback")
    assert (deployment["sha"], deployment["ref"], deployment["digest"]) == (SHA, SHA, DIGEST)
    assert deployment["image"]["tag"].startswith(SHA)
    assert deployment["origin"] == {"deployment": "d-0", "started_at": "2025-12-31T00:00:00Z"}
    assert deployment["locks"] == {"build": [], "deploy": ["app/cineos/dev", "unit/live/dev/cineos"]}
    assert deployment["release"] is deployment["exact"] is None
    assert built(action="rollback", exact=True)["exact"] == {"web": "td/web:41", "worker": "td/worker:7"}


def test_a_promotion_takes_the_digest_and_runs_what_comes_before(allowlist: Allowlist) -> None:
    request = {"app": "cineos", "environment": "prod", "action": "promote", "from": "dev", "source": RUN}
    deployment = build_deployment(parse_request(request), ask(allowlist, **request), EXECUTION, HERE)
    assert (deployment["digest"], deployment["from"], deployment["origin"]) == (DIGEST, "dev", None)
    assert deployment["target"]["account"] == "210987654321"


def test_the_largest_deployment_fits_into_a_state() -> None:
    """256 KiB, docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html, with as many rollouts beside it."""
    containers = [f"{'c' * 254}{number}" for number in range(10)]
    services = {f"{'s' * 97}{number:02}": containers for number in range(20)}
    place = {"services": services, "unit": "u" * 200, "release_command": ["é" * 600]}
    place["scheduled_tasks"] = {f"{'g' * 64}/{'s' * 62}{number:02}": containers for number in range(20)}
    app = {"repository": {"name": f"{'o' * 39}/{'n' * 100}", "id": 10**15}, "environments": {"e" * 59: place}}
    app |= {"image_repository": "i" * 250, "dockerfile": "d" * 200, "context": "c" * 200}
    app["build_args"] = {f"A{number}": "v" * 1000 for number in range(3)}
    shared = {"account": "123456789012", "region": "us-east-1", "cluster": "c" * 255, "refs": {"branches": ["main"]}}
    file = {"version": 1, "environments": {"e" * 59: shared}, "apps": {"a" * 59: app}}
    largest = load(json.dumps(file, ensure_ascii=False)).apps["a" * 59]

    request = {"app": "a", "environment": "e", "requested_by": "é" * 100}
    request["source"] = RUN | {"run_url": f"https://{'u' * 292}"}
    good = replace(GOOD, revisions=dict.fromkeys(services, "t" * 330))
    accepted = Accepted(largest, largest.environments["e" * 59], SHA, "", DIGEST, good)
    execution = Execution("a" * 256, "n" * 80, "2026-01-01T00:00:00.000Z")
    parsed = [
        parse_request(request | {"action": "rollback", "exact": True}),
        parse_request(request | {"ref": "r" * 200}),
    ]
    restored, new = (build_deployment(each, accepted, execution, HERE) for each in parsed)
    rollout = {"service": "s" * 97, "service_arn": "a" * 400, "cluster": "c" * 255, "schedule": "s" * 129}
    rollout |= {"task_definition": "t" * 330, "previous_task_definition": "t" * 330}
    state = json.dumps({"deployment": new | {"exact": restored["exact"]}, "rollouts": [rollout] * 40})
    assert 150_000 < len(state) < 256 * 1024
