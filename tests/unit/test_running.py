"""What runs in an environment, as ECS says: one image of the app, by digest, that was deployed there; or a refusal."""

from typing import Any, cast

import pytest

from deploy_runner.aws.running import Current, EcsRunning
from deploy_runner.domain.apps import App, load
from deploy_runner.domain.errors import NotPromotable, TargetMisconfigured
from tests.unit.fake_ecs import FakeEcs
from tests.unit.fake_github import SHA

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
DIGEST = "sha256:" + "d" * 64
IMAGE = f"{REGISTRY}/cineos@{DIGEST}"
TAGS = {"deploy-runner:managed": "true", "deploy-runner:deployment": "d-0", "deploy-runner:sha": SHA}
APP = load("""
version: 1
environments:
  staging: {account: "210987654321", region: eu-west-1, cluster: staging, refs: {branches: [main]}}
apps:
  cineos:
    repository: {name: lightwave-media/cineos, id: 1001}
    environments:
      staging: {services: {web: [app, cron], worker: [app]}}
""").apps["cineos"]


def containers(app: str = IMAGE, cron: str = IMAGE) -> list[dict[str, str]]:
    return [{"name": "app", "image": app}, {"name": "proxy", "image": "p:1"}, {"name": "cron", "image": cron}]


def running(
    app: App = APP, worker: Any = IMAGE, cron: str = IMAGE, tags: dict[str, str] = TAGS, state: str | None = "COMPLETED"
) -> Current:
    """What is said to run in staging: `web` is as it should be but for `cron`, `worker` is as given."""
    ecs = FakeEcs()
    ecs.add_service("web", ecs.add_definition("web", TAGS, containerDefinitions=containers(cron=cron)))
    ecs.add_service("worker", ecs.add_definition("worker", tags, containerDefinitions=containers(app=worker)))
    ecs.services["worker"]["deployments"][0]["rolloutState"] = state
    asked = []

    def ecs_in(target: Any) -> Any:
        asked.append((target.account, target.region))
        return ecs

    current = EcsRunning(cast(Any, ecs_in), REGISTRY).current(app, app.environments["staging"])
    assert asked == [("210987654321", "eu-west-1")]
    return current


def test_what_runs_is_read_in_the_account_and_region_of_its_environment() -> None:
    assert running() == Current("d-0", SHA, DIGEST)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"state": "IN_PROGRESS"}, "staging/worker must be COMPLETED: 'IN_PROGRESS'"),
        ({"state": "FAILED"}, "must be COMPLETED: 'FAILED'"),
        ({"state": None}, "must be COMPLETED: 'unknown'"),
        ({"worker": f"{REGISTRY}/cineos:latest"}, "container app of staging/worker .* by its digest"),
        ({"worker": f"{REGISTRY}/other@{DIGEST}"}, "by its digest"),
        ({"worker": f"evil.example/cineos@{DIGEST}"}, "by its digest"),
        ({"worker": f"{REGISTRY}/cineos@{DIGEST}0"}, "by its digest"),
        ({"worker": f"{REGISTRY}/cineos@sha256:{'e' * 64}"}, "one deployment's image.*web runs sha256:d.*worker runs"),
        ({"cron": f"{REGISTRY}/cineos@sha256:{'e' * 64}"}, "All containers of staging/web must run one digest"),
        ({"tags": {}}, "the deploy runner registered"),
        ({"tags": TAGS | {"deploy-runner:sha": "main"}}, "the deploy runner registered"),
        ({"tags": TAGS | {"deploy-runner:sha": "e" * 40}}, "one deployment's image"),
        ({"tags": TAGS | {"deploy-runner:deployment": "d-1"}}, "one deployment's image"),
    ],
)
def test_what_is_not_one_deployed_image_is_not_promoted(broken: dict[str, Any], told: str) -> None:
    with pytest.raises(NotPromotable, match=told):
        running(**broken)


def test_a_container_that_is_not_there_is_named() -> None:
    ecs = FakeEcs()
    for name in ("web", "worker"):
        ecs.add_service(name, ecs.add_definition(name, TAGS, containerDefinitions=[{"name": "x", "image": IMAGE}]))
    with pytest.raises(NotPromotable, match="no such container"):
        EcsRunning(lambda _: cast(Any, ecs), REGISTRY).current(APP, APP.environments["staging"])


def test_a_service_that_is_not_there_is_a_misconfigured_target() -> None:
    with pytest.raises(TargetMisconfigured, match="staging/web must exist"):
        EcsRunning(lambda _: cast(Any, FakeEcs()), REGISTRY).current(APP, APP.environments["staging"])
