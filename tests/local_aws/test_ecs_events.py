"""What ECS tells EventBridge, held key by key to every example of its developer guide.

data/ecs_events.json has the examples, each with its page. All of them were sent by ECS before ARNs of containers had
the cluster's name in them, so of an ARN only the service and the kind of resource count.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.model import ListShape, Shape, StructureShape
from moto.ecs.models import ecs_backends

from tests.local_aws.ecs_running import Ecs, container, web
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]

EXAMPLES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "ecs_events.json").read_text())
FORMS = {
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-([0-9a-f]{12}|[0-9a-f]{5,6}EXAMPLE)",
    "time in milliseconds": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "time in seconds": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "digest": r"sha256:[0-9a-f]{64}",
    "MAC address": r"([0-9a-f]{2}:){5}[0-9a-f]{2}",
    "IP address": r"(\d+\.){3}\d+",
    "network interface": r"eni-[0-9a-z]+",
    "subnet": r"subnet-[0-9a-z]+",
    "deployment": r"ecs-svc/\d+",
    "digits": r"\d+",
    "NAME": r"[A-Z_]+",
}


def form(value: Any) -> str:
    """What kind of thing a value is."""
    if not isinstance(value, str):
        return type(value).__name__
    arn = re.match(r"arn:aws:(\w+):[\w-]+:\d{12}:([\w-]+)/", value)
    if arn:
        return f"ARN of {arn[1]}:{arn[2]}"
    return next((name for name, pattern in FORMS.items() if re.fullmatch(pattern, value)), "text")


def differences(example: Any, sent: Any, path: str = "") -> list[str]:
    """What of an example is missing in what was sent, or is of another form."""
    if isinstance(example, dict) and isinstance(sent, dict):
        missing = [f"{path}.{key} is missing" for key in example if key not in sent]
        shared = [differences(example[key], sent[key], f"{path}.{key}") for key in example if key in sent]
        return missing + [found for some in shared for found in some]
    if isinstance(example, list) and isinstance(sent, list):
        if all(isinstance(item, dict) and "value" in item for item in example):
            pairs = [{item["name"]: item["value"] for item in items} for items in (example, sent)]
            return differences(*pairs, path)
        if not sent:
            return [f"{path} is empty"]
        return [found for item in sent for found in differences(example[0], item, f"{path}[]")]
    return [] if form(example) == form(sent) else [f"{path} is {form(sent)}, not {form(example)}: {sent}"]


def unknown(shape: Shape, sent: Any, documented: Any, path: str = "") -> list[str]:
    """Keys of what was sent that neither an example nor DescribeTasks' shape has."""
    if isinstance(sent, dict) and isinstance(shape, StructureShape):
        documented = documented if isinstance(documented, dict) else {}
        strange = [f"{path}.{key} is not known" for key in sent if key not in shape.members and key not in documented]
        known = [
            unknown(shape.members[key], sent[key], documented.get(key), f"{path}.{key}")
            for key in sent
            if key in shape.members
        ]
        return strange + [found for some in known for found in some]
    if isinstance(sent, list) and isinstance(shape, ListShape):
        first = documented[0] if documented else None
        return [found for item in sent for found in unknown(shape.member, item, first, f"{path}[]")]
    return []


@pytest.fixture(scope="module")
def sent(ecs: Ecs) -> Iterator[list[dict[str, Any]]]:
    """All events of a run: tasks that end, and rollouts that go well, fail and are rolled back, as a queue got them."""
    arn = "arn:aws:sqs:us-east-1:123456789012:told"
    may_send = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may_send | {"Resource": arn}]})
    queue = ecs.client("sqs").create_queue(QueueName="told", Attributes={"Policy": policy})["QueueUrl"]
    rules, sqs = ecs.client("events"), ecs.client("sqs")
    rules.put_rule(Name="told", EventPattern=json.dumps({"source": ["aws.ecs"]}))
    rules.put_targets(Rule="told", Targets=[{"Id": "1", "Arn": arn}])
    told: list[dict[str, Any]] = []

    def names() -> list[str]:
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            event = json.loads(message["Body"])
            if event["id"] not in {known["id"] for known in told}:  # EventBridge delivers at least once
                told.append(event)
        return [f"{e['detail'].get('eventName')} {e['detail'].get('stopCode')}" for e in told]

    definition = ecs.register("told", web("good"))
    bad = ecs.register("told", container("web", "exit 1", portMappings=[{"containerPort": 8080}]))
    # Only what never runs is held back: "Tasks that are stopped after they reach the RUNNING state do not trigger the
    # throttle logic" (.../developerguide/service-throttle-logic.html).
    none = ecs.register("told", container("web") | {"image": f"{ecs.machine.registry}/none:1"})
    for name, first, breaker in (("told", definition, True), ("impaired", none, False)):
        ecs.api.create_service(
            cluster="tests", serviceName=name, taskDefinition=first, desiredCount=1,
            capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
            networkConfiguration=ecs.network,
            deploymentConfiguration={"deploymentCircuitBreaker": {"enable": breaker, "rollback": breaker}},
        )  # fmt: skip
    interrupted = ecs.start(definition)
    until(lambda: ecs.task(interrupted), lambda task: task["lastStatus"] == "RUNNING")
    backend = ecs_backends["123456789012"]["us-east-1"]
    backend.tasks["tests"][interrupted].stop("Your Spot Task was interrupted.", "SpotInterruption")
    assert ecs.rolled_out("told")["status"] == "SUCCESSFUL"
    ecs.api.update_service(cluster="tests", service="told", taskDefinition=bad)
    assert ecs.rolled_out("told")["status"] == "ROLLBACK_SUCCESSFUL"
    service = ecs.service("told")
    # There is always capacity here, unless a fault takes it away, and then the scheduler says this.
    backend.events.service_acted(
        service["serviceArn"], service["clusterArn"], "SERVICE_TASK_PLACEMENT_FAILURE", "ERROR", ["FARGATE_SPOT"],
        "RESOURCE:FARGATE",
    )  # fmt: skip
    wanted = {f"{e['event']['detail'].get('eventName')} None" for e in EXAMPLES[2:]} | {"None SpotInterruption"}
    until(names, lambda seen: wanted <= set(seen) and seen.count("SERVICE_DEPLOYMENT_COMPLETED None") > 1)
    until(lambda: names() and statuses(told, interrupted), lambda seen: seen[-1:] == ["STOPPED"])
    yield told
    for name in ("told", "impaired"):
        ecs.api.delete_service(cluster="tests", service=name, force=True)


