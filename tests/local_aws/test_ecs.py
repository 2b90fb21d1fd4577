"""Tasks and services run as ECS runs them: with real containers, real exit codes, and a verdict for each rollout."""

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from deploy_runner.local_aws import server
from deploy_runner.local_aws.machine import Machine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]

BUSYBOX = "public.ecr.aws/docker/library/busybox:stable"
KANIKO = f"ghcr.io/osscontainertools/kaniko@sha256:{'a' * 64}"
ROLE = "arn:aws:iam::123456789012:role/execution"
SECONDS = 40
OVER = ("SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")
LOGS = {
    "logDriver": "awslogs",
    "options": {"awslogs-group": "/tests", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "prefix"},
}
WORKSPACE = [{"sourceVolume": "workspace", "containerPath": "/workspace"}]


class Ecs:
    """What the tests do with ECS."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.api = self.client("ecs")
        self.logs = self.client("logs")
        self.logs.create_log_group(logGroupName="/tests")
        self.api.create_cluster(clusterName="tests")
        self.subnet = self.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        self.network = {"awsvpcConfiguration": {"subnets": [self.subnet], "assignPublicIp": "ENABLED"}}

    def client(self, service: str) -> Any:
        session: Any = boto3.session.Session("local", "local", region_name="us-east-1")
        return session.client(service, endpoint_url=self.machine.endpoint)

    def register(self, family: str, *containers: dict[str, Any], **more: Any) -> str:
        registered = self.api.register_task_definition(
            family=family, requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
            executionRoleArn=ROLE, containerDefinitions=list(containers), **more,
        )  # fmt: skip
        return str(registered["taskDefinition"]["taskDefinitionArn"])

    def start(self, definition: str, **more: Any) -> str:
        answer = self.api.run_task(
            cluster="tests", taskDefinition=definition, launchType="FARGATE", networkConfiguration=self.network, **more
        )
        return str(answer["tasks"][0]["taskArn"])

    def task(self, arn: str) -> dict[str, Any]:
        return self.api.describe_tasks(cluster="tests", tasks=[arn], include=["TAGS"])["tasks"][0]

    def ended(self, arn: str) -> dict[str, Any]:
        return until(lambda: self.task(arn), lambda task: task["lastStatus"] == "STOPPED")

    def run(self, definition: str, **more: Any) -> dict[str, Any]:
        return self.ended(self.start(definition, **more))

    def lines(self, task: dict[str, Any], container: str) -> list[str]:
        stream = f"prefix/{container}/{task['taskArn'].rpartition('/')[2]}"
        events = self.logs.get_log_events(logGroupName="/tests", logStreamName=stream, startFromHead=True)["events"]
        return [event["message"] for event in events]

    def serve(self, name: str, definition: str, count: int = 1, *, breaker: bool = True, rollback: bool = True) -> None:
        self.api.create_service(
            cluster="tests", serviceName=name, taskDefinition=definition, desiredCount=count, launchType="FARGATE",
            networkConfiguration=self.network,
            deploymentConfiguration={"deploymentCircuitBreaker": {"enable": breaker, "rollback": rollback}},
        )  # fmt: skip

    def service(self, name: str) -> dict[str, Any]:
        return self.api.describe_services(cluster="tests", services=[name])["services"][0]

    def rollouts(self, name: str) -> list[dict[str, Any]]:
        return self.api.list_service_deployments(cluster="tests", service=name)["serviceDeployments"]

    def rolled_out(self, name: str) -> dict[str, Any]:
        return until(lambda: self.rollouts(name)[0], lambda rollout: rollout["status"] in OVER)

    def page(self, name: str) -> str:
        with urllib.request.urlopen(self.machine.service_urls["tests", name], timeout=10) as answer:
            return answer.read().decode().strip()


def until(read: Any, good: Any) -> Any:
    deadline = time.monotonic() + SECONDS
    while not good(value := read()):
        assert time.monotonic() < deadline, value
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def ecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ecs]:
    machine = server.start(4711, tmp_path_factory.mktemp("ecs"), ["registry", "ecr", "events", "ecs", "cloudformation"])
    try:
        yield Ecs(machine)
    finally:
        machine.stop()


def container(name: str, script: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], "logConfiguration": LOGS, **more}


def web(page: str, before: str = "") -> dict[str, Any]:
    script = f"{before} mkdir /www; echo {page} > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
    return container("web", script, portMappings=[{"containerPort": 8080}])


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_runs_and_its_exit_code_and_its_lines_are_there(ecs: Ecs) -> None:
    definition = ecs.register("one", container("main", 'echo "$GREETING from $URL"; echo oops >&2; exit 3'))

    task = ecs.run(
        definition,
        group="deployment-1",
        startedBy="tests",
        tags=[{"key": "app", "value": "cineos"}],
        overrides={
            "taskRoleArn": ROLE,
            "containerOverrides": [
                {
                    "name": "main",
                    "environment": [
                        {"name": "GREETING", "value": "hello"}, {"name": "URL", "value": ecs.machine.endpoint},
                    ],
                }
            ],
        },
    )  # fmt: skip

    assert task["containers"][0]["exitCode"] == 3
    assert (task["stopCode"], task["stoppedReason"]) == (
        "EssentialContainerExited", "Essential container in task exited",
    )  # fmt: skip
    # AND what names a loopback address of this machine names it so that the container reaches it
    assert ecs.lines(task, "main") == [f"hello from {ecs.machine.for_container(ecs.machine.endpoint)}", "oops"]
    assert (task["group"], task["startedBy"], task["tags"]) == (
        "deployment-1", "tests", [{"key": "app", "value": "cineos"}],
    )  # fmt: skip
    assert task["overrides"]["taskRoleArn"] == ROLE
    assert task["createdAt"] <= task["startedAt"] <= task["stoppedAt"]
    details = {d["name"]: d["value"] for d in task["attachments"][0]["details"]}
    assert details["privateIPv4Address"] == task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"]


def test_containers_of_a_task_share_network_and_volume_and_start_in_order(ecs: Ecs) -> None:
    first = container("first", "echo made > /workspace/file", essential=False, mountPoints=WORKSPACE)
    server_ = container(
        "server", "mkdir /www; cp /workspace/file /www; httpd -f -p 8080 -h /www", essential=False, stopTimeout=2,
        mountPoints=WORKSPACE, dependsOn=[{"containerName": "first", "condition": "SUCCESS"}],
        healthCheck={"command": ["CMD-SHELL", "wget -qO- http://127.0.0.1:8080/file"], "interval": 5},
    )  # fmt: skip
    last = container(
        "last", "wget -qO- http://127.0.0.1:8080/file",
        dependsOn=[{"containerName": "server", "condition": "HEALTHY"}],
    )  # fmt: skip

    task = ecs.run(ecs.register("three", first, server_, last, volumes=[{"name": "workspace"}]))

    assert ecs.lines(task, "last") == ["made"]
    assert {c["name"]: c["exitCode"] for c in task["containers"]} == {"first": 0, "last": 0, "server": 137}


def test_what_depends_on_the_success_of_a_container_does_not_start_without_it(ecs: Ecs) -> None:
    first = container("first", "exit 2", essential=False)
    second = container("second", "echo never", dependsOn=[{"containerName": "first", "condition": "SUCCESS"}])

    task = ecs.run(ecs.register("failing", first, second))

    assert task["stopCode"] == "TaskFailedToStart"
    assert [c.get("exitCode") for c in task["containers"]] == [2, None]
    assert ecs.lines(task, "second") == []


def test_secrets_reach_the_container_and_no_description(ecs: Ecs) -> None:
    manager = ecs.client("secretsmanager")
    whole = manager.create_secret(Name="whole", SecretString="canary-one")["ARN"]
    keyed = manager.create_secret(Name="keyed", SecretString=json.dumps({"password": "canary-two"}))["ARN"]
    ecs.client("ssm").put_parameter(Name="/app/parameter", Value="canary-three", Type="SecureString")
    secrets = [
        {"name": "ONE", "valueFrom": whole},
        {"name": "TWO", "valueFrom": f"{keyed}:password::"},
        {"name": "THREE", "valueFrom": "/app/parameter"},
        {"name": "FOUR", "valueFrom": whole.rpartition("-")[0]},
    ]

    task = ecs.run(ecs.register("secrets", container("main", "echo $ONE $TWO $THREE $FOUR", secrets=secrets)))

    assert ecs.lines(task, "main") == ["canary-one canary-two canary-three canary-one"]
    assert "canary" not in json.dumps(task, default=str)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secrets": [{"name": "S", "valueFrom": "arn:aws:secretsmanager:us-east-1:123456789012:secret:none"}]},
         "ResourceInitializationError: unable to pull secrets or registry auth"),
        ({"secrets": [{"name": "S", "valueFrom": "/none"}]}, "Invalid ssm parameters: /none"),
        ({"image": "public.ecr.aws/docker/library/none:1"}, "CannotPullContainerError"),
        ({"logConfiguration": {"logDriver": "awslogs", "options": {
            "awslogs-group": "/none", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p"}}},
         "ResourceInitializationError: failed to validate logger args"),
        ({"entryPoint": ["no-such-program"]}, "Task failed to start"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_start_says_why(ecs: Ecs, change: dict[str, Any], reason: str) -> None:
    task = ecs.run(ecs.register("unstartable", container("main", "true") | change))

    assert task["stopCode"] == "TaskFailedToStart"
    assert reason in task["stoppedReason"]
    assert "exitCode" not in task["containers"][0]


def test_a_task_that_is_stopped_may_end_by_itself(ecs: Ecs) -> None:
    definition = ecs.register("stopped", container("main", "trap 'echo bye; exit 5' TERM; sleep 100 & wait"))
    arn = ecs.start(definition)
    until(lambda: ecs.task(arn), lambda task: task["lastStatus"] == "RUNNING")
    assert ecs.api.list_tasks(cluster="tests", family="stopped")["taskArns"] == [arn]

    ecs.api.stop_task(cluster="tests", task=arn, reason="no longer needed")

    task = ecs.ended(arn)
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "no longer needed")
    assert task["containers"][0]["exitCode"] == 5
    assert ecs.lines(task, "main") == ["bye"]
    assert ecs.api.list_tasks(cluster="tests", family="stopped")["taskArns"] == []
    assert ecs.api.list_tasks(cluster="tests", family="stopped", desiredStatus="STOPPED")["taskArns"] == [arn]


def test_an_inactive_definition_and_a_missing_subnet_are_refused(ecs: Ecs) -> None:
    active = ecs.register("inactive", container("main", "true"))
    inactive = ecs.register("inactive", container("main", "true"))
    ecs.api.deregister_task_definition(taskDefinition=inactive)

    with pytest.raises(ecs.api.exceptions.ClientException, match="inactive"):
        ecs.start(inactive)
    assert ecs.task(ecs.start("inactive"))["taskDefinitionArn"] == active
    with pytest.raises(ecs.api.exceptions.InvalidParameterException, match="subnet"):
        ecs.api.run_task(
            cluster="tests", taskDefinition=active, launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-0"]}},
        )  # fmt: skip
    missing = ecs.api.describe_tasks(cluster="tests", tasks=["0" * 32])
    assert [failure["reason"] for failure in missing["failures"]] == ["MISSING"]


# --- Kaniko's stand-in ------------------------------------------------------------------------------------------------


def build(ecs: Ecs, dockerfile: list[str], *flags: str, prepare: str = "true") -> dict[str, Any]:
    return ecs.ended(build_started(ecs, dockerfile, *flags, prepare=prepare))


def build_started(ecs: Ecs, dockerfile: list[str], *flags: str, prepare: str = "true") -> str:
    lines = " ".join(f"'{line}'" for line in dockerfile)
    clone = container(
        "clone", f"cd /workspace && printf '%s\\n' {lines} > Dockerfile && {prepare}", essential=False,
        mountPoints=WORKSPACE,
    )  # fmt: skip
    kaniko = container("kaniko", mountPoints=WORKSPACE, dependsOn=[{"containerName": "clone", "condition": "SUCCESS"}])
    kaniko |= {"image": KANIKO, "command": ["--context=dir:///workspace", "--dockerfile=/workspace/Dockerfile", *flags]}
    return ecs.start(ecs.register("builder", clone, kaniko, volumes=[{"name": "workspace"}]))


def test_kaniko_builds_what_the_task_checked_out_and_pushes_it(ecs: Ecs) -> None:
    ecs.client("ecr").create_repository(repositoryName="built")
    uri = f"{ecs.machine.registry}/built"

    task = build(
        ecs,
        [f"FROM {BUSYBOX}", "ARG VERSION", "ENV VERSION=$VERSION", 'CMD ["sh", "-c", "echo version $VERSION"]'],
        f"--destination={uri}:sha", "--destination", f"{uri}:latest", "--build-arg=VERSION=7", "--cache=true",
        f"--cache-repo={uri}/cache", "--compressed-caching=false", "--push-retry=3", "--label=by=tests",
    )  # fmt: skip

    assert [c["exitCode"] for c in task["containers"]] == [0, 0], ecs.lines(task, "kaniko")
    images = ecs.client("ecr").describe_images(repositoryName="built")["imageDetails"]
    assert [sorted(image["imageTags"]) for image in images] == [["latest", "sha"]]

    # AND the image runs by its digest
    image = f"{uri}@{images[0]['imageDigest']}"
    ran = ecs.run(ecs.register("ran", {"name": "main", "image": image, "logConfiguration": LOGS}))
    assert ecs.lines(ran, "main") == ["version 7"]
    assert ran["containers"][0]["imageDigest"] == images[0]["imageDigest"]


def test_a_build_that_fails_ends_with_1_and_its_reason(ecs: Ecs) -> None:
    task = build(ecs, [f"FROM {BUSYBOX}", "RUN echo cannot find the thing >&2; exit 7"], "--no-push")

    assert task["containers"][1]["exitCode"] == 1
    said = ecs.lines(task, "kaniko")
    assert "cannot find the thing" in said
    assert said[-1].startswith("error building image:")


@pytest.mark.parametrize(
    ("flags", "prepare", "reason"),
    [
        (["--no-such-flag"], "true", "unknown flag: --no-such-flag"),
        ([], "true", "you must provide --destination"),
        (["--no-push", "--dockerfile=/workspace/link"], "ln -s /etc/passwd link", "error resolving dockerfile path"),
        (["--no-push", "--context=dir:///workspace/out"], "ln -s /etc out", "error resolving source context"),
    ],
)  # fmt: skip
def test_kaniko_refuses_what_it_cannot_do(ecs: Ecs, flags: list[str], prepare: str, reason: str) -> None:
    task = build(ecs, ["FROM scratch"], *flags, prepare=prepare)

    assert task["containers"][1]["exitCode"] == 1
    assert reason in ecs.lines(task, "kaniko")[-1]


def test_a_build_that_is_stopped_leaves_nothing_running(ecs: Ecs) -> None:
    marker = "sleep 98765"
    arn = build_started(ecs, [f"FROM {BUSYBOX}", f"RUN {marker}"], "--no-push")
    until(lambda: running(marker), bool)

    ecs.api.stop_task(cluster="tests", task=arn)

    assert ecs.ended(arn)["stopCode"] == "UserInitiated"
    until(lambda: running(marker), lambda processes: not processes)


def running(command: str) -> list[str]:
    said = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if line == command]


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
    assert primary["id"] != before
    assert ecs.page("crash") == "good"
    stopped = ecs.api.list_tasks(cluster="tests", serviceName="crash", desiredStatus="STOPPED")["taskArns"]
    assert {ecs.task(arn)["containers"][0]["exitCode"] for arn in stopped} == {1}

    told: list[dict[str, Any]] = []
    sqs = ecs.client("sqs")

    def read() -> list[dict[str, Any]]:
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            told.append(json.loads(message["Body"]))
        return told

    def names() -> list[str]:
        return [e["detail"].get("eventName") for e in read() if e["resources"] == [service["serviceArn"]]]

    until(names, lambda seen: seen.count("SERVICE_DEPLOYMENT_COMPLETED") == 2 and "SERVICE_STEADY_STATE" in seen)
    failed = next(e for e in told if e["detail"].get("eventName") == "SERVICE_DEPLOYMENT_FAILED")
    assert failed["detail-type"] == "ECS Deployment State Change"
    assert failed["detail"]["deploymentId"].startswith("ecs-svc/")
    tasks = [e["detail"] for e in told if e["detail-type"] == "ECS Task State Change"]
    assert "Essential container in task exited" in {task.get("stoppedReason") for task in tasks}


def test_a_first_revision_that_crashes_has_nothing_to_go_back_to(ecs: Ecs) -> None:
    ecs.serve("first", ecs.register("first", container("main", "exit 1")))

    rollout = ecs.rolled_out("first")

    assert rollout["status"] == "STOPPED"
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
    check = {"command": ["CMD-SHELL", "false"], "interval": 1, "retries": 1}
    definition = ecs.register("sick", container("main", "trap 'exit 0' TERM; sleep 100 & wait", healthCheck=check))
    ecs.serve("sick", definition, rollback=False)

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
