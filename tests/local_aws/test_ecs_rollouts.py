"""Rollouts end as ECS's do: limits, scaling, failure detection, and what is inconvenient about ECS."""

import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from deploy_runner.aws.ecs import observe
from deploy_runner.domain.rollout import Failed, Rollout, Succeeded, Verdict, verdict
from deploy_runner.local_aws.ecs.backend import Backend
from deploy_runner.local_aws.ecs.failure_detection import CircuitBreaker, threshold
from deploy_runner.local_aws.ecs.rolling import Counts, limits, step
from tests.local_aws.ecs_running import BUSYBOX, LOGS, Ecs, container, web
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]

STAYS = "trap 'exit 0' TERM; sleep 100 & wait"


@pytest.fixture(autouse=True, scope="module")
def short_minutes() -> Iterator[None]:
    usual, Backend.minute = Backend.minute, 0.5
    yield
    Backend.minute = usual


def said(ecs: Ecs, name: str) -> list[str]:
    """The service's events, oldest first, without the service's name."""
    return [e["message"].removeprefix(f"(service {name}) ") for e in reversed(ecs.service(name)["events"])]


def described(ecs: Ecs, rollout: dict[str, Any]) -> dict[str, Any]:
    arns = [rollout["serviceDeploymentArn"]]
    return dict(ecs.api.describe_service_deployments(serviceDeploymentArns=arns)["serviceDeployments"][0])


def running(ecs: Ecs, name: str, count: int) -> dict[str, Any]:
    return until(
        lambda: ecs.service(name),
        lambda s: (s["runningCount"], s["pendingCount"], len(s["deployments"])) == (count, 0, 1),
    )


def stable(ecs: Ecs, name: str, count: int) -> dict[str, Any]:
    running(ecs, name, count)
    return until(lambda: ecs.service(name), lambda s: s["events"][0]["message"].endswith("has reached a steady state."))


def tasks(ecs: Ecs, name: str, status: str = "RUNNING") -> list[str]:
    return list(ecs.api.list_tasks(cluster="tests", serviceName=name, desiredStatus=status)["taskArns"])


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "minimum", "maximum", "expected"),
    # The examples of API_DeploymentConfiguration and of the service event messages.
    [(4, 100, 200, (4, 8)), (4, 50, 200, (2, 8)), (2, 75, 200, (2, 4)), (3, 100, 125, (3, 3)), (0, 100, 200, (0, 0))],
)
def test_minimum_is_rounded_up_and_maximum_down(
    desired: int, minimum: int, maximum: int, expected: tuple[int, int]
) -> None:
    assert limits(desired, minimum, maximum) == expected


@given(st.integers(0, 12), st.integers(0, 100), st.integers(100, 200), st.lists(st.booleans(), max_size=12))
def test_a_rolling_update_keeps_to_its_limits_and_comes_to_its_end(
    desired: int, minimum: int, maximum: int, old: list[bool]
) -> None:
    least, most = limits(desired, minimum, maximum)
    new, healthy, idle, serving = 0, 0, old.count(False), old.count(True)
    for _ in range(200):
        now = step(desired, minimum, maximum, Counts(new, healthy, idle + serving, serving))
        before = healthy + serving
        new, serving = new + now.start - now.stop_new, serving - now.stop_old
        idle = 0 if now.stop_old_idle else idle
        if now.start:
            assert new + idle + serving <= max(most, min(desired, 1))
        assert healthy + serving >= min(before, least)
        if now.blocked:
            assert (least, most) == (healthy + serving, new + idle + serving) or healthy + serving <= least
            return
        healthy = new  # what was started is healthy by the next step
    assert (new, idle + serving) == (desired, 0)


@pytest.mark.parametrize(
    ("desired", "kind", "value", "failed"),
    [
        (25, "BOUNDED_PERCENT", 50, 13), (1, "BOUNDED_PERCENT", 100, 3), (800, "BOUNDED_PERCENT", 50, 200),
        (800, "UNBOUNDED_PERCENT", 50, 400), (3, "UNBOUNDED_PERCENT", 10, 1), (800, "COUNT", 5, 5), (1, "COUNT", 1, 1),
    ],
)  # fmt: skip
def test_the_circuit_breakers_threshold_can_be_configured(desired: int, kind: str, value: int, failed: int) -> None:
    assert threshold(desired, {"type": kind, "value": value}) == failed


