"""Registering, updating and reading are safe to repeat, and lose nothing of what the owners of an app wrote."""

from typing import Any

import pytest

from deploy_runner.aws import ecs
from deploy_runner.domain.errors import AwsUnavailable, NothingDeployed, RolloutReplaced, TargetMisconfigured
from deploy_runner.domain.rollout import Rollout, StoppedTask
from tests.unit.fake_ecs import CLUSTER, FakeEcs, client_error, service_arn

DIGEST = "sha256:" + "a" * 64
SERVICE = {"name": "cineos", "containers": ["app"]}


def deployment(base: str = "service", deployment_id: str = "d-1") -> dict[str, Any]:
    return {
        "id": deployment_id, "app": "cineos", "environment": "dev", "sha": "b" * 40,
        "image": {"repository_uri": "registry/cineos"}, "app_deployer": None,
        "target": {"cluster": CLUSTER, "services": [SERVICE], "task_definition_base": base},
    }  # fmt: skip


@pytest.fixture
def fake() -> FakeEcs:
    fake = FakeEcs()
    fake.add_service("cineos", fake.add_definition("cineos", {"owner": "web"}, cpu="256"))
    return fake


def register(fake: FakeEcs, **options: str) -> Rollout:
    return ecs.register_revision(fake, deployment(**options), SERVICE, DIGEST)


def test_a_revision_is_its_base_with_the_image_by_digest_and_our_tags(fake: FakeEcs) -> None:
    rollout = register(fake)

    [(_, given)] = fake.changes
    tags = {tag["key"]: tag["value"] for tag in given["tags"]}
    assert given["containerDefinitions"] == [
        {"name": "app", "image": f"registry/cineos@{DIGEST}"}, {"name": "proxy", "image": "p"},
    ]  # fmt: skip
    assert given["cpu"] == "256"
    assert tags["owner"] == "web"
    assert tags["deploy-runner:sha"] == "b" * 40
    assert rollout.task_definition.endswith("cineos:2")
    assert rollout.previous_task_definition is not None
    assert rollout.previous_task_definition.endswith("cineos:1")
    assert rollout.service_arn == service_arn("cineos")


def test_a_second_try_finds_the_revision_of_the_first(fake: FakeEcs) -> None:
    first = register(fake)
    assert register(fake) == first
    ecs.update_service(fake, first)
    assert register(fake) == first
    assert [name for name, _ in fake.changes] == ["RegisterTaskDefinition", "UpdateService"]


def test_another_deployment_gets_a_revision_of_its_own(fake: FakeEcs) -> None:
    assert register(fake).task_definition != register(fake, deployment_id="d-2").task_definition


def test_the_base_is_what_the_service_runs_unless_the_app_says_family(fake: FakeEcs) -> None:
    fake.add_definition("cineos", {}, cpu="512")  # Terraform changed it, and the service does not run it yet
    register(fake)
    register(fake, base="family", deployment_id="d-2")
    assert [given["cpu"] for _, given in fake.changes] == ["256", "512"]


def test_the_newest_foreign_revision_is_found_below_hundreds_of_ours_with_few_reads(fake: FakeEcs) -> None:
    terraform = fake.add_definition("cineos", {}, cpu="1024")
    for number in range(150):
        ours = {
            "deploy-runner:managed": "true",
            "deploy-runner:base": terraform,
            "deploy-runner:deployment": f"x{number}",
        }
        fake.add_definition("cineos", ours, cpu="1024")

    register(fake, base="family")

    assert fake.changes[0][1]["cpu"] == "1024"
    assert fake.described < 30


