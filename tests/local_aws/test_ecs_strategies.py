"""Traffic is shifted as ECS shifts it: stages, weights, and hooks that are asked before the next stage."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from moto.moto_api._internal import moto_api_backend

from deploy_runner.aws.clients import TargetClients
from deploy_runner.aws.ecs import observe, stopped_tasks, update_service
from deploy_runner.aws.rollback import roll_back
from deploy_runner.domain.errors import RolloutRolledBack
from deploy_runner.domain.rollback import Over
from deploy_runner.domain.rollout import Failed, Pending, Rollout, Succeeded, Verdict, hopeless, verdict
from deploy_runner.local_aws import server
from deploy_runner.local_aws.ecs.backend import Backend
from deploy_runner.local_aws.ecs.strategies import shifts
from tests.local_aws.ecs_running import Ecs, container, web
from tests.waiting import LONGEST, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("ecs_strategies")]

STAGES = [
    "PRE_SCALE_UP", "SCALE_UP", "POST_SCALE_UP", "TEST_TRAFFIC_SHIFT", "POST_TEST_TRAFFIC_SHIFT",
    "PRE_PRODUCTION_TRAFFIC_SHIFT", "PRODUCTION_TRAFFIC_SHIFT", "POST_PRODUCTION_TRAFFIC_SHIFT", "BAKE_TIME",
    "CLEAN_UP",
]  # fmt: skip
HOOKED = [stage for stage in STAGES if stage not in ("SCALE_UP", "BAKE_TIME", "CLEAN_UP")]
ROLE = "arn:aws:iam::123456789012:role/hooks"
# A hook that writes down what it is told, and answers what a file says for its stage, else SUCCEEDED.
HANDLER = """
import json, os
def lambda_handler(event, context):
    with open(os.environ["FOLDER"] + "/told", "a") as told:
        told.write(json.dumps(event) + "\\n")
    try:
        with open(os.environ["FOLDER"] + "/" + event["lifecycleStage"]) as answers:
            said = json.load(answers)
    except FileNotFoundError:
        return {"hookStatus": "SUCCEEDED"}
    return said if said else None
"""


class Hooks:
    """A function for lifecycle hooks, and what it was told."""

    def __init__(self, ecs: Ecs, folder: Path) -> None:
        self.folder, functions = folder, ecs.client("lambda")
        principal = {"Service": ["lambda.amazonaws.com", "ecs.amazonaws.com"]}
        trust = [{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}]
        ecs.client("iam").create_role(
            RoleName="hooks", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": trust})
        )
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("work.py", HANDLER)
        self.arn: str = functions.create_function(
            FunctionName="hooks", Runtime="python3.13", Role=ROLE, Timeout=10, Handler="work.lambda_handler",
            Code={"ZipFile": code.getvalue()}, Environment={"Variables": {"FOLDER": str(folder)}},
        )["FunctionArn"]  # fmt: skip

    def at(self, *stages: str, **more: Any) -> dict[str, Any]:
        """Return a hook for these stages."""
        return {"hookTargetArn": self.arn, "roleArn": ROLE, "lifecycleStages": list(stages), **more}

    def answers(self, stage: str, answer: Any) -> None:
        """Let the function answer so at a stage from now on; None: as if nothing had been said."""
        path = self.folder / stage
        path.unlink(missing_ok=True) if answer is None else path.write_text(json.dumps(answer))

    def told(self) -> list[dict[str, Any]]:
        """Return what it was told since the last time."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def ecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ecs]:
    moto_api_backend.reset()
    usual, Backend.minute = Backend.minute, 0.5
    extensions = ["registry", "ecr", "awslambda", "events", "ecs"]
    machine = server.start(4810, tmp_path_factory.mktemp("ecs"), extensions)
    try:
        yield Ecs(machine)
    finally:
        machine.stop()
        Backend.minute = usual


@pytest.fixture(scope="module")
def hooks(ecs: Ecs, tmp_path_factory: pytest.TempPathFactory) -> Hooks:
    return Hooks(ecs, tmp_path_factory.mktemp("hooks"))