@pytest.mark.parametrize(("resets", "count"), [(True, 1), (False, 3)])
def test_a_healthy_task_resets_the_count_unless_told_otherwise(resets: bool, count: int) -> None:
    breaker = CircuitBreaker({"deploymentCircuitBreaker": {"enable": True, "resetOnHealthyTask": resets}})
    breaker.task_failed()
    breaker.task_failed()
    breaker.task_is_good()
    breaker.task_failed()
    assert breaker.describe(1) == {"status": "MONITORING", "failureCount": count, "threshold": 3}


def test_tasks_are_replaced_within_minimum_and_maximum(ecs: Ecs) -> None:
    one, two = ecs.register("tight", container("main", STAYS)), ecs.register("tight", container("main", STAYS))
    half = {"minimumHealthyPercent": 50, "maximumPercent": 100}
    ecs.serve("tight", one, 2, deploymentConfiguration=half)
    stable(ecs, "tight", 2)

    answer = ecs.api.update_service(cluster="tests", service="tight", taskDefinition=two)["service"]

    assert [(d["status"], d["desiredCount"], d["rolloutState"]) for d in answer["deployments"]] == [
        ("PRIMARY", 0, "IN_PROGRESS"), ("ACTIVE", 2, "COMPLETED"),
    ]  # fmt: skip
    counts: list[tuple[int, int]] = []
    while ecs.rollouts("tight")[0]["status"] in ("PENDING", "IN_PROGRESS"):
        service = ecs.service("tight")
        counts.append((service["runningCount"] + service["pendingCount"], service["runningCount"]))
    assert max(total for total, _ in counts) <= 2
    assert min(running for _, running in counts) >= 1
    assert ecs.rolled_out("tight")["status"] == "SUCCESSFUL"
    service = stable(ecs, "tight", 2)
    # AND the deployment's id is its revision's number, and no part of the service deployment's
    number = service["deployments"][0]["id"].removeprefix("ecs-svc/")
    assert service["currentServiceRevisions"][0]["arn"].endswith(f"/{number}")
    assert number not in service["currentServiceDeployment"]


def test_limits_that_leave_no_way_are_told(ecs: Ecs) -> None:
    definition = ecs.register("blocked", container("main", STAYS))
    ecs.serve("blocked", definition, 1, deploymentConfiguration={"minimumHealthyPercent": 100, "maximumPercent": 150})
    stable(ecs, "blocked", 1)

    ecs.api.update_service(cluster="tests", service="blocked", forceNewDeployment=True)

    until(lambda: said(ecs, "blocked")[-1], lambda text: text.startswith("was unable to stop or start tasks during a"))
    assert ecs.rollouts("blocked")[0]["status"] == "IN_PROGRESS"
    assert ecs.service("blocked")["runningCount"] == 1


# --- scaling and updates ----------------------------------------------------------------------------------------------


def test_scaling_rolls_nothing_out(ecs: Ecs) -> None:
    ecs.serve("scaled", ecs.register("scaled", container("main", STAYS)), 0)
    assert ecs.rolled_out("scaled")["status"] == "SUCCESSFUL"
    assert tasks(ecs, "scaled", "STOPPED") == []

    for count in (1, 3):
        ecs.api.update_service(cluster="tests", service="scaled", desiredCount=count)
        stable(ecs, "scaled", count)
    ecs.api.update_service(cluster="tests", service="scaled", desiredCount=0)
    stable(ecs, "scaled", 0)

    assert len(ecs.rollouts("scaled")) == 1
    told = said(ecs, "scaled")
    assert [text.partition(":")[0] for text in told[1:]] == [
        "has reached a steady state.", "has started 1 tasks", "has reached a steady state.",
        "has started 2 tasks", "has reached a steady state.", "has stopped 3 running tasks",
        "has reached a steady state.",
    ]  # fmt: skip
    assert (told[4].count("(task "), told[6].count("(task ")) == (2, 3)


