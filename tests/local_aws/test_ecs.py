"""Services run as ECS runs them: with real containers, and a verdict for each rollout."""

import json
import threading
from collections import Counter
from typing import Any

import pytest

from tests.local_aws.ecs_running import BUSYBOX, LOGS, ROLE, Ecs, container, web
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]


# --- services ---------------------------------------------------------------------------------------------------------


def test_a_rollout_replaces_the_tasks_and_drops_no_request(ecs: Ecs) -> None:
    first, second = ecs.register("web", web("one")), ecs.register("web", web("two"))
    ecs.serve("web", first, 2)
    assert ecs.rolled_out("web")["status"] == "SUCCESSFUL"
    pages: list[str] = []
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            try:
                pages.append(ecs.page("web"))
            except OSError as error:
                pages.append(f"dropped: {error}")

    visitor = threading.Thread(target=visit)
    visitor.start()
    before = ecs.service("web")["deployments"][0]["id"]

    ecs.api.update_service(cluster="tests", service="web", taskDefinition=second)
    rollout = ecs.rolled_out("web")

    until(lambda: ecs.service("web"), lambda service: len(service["deployments"]) == 1)
    until(lambda: pages, lambda seen: seen[-1] != "one")
    over.set()
    visitor.join()
    assert rollout["status"] == "SUCCESSFUL"
    assert set(pages) == {"one", "two"}
    assert ecs.page("web") == "two"
    service = ecs.service("web")
    primary = service["deployments"][0]
    assert primary["id"] != before
    assert primary["id"].removeprefix("ecs-svc/") not in rollout["serviceDeploymentArn"]
    assert (primary["rolloutState"], primary["runningCount"], primary["failedTasks"]) == ("COMPLETED", 2, 0)
    assert service["taskDefinition"] == second
    until(lambda: ecs.service("web")["events"][0]["message"], lambda said: said.endswith("reached a steady state."))
    described = ecs.api.describe_service_deployments(serviceDeploymentArns=[rollout["serviceDeploymentArn"]])
    revision = described["serviceDeployments"][0]["targetServiceRevision"]["arn"]
    revisions = ecs.api.describe_service_revisions(serviceRevisionArns=[revision])["serviceRevisions"]
    assert revisions[0]["taskDefinition"] == second
    assert revisions[0]["containerImages"][0]["imageDigest"].startswith("sha256:")

    # AND an update that changes nothing rolls nothing out
    ecs.api.update_service(cluster="tests", service="web", taskDefinition=second)
    assert len(ecs.rollouts("web")) == 2
    ecs.api.update_service(cluster="tests", service="web", desiredCount=0, forceNewDeployment=True)
    assert ecs.rolled_out("web")["status"] == "SUCCESSFUL"
    assert len(ecs.rollouts("web")) == 3