def test_a_foreign_revision_that_came_at_the_same_moment_as_ours_is_not_lost(fake: FakeEcs) -> None:
    old = fake.add_definition("cineos", {}, cpu="512")
    fake.add_definition("cineos", {}, cpu="1024")
    fake.add_definition("cineos", {"deploy-runner:managed": "true", "deploy-runner:base": old}, cpu="512")

    register(fake, base="family")

    assert fake.changes[0][1]["cpu"] == "1024"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"status": "DRAINING"}, "DRAINING"),
        ({"deploymentController": {"type": "CODE_DEPLOY"}}, "CODE_DEPLOY"),
        ({"deploymentController": {"type": "EXTERNAL"}}, "EXTERNAL"),
    ],
)
def test_a_service_that_is_not_ours_to_deploy_is_refused(fake: FakeEcs, more: dict[str, Any], told: str) -> None:
    fake.services["cineos"] |= more
    with pytest.raises(TargetMisconfigured, match=told):
        ecs.check_services(fake, deployment())
    with pytest.raises(TargetMisconfigured, match=told):
        register(fake)
    assert fake.changes == []


def test_a_missing_service_or_container_is_named(fake: FakeEcs) -> None:
    with pytest.raises(TargetMisconfigured, match="dev/nothing"):
        ecs.describe_service(fake, CLUSTER, "nothing")
    with pytest.raises(TargetMisconfigured, match=r"'web'.*it has: app, proxy"):
        ecs.register_revision(fake, deployment(), {"name": "cineos", "containers": ["web"]}, DIGEST)


def test_an_update_sets_the_task_definition_and_nothing_else(fake: FakeEcs) -> None:
    rollout = register(fake)
    ecs.update_service(fake, rollout)
    assert fake.changes[-1] == (
        "UpdateService", {"cluster": CLUSTER, "service": "cineos", "taskDefinition": rollout.task_definition},
    )  # fmt: skip


def test_an_update_is_not_made_again_even_after_someone_else_replaced_it(fake: FakeEcs) -> None:
    rollout = register(fake)
    ecs.update_service(fake, rollout)
    fake.update_service(service="cineos", taskDefinition="theirs")
    before = len(fake.changes)
    ecs.update_service(fake, rollout)
    assert len(fake.changes) == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("ThrottlingException"), AwsUnavailable),
        (client_error("ServerException", status=500), AwsUnavailable),
        (client_error("ClientException", "Too many concurrent attempts to create a new revision"), AwsUnavailable),
        (client_error("AccessDeniedException", "not authorized to perform: iam:PassRole"), TargetMisconfigured),
    ],
)
def test_what_is_transient_is_tried_again_and_the_rest_is_explained(
    fake: FakeEcs, error: Exception, expected: type[Exception]
) -> None:
    fake.fail_next["RegisterTaskDefinition"] = error
    with pytest.raises(expected) as raised:
        register(fake)
    assert "\n" not in str(raised.value)
    if expected is TargetMisconfigured:
        assert "iam:PassRole" in str(raised.value)


def test_a_reading_names_each_rollout_by_its_task_definition(fake: FakeEcs) -> None:
    rollout = register(fake)
    ecs.update_service(fake, rollout)
    fake.services["cineos"]["deploymentConfiguration"] = {
        "deploymentCircuitBreaker": {"enable": True, "rollback": True}
    }
    seen = ecs.observe(fake, rollout)
    assert [d.task_definition for d in seen.service_deployments] == [rollout.task_definition]
    assert seen.circuit_breaker
    assert seen.primary is not None
    assert seen.primary.task_definition == rollout.task_definition


# --- what an app-deployer did -----------------------------------------------------------------------------------------


def test_what_a_task_registered_is_found_by_its_tags_with_what_served_before(fake: FakeEcs) -> None:
    registered = register(fake)
    assert ecs.find_rollout(fake, deployment(), SERVICE) == registered
    ecs.update_service(fake, registered)
    assert ecs.find_rollout(fake, deployment(), SERVICE) == registered
    # AND also after ECS went back to the old revision and forgot the deployment of ours
    previous = registered.previous_task_definition
    primary = fake.services["cineos"]["deployments"][0] | {"taskDefinition": previous}
    fake.services["cineos"] |= {"taskDefinition": previous, "deployments": [primary]}
    assert ecs.find_rollout(fake, deployment(), SERVICE) == registered