def test_an_update_replaces_the_tasks_of_all_older_deployments(ecs: Ecs) -> None:
    first, late = ecs.register("again", web("one")), ecs.register("again", web("late", before=f"{STAYS};"))
    third = ecs.register("again", web("three"))
    ecs.serve("again", first)
    assert ecs.rolled_out("again")["status"] == "SUCCESSFUL"

    ecs.api.update_service(cluster="tests", service="again", taskDefinition=late)
    until(lambda: ecs.service("again")["deployments"], lambda d: d[0]["pendingCount"] + d[0]["runningCount"] == 1)
    answer = ecs.api.update_service(cluster="tests", service="again", taskDefinition=third)

    assert [d["status"] for d in answer["service"]["deployments"]] == ["PRIMARY", "ACTIVE", "ACTIVE"]
    assert ecs.rolled_out("again")["status"] == "SUCCESSFUL"
    assert [rollout["status"] for rollout in ecs.rollouts("again")] == ["SUCCESSFUL", "STOPPED", "SUCCESSFUL"]
    stopped = described(ecs, ecs.rollouts("again")[1])
    assert stopped["stoppedAt"] == stopped["finishedAt"]
    assert stable(ecs, "again", 1)["taskDefinition"] == third
    assert ecs.page("again") == "three"


def test_inactive_definitions_are_refused_but_a_service_that_runs_on_one_goes_on(ecs: Ecs) -> None:
    runs, other = ecs.register("gone", container("main", STAYS)), ecs.register("gone", container("main", STAYS))
    ecs.serve("gone", runs)
    stable(ecs, "gone", 1)
    for definition in (runs, other):
        ecs.api.deregister_task_definition(taskDefinition=definition)

    for refused in (runs, other):
        with pytest.raises(ecs.api.exceptions.ClientException, match="TaskDefinition is inactive"):
            ecs.api.update_service(cluster="tests", service="gone", taskDefinition=refused)
    with pytest.raises(ecs.api.exceptions.ClientException, match="TaskDefinition is inactive"):
        ecs.serve("refused", runs)
    ecs.api.stop_task(cluster="tests", task=tasks(ecs, "gone")[0])
    until(lambda: len(tasks(ecs, "gone", "STOPPED")), lambda count: count == 1)
    stable(ecs, "gone", 1)
    assert ecs.api.update_service(cluster="tests", service="gone", desiredCount=2)["service"]["taskDefinition"] == runs
    stable(ecs, "gone", 2)


# --- images -----------------------------------------------------------------------------------------------------------


def push(ecs: Ecs, repository: str, text: str) -> str:
    """Build an image that says something, push it as `latest`, and return its digest."""
    engine = ecs.machine.engine.client
    dockerfile = f'FROM {BUSYBOX}\nCMD ["sh", "-c", "echo {text}; {STAYS}"]'
    name = f"{ecs.machine.registry}/{repository}"
    engine.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=f"{name}:latest", rm=True)
    pushed = [line for line in engine.images.push(name, tag="latest", stream=True, decode=True) if "error" in line]
    assert pushed == []
    images = ecs.client("ecr").describe_images(repositoryName=repository, imageIds=[{"imageTag": "latest"}])
    return str(images["imageDetails"][0]["imageDigest"])


def test_a_deployment_keeps_to_the_digest_that_its_first_task_found(ecs: Ecs) -> None:
    ecr = ecs.client("ecr")
    ecr.create_repository(repositoryName="floating")
    first = push(ecs, "floating", "first")
    image = f"{ecs.machine.registry}/floating:latest"
    main = {"name": "main", "image": image, "logConfiguration": LOGS}
    ecs.serve("floating", ecs.register("floating", main), 2)
    assert ecs.rolled_out("floating")["status"] == "SUCCESSFUL"
    # One task is started alone, to look the tag up.
    assert [text.partition(":")[0] for text in said(ecs, "floating")[:2]] == ["has started 1 tasks"] * 2
    second = push(ecs, "floating", "second")
    assert second != first

    ecs.api.update_service(cluster="tests", service="floating", desiredCount=3)
    stable(ecs, "floating", 3)

    found = [c for arn in tasks(ecs, "floating") for c in ecs.task(arn)["containers"]]
    assert {(c["image"], c["imageDigest"]) for c in found} == {(image, first)}
    revision = ecs.service("floating")["currentServiceRevisions"][0]["arn"]
    revisions = ecs.api.describe_service_revisions(serviceRevisionArns=[revision])["serviceRevisions"]
    assert revisions[0]["containerImages"] == [{"containerName": "main", "image": image, "imageDigest": first}]

    # AND once the image is gone nothing new can start, while what runs goes on
    ecr.batch_delete_image(repositoryName="floating", imageIds=[{"imageDigest": first}])
    ecs.api.update_service(cluster="tests", service="floating", desiredCount=4)
    until(lambda: "".join(said(ecs, "floating")), lambda told: "is unable to consistently start tasks" in told)
    stopped = ecs.task(tasks(ecs, "floating", "STOPPED")[-1])
    assert stopped["stoppedReason"].startswith("CannotPullContainerError: pull image manifest has been retried 1 time")
    assert f"{image}@{first}: not found" in stopped["stoppedReason"]
    assert ecs.service("floating")["runningCount"] == 3

    # AND a new deployment takes what the tag is now
    ecs.api.update_service(cluster="tests", service="floating", forceNewDeployment=True, desiredCount=1)
    assert ecs.rolled_out("floating")["status"] == "SUCCESSFUL"
    stable(ecs, "floating", 1)
    assert ecs.task(tasks(ecs, "floating")[0])["containers"][0]["imageDigest"] == second