def test_a_revision_that_crashes_is_rolled_back_by_the_circuit_breaker(ecs: Ecs) -> None:
    queue_arn = "arn:aws:sqs:us-east-1:123456789012:events"
    may_send = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may_send | {"Resource": queue_arn}]})
    queue = ecs.client("sqs").create_queue(QueueName="events", Attributes={"Policy": policy})["QueueUrl"]
    rules = ecs.client("events")
    rules.put_rule(Name="ecs", EventPattern=json.dumps({"source": ["aws.ecs"]}))
    rules.put_targets(Rule="ecs", Targets=[{"Id": "1", "Arn": queue_arn}])
    good = ecs.register("crash", web("good"))
    bad = ecs.register("crash", container("web", "echo boom; exit 1", portMappings=[{"containerPort": 8080}]))
    ecs.serve("crash", good)
    assert ecs.rolled_out("crash")["status"] == "SUCCESSFUL"
    before = ecs.service("crash")["deployments"][0]["id"]

    ecs.api.update_service(cluster="tests", service="crash", taskDefinition=bad)
    rollout = ecs.rolled_out("crash")

    assert rollout["status"] == "ROLLBACK_SUCCESSFUL"
    assert "circuit breaker" in rollout["statusReason"]
    described = ecs.api.describe_service_deployments(serviceDeploymentArns=[rollout["serviceDeploymentArn"]])
    breaker = described["serviceDeployments"][0]["deploymentCircuitBreaker"]
    assert breaker == {"status": "TRIGGERED", "failureCount": 3, "threshold": 3}
    service = ecs.service("crash")
    primary = service["deployments"][0]
    assert service["taskDefinition"] == primary["taskDefinition"] == good
    assert primary["rolloutState"] == "COMPLETED"
    assert primary["id"] == before  # the deployment that was completed is the PRIMARY one again
    assert ecs.page("crash") == "good"
    stopped = ecs.api.list_tasks(cluster="tests", serviceName="crash", desiredStatus="STOPPED")["taskArns"]
    assert {ecs.task(arn)["containers"][0]["exitCode"] for arn in stopped} == {1}

    told: list[dict[str, Any]] = []
    sqs = ecs.client("sqs")

    def read() -> list[dict[str, Any]]:
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            event = json.loads(message["Body"])
            if event["id"] not in {known["id"] for known in told}:  # EventBridge delivers at least once
                told.append(event)
        return told

    def names() -> list[str]:
        return [e["detail"].get("eventName") for e in read() if e["resources"] == [service["serviceArn"]]]

    told_of = {"IN_PROGRESS": 3, "COMPLETED": 2, "FAILED": 1}
    wanted = Counter({f"SERVICE_DEPLOYMENT_{name}": count for name, count in told_of.items()}, SERVICE_STEADY_STATE=1)
    until(names, lambda seen: Counter(seen) >= wanted)
    changes = [e["detail"] for e in told if e["detail-type"] == "ECS Deployment State Change"
               and e["resources"] == [service["serviceArn"]]]  # fmt: skip
    crashed = next(d["deploymentId"] for d in changes if d["deploymentId"] != before)
    # In this order they are sent; they may arrive in another.
    assert sorted((d["eventType"], d["eventName"], d["deploymentId"], d["reason"]) for d in changes) == sorted([
        ("INFO", "SERVICE_DEPLOYMENT_IN_PROGRESS", before, f"ECS deployment {before} in progress."),
        ("INFO", "SERVICE_DEPLOYMENT_COMPLETED", before, f"ECS deployment {before} completed."),
        ("INFO", "SERVICE_DEPLOYMENT_IN_PROGRESS", crashed, f"ECS deployment {crashed} in progress."),
        ("ERROR", "SERVICE_DEPLOYMENT_FAILED", crashed, "ECS deployment circuit breaker: task failed to start."),
        ("INFO", "SERVICE_DEPLOYMENT_IN_PROGRESS", before,
         f"ECS deployment circuit breaker: rolling back to deploymentId {before}."),
        ("INFO", "SERVICE_DEPLOYMENT_COMPLETED", before, f"ECS deployment {before} completed."),
    ])  # fmt: skip
    tasks = [e["detail"] for e in told if e["detail-type"] == "ECS Task State Change"]
    assert "Essential container in task exited" in {task.get("stoppedReason") for task in tasks}


def test_a_first_revision_that_crashes_has_nothing_to_go_back_to(ecs: Ecs) -> None:
    ecs.serve("first", ecs.register("first", container("main", "exit 1")))

    rollout = ecs.rolled_out("first")

    assert rollout["status"] == "ROLLBACK_FAILED"
    assert rollout["statusReason"] == "No rollback candidate was found to run the rollback."
    primary = ecs.service("first")["deployments"][0]
    assert primary["rolloutState"] == "FAILED"
    assert primary["rolloutStateReason"] == "ECS deployment circuit breaker: tasks failed to start."
    assert primary["failedTasks"] >= 3


def test_without_a_circuit_breaker_ecs_keeps_trying(ecs: Ecs) -> None:
    ecs.serve("trying", ecs.register("trying", container("main", "exit 1")), breaker=False, rollback=False)

    service = until(lambda: ecs.service("trying"), lambda s: s["deployments"][0]["failedTasks"] > 3)

    assert service["deployments"][0]["rolloutState"] == "IN_PROGRESS"
    ecs.api.delete_service(cluster="tests", service="trying", force=True)
    until(lambda: ecs.service("trying"), lambda s: s["status"] == "INACTIVE")
    assert not [arn for arn in ecs.api.list_services(cluster="tests")["serviceArns"] if arn.endswith("/trying")]


def test_a_rollout_is_stopped_or_replaced(ecs: Ecs) -> None:
    good = ecs.register("stop", web("good"))
    starting = ecs.register("stop", web("late", before="trap 'exit 0' TERM; sleep 100 & wait;"))
    ecs.serve("stop", good)
    assert ecs.rolled_out("stop")["status"] == "SUCCESSFUL"

    ecs.api.update_service(cluster="tests", service="stop", taskDefinition=starting)
    arn = ecs.rollouts("stop")[0]["serviceDeploymentArn"]
    ecs.api.stop_service_deployment(serviceDeploymentArn=arn)
    assert ecs.rolled_out("stop")["status"] == "ROLLBACK_SUCCESSFUL"
    assert ecs.service("stop")["taskDefinition"] == good
    with pytest.raises(ecs.api.exceptions.ConflictException):
        ecs.api.stop_service_deployment(serviceDeploymentArn=arn)

    ecs.api.update_service(cluster="tests", service="stop", taskDefinition=starting)
    newer = ecs.register("stop", web("newer"))
    ecs.api.update_service(cluster="tests", service="stop", taskDefinition=newer)
    assert ecs.rolled_out("stop")["status"] == "SUCCESSFUL"
    assert [rollout["status"] for rollout in ecs.rollouts("stop")[:2]] == ["SUCCESSFUL", "STOPPED"]
    assert ecs.page("stop") == "newer"