def rollout(ecs: Ecs, name: str) -> dict[str, Any]:
    arn = ecs.service(name)["currentServiceDeployment"]
    found = ecs.api.describe_service_deployments(serviceDeploymentArns=[arn])["serviceDeployments"]
    return dict(found[0])


def watched(ecs: Ecs, name: str) -> tuple[dict[str, Any], list[str], list[float]]:
    """Look at a rollout until it is over; return its end, its stages and the production weights of its target."""
    stages: list[str] = []
    weights: list[float] = []
    deadline = time.monotonic() + LONGEST
    while (now := rollout(ecs, name))["status"] in ("PENDING", "IN_PROGRESS"):
        assert time.monotonic() < deadline, now
        stage, weight = now.get("lifecycleStage"), now["targetServiceRevision"].get("requestedProductionTrafficWeight")
        stages += [stage] if stage and stage not in stages[-1:] else []
        weights += [weight] if weight is not None and weight not in weights[-1:] else []
    return now, stages, weights


def pages(ecs: Ecs, name: str, count: int = 20) -> set[str]:
    return {ecs.page(name) for _ in range(count)}


def shifting(strategy: str, *hooks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"strategy": strategy, "bakeTimeInMinutes": 0, "lifecycleHooks": list(hooks), **more}


@pytest.mark.parametrize(
    ("configuration", "steps"),
    [
        ({"strategy": "BLUE_GREEN"}, [(100.0, 0)]),
        ({"strategy": "CANARY"}, [(5.0, 10), (100.0, 0)]),
        ({"strategy": "CANARY", "canaryConfiguration": {"canaryPercent": 100.0}}, [(100.0, 0)]),
        ({"strategy": "LINEAR"}, [*((10.0 * n, 6) for n in range(1, 10)), (100.0, 0)]),
        ({"strategy": "LINEAR", "linearConfiguration": {"stepPercent": 33.4, "stepBakeTimeInMinutes": 0}},
         [(33.4, 0), (66.8, 0), (100.0, 0)]),
        ({"strategy": "LINEAR", "linearConfiguration": {"stepPercent": 100.0}}, [(100.0, 0)]),
    ],
)  # fmt: skip
def test_how_traffic_is_shifted(configuration: dict[str, Any], steps: list[tuple[float, float]]) -> None:
    assert shifts(configuration) == steps


def test_blue_green_asks_its_hooks_at_each_stage_and_serves_green_in_the_end(ecs: Ecs, hooks: Hooks) -> None:
    one, two = ecs.register("bg", web("one")), ecs.register("bg", web("two"))
    ecs.serve("bg", one)
    assert ecs.rolled_out("bg")["status"] == "SUCCESSFUL"
    blue = ecs.service("bg")["currentServiceRevisions"][0]["arn"]
    hook = hooks.at(*HOOKED, hookDetails={"bucket": "b"})

    ecs.api.update_service(
        cluster="tests", service="bg", taskDefinition=two, deploymentConfiguration=shifting("BLUE_GREEN", hook) | {
            "bakeTimeInMinutes": 2}
    )  # fmt: skip
    done, stages, weights = watched(ecs, "bg")

    assert done["status"] == "SUCCESSFUL"
    assert stages == [stage for stage in STAGES if stage in stages]  # in their order
    assert {"PRE_SCALE_UP", "SCALE_UP", "BAKE_TIME"} <= set(stages)
    assert weights == [0.0, 100.0]
    green = done["targetServiceRevision"]["arn"]
    told = hooks.told()
    assert [event["lifecycleStage"] for event in told] == HOOKED
    assert all(event["resourceArn"] == done["serviceDeploymentArn"] for event in told)
    assert all(event["hookDetails"] == {"bucket": "b"} for event in told)
    assert len({event["executionId"] for event in told}) == len(told)
    by_stage = {event["lifecycleStage"]: event["executionDetails"] for event in told}
    assert by_stage["PRE_SCALE_UP"] == {
        "serviceArn": done["serviceArn"], "targetServiceRevisionArn": green, "testTrafficWeights": {},
        "productionTrafficWeights": {},
    }  # fmt: skip
    assert by_stage["TEST_TRAFFIC_SHIFT"]["testTrafficWeights"] == {green: 100, blue: 0}
    assert by_stage["PRE_PRODUCTION_TRAFFIC_SHIFT"]["productionTrafficWeights"] == {green: 0, blue: 100}
    assert by_stage["PRODUCTION_TRAFFIC_SHIFT"]["productionTrafficWeights"] == {green: 100, blue: 0}
    assert pages(ecs, "bg", 5) == {"two"}
    assert len(ecs.service("bg")["deployments"]) == 1