def test_a_rollback_to_an_image_that_is_gone_fails(ecs: Ecs) -> None:
    ecr = ecs.client("ecr")
    ecr.create_repository(repositoryName="expired")
    image = f"{ecs.machine.registry}/expired@{push(ecs, 'expired', 'good')}"
    good = ecs.register("expired", {"name": "main", "image": image, "logConfiguration": LOGS})
    bad = ecs.register("expired", container("main", "exit 1"))
    replace = {"minimumHealthyPercent": 0, "maximumPercent": 100}  # so that the old task goes first
    breaker = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}
    ecs.serve("expired", good, deploymentConfiguration=replace | breaker)
    assert ecs.rolled_out("expired")["status"] == "SUCCESSFUL"
    ecr.batch_delete_image(repositoryName="expired", imageIds=[{"imageDigest": image.partition("@")[2]}])

    ecs.api.update_service(cluster="tests", service="expired", taskDefinition=bad)

    rollout = ecs.rolled_out("expired")
    assert rollout["status"] == "ROLLBACK_FAILED"
    assert rollout["statusReason"].endswith("because the circuit breaker threshold was exceeded.")
    primary = ecs.service("expired")["deployments"][0]
    assert (primary["taskDefinition"], primary["rolloutState"], primary["runningCount"]) == (good, "FAILED", 0)


# --- the product's view -----------------------------------------------------------------------------------------------


def judged(ecs: Ecs, name: str, revision: str, previous: str | None) -> Verdict:
    """What the product makes of a rollout that is over."""
    ecs.rolled_out(name)
    rollout = Rollout(name, ecs.service(name)["serviceArn"], "tests", revision, previous)
    return verdict(rollout, observe(ecs.api, rollout))


def test_the_product_judges_each_end_of_several_rollouts_at_once(ecs: Ecs) -> None:
    good, bad = ecs.register("judged", container("main", STAYS)), ecs.register("judged", container("main", "exit 1"))
    endless = ecs.register("judged", container("main", STAYS, healthCheck={"command": ["CMD", "false"]}))
    names = ["succeeds", "rolls-back", "stopped", "replaced"]
    for name in names:
        ecs.serve(name, good)
    ecs.serve("first", bad)
    for name in names:
        assert ecs.rolled_out(name)["status"] == "SUCCESSFUL"

    for name, definition in (("rolls-back", bad), ("stopped", endless), ("replaced", endless)):
        ecs.api.update_service(cluster="tests", service=name, taskDefinition=definition)
    ecs.api.stop_service_deployment(serviceDeploymentArn=ecs.service("stopped")["currentServiceDeployment"])
    ecs.api.update_service(cluster="tests", service="replaced", taskDefinition=good)

    assert judged(ecs, "succeeds", good, None) == Succeeded()
    ends = {
        name: judged(ecs, name, definition, good)
        for name, definition in (("rolls-back", bad), ("stopped", endless), ("replaced", endless), ("first", bad))
    }
    assert {name: end.error.__name__ for name, end in ends.items() if isinstance(end, Failed)} == {
        "rolls-back": "RolloutRolledBack", "stopped": "RolloutRolledBack", "replaced": "RolloutReplaced",
        "first": "RolloutFailed",
    }  # fmt: skip
    for name in ("rolls-back", "stopped", "replaced"):
        assert stable(ecs, name, 1)["taskDefinition"] == good