def test_what_a_task_registered_is_found_although_another_deployment_replaced_it_at_once(fake: FakeEcs) -> None:
    registered = register(fake)
    ecs.update_service(fake, registered)
    ecs.update_service(fake, register(fake, deployment_id="d-2"))
    assert ecs.find_rollout(fake, deployment(), SERVICE) == registered


def test_what_a_task_that_failed_registered_is_a_rollout_only_if_it_was_started(fake: FakeEcs) -> None:
    registered = register(fake)
    with pytest.raises(NothingDeployed, match="must have updated dev/cineos"):
        ecs.find_rollout(fake, deployment(), SERVICE, started=True)
    ecs.update_service(fake, registered)
    assert ecs.find_rollout(fake, deployment(), SERVICE, started=True) == registered


def test_a_task_that_left_nothing_or_another_image_deployed_nothing(fake: FakeEcs) -> None:
    with pytest.raises(NothingDeployed, match="a revision of this deployment at dev/cineos"):
        ecs.find_rollout(fake, deployment(), SERVICE)
    register(fake, deployment_id="another")
    with pytest.raises(NothingDeployed):
        ecs.find_rollout(fake, deployment(), SERVICE)
    tags = {"deploy-runner:managed": "true", "deploy-runner:deployment": "d-1", "deploy-runner:service": "cineos"}
    fake.add_definition("cineos", tags, containerDefinitions=[{"name": "app", "image": "registry/cineos:latest"}])
    with pytest.raises(NothingDeployed, match="'registry/cineos:latest'"):
        ecs.find_rollout(fake, deployment(), SERVICE)


def test_a_service_that_an_app_deployers_role_could_not_change_is_refused_before_anything_runs(fake: FakeEcs) -> None:
    asked = deployment() | {"app_deployer": {"task_role": "r"}}
    with pytest.raises(TargetMisconfigured, match="family must be cineos-dev: 'cineos'"):
        ecs.check_services(fake, asked)
    fake.add_service("cineos", fake.add_definition("cineos-dev", {}, requiresCompatibilities=["EC2"]))
    with pytest.raises(TargetMisconfigured, match="requiresCompatibilities must have FARGATE"):
        ecs.check_services(fake, asked)
    role = "arn:aws:iam::123456789012:role/apps/cineos/{}/task"
    for where, fits in (("dev", True), ("prod", False)):
        given: dict[str, Any] = {"requiresCompatibilities": ["FARGATE"], "taskRoleArn": role.format(where)}
        fake.add_service("cineos", fake.add_definition("cineos-dev", {}, **given))
        if fits:
            ecs.check_services(fake, asked)
            continue
        with pytest.raises(TargetMisconfigured, match="taskRoleArn must be a role under /apps/cineos/dev/"):
            ecs.check_services(fake, asked)