@pytest.mark.parametrize(
    ("stage", "answer", "why"),
    [
        ("PRE_SCALE_UP", {"hookStatus": "FAILED"}, "Lifecycle hook target {} returned FAILED status."),
        ("POST_PRODUCTION_TRAFFIC_SHIFT", {},
         "ECS was unable to parse the response from {} due to HookStatus must not be null"),
    ],
)  # fmt: skip
def test_a_hook_that_refuses_gives_blue_its_traffic_back(
    ecs: Ecs, hooks: Hooks, stage: str, answer: Any, why: str
) -> None:
    name = f"refused-{stage.lower()}"
    one, two = ecs.register(name, web("one")), ecs.register(name, web("two"))
    ecs.serve(name, one)
    assert ecs.rolled_out(name)["status"] == "SUCCESSFUL"
    before = ecs.service(name)["deployments"][0]["id"]
    hooks.answers(stage, answer)
    hook = hooks.at("PRE_SCALE_UP", "TEST_TRAFFIC_SHIFT", "PRODUCTION_TRAFFIC_SHIFT", "POST_PRODUCTION_TRAFFIC_SHIFT")

    ecs.api.update_service(
        cluster="tests", service=name, taskDefinition=two, deploymentConfiguration=shifting("BLUE_GREEN", hook)
    )

    assert ecs.rolled_out(name)["status"] == "ROLLBACK_SUCCESSFUL"
    hooks.answers(stage, None)
    done = rollout(ecs, name)
    reason = f"Service deployment rolled back because {stage} lifecycle hook(s) failed. {why.format(hooks.arn)}"
    assert (done["statusReason"], done["rollback"]["reason"]) == (reason, reason)
    primary = ecs.service(name)["deployments"][0]
    assert (primary["id"], primary["rolloutState"], primary["taskDefinition"]) == (before, "COMPLETED", one)
    rolled_out = Rollout(name, ecs.service(name)["serviceArn"], "tests", two, one)
    said = said_of(ecs, rolled_out)
    assert isinstance(said, Failed)
    assert said.error is RolloutRolledBack
    assert pages(ecs, name, 5) == {"one"}
    messages = [event["message"] for event in ecs.service(name)["events"]]
    assert any(f"deployment failed: {reason}" in message for message in messages)
    # AND only stages that shifted something come again, with the weights turned round
    told = hooks.told()
    stages = [event["lifecycleStage"] for event in told]
    if stage == "PRE_SCALE_UP":
        assert stages == ["PRE_SCALE_UP"]
        assert not any("has started" in message for message in messages[: messages.index(next(
            m for m in messages if "deployment failed" in m))])  # fmt: skip
    else:
        assert stages[-2:] == ["PRODUCTION_TRAFFIC_SHIFT", "TEST_TRAFFIC_SHIFT"]
        green = done["targetServiceRevision"]["arn"]
        assert told[-2]["executionDetails"]["targetServiceRevisionArn"] == green
        assert told[-2]["executionDetails"]["productionTrafficWeights"][green] == 0


def test_a_hook_needs_a_role_that_ecs_may_assume(ecs: Ecs, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecs.machine, "enforces_iam", True)
    hook = hooks.at("PRE_SCALE_UP") | {"roleArn": f"{ROLE}-of-nobody"}
    ecs.serve("roleless", ecs.register("roleless", web("one")), deploymentConfiguration=shifting("BLUE_GREEN", hook))

    assert ecs.rolled_out("roleless")["status"] == "ROLLBACK_FAILED"
    why = f"PRE_SCALE_UP lifecycle hook(s) failed. ECS was unable to assume role {ROLE}-of-nobody"
    said = [event["message"] for event in ecs.service("roleless")["events"]]
    assert said[0].endswith(f"deployment failed: Service deployment rolled back because {why}")
    assert hooks.told() == []


