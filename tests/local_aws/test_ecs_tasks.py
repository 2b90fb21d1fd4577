"""Tasks run as ECS runs them: with real containers, real exit codes, and the reasons that ECS gives."""

import json
import subprocess
from typing import Any

import pytest

from tests.local_aws.ecs_running import BUSYBOX, LOGS, ROLE, Ecs, container, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]

KANIKO = f"ghcr.io/osscontainertools/kaniko@sha256:{'a' * 64}"
WORKSPACE = [{"sourceVolume": "workspace", "containerPath": "/workspace"}]


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
