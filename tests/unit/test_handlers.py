"""The functions as the state machine calls them: what they return, raise, and tell."""

import json
import uuid
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from deploy_runner.aws.clients import TargetClients
from deploy_runner.domain.errors import (
    AppNotAllowed,
    AwsUnavailable,
    ChecksNotGreen,
    LockLost,
    NothingToGoBackTo,
    NotPromotable,
    RefNotAllowed,
    RequestMalformed,
    TargetMisconfigured,
)
from deploy_runner.domain.outcome import Outcome
from deploy_runner.domain.rollout import Rollout
from deploy_runner.github.errors import GitHubRefused, GitHubUnavailable
from tests.unit.conftest import ENVIRONMENT, Context
from tests.unit.fake_ecs import FakeEcs
from tests.unit.fake_github import SHA, FakeGitHub
from tests.unit.test_rollback import Scheduler
from tests.unit.test_waits import Logs, States

EXECUTION = {
    "arn": "arn:aws:states:us-east-1:123456789012:execution:deploy-app:d-1",
    "name": "d-1",
    "started_at": "2026-01-01T00:00:00Z",
}
REQUEST = {"app": "cineos", "environment": "dev", "ref": "main"}


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> FakeGitHub:
    import functions.github_app

    fake = FakeGitHub()
    monkeypatch.setattr(functions.github_app, "github", lambda repository_id=None: fake)
    return fake


@pytest.fixture
def ecs(monkeypatch: pytest.MonkeyPatch) -> FakeEcs:
    from functions.deploy_service import handler as deploy
    from functions.validate_request import handler as validate
    from functions.watch_rollout import handler as watch

    fake = FakeEcs()
    fake.add_service("cineos", fake.add_definition("cineos"))
    for module in (deploy, validate, watch):
        monkeypatch.setattr(module, "in_target", lambda target, session: TargetClients(fake, Logs()))
    return fake


def validate(request: object, context: Context, name: str = "") -> dict[str, Any]:
    """Ask for something by an execution of its own, or by one of a name."""
    from functions.validate_request.handler import lambda_handler

    started = name or str(uuid.uuid4())
    execution = EXECUTION | {"name": started, "arn": f"{EXECUTION['arn'].rpartition(':')[0]}:{started}"}
    return lambda_handler({"request": request, "execution": execution}, context)


def report(step: str, deployment: object, context: Context, **more: object) -> dict[str, Any]:
    from functions.report_status.handler import lambda_handler

    event = {"step": step, "deployment": deployment, "execution": EXECUTION, **more}
    return lambda_handler(event, context)


@pytest.fixture
def deployment(github: FakeGitHub, ecs: FakeEcs, aws: Any, context: Context) -> dict[str, Any]:
    """An accepted deployment, as validate_request gives it."""
    return validate(REQUEST, context, EXECUTION["name"])


# --- validate_request -------------------------------------------------------------------------------------------------


def test_an_accepted_request_becomes_every_parameter_of_the_later_states(deployment: dict[str, Any]) -> None:
    assert deployment["sha"] == SHA
    assert deployment["id"] == "d-1"
    assert deployment["build"]["task_definition"] == ENVIRONMENT["BUILDER_TASK_DEFINITION_ARM64"]
    assert deployment["build"]["task_role"].endswith("role/deploy-runner/push/cineos")
    assert deployment["image"]["repository_uri"] == f"{ENVIRONMENT['REGISTRY_PREFIX']}/cineos"
    assert deployment["target"]["services"] == [{"name": "cineos", "containers": ["app"]}]
    assert deployment["source"] is None
    assert deployment["started_at"] == EXECUTION["started_at"]
    assert json.loads(json.dumps(deployment)) == deployment


@pytest.mark.parametrize("request_", [None, [], "cineos", 7, {}, {"app": "cineos"}, REQUEST | {"shell": "rm"}])
def test_what_is_no_request_is_malformed(request_: object, environment: None, context: Context) -> None:
    with pytest.raises(RequestMalformed) as raised:
        validate(request_, context)
    assert "\n" not in str(raised.value)