def test_a_hook_may_take_its_time_and_remember_something(ecs: Ecs, hooks: Hooks) -> None:
    again = {"hookStatus": "IN_PROGRESS", "callBackDelay": 60, "hookDetails": {"asked": True}}
    hooks.answers("PRE_SCALE_UP", again)
    ecs.serve(
        "slow", ecs.register("slow", web("one")), deploymentConfiguration=shifting(
            "BLUE_GREEN", hooks.at("PRE_SCALE_UP", hookDetails={"from": "settings"})),
    )  # fmt: skip
    told: list[dict[str, Any]] = []
    until(lambda: told.extend(hooks.told()) or told, lambda seen: len(seen) == 2)
    assert rollout(ecs, "slow")["lifecycleStage"] == "PRE_SCALE_UP"
    (details,) = rollout(ecs, "slow")["lifecycleHookDetails"]
    assert (details["status"], details["targetArn"], details["timeoutAction"]) == ("IN_PROGRESS", hooks.arn, "ROLLBACK")

    hooks.answers("PRE_SCALE_UP", None)

    assert ecs.rolled_out("slow")["status"] == "SUCCESSFUL"
    assert [event["hookDetails"] for event in told] == [{"from": "settings"}, {"from": "settings", "asked": True}]


def paused(ecs: Ecs, name: str, *seen: str) -> dict[str, Any]:
    """Wait for a hook that waits, and is none of those seen."""

    def waiting(now: dict[str, Any]) -> bool:
        (hook,) = now.get("lifecycleHookDetails") or [{}]
        return hook.get("status") == "AWAITING_ACTION" and hook["hookId"] not in seen

    return until(lambda: rollout(ecs, name), waiting)


def test_a_canary_waits_for_a_person_at_each_step_and_can_be_called_back(ecs: Ecs) -> None:
    sqs, queue_arn = ecs.client("sqs"), "arn:aws:sqs:us-east-1:123456789012:hooks"
    may_send = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may_send | {"Resource": queue_arn}]})
    queue = sqs.create_queue(QueueName="hooks", Attributes={"Policy": policy})["QueueUrl"]
    ecs.client("events").put_rule(Name="hooks", EventPattern=json.dumps({"detail-type": ["ECS Hook State Change"]}))
    ecs.client("events").put_targets(Rule="hooks", Targets=[{"Id": "1", "Arn": queue_arn}])
    one, two = ecs.register("canary", web("one")), ecs.register("canary", web("two"))
    ecs.serve("canary", one)
    assert ecs.rolled_out("canary")["status"] == "SUCCESSFUL"
    pause = {"targetType": "PAUSE", "lifecycleStages": ["PRE_PRODUCTION_TRAFFIC_SHIFT"]}
    canary = {"canaryPercent": 50.0, "canaryBakeTimeInMinutes": 0}

    ecs.api.update_service(
        cluster="tests", service="canary", taskDefinition=two,
        deploymentConfiguration=shifting("CANARY", pause, canaryConfiguration=canary),
    )  # fmt: skip

    first = paused(ecs, "canary")
    arn, (hook,) = first["serviceDeploymentArn"], first["lifecycleHookDetails"]
    assert hook["hookId"].startswith("ecs-pause-")
    assert first["lifecycleStage"] == "PRE_PRODUCTION_TRAFFIC_SHIFT"
    assert pages(ecs, "canary", 5) == {"one"}
    ecs.api.continue_service_deployment(serviceDeploymentArn=arn, hookId=hook["hookId"])
    second = paused(ecs, "canary", hook["hookId"])
    assert second["targetServiceRevision"]["requestedProductionTrafficWeight"] == 50.0
    assert second["sourceServiceRevisions"][0]["requestedProductionTrafficWeight"] == 50.0
    until(lambda: pages(ecs, "canary"), lambda seen: seen == {"one", "two"})
    with pytest.raises(ecs.api.exceptions.InvalidParameterException, match="either completed, unavailable, or not"):
        ecs.api.continue_service_deployment(serviceDeploymentArn=arn, hookId=hook["hookId"])

    (hook,) = second["lifecycleHookDetails"]
    ecs.api.continue_service_deployment(serviceDeploymentArn=arn, hookId=hook["hookId"], action="ROLLBACK")

    assert ecs.rolled_out("canary")["status"] == "ROLLBACK_SUCCESSFUL"
    assert pages(ecs, "canary", 5) == {"one"}
    with pytest.raises(ecs.api.exceptions.InvalidParameterException, match="is not allowed for service deployment in"):
        ecs.api.continue_service_deployment(serviceDeploymentArn=arn, hookId=hook["hookId"])

    events: list[dict[str, Any]] = []
    while len(events) < 4:
        told = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=10).get("Messages", [])
        assert told, events
        events += [json.loads(message["Body"]) for message in told]
        for message in told:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert sorted(event["detail"]["eventName"] for event in events) == [
        "HOOK_AWAITING_ACTION", "HOOK_AWAITING_ACTION", "HOOK_FAILED", "HOOK_SUCCEEDED",
    ]  # fmt: skip
    for event in events:  # .../developerguide/ecs_hook_state_change_events.html
        assert event["resources"] == [arn]
        assert event["detail"].keys() == {
            "eventType", "eventName", "hookId", "hookType", "expiresAt", "lifecycleStage", "clusterArn", "serviceArn",
            "serviceDeploymentArn", "updatedAt",
        }  # fmt: skip