def test_a_rollout_may_be_done_before_its_last_task_is_there(ecs: Ecs) -> None:
    early = {"enable": True, "healthyPercent": 50, "sourceServiceRevisionCleanup": "DEFERRED"}
    ecs.serve("early", ecs.register("early", container("main", STAYS)), 1)
    assert ecs.rolled_out("early")["status"] == "SUCCESSFUL"
    ecs.api.update_service(
        cluster="tests", service="early", forceNewDeployment=True, desiredCount=2,
        deploymentConfiguration={"earlySuccessCriteria": early},
    )  # fmt: skip

    assert ecs.rolled_out("early")["status"] == "SUCCESSFUL"

    assert stable(ecs, "early", 2)["deployments"][0]["rolloutState"] == "COMPLETED"


# --- failure detection ------------------------------------------------------------------------------------------------


def alarm(ecs: Ecs, name: str, state: str = "OK") -> None:
    cloudwatch = ecs.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=name, Namespace="tests", MetricName="errors", Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="tests")


def test_an_alarm_in_the_bake_time_rolls_back(ecs: Ecs) -> None:
    alarm(ecs, "watched")
    watching = {"alarms": {"alarmNames": ["watched"], "enable": True, "rollback": True}, "bakeTimeInMinutes": 60}
    good, bad = ecs.register("alarmed", web("good")), ecs.register("alarmed", web("bad"))
    ecs.serve("alarmed", good)
    assert ecs.rolled_out("alarmed")["status"] == "SUCCESSFUL"
    ecs.api.update_service(cluster="tests", service="alarmed", taskDefinition=bad, deploymentConfiguration=watching)
    # All new tasks run and no old one does, but the rollout is not over.
    running(ecs, "alarmed", 1)
    assert ecs.page("alarmed") == "bad"
    [rollout, _] = ecs.rollouts("alarmed")
    assert rollout["status"] == "IN_PROGRESS"
    assert described(ecs, rollout)["alarms"]["status"] == "MONITORING"

    ecs.client("cloudwatch").set_alarm_state(AlarmName="watched", StateValue="ALARM", StateReason="tests")

    assert ecs.rolled_out("alarmed")["status"] == "ROLLBACK_SUCCESSFUL"
    alarms = described(ecs, rollout)["alarms"]
    assert alarms == {"status": "TRIGGERED", "alarmNames": ["watched"], "triggeredAlarmNames": ["watched"]}
    assert ecs.page("alarmed") == "good"
    told = "\n".join(said(ecs, "alarmed"))
    assert "deployment failed: alarm detected.\nrolling back to deployment ecs-svc/" in told
    end = judged(ecs, "alarmed", bad, good)
    assert isinstance(end, Failed)
    assert end.error.__name__ == "RolloutRolledBack"

    # AND an alarm that is in ALARM from the start is not looked at
    ecs.api.update_service(
        cluster="tests", service="alarmed", taskDefinition=bad, deploymentConfiguration={"bakeTimeInMinutes": 0}
    )
    assert ecs.rolled_out("alarmed")["status"] == "SUCCESSFUL"
    assert described(ecs, ecs.rollouts("alarmed")[0])["alarms"]["status"] == "DISABLED"


def test_an_alarm_without_rollback_ends_the_rollout_where_it_is(ecs: Ecs) -> None:
    alarm(ecs, "unforgiving")
    watching = {"alarms": {"alarmNames": ["unforgiving"], "enable": True, "rollback": False}, "bakeTimeInMinutes": 60}
    ecs.serve("left", ecs.register("left", container("main", STAYS)), deploymentConfiguration=watching)
    running(ecs, "left", 1)

    ecs.client("cloudwatch").set_alarm_state(AlarmName="unforgiving", StateValue="ALARM", StateReason="tests")

    assert ecs.rolled_out("left")["status"] == "STOPPED"
    primary = ecs.service("left")["deployments"][0]
    assert (primary["rolloutState"], primary["runningCount"]) == ("FAILED", 1)