def test_an_unknown_app_is_refused_before_github_is_asked(environment: None, context: Context) -> None:
    with pytest.raises(AppNotAllowed):
        validate(REQUEST | {"app": "billing"}, context)


def test_rules_that_need_github_are_kept(github: FakeGitHub, ecs: FakeEcs, aws: Any, context: Context) -> None:
    with pytest.raises(RefNotAllowed):
        validate(REQUEST | {"environment": "prod", "ref": "experiment"}, context)
    github.conclusions = {"tests": "failure"}
    with pytest.raises(ChecksNotGreen, match="tests"):
        validate(REQUEST, context)
    github.repository_id = 666
    with pytest.raises(AppNotAllowed, match="1001"):
        validate(REQUEST, context)


@pytest.mark.parametrize("controller", ["CODE_DEPLOY", "EXTERNAL"])
def test_a_service_with_another_controller_is_refused_at_validation(
    github: FakeGitHub, ecs: FakeEcs, aws: Any, context: Context, controller: str
) -> None:
    ecs.services["cineos"]["deploymentController"] = {"type": controller}
    with pytest.raises(TargetMisconfigured, match=controller):
        validate(REQUEST, context)
    assert validate(REQUEST | {"action": "build"}, context)["action"] == "build"  # it touches no service


def test_a_schedule_that_is_missing_is_refused_at_validation(
    github: FakeGitHub, ecs: FakeEcs, aws: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.validate_request import handler

    scheduler, github.repository_id = Scheduler(), 1003
    monkeypatch.setattr(handler, "in_target", lambda *_: TargetClients(ecs, Logs(), lambda: scheduler))  # type: ignore[arg-type, return-value]
    request = REQUEST | {"app": "createos", "environment": "sandbox"}
    ecs.add_service("createos", ecs.add_definition("createos"))
    with pytest.raises(TargetMisconfigured, match="createos-sandbox/nightly must exist"):
        validate(request, context)

    scheduler.add("createos-sandbox/nightly", "td:1")
    assert validate(request, context)["schedules"][0]["name"] == "nightly"


DIGEST, OLDER = (f"sha256:{digit * 64}" for digit in "d9")


def deployed(ecs: FakeEcs, deployment: dict[str, Any], environment: str) -> None:
    """d-0 succeeded in an environment and runs there, after d-9 with another image."""
    from functions.table import deployments

    image = f"{ENVIRONMENT['REGISTRY_PREFIX']}/cineos@{DIGEST}"
    tags = {"deploy-runner:managed": "true", "deploy-runner:deployment": "d-0", "deploy-runner:sha": SHA}
    arn = ecs.add_definition("cineos", tags, containerDefinitions=[{"name": "app", "image": image}])
    ecs.add_service("cineos", arn)
    for id_, day, digest in (("d-9", "01", OLDER), ("d-0", "02", DIGEST)):
        changed = {"id": id_, "environment": environment, "started_at": f"2025-12-{day}T00:00:00Z"}
        deployments().accept(deployment | changed)
        accepted = deployments().find(id_)
        assert accepted
        revision = asdict(Rollout("cineos", "arn", "dev", f"td/cineos:{day}"))
        deployments().end(accepted, Outcome("SUCCEEDED"), "test", {"digest": digest, "revisions": [revision]})


def test_a_second_try_gives_what_the_first_wrote_down_although_the_branch_moved(
    deployment: dict[str, Any], github: FakeGitHub, context: Context
) -> None:
    github.branches["main"] = "d" * 40

    assert validate(REQUEST, context, EXECUTION["name"]) == deployment


def test_a_rollback_deploys_what_the_history_names(deployment: dict[str, Any], ecs: FakeEcs, context: Context) -> None:
    deployed(ecs, deployment, "dev")
    request = {"app": "cineos", "environment": "dev", "action": "rollback"}
    last = validate(request, context)
    assert last["origin"] == {"deployment": "d-9", "started_at": "2025-12-01T00:00:00Z"}
    assert last["digest"] == OLDER
    named = validate(request | {"deployment": "d-0", "exact": True}, context)
    assert (named["digest"], named["exact"]) == (DIGEST, {"cineos": "td/cineos:02"})
    with pytest.raises(NothingToGoBackTo):
        validate(request | {"environment": "prod"}, context)


def test_a_promotion_deploys_what_runs_in_the_other_environment(
    deployment: dict[str, Any], ecs: FakeEcs, context: Context
) -> None:
    request = {"app": "cineos", "environment": "prod", "action": "promote", "from": "staging"}
    with pytest.raises(NotPromotable, match="by its digest"):
        validate(request, context)
    deployed(ecs, deployment, "staging")
    promoted = validate(request, context)
    assert (promoted["digest"], promoted["sha"], promoted["from"]) == (DIGEST, SHA, "staging")
    assert promoted["target"]["cluster"] == "prod"


# --- deploy_service and watch_rollout ---------------------------------------------------------------------------------


def own(deployment: dict[str, Any]) -> None:
    """The deployment owns its lock, as after AcquireLock."""
    from functions.table import deployments

    deployments().claim(deployment, "token", deployment["locks"]["deploy"])


def change(step: str, deployment: dict[str, Any], context: Context, **more: object) -> dict[str, Any]:
    from functions.deploy_service.handler import lambda_handler

    return lambda_handler({"step": step, "deployment": deployment, **more}, context)


def test_revisions_become_rollouts_with_the_same_keys(
    deployment: dict[str, Any], ecs: FakeEcs, context: Context
) -> None:
    own(deployment)
    registered = change("register", deployment, context, digest=DIGEST)
    revisions = registered["revisions"]
    assert change("register", deployment, context, digest=DIGEST) == registered
    updated = change("update", deployment, context, revisions=revisions)
    assert updated == {"rollouts": revisions} == change("update", deployment, context, revisions=revisions)
    assert [name for name, _ in ecs.changes] == ["RegisterTaskDefinition", "UpdateService"]
    kept = unfinished()
    assert (kept.revisions, kept.changing_until) == (tuple(revisions), 0)


def test_nothing_is_changed_for_a_deployment_that_does_not_own_its_lock(
    deployment: dict[str, Any], ecs: FakeEcs, context: Context
) -> None:
    with pytest.raises(LockLost):
        change("register", deployment, context, digest=DIGEST)
    own(deployment)
    revisions = change("register", deployment, context, digest=DIGEST)["revisions"]
    from functions.table import deployments

    deployments().end(unfinished(), Outcome("CANCELLED"), "clean_up", {}, releases=False)
    for step in ("update", "roll_back"):
        with pytest.raises(LockLost):
            change(step, deployment, context, revisions=revisions)
    assert [name for name, _ in ecs.changes] == ["RegisterTaskDefinition"]


def test_a_release_runs_in_the_new_revision_where_its_service_runs(
    deployment: dict[str, Any], ecs: FakeEcs, context: Context
) -> None:
    own(deployment)
    network = {"awsvpcConfiguration": {"subnets": ["s-1"], "securityGroups": ["sg-1"], "assignPublicIp": "DISABLED"}}
    ecs.services["cineos"] |= {"networkConfiguration": network, "launchType": "FARGATE", "platformVersion": "1.4.0"}
    release = {"service": "cineos", "container": "app", "command": ["migrate", "--all"]}
    given = change("register", deployment | {"release": release}, context, digest=DIGEST)
    assert given["release"] == {
        "Cluster": "dev", "TaskDefinition": given["revisions"][0]["task_definition"], "Group": "d-1",
        "LaunchType": "FARGATE", "PlatformVersion": "1.4.0", "EnableECSManagedTags": True,
        "Overrides": {"ContainerOverrides": [{"Name": "app", "Command": ["migrate", "--all"]}]},
        "NetworkConfiguration": {
            "AwsvpcConfiguration": {"Subnets": ["s-1"], "SecurityGroups": ["sg-1"], "AssignPublicIp": "DISABLED"}
        },
        "Tags": [{"Key": "deploy-runner:environment", "Value": "dev"}],
    }  # fmt: skip


def test_what_was_updated_is_taken_back(deployment: dict[str, Any], ecs: FakeEcs, context: Context) -> None:
    own(deployment)
    before = ecs.services["cineos"]["taskDefinition"]
    revisions = change("register", deployment, context, digest=DIGEST)["revisions"]
    change("update", deployment, context, revisions=revisions)
    given = change("roll_back", deployment, context, revisions=revisions)
    assert (given["rollback"], given["problem"]) == (None, "")
    assert [rollout["service"] for rollout in given["rollouts"]] == ["cineos"]
    assert ecs.changes[-1] == ("StopServiceDeployment", {"serviceDeploymentArn": "sd-1", "stopType": "ROLLBACK"})
    ecs.gone_back("cineos", before)
    restored = {"restored": True, "serves": "revision 1 serves again"}
    assert change("roll_back", deployment, context, revisions=revisions)["rollback"] == restored


def test_a_wait_is_stored_and_an_event_of_its_service_answers_it(
    deployment: dict[str, Any], ecs: FakeEcs, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy_runner.aws import clients
    from functions.watch_rollout import handler

    states, real = States(), clients.client
    monkeypatch.setattr(handler, "client", lambda name: states if name == "stepfunctions" else real(name))
    own(deployment)
    revisions = change("register", deployment, context, digest=DIGEST)["revisions"]
    rollouts = change("update", deployment, context, revisions=revisions)["rollouts"]
    wait = {"task_token": "token-1", "execution": EXECUTION, "deployment": deployment, "rollouts": rollouts}

    handler.lambda_handler(wait, context)
    assert states.answers == []
    ecs.service_deployments[0]["status"] = "SUCCESSFUL"
    task = {"group": "service:another", "clusterArn": "arn:aws:ecs:us-east-1:123456789012:cluster/dev"}
    handler.lambda_handler({"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": task}, context)
    assert states.answers == []
    task["group"] = "service:cineos"
    handler.lambda_handler({"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": task}, context)
    assert [kind for kind, _ in states.answers] == ["success"]


def test_the_sweeper_has_a_service_read_of_which_no_event_came(
    deployment: dict[str, Any], ecs: FakeEcs, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy_runner.aws import clients
    from functions.watch_rollout import handler

    states, real = States(), clients.client
    monkeypatch.setattr(handler, "client", lambda name: states if name == "stepfunctions" else real(name))
    own(deployment)
    revisions = change("register", deployment, context, digest=DIGEST)["revisions"]
    change("update", deployment, context, revisions=revisions)
    wait = {"task_token": "t", "execution": EXECUTION, "deployment": deployment, "rollouts": revisions}
    handler.lambda_handler(wait, context)
    ecs.service_deployments[0]["status"] = "SUCCESSFUL"

    handler.lambda_handler({"services": [revisions[0]["service_arn"]]}, context)

    assert [kind for kind, _ in states.answers] == ["success"]


# --- report_status ----------------------------------------------------------------------------------------------------

SUCCESS = {"verdict": "SUCCEEDED", "error": "", "cause": ""}
CANCELLED = {"verdict": "CANCELLED", "error": "Cancelled", "cause": "by a person"}


def unfinished() -> Any:
    from functions.table import deployments

    (found,) = deployments().unfinished()
    return found


def ended(outcome: dict[str, str]) -> dict[str, str]:
    """The outcome is written, as by Finish."""
    from functions.table import deployments

    deployments().end(unfinished(), Outcome(**outcome), "finish", {})
    return outcome


def left_to_do() -> int:
    from functions.table import deployments

    return len(list(deployments().unfinished()))


def test_a_deployment_is_queued_and_then_told_as_a_success(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    report("queued", deployment, context)
    assert unfinished().github_deployment_id == 77

    report("outcome", deployment, context, outcome=ended(SUCCESS))

    assert [given["state"] for what, given in github.calls if what == "status"] == ["queued", "success"]
    [check] = [given for what, given in github.calls if what == "check run"]
    assert (check["conclusion"], check["title"]) == ("success", "cineos to dev: SUCCEEDED")
    assert left_to_do() == 0
    report("outcome", deployment, context, outcome=SUCCESS)  # the state machine's, or the sweeper's, late
    assert len(github.calls) == 4


def test_an_end_that_comes_twice_at_once_is_told_once(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.report_status import tell

    monkeypatch.setattr(tell, "LOOKS_AGAIN_AFTER", (0.0,))
    report("queued", deployment, context)
    outcome = ended(SUCCESS)
    state = github.deployment_state

    def meanwhile(*given: Any) -> str | None:
        monkeypatch.setattr(github, "deployment_state", state)
        found = state(*given)
        with pytest.raises(AwsUnavailable, match="One at a time"):
            report("outcome", deployment, context, outcome=outcome)
        return found

    monkeypatch.setattr(github, "deployment_state", meanwhile)
    report("outcome", deployment, context, outcome=outcome)

    assert [given["state"] for what, given in github.calls if what == "status"] == ["queued", "success"]
    assert [what for what, _ in github.calls].count("check run") == 1


def test_an_end_that_comes_while_the_beginning_is_told_is_told_after_it(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.report_status import tell

    monkeypatch.setattr(tell, "LOOKS_AGAIN_AFTER", (0.0,))
    create = github.create_deployment

    def meanwhile(*given: Any, **more: Any) -> int:
        monkeypatch.setattr(github, "create_deployment", create)
        with pytest.raises(AwsUnavailable):
            report("outcome", deployment, context, outcome=ended(CANCELLED))
        return create(*given, **more)

    monkeypatch.setattr(github, "create_deployment", meanwhile)
    report("queued", deployment, context)
    assert left_to_do() == 1
    report("outcome", deployment, context, outcome=CANCELLED)  # as the sweeper has it done
    report("queued", deployment, context)  # late: it has nothing to say any more

    assert [given["state"] for what, given in github.calls if what == "status"] == ["queued", "inactive"]
    assert left_to_do() == 0


def test_a_beginning_whose_function_was_killed_is_told_by_the_next_try(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    from functions.table import deployments

    deployments().take_turn(deployment["id"], 60)
    report("queued", deployment, context)
    assert [given["state"] for what, given in github.calls if what == "status"] == ["queued"]


def test_an_outcome_that_another_tells_is_not_told(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    report("outcome", deployment, context, outcome=ended(SUCCESS) | {"tell": False})
    assert github.calls == []


def test_a_build_alone_opens_no_github_deployment(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    built = deployment | {"action": "build"}
    report("queued", built, context)
    report("outcome", built, context, outcome=ended(SUCCESS))
    assert [what for what, _ in github.calls] == ["check run"]


def test_why_it_fails_is_told_while_it_goes_back_and_the_end_with_its_line(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    line = "cineos: exit 1, 3 times, `KeyError: 'DATABASE_URL'`; revision 41 still serves"
    failure = {"state": "WaitForStable", "error": "RolloutRolledBack", "cause": line}
    report("queued", deployment, context)
    report("rollback", deployment, context, failure=failure)
    outcome = {"verdict": "ROLLED_BACK", "error": "RolloutRolledBack", "cause": line}
    report("outcome", deployment, context, outcome=ended(outcome))
    told = [(given["state"], given.get("description", "")) for what, given in github.calls if what == "status"]
    assert told == [("queued", ""), ("in_progress", f"Going back: {line}"), ("failure", line)]


def test_a_rejected_request_is_told_to_no_repository(github: FakeGitHub, aws: Any, context: Context) -> None:
    outcome = {"verdict": "REJECTED", "error": "AppNotAllowed", "cause": "An app must be listed: 'billing'."}
    report("outcome", None, context, outcome=outcome)
    assert github.calls == []


def test_a_wait_is_settled_once_however_many_of_its_services_are_named(
    environment: None, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.watch_rollout import handler

    settled: list[str] = []
    waits = SimpleNamespace(of_service=lambda arn: [SimpleNamespace(task_token="t", arn=arn)])
    monkeypatch.setattr(handler, "client", lambda _: None)
    monkeypatch.setattr(handler, "Waits", lambda *_: waits)
    monkeypatch.setattr(handler, "_settle", lambda wait, *_: settled.append(wait.task_token))

    handler.lambda_handler({"services": ["arn:web", "arn:worker"]}, context)

    assert settled == ["t"]


def test_whoever_was_told_before_github_is_not_told_again_if_the_function_is_stopped_there(
    deployment: dict[str, Any], github: FakeGitHub, context: Context
) -> None:
    from functions.table import deployments

    github.error = KeyboardInterrupt()  # as nothing catches it
    with pytest.raises(KeyboardInterrupt):
        report("outcome", deployment, context, outcome=ended(SUCCESS))

    found = deployments().find("d-1")
    assert found
    assert found.told == ("events", "topic")


def test_what_github_did_not_take_is_told_later_and_nothing_twice(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    github.error = GitHubUnavailable("GitHub must answer")
    with pytest.raises(GitHubUnavailable):  # the state machine tries this again, and goes on without
        report("queued", deployment, context)
    report("outcome", deployment, context, outcome=ended(SUCCESS))
    assert unfinished().told == ("events", "topic")

    github.error = None
    report("outcome", deployment, context, outcome=SUCCESS)
    assert [what for what, _ in github.calls] == ["deployment", "status", "status", "check run"]
    assert left_to_do() == 0


def test_what_github_refuses_for_good_is_not_tried_for_ever(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    github.error = GitHubRefused("The App must be installed")
    report("outcome", deployment, context, outcome=ended(SUCCESS))
    assert left_to_do() == 0


def test_a_function_that_is_stopped_while_it_tells_is_followed_by_one_that_tells_the_rest(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    report("queued", deployment, context)
    create, github.create_check_run = github.create_check_run, stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        report("outcome", deployment, context, outcome=ended(SUCCESS))
    github.create_check_run = create  # type: ignore[method-assign]
    report("outcome", deployment, context, outcome=SUCCESS)
    assert [what for what, _ in github.calls] == ["deployment", "status", "status", "check run"]


def stop(*_: object, **__: object) -> int:
    raise KeyboardInterrupt


def test_programs_and_people_are_told_too(
    deployment: dict[str, Any], github: FakeGitHub, aws: Any, context: Context
) -> None:
    queue = aws.client("sqs").create_queue(QueueName="listener")["QueueUrl"]
    queue_arn = "arn:aws:sqs:us-east-1:123456789012:listener"
    principal = {"Service": ["events.amazonaws.com", "sns.amazonaws.com"]}
    allow = {"Effect": "Allow", "Principal": principal, "Action": "sqs:SendMessage", "Resource": queue_arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    aws.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    aws.client("sns").subscribe(TopicArn=ENVIRONMENT["OUTCOMES_TOPIC_ARN"], Protocol="sqs", Endpoint=queue_arn)
    aws.client("events").put_rule(Name="outcomes", EventPattern=json.dumps({"source": ["deploy-runner"]}))
    aws.client("events").put_targets(Rule="outcomes", Targets=[{"Id": "listener", "Arn": queue_arn}])

    report("outcome", deployment, context, outcome=ended(SUCCESS))

    bodies: list[dict[str, Any]] = []
    for _ in range(20):  # EventBridge delivers later
        given = aws.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        bodies += [json.loads(message["Body"]) for message in given.get("Messages", [])]
        if len(bodies) == 2:
            break
    [event] = [body for body in bodies if body.get("source") == "deploy-runner"]
    [message] = [body for body in bodies if body.get("Type") == "Notification"]
    assert event["detail-type"] == "Deployment Outcome"
    assert event["detail"] | {"app": "cineos", "environment": "dev", "verdict": "SUCCEEDED"} == event["detail"]
    assert message["Subject"] == "cineos to dev: SUCCEEDED"
    assert EXECUTION["arn"] in message["Message"]