def test_a_linear_rollout_shifts_step_by_step_and_a_pause_may_run_out(ecs: Ecs) -> None:
    one, two = ecs.register("linear", web("one")), ecs.register("linear", web("two"))
    ecs.serve("linear", one)
    assert ecs.rolled_out("linear")["status"] == "SUCCESSFUL"
    timeout = {"timeoutInMinutes": 1, "action": "CONTINUE"}
    pause = {"targetType": "PAUSE", "lifecycleStages": ["POST_SCALE_UP"], "timeoutConfiguration": timeout}
    linear = {"stepPercent": 40.0, "stepBakeTimeInMinutes": 1}

    ecs.api.update_service(
        cluster="tests", service="linear", taskDefinition=two,
        deploymentConfiguration=shifting("LINEAR", pause, linearConfiguration=linear),
    )  # fmt: skip
    done, _, weights = watched(ecs, "linear")

    assert (done["status"], weights) == ("SUCCESSFUL", [0.0, 40.0, 80.0, 100.0])
    # AND a stop gives all back, and one that is replaced leaves no third revision behind
    stop = {"targetType": "PAUSE", "lifecycleStages": ["POST_PRODUCTION_TRAFFIC_SHIFT"]}
    ecs.api.update_service(
        cluster="tests", service="linear", taskDefinition=one, deploymentConfiguration=shifting("BLUE_GREEN", stop)
    )
    paused(ecs, "linear")
    assert pages(ecs, "linear", 5) == {"one"}
    ecs.api.update_service(cluster="tests", service="linear", forceNewDeployment=True)
    paused(ecs, "linear")
    assert [found["status"] for found in ecs.rollouts("linear")[:2]] == ["IN_PROGRESS", "STOPPED"]
    assert len(ecs.service("linear")["deployments"]) == 2
    ecs.api.stop_service_deployment(serviceDeploymentArn=rollout(ecs, "linear")["serviceDeploymentArn"])
    assert ecs.rolled_out("linear")["status"] == "ROLLBACK_SUCCESSFUL"
    assert pages(ecs, "linear", 5) == {"two"}
    assert ecs.service("linear")["taskDefinition"] == two


def test_a_first_green_that_crashes_has_no_blue_to_go_back_to(ecs: Ecs) -> None:
    breaker = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}
    ecs.serve(
        "alone", ecs.register("alone", container("main", "exit 1")),
        deploymentConfiguration=shifting("BLUE_GREEN", **breaker),
    )  # fmt: skip

    assert ecs.rolled_out("alone")["status"] == "ROLLBACK_FAILED"
    assert rollout(ecs, "alone")["statusReason"] == "No rollback candidate was found to run the rollback."