def test_the_threshold_may_be_a_count(ecs: Ecs) -> None:
    breaker = {
        "enable": True, "rollback": False, "resetOnHealthyTask": False,
        "thresholdConfiguration": {"type": "COUNT", "value": 2},
    }  # fmt: skip
    bad = ecs.register("counted", container("main", "exit 1"))
    ecs.serve("counted", bad, 1, deploymentConfiguration={"deploymentCircuitBreaker": breaker})

    rollout = described(ecs, ecs.rolled_out("counted"))

    assert rollout["status"] == "STOPPED"
    assert rollout["statusReason"] == "Service deployment stopped because the circuit breaker threshold was exceeded."
    assert rollout["deploymentCircuitBreaker"] == {"status": "TRIGGERED", "failureCount": 2, "threshold": 2}
    assert rollout["deploymentConfiguration"]["deploymentCircuitBreaker"] == breaker
    # AND it starts no task any more
    count = len(tasks(ecs, "counted", "STOPPED"))
    time.sleep(1)
    assert len(tasks(ecs, "counted", "STOPPED")) == count == 2


def test_an_unhealthy_task_is_replaced_first_and_not_within_its_grace_period(ecs: Ecs) -> None:
    check = {"command": ["CMD-SHELL", "false"], "interval": 5, "retries": 1}
    definition = ecs.register("graced", container("main", STAYS, healthCheck=check))
    ecs.serve("graced", definition, breaker=False, rollback=False, healthCheckGracePeriodSeconds=7)
    [first] = until(lambda: tasks(ecs, "graced"), bool)

    until(lambda: ecs.task(first)["healthStatus"], lambda health: health == "UNHEALTHY")
    assert ecs.task(first)["desiredStatus"] == "RUNNING"
    until(lambda: ecs.task(first)["desiredStatus"], lambda status: status == "STOPPED")

    told = said(ecs, "graced")
    at = next(n for n, text in enumerate(told) if "failed container health checks" in text)
    assert told[at - 1].endswith("Amazon ECS replaced 1 tasks due to an unhealthy status.")
    task = first.rpartition("/")[2]
    assert told[at : at + 2] == [
        f"(task {task}) failed container health checks.", f"has stopped 1 running tasks: (task {task}).",
    ]  # fmt: skip


# --- the API ----------------------------------------------------------------------------------------------------------


def test_stopping_a_rollout_that_goes_back_already_is_no_error(ecs: Ecs) -> None:
    good, late = ecs.register("asked", web("good")), ecs.register("asked", web("late", before=f"{STAYS};"))
    ecs.serve("asked", good, deploymentConfiguration={"minimumHealthyPercent": 0, "maximumPercent": 100})
    assert ecs.rolled_out("asked")["status"] == "SUCCESSFUL"
    arn = ecs.service("asked")["currentServiceDeployment"]
    with pytest.raises(ecs.api.exceptions.ConflictException):
        ecs.api.stop_service_deployment(serviceDeploymentArn=arn)
    ecs.api.update_service(cluster="tests", service="asked", taskDefinition=late)
    arn = ecs.service("asked")["currentServiceDeployment"]

    for _ in range(2):
        answer = ecs.api.stop_service_deployment(serviceDeploymentArn=arn, stopType="ROLLBACK")
        assert answer["serviceDeploymentArn"] == arn

    assert ecs.rolled_out("asked")["status"] == "ROLLBACK_SUCCESSFUL"
    rollback = described(ecs, ecs.rollouts("asked")[0])["rollback"]
    source = described(ecs, ecs.rollouts("asked")[0])["sourceServiceRevisions"][0]["arn"]
    assert rollback["serviceRevisionArn"] == source  # a rollback makes no revision
    assert ecs.service("asked")["taskDefinition"] == good


def test_lists_come_in_pages_with_tokens_that_say_nothing(ecs: Ecs) -> None:
    ecs.serve("listed", ecs.register("listed", container("main", STAYS)), 0)
    for _ in range(3):
        ecs.rolled_out("listed")
        ecs.api.update_service(cluster="tests", service="listed", forceNewDeployment=True)
    ecs.rolled_out("listed")
    every = [rollout["serviceDeploymentArn"] for rollout in ecs.rollouts("listed")]

    first = ecs.api.list_service_deployments(cluster="tests", service="listed", maxResults=3)
    ecs.api.update_service(cluster="tests", service="listed", forceNewDeployment=True)
    rest = ecs.api.list_service_deployments(
        cluster="tests", service="listed", maxResults=3, nextToken=first["nextToken"]
    )

    assert not first["nextToken"].isdigit()
    pages = [[d["serviceDeploymentArn"] for d in page["serviceDeployments"]] for page in (first, rest)]
    assert [arn for page in pages for arn in page] == every
    assert "nextToken" not in rest
    started = ecs.api.list_service_deployments(cluster="tests", service="listed", status=["STOPPED"])
    assert started["serviceDeployments"] == []
    created = first["serviceDeployments"][0]["createdAt"]
    later = ecs.api.list_service_deployments(cluster="tests", service="listed", createdAt={"after": created})
    assert len(later["serviceDeployments"]) == 2