def statuses(told: list[dict[str, Any]], arn: str) -> list[str]:
    """A task's statuses in the order of the versions of its events, which may come in any order."""
    events = sorted((e["detail"] for e in told if e["resources"] == [arn]), key=lambda detail: detail["version"])
    return list(dict.fromkeys(detail["lastStatus"] for detail in events))


def like(told: list[dict[str, Any]], event: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that an example is an example of."""
    detail = event["detail"]
    keys = ("eventName", "eventType", "lastStatus", "desiredStatus")
    words = re.sub(r"deploymentI[dD]( deploymentI[dD])?", ".*", re.escape(detail.get("reason", "")).replace("\\ ", " "))
    found = [
        e for e in told
        if e["detail-type"] == event["detail-type"] and all(e["detail"].get(key) == detail.get(key) for key in keys)
        and ("stopCode" not in detail or e["detail"].get("stopCode") == "SpotInterruption")
        and re.fullmatch(words, e["detail"].get("reason", ""))
    ]  # fmt: skip
    assert found, f"nothing was sent that is like {event}"
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["example"] for example in EXAMPLES])
def test_each_documented_key_is_sent_in_the_documented_form(
    sent: list[dict[str, Any]], example: dict[str, Any]
) -> None:
    found = like(sent, example["event"])

    assert [difference for event in found for difference in differences(example["event"], event)] == []


def test_nothing_is_sent_that_is_not_documented(sent: list[dict[str, Any]]) -> None:
    model = botocore.session.get_session().get_service_model("ecs")
    assert {event["detail-type"] for event in sent} == {example["event"]["detail-type"] for example in EXAMPLES}
    for event in sent:
        documented = [e["event"] for e in EXAMPLES if e["event"]["detail-type"] == event["detail-type"]]
        details = {key: value for e in reversed(documented) for key, value in e["detail"].items()}
        assert event.keys() == documented[0].keys()
        if event["detail-type"] == "ECS Task State Change":
            assert unknown(model.shape_for("Task"), event["detail"], details) == []
        else:
            assert event["detail"].keys() <= details.keys()


def test_a_tasks_events_tell_its_whole_life_with_a_version_each(sent: list[dict[str, Any]]) -> None:
    tasks = [event["detail"] for event in sent if event["detail-type"] == "ECS Task State Change"]
    stopped = [task["taskArn"] for task in tasks if task["lastStatus"] == "STOPPED"]

    assert stopped
    for arn in stopped:
        told = sorted((task for task in tasks if task["taskArn"] == arn), key=lambda task: task["version"])
        last = told[-1]
        assert [task["version"] for task in told] == list(range(1, len(told) + 1))
        ran = ["ACTIVATING", "RUNNING"] if last["stopCode"] != "TaskFailedToStart" else []
        drained = ["DEACTIVATING"] if last["stopCode"] in ("ServiceSchedulerInitiated", "SpotInterruption") else []
        assert statuses(sent, arn) == [
            "PROVISIONING", "PENDING", *ran, *drained, "STOPPING", "DEPROVISIONING", "STOPPED",
        ]  # fmt: skip
        assert last["desiredStatus"] == "STOPPED"
        assert last["stoppedAt"] >= last["executionStoppedAt"] >= last["stoppingAt"]