class Logs:
    """CloudWatch Logs with one stream."""

    def __init__(self, stream: str, messages: list[str]) -> None:
        self.stream, self.messages = stream, messages

    def get_log_events(self, logGroupName: str, logStreamName: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        if (logGroupName, logStreamName) != ("/apps/cineos", self.stream):
            raise client_error("ResourceNotFoundException")
        return {"events": [{"message": message} for message in self.messages]}


def test_the_last_words_are_the_last_lines_without_values_of_the_environment(fake: FakeEcs) -> None:
    options = {"awslogs-group": "/apps/cineos", "awslogs-stream-prefix": "cineos"}
    container = {"name": "app", "image": "i", "logConfiguration": {"logDriver": "awslogs", "options": options}}
    container["environment"] = [{"name": "DSN", "value": "host=db pass=xyzzy"}, {"name": "STAGE", "value": "dev"}]
    arn = fake.add_definition("other", {}, containerDefinitions=[container])
    rollout = Rollout("cineos", service_arn("cineos"), CLUSTER, arn)
    stopped = [StoppedTask("t1", "app", 1)]

    logs = Logs("cineos/app/t1", ["Traceback", "cannot connect to host=db pass=xyzzy in dev\n", "  \n"])
    assert ecs.last_words(fake, logs, rollout, stopped) == ["Traceback", "cannot connect to $DSN in dev"]
    assert ecs.last_words(fake, Logs("other", []), rollout, stopped) == []
    assert ecs.last_words(fake, logs, rollout, []) == []


def test_only_stopped_tasks_of_our_revision_count(fake: FakeEcs) -> None:
    rollout = register(fake)
    for name, definition in (("t1", rollout.task_definition), ("t2", rollout.previous_task_definition)):
        containers = [{"name": "app", "exitCode": 1}]
        fake.tasks.append({"taskArn": f"task/{name}", "taskDefinitionArn": definition, "containers": containers})
    assert [task.task_id for task in ecs.stopped_tasks(fake, rollout)] == ["t1"]


def test_exactly_what_ran_is_rolled_out_again_only_while_it_is_there(fake: FakeEcs) -> None:
    old = next(iter(fake.definitions))
    asked = deployment() | {
        "exact": {"cineos": old}, "origin": {"deployment": "d-0"}, "started_at": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    current = register(fake)
    ecs.update_service(fake, current)

    rollout = ecs.register_revision(fake, asked, SERVICE, DIGEST)
    assert (rollout.task_definition, rollout.previous_task_definition) == (old, current.task_definition)
    assert rollout.since == 1767312000.0

    fake.definitions[old][0]["status"] = "INACTIVE"
    with pytest.raises(TargetMisconfigured, match="d-0 must have left an ACTIVE revision for cineos"):
        ecs.register_revision(fake, asked, SERVICE, DIGEST)
    with pytest.raises(TargetMisconfigured, match="Roll back without `exact`"):
        ecs.register_revision(fake, asked | {"exact": {"other": old}}, SERVICE, DIGEST)


def test_a_scheduled_task_gets_a_revision_of_its_own_once(fake: FakeEcs) -> None:
    current = fake.add_definition("nightly", {"owner": "web"})
    schedule = {"group": "default", "name": "nightly", "containers": ["app"]}

    first = ecs.register_scheduled(fake, deployment(), schedule, current, DIGEST)

    assert (first.schedule, first.service) == ("default/nightly", "")
    assert (first.task_definition[-9:], first.previous_task_definition) == ("nightly:2", current)
    [(_, given)] = fake.changes
    assert given["containerDefinitions"][0]["image"] == f"registry/cineos@{DIGEST}"
    assert ecs.register_scheduled(fake, deployment(), schedule, current, DIGEST) == first
    # AND also once the schedule runs it
    assert ecs.register_scheduled(fake, deployment(), schedule, first.task_definition, DIGEST) == first


def test_an_update_that_ends_at_a_third_revision_was_replaced(fake: FakeEcs) -> None:
    rollout, third = register(fake), fake.add_definition("cineos", {})

    class Busy(FakeEcs):
        def update_service(self, **given: Any) -> dict[str, Any]:
            return {"service": {"deployments": [{"status": "PRIMARY", "taskDefinition": third}]}}

    busy = Busy()
    busy.__dict__ |= fake.__dict__
    with pytest.raises(RolloutReplaced, match="must work towards our revision"):
        ecs.update_service(busy, rollout)


def test_what_someone_else_deployed_since_is_not_overwritten(fake: FakeEcs) -> None:
    rollout, theirs = register(fake), fake.add_definition("cineos", {})
    fake.services["cineos"]["deployments"][0]["taskDefinition"] = theirs
    naps: list[float] = []

    with pytest.raises(RolloutReplaced, match="must run what it ran when our revision was registered"):
        ecs.update_service(fake, rollout, naps.append)
    assert not [name for name, _ in fake.changes if name == "UpdateService"]
    assert 5 < sum(naps) < 10  # it might have been an old reading