# --- what the deploy runner makes of it -------------------------------------------------------------------------------

STRATEGIES = {
    "BLUE_GREEN": {},
    "LINEAR": {"linearConfiguration": {"stepPercent": 50.0, "stepBakeTimeInMinutes": 0}},
    "CANARY": {"canaryConfiguration": {"canaryPercent": 50.0, "canaryBakeTimeInMinutes": 0}},
}


def ours(ecs: Ecs, name: str, *hooks: dict[str, Any], page: str = "two") -> Rollout:
    """A service with a strategy that serves "one", and our rollout of another page, which has begun."""
    strategy = name.partition(" ")[0].upper().replace("-", "_")
    name = name.replace(" ", "-")
    one, two = ecs.register(name, web("one")), ecs.register(name, web(page))
    ecs.serve(name, one, deploymentConfiguration=shifting(strategy, **STRATEGIES[strategy]))
    assert ecs.rolled_out(name)["status"] == "SUCCESSFUL"
    if hooks:
        configuration = shifting(strategy, *hooks, **STRATEGIES[strategy])
        ecs.api.update_service(cluster="tests", service=name, deploymentConfiguration=configuration)
    rollout = Rollout(name, ecs.service(name)["serviceArn"], "tests", two, one)
    update_service(ecs.api, rollout)
    return rollout


def said_of(ecs: Ecs, rollout: Rollout) -> Verdict:
    return until(lambda: verdict(rollout, observe(ecs.api, rollout)), lambda said: not isinstance(said, Pending))


def taken_back(ecs: Ecs, rollout: Rollout) -> Any:
    clients = TargetClients(ecs.api, ecs.logs)
    back = until(lambda: roll_back(clients, {}, [asdict(rollout)], lambda _: None), lambda way: way.is_over)
    return back.end


@pytest.mark.parametrize("strategy", ["blue-green", "linear", "canary"])
def test_what_was_shifted_is_a_success_and_can_be_taken_back(ecs: Ecs, strategy: str) -> None:
    rollout = ours(ecs, f"{strategy} good")

    assert said_of(ecs, rollout) == Succeeded()
    assert pages(ecs, rollout.service, 5) == {"two"}

    assert taken_back(ecs, rollout) == Over(True, "revision 1 serves again")
    assert pages(ecs, rollout.service, 5) == {"one"}


@pytest.mark.parametrize("strategy", ["blue-green", "linear", "canary"])
def test_what_is_being_shifted_is_stopped_and_goes_back(ecs: Ecs, strategy: str) -> None:
    # GIVEN a rollout that waits for a person before it shifts anything, or the first part
    rollout = ours(
        ecs, f"{strategy} paused", {"targetType": "PAUSE", "lifecycleStages": ["PRE_PRODUCTION_TRAFFIC_SHIFT"]}
    )
    paused(ecs, rollout.service)
    assert isinstance(verdict(rollout, observe(ecs.api, rollout)), Pending)

    # WHEN its deployment is stopped
    end = taken_back(ecs, rollout)

    # THEN what served serves
    assert end == Over(True, "revision 1 serves again")
    assert pages(ecs, rollout.service, 5) == {"one"}
    said = said_of(ecs, rollout)
    assert isinstance(said, Failed)
    assert said.error is RolloutRolledBack


@pytest.mark.parametrize("strategy", ["blue-green", "linear", "canary"])
def test_what_does_not_come_up_is_given_up_and_goes_back(ecs: Ecs, strategy: str) -> None:
    rollout = ours(ecs, f"{strategy} bad", page="three; exit 1")

    def hopeless_now() -> bool:
        seen = observe(ecs.api, rollout)
        return bool(hopeless(rollout, seen, stopped_tasks(ecs.api, rollout))) or not isinstance(
            verdict(rollout, seen), Pending
        )

    until(hopeless_now, bool)
    assert taken_back(ecs, rollout) == Over(True, "revision 1 serves again")
    assert pages(ecs, rollout.service, 5) == {"one"}