def test_a_task_of_a_service_that_dies_is_replaced(ecs: Ecs) -> None:
    ecs.serve("dying", ecs.register("dying", web("alive")))
    assert ecs.rolled_out("dying")["status"] == "SUCCESSFUL"
    (task,) = ecs.api.list_tasks(cluster="tests", serviceName="dying")["taskArns"]

    ecs.api.stop_task(cluster="tests", task=task)

    until(lambda: ecs.service("dying"), lambda s: s["runningCount"] == 1)
    assert ecs.api.list_tasks(cluster="tests", serviceName="dying")["taskArns"] != [task]
    assert ecs.page("dying") == "alive"
    assert len(ecs.rollouts("dying")) == 1


def test_an_unhealthy_task_counts_as_failed(ecs: Ecs) -> None:
    check = {"command": ["CMD-SHELL", "false"], "interval": 5, "timeout": 2, "retries": 1}
    definition = ecs.register("sick", container("main", "trap 'exit 0' TERM; sleep 100 & wait", healthCheck=check))
    ecs.serve("sick", definition, 3, rollback=False)

    assert ecs.rolled_out("sick")["status"] == "STOPPED"
    stopped = ecs.api.list_tasks(cluster="tests", serviceName="sick", desiredStatus="STOPPED")["taskArns"]
    assert {ecs.task(arn)["stoppedReason"] for arn in stopped} == {"Task failed container health checks"}


# --- CloudFormation ---------------------------------------------------------------------------------------------------


def template(ecs: Ecs, command: str) -> str:
    logs = {"LogDriver": "awslogs", "Options": LOGS["options"]}
    definition = {
        "Family": "stack", "Cpu": 256, "Memory": "512", "NetworkMode": "awsvpc", "ExecutionRoleArn": ROLE,
        "RequiresCompatibilities": ["FARGATE"], "Tags": [{"Key": "by", "Value": "tests"}],
        "ContainerDefinitions": [
            {"Name": "main", "Image": BUSYBOX, "Command": ["sh", "-c", command], "LogConfiguration": logs}
        ],
    }  # fmt: skip
    service = {
        "ServiceName": "stack", "Cluster": "tests", "TaskDefinition": {"Ref": "Definition"}, "DesiredCount": "1",
        "LaunchType": "FARGATE", "Tags": [{"Key": "environment", "Value": "dev"}],
        "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": [ecs.subnet], "AssignPublicIp": "ENABLED"}},
        "DeploymentConfiguration": {"DeploymentCircuitBreaker": {"Enable": "true", "Rollback": "true"}},
    }  # fmt: skip
    resources = {
        "Definition": {"Type": "AWS::ECS::TaskDefinition", "Properties": definition},
        "Service": {"Type": "AWS::ECS::Service", "Properties": service},
    }
    return json.dumps({"Resources": resources, "Outputs": {"Name": {"Value": {"Fn::GetAtt": ["Service", "Name"]}}}})


def test_a_stack_has_its_service_once_it_is_stable_and_nothing_of_the_template_is_lost(ecs: Ecs) -> None:
    formation = ecs.client("cloudformation")

    def stack() -> dict[str, Any]:
        return formation.describe_stacks(StackName="ecs")["Stacks"][0]

    def settled(seen: dict[str, Any]) -> bool:
        return not seen["StackStatus"].endswith("_IN_PROGRESS")

    formation.create_stack(StackName="ecs", TemplateBody=template(ecs, "trap 'exit 0' TERM; sleep 100 & wait"))
    assert until(stack, settled)["StackStatus"] == "CREATE_COMPLETE"

    service = ecs.api.describe_services(cluster="tests", services=["stack"], include=["TAGS"])["services"][0]
    assert service["runningCount"] == 1
    assert service["deploymentConfiguration"]["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert {"key": "environment", "value": "dev"} in service["tags"]
    described = ecs.api.describe_task_definition(taskDefinition=service["taskDefinition"], include=["TAGS"])
    assert described["taskDefinition"]["containerDefinitions"][0]["logConfiguration"] == LOGS
    assert {"key": "by", "value": "tests"} in described["tags"]

    # AND a revision that crashes fails the update, with the reason, and the old one still runs
    formation.update_stack(StackName="ecs", TemplateBody=template(ecs, "exit 1"))
    assert until(stack, settled)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    events = formation.describe_stack_events(StackName="ecs")["StackEvents"]
    assert any("Circuit Breaker was triggered" in event.get("ResourceStatusReason", "") for event in events)
    assert ecs.service("stack")["taskDefinition"] == service["taskDefinition"]
    assert ecs.service("stack")["runningCount"] == 1

    formation.delete_stack(StackName="ecs")
    until(lambda: ecs.service("stack"), lambda seen: seen["status"] == "INACTIVE")