@pytest.mark.parametrize(
    ("call", "arguments", "code", "message"),
    [
        ("list_service_deployments", {"service": "none"}, "ServiceNotFoundException", "Service not found."),
        ("list_service_deployments", {"service": "x", "cluster": "none"}, "ClusterNotFoundException",
         "Cluster not found."),
        ("update_service", {"service": "none"}, "ServiceNotFoundException", "Service not found."),
        ("stop_service_deployment", {"serviceDeploymentArn": "arn:none"}, "ServiceDeploymentNotFoundException",
         "The service deployment does not exist."),
        ("stop_service_deployment", {"serviceDeploymentArn": "arn:none", "stopType": "ABORT"},
         "InvalidParameterException", "The stop type ABORT is not supported. Valid values are: ROLLBACK"),
        ("continue_service_deployment", {"serviceDeploymentArn": "arn:none", "hookId": "1"},
         "InvalidParameterException", "Invalid hookId: hookId must follow the format: ecs-{hookType}-{id}"),
        ("list_services", {"nextToken": "1"}, "InvalidParameterException", "Invalid token."),
        ("list_services", {"maxResults": 101}, "InvalidParameterException", "maxResults must be between 1 and 100."),
    ],
)  # fmt: skip
def test_errors_have_the_words_of_ecs(ecs: Ecs, call: str, arguments: dict[str, Any], code: str, message: str) -> None:
    if call in ("list_service_deployments", "update_service", "list_services"):
        arguments = {"cluster": "tests"} | arguments
    with pytest.raises(ClientError) as error:
        getattr(ecs.api, call)(**arguments)
    assert (error.value.response["Error"]["Code"], error.value.response["Error"]["Message"]) == (code, message)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"minimumHealthyPercent": 100, "maximumPercent": 100}, "cannot be 100 as this will block deployments"),
        ({"strategy": "BLUE_GREEN"}, "bakeTimeInMinutes is required"),
        ({"strategy": "CANARY", "canaryConfiguration": {"canaryPercent": 0.0}}, "canaryPercent must be between"),
        ({"canaryConfiguration": {"canaryPercent": 5.0}}, "only valid when the deployment strategy is CANARY"),
        ({"lifecycleHooks": [{"targetType": "PAUSE", "lifecycleStages": ["TEST_TRAFFIC_SHIFT"]}]},
         "Invalid lifecycle stage provided for Pause Hook"),
        ({"lifecycleHooks": [{"lifecycleStages": ["PRE_SCALE_UP"]}]}, "hookTargetArn and roleArn are required"),
        ({"deploymentCircuitBreaker": {"enable": True, "rollback": True, "thresholdConfiguration": {
            "type": "BOUNDED_PERCENT", "value": 101}}}, "thresholdConfiguration must be between 1 and 100"),
    ],
)  # fmt: skip
def test_what_cannot_be_deployed_is_refused(ecs: Ecs, configuration: dict[str, Any], message: str) -> None:
    definition = ecs.register("wrong", container("main", STAYS))
    with pytest.raises(ecs.api.exceptions.InvalidParameterException, match=message):
        ecs.serve("wrong", definition, deploymentConfiguration=configuration)


def test_a_deleted_service_has_no_rollouts_and_takes_no_update(ecs: Ecs) -> None:
    ecs.serve("deleted", ecs.register("deleted", container("main", STAYS)))
    stable(ecs, "deleted", 1)
    with pytest.raises(ecs.api.exceptions.InvalidParameterException, match="while it is scaled above 0"):
        ecs.api.delete_service(cluster="tests", service="deleted")

    ecs.api.delete_service(cluster="tests", service="deleted", force=True)

    with pytest.raises(ecs.api.exceptions.ServiceNotActiveException, match="Service was not ACTIVE"):
        ecs.api.update_service(cluster="tests", service="deleted", desiredCount=1)
    until(lambda: ecs.service("deleted")["status"], lambda status: status == "INACTIVE")
    with pytest.raises(ecs.api.exceptions.ServiceNotFoundException):
        ecs.rollouts("deleted")
