"""Tasks run as ECS runs them: with real containers, real exit codes, and the reasons that ECS gives."""

import io
import json
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import WaiterError
from moto.ecs.models import ecs_backends

from tests.local_aws.ecs_running import BUSYBOX, LOGS, ROLE, Ecs, container
from tests.waiting import LONGEST, until

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


def test_a_container_reads_in_its_metadata_how_the_others_of_its_task_stand(ecs: Ecs) -> None:
    first = container("first", "exit 2", essential=False)
    ask = 'sleep 1; wget -qO- "$ECS_CONTAINER_METADATA_URI_V4/task"; echo; wget -qO- "$ECS_CONTAINER_METADATA_URI_V4"'
    second = container("second", ask, dependsOn=[{"containerName": "first", "condition": "COMPLETE"}])

    task = ecs.run(ecs.register("metadata", first, second))

    whole, own = (json.loads(line) for line in ecs.lines(task, "second"))
    assert (whole["TaskARN"], whole["Cluster"]) == (task["taskArn"], task["clusterArn"])
    assert (whole["Family"], whole["KnownStatus"]) == ("metadata", "RUNNING")
    stands = {c["Name"]: (c["KnownStatus"], c.get("ExitCode")) for c in whole["Containers"]}
    assert stands == {"first": ("STOPPED", 2), "second": ("RUNNING", None)}
    assert own["Name"] == "second"


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
    first = manager.create_secret(Name="keyed", SecretString=json.dumps({"password": "canary-two"}))
    keyed, version = first["ARN"], first["VersionId"]
    manager.put_secret_value(SecretId=keyed, SecretString=json.dumps({"password": "canary-new"}))
    ecs.client("ssm").put_parameter(Name="/app/parameter", Value="canary-three", Type="SecureString")
    secrets = [
        {"name": "ONE", "valueFrom": whole},
        {"name": "TWO", "valueFrom": f"{keyed}:password::"},
        {"name": "THREE", "valueFrom": "/app/parameter"},
        {"name": "FOUR", "valueFrom": whole.rpartition("-")[0]},
        {"name": "FIVE", "valueFrom": f"{keyed}:password:AWSPREVIOUS:"},
        {"name": "SIX", "valueFrom": f"{keyed}:password::{version}"},
    ]

    task = ecs.run(
        ecs.register("secrets", container("main", "echo $ONE $TWO $THREE $FOUR $FIVE $SIX", secrets=secrets))
    )

    said = "canary-one canary-new canary-three canary-one canary-two canary-two"
    assert ecs.lines(task, "main") == [said]
    assert "canary" not in json.dumps(task, default=str)


UNREGISTERED = "arn:aws:secretsmanager:us-east-1:123456789012:secret:none"
PULL = "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
NO_SECRETS = (
    "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: "
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secrets": [{"name": "S", "valueFrom": UNREGISTERED}]},
         NO_SECRETS + "unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch "
         f"secret {UNREGISTERED} from secrets manager: ResourceNotFoundException: "),
        ({"secrets": [{"name": "S", "valueFrom": "/none"}]},
         NO_SECRETS + "unable to retrieve secrets from ssm: service call has been retried 1 time(s): "
         "Invalid ssm parameters: /none"),
        ({"image": "public.ecr.aws/docker/library/none:1"},
         PULL + "failed to resolve ref public.ecr.aws/docker/library/none:1: public.ecr.aws/docker/library/none:1: "
         "not found"),
        ({"image": "127.0.0.1:4713/none:1"},
         PULL + "failed to resolve ref 127.0.0.1:4713/none:1: 127.0.0.1:4713/none:1: not found"),
        ({"logConfiguration": {"logDriver": "awslogs", "options": {
            "awslogs-group": "/none", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p"}}},
         "ResourceInitializationError: failed to validate logger args: "),
        ({"environmentFiles": [{"type": "s3", "value": "arn:aws:s3:::no-bucket/file.env"}]},
         "ResourceInitializationError: failed to download env files: service call has been retried 1 time(s): "
         "operation error S3: GetBucketLocation, https response error StatusCode: 404, api error NotFound: Not Found"),
        ({"entryPoint": ["no-such-program"]}, "Task failed to start"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_start_says_why(ecs: Ecs, change: dict[str, Any], reason: str) -> None:
    task = ecs.run(ecs.register("unstartable", container("main", "true") | change))

    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith(reason)
    assert "exitCode" not in task["containers"][0]
    assert "startedAt" not in task
    if "entryPoint" in change:
        assert task["containers"][0]["reason"] == (
            "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: "
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
            'process: exec: "no-such-program": executable file not found in $PATH: unknown'
        )


def test_an_image_for_another_architecture_cannot_be_pulled(ecs: Ecs) -> None:
    ecs.client("ecr").create_repository(repositoryName="foreign")
    image = f"{ecs.machine.registry}/foreign:1"
    native = ecs.machine.engine.client.api.version()["Arch"]
    other = "arm64" if native == "amd64" else "amd64"
    archive = io.BytesIO(b"FROM scratch\nLABEL a=b\n")
    ecs.machine.engine.client.images.build(fileobj=archive, tag=image, platform=f"linux/{other}")
    ecs.machine.engine.client.api.push(image)

    task = ecs.run(ecs.register("foreign", {"name": "main", "image": image}))

    mismatch = f"image Manifest does not contain descriptor matching platform 'linux/{native}'"
    assert task["stoppedReason"] == PULL + mismatch
    assert task["containers"][0]["reason"] == PULL + mismatch


def test_what_takes_more_memory_than_it_may_is_killed_and_said_to_be_out_of_memory(ecs: Ecs) -> None:
    if not ecs.machine.engine.client.info()["MemoryLimit"]:
        pytest.skip("this machine's engine may not limit memory")
    greedy = container("main", "x=a; while true; do x=$x$x; done", memory=16)
    Path("oom").unlink(missing_ok=True)

    task = ecs.run(ecs.register("greedy", greedy))

    (main,) = task["containers"]
    assert (main["exitCode"], main["reason"]) == (137, "OutOfMemoryError: Container killed due to memory usage")
    assert (task["stopCode"], main["memory"]) == ("EssentialContainerExited", "16")
    assert not Path("oom").exists(), "the container's monitor left a file in the folder that we were started in"


def test_a_container_is_as_its_definition_says(ecs: Ecs) -> None:
    plain = container(
        "main", "ulimit -n; id -u; pwd; touch /x 2>/dev/null || echo read-only; cat /proc/1/comm; sleep 100",
        user="1000:1000", workingDirectory="/tmp", readonlyRootFilesystem=True, dockerLabels={"by": "tests"},
        ulimits=[{"name": "nofile", "softLimit": 512, "hardLimit": 600}], linuxParameters={"initProcessEnabled": True},
    )  # fmt: skip
    arn = ecs.start(ecs.register("settings", plain))
    until(lambda: ecs.task(arn), lambda task: task["lastStatus"] == "RUNNING")
    *lines, init = until(lambda: ecs.lines(ecs.task(arn), "main"), lambda seen: len(seen) == 5)

    assert lines == ["512", "1000", "/tmp", "read-only"]
    assert init != "sh"
    assert ecs.machine.engine.client.containers.list(filters={"label": "by=tests"})

    # AND an init process passes SIGTERM on, so that nothing has to be killed after the stop timeout
    ecs.api.stop_task(cluster="tests", task=arn)
    assert ecs.ended(arn)["containers"][0]["exitCode"] == 143
    assert ecs.task(arn)["stoppedReason"] == "Task stopped by user"


def test_an_images_own_stop_signal_asks_its_container_to_end(ecs: Ecs) -> None:
    dockerfile = f"""FROM {BUSYBOX}
    STOPSIGNAL SIGINT
    CMD ["sh", "-c", "trap 'exit 7' INT; sleep 100 & wait"]
    """
    ecs.client("ecr").create_repository(repositoryName="signal")
    image = f"{ecs.machine.registry}/signal:1"
    ecs.machine.engine.client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=image)
    ecs.machine.engine.client.api.push(image)
    arn = ecs.start(ecs.register("signal", {"name": "main", "image": image}))
    until(lambda: ecs.task(arn), lambda task: task["lastStatus"] == "RUNNING")
    time.sleep(0.3)  # the shell sets its trap

    ecs.api.stop_task(cluster="tests", task=arn)

    task = ecs.ended(arn)
    assert task["containers"][0]["exitCode"] == 7
    # AND a tag is told with the digest that ECR has for it
    (pushed,) = ecs.client("ecr").describe_images(repositoryName="signal")["imageDetails"]
    assert task["containers"][0]["image"] == image
    assert task["containers"][0]["imageDigest"] == pushed["imageDigest"]


def test_containers_stop_in_the_reverse_of_the_order_in_which_they_start(ecs: Ecs) -> None:
    database = container(
        "database", "trap 'cat /workspace/app; exit 0' TERM; sleep 100 & wait", mountPoints=WORKSPACE
    )  # fmt: skip
    app = container(
        "app", "trap 'sleep 0.5; echo app ended first > /data/app; exit 0' TERM; sleep 100 & wait",
        mountPoints=[{"sourceVolume": "workspace", "containerPath": "/data"}],
        dependsOn=[{"containerName": "database", "condition": "START"}],
    )  # fmt: skip
    reader = container("reader", "sleep 100", volumesFrom=[{"sourceContainer": "database", "readOnly": True}])
    reader |= {"stopTimeout": 2, "command": ["sh", "-c", "echo no > /workspace/x || echo cannot write; sleep 100"]}
    arn = ecs.start(ecs.register("ordered", app, database, reader, volumes=[{"name": "workspace"}]))
    until(lambda: ecs.task(arn), lambda task: task["lastStatus"] == "RUNNING")
    until(lambda: ecs.lines(ecs.task(arn), "reader"), bool)

    ecs.api.stop_task(cluster="tests", task=arn, reason="enough")

    task = ecs.ended(arn)
    assert ecs.lines(task, "database") == ["app ended first"]
    assert "cannot write" in ecs.lines(task, "reader")
    # AND what does not listen to SIGTERM is killed after its stop timeout
    assert {c["name"]: c["exitCode"] for c in task["containers"]} == {"app": 0, "database": 0, "reader": 137}


def test_a_dependency_that_is_late_stops_the_task(ecs: Ecs) -> None:
    slow = container("slow", "trap 'exit 0' TERM; sleep 100 & wait", essential=False, startTimeout=2)
    waiting = container("waiting", "true", dependsOn=[{"containerName": "slow", "condition": "COMPLETE"}])

    task = ecs.run(ecs.register("late", slow, waiting))

    assert (task["stopCode"], task["stoppedReason"]) == ("TaskFailedToStart", "Task failed to start")
    assert "did not meet its condition in time" in task["containers"][1]["reason"]
    assert task["containers"][0]["exitCode"] == 0


def test_environment_files_give_way_to_the_definition_and_the_overrides(ecs: Ecs) -> None:
    s3 = ecs.client("s3")
    s3.create_bucket(Bucket="settings")
    files = {
        "one.env": '# comment\nA=one\nB="quoted" and spaces \nC=one\nEMPTY=\nNOTHING\n',
        "two.env": "A=two\nD=two\n",
        "override.env": "E=override\nC=override\n",
    }
    for name, text in files.items():
        s3.put_object(Bucket="settings", Key=f"folder/{name}", Body=text.encode())
    of = {name: {"type": "s3", "value": f"arn:aws:s3:::settings/folder/{name}"} for name in files}
    main = container(
        "main", 'echo "$A|$B|$C|$D|$E|${EMPTY-unset}|${NOTHING-unset}"',
        environment=[{"name": "C", "value": "defined"}], environmentFiles=[of["one.env"], of["two.env"]],
    )  # fmt: skip
    definition = ecs.register("files", main)

    first = ecs.start(definition)
    override = {"name": "main", "environmentFiles": [of["override.env"]]}
    second = ecs.start(definition, overrides={"containerOverrides": [override]})

    assert ecs.lines(ecs.ended(first), "main") == ['one|"quoted" and spaces |defined|two||unset|unset']
    assert ecs.lines(ecs.ended(second), "main") == ["||defined||override|unset|unset"]
    missing = {"name": "main", "environmentFiles": [{"type": "s3", "value": "arn:aws:s3:::settings/none.env"}]}
    task = ecs.run(definition, overrides={"containerOverrides": [missing]})
    assert task["stoppedReason"].endswith(
        "operation error S3: HeadObject, https response error StatusCode: 404, api error NotFound: Not Found"
    )


def test_health_checks_tell_of_containers_and_of_the_task(ecs: Ecs) -> None:
    def check(command: str, **more: int) -> dict[str, Any]:
        return {"command": ["CMD-SHELL", command], "interval": 5, "timeout": 2, "retries": 1, **more}

    waits = "trap 'exit 0' TERM; sleep 100 & wait"
    side = ecs.start(ecs.register(
        "side", container("app", waits, healthCheck=check("true")),
        container("side", waits, essential=False, healthCheck=check("false")),
    ))  # fmt: skip
    flips = container("app", f"sleep 1; touch /tmp/bad; {waits}", healthCheck=check("test ! -e /tmp/bad"))
    flipping = ecs.start(ecs.register("flipping", flips))
    starting = ecs.start(ecs.register("starting", container("app", waits, healthCheck=check("false", startPeriod=60))))
    silent = container("app", waits, healthCheck={"command": ["NONE"]})
    unchecked = ecs.start(ecs.register("unchecked", silent))
    seen: set[str] = set()

    def health(arn: str) -> tuple[str, list[str]]:
        task = ecs.task(arn)
        return task["healthStatus"], [c["healthStatus"] for c in task["containers"]]

    def flipped() -> tuple[str, list[str]]:
        seen.add(health(flipping)[0])
        return health(flipping)

    assert until(flipped, lambda found: found == ("UNHEALTHY", ["UNHEALTHY"]))
    assert "HEALTHY" in seen
    # AND only essential containers count for the task
    assert until(lambda: health(side), lambda found: found[1] == ["HEALTHY", "UNHEALTHY"])[0] == "HEALTHY"
    # AND what fails in its start period is not unhealthy, nor is what is not looked at
    assert health(starting) == health(unchecked) == ("UNKNOWN", ["UNKNOWN"])
    # AND ECS lets a task that no service started go on
    assert {ecs.task(arn)["lastStatus"] for arn in (side, flipping, starting, unchecked)} == {"RUNNING"}
    for arn in (side, flipping, starting, unchecked):
        ecs.api.stop_task(cluster="tests", task=arn)


def test_overrides_and_sizes_are_described(ecs: Ecs) -> None:
    definition = ecs.register("sizes", container("main", "true"), container("other", "true", essential=False))
    overrides = {
        "cpu": ".5 vCPU", "memory": "1 GB", "ephemeralStorage": {"sizeInGiB": 30},
        "containerOverrides": [{"name": "other", "command": ["true"], "memoryReservation": 64}],
    }  # fmt: skip

    task = ecs.run(definition, overrides=overrides)

    assert (task["cpu"], task["memory"]) == ("512", "1024")
    assert task["ephemeralStorage"] == task["fargateEphemeralStorage"] == {"sizeInGiB": 30}
    assert task["overrides"] == {
        "cpu": "512", "memory": "1024", "ephemeralStorage": {"sizeInGiB": 30}, "inferenceAcceleratorOverrides": [],
        "containerOverrides": [{"name": "main"}, {"name": "other", "command": ["true"], "memoryReservation": 64}],
    }  # fmt: skip
    assert task["containers"][1]["memoryReservation"] == "64"
    (subnet,) = ecs.client("ec2").describe_subnets(SubnetIds=[ecs.subnet])["Subnets"]
    assert (task["availabilityZone"], task["platformVersion"]) == (subnet["AvailabilityZone"], "1.4.0")
    order = ("createdAt", "connectivityAt", "pullStartedAt", "pullStoppedAt", "startedAt", "stoppingAt",
             "executionStoppedAt", "stoppedAt")  # fmt: skip
    assert [task[name] for name in order] == sorted(task[name] for name in order)

    def refused(code: str, message: str, **more: Any) -> None:
        with pytest.raises(ecs.api.exceptions.ClientError, match=message) as caught:
            ecs.start(definition, **more)
        assert caught.value.response["Error"]["Code"] == code

    refused("ClientException", "No Fargate configuration exists", overrides={"memory": "4096"})
    refused(
        "InvalidParameterException", "Override for container named x", overrides={"containerOverrides": [{"name": "x"}]}
    )
    refused("InvalidParameterException", "at most 8192", overrides={"taskRoleArn": "r" * 8192})
    refused("InvalidParameterException", "startedBy", startedBy="x" * 129)
    refused("InvalidParameterException", "count", count=11)
    refused("PlatformUnknownException", "platform", platformVersion="9.9.9")


def test_a_request_that_comes_twice_starts_one_task(ecs: Ecs) -> None:
    definition = ecs.register("twice", container("main", "true"))

    first, again = (ecs.start(definition, clientToken="the-same") for _ in range(2))

    assert first == again
    with pytest.raises(ecs.api.exceptions.ConflictException, match="different RunTask request"):
        ecs.start(definition, clientToken="the-same", startedBy="another")
    assert ecs.start(definition) not in (first, ecs.start(definition))


def test_waiters_end_as_they_do_on_aws_and_ended_tasks_are_forgotten_after_an_hour(ecs: Ecs) -> None:
    often = {"Delay": 1, "MaxAttempts": int(LONGEST)}
    arn = ecs.start(ecs.register("waited", container("main", "trap 'exit 0' TERM; sleep 100 & wait")))
    ecs.api.get_waiter("tasks_running").wait(cluster="tests", tasks=[arn], WaiterConfig=often)
    ecs.api.stop_task(cluster="tests", task=arn)
    ecs.api.get_waiter("tasks_stopped").wait(cluster="tests", tasks=[arn], WaiterConfig=often)
    with pytest.raises(WaiterError, match="STOPPED"):
        ecs.api.get_waiter("tasks_running").wait(cluster="tests", tasks=[arn], WaiterConfig=often)

    task = ecs_backends["123456789012"]["us-east-1"].tasks["tests"][arn]
    task.times["stoppedAt"] -= timedelta(hours=1, seconds=1)

    found = ecs.api.describe_tasks(cluster="tests", tasks=[arn])
    assert (found["tasks"], [failure["reason"] for failure in found["failures"]]) == ([], ["MISSING"])
    assert arn not in ecs.api.list_tasks(cluster="tests", desiredStatus="STOPPED")["taskArns"]
    with pytest.raises(ecs.api.exceptions.InvalidParameterException, match="The referenced task was not found"):
        ecs.api.stop_task(cluster="tests", task=arn)


def test_a_task_that_is_stopped_may_end_by_itself(ecs: Ecs) -> None:
    definition = ecs.register("stopped", container("main", "trap 'echo bye; exit 5' TERM; sleep 100 & wait"))
    arn = ecs.start(definition)
    until(lambda: ecs.task(arn), lambda task: task["lastStatus"] == "RUNNING")
    assert ecs.api.list_tasks(cluster="tests", family="stopped", launchType="FARGATE")["taskArns"] == [arn]
    assert ecs.api.list_tasks(cluster="tests", family="stopped", launchType="EC2")["taskArns"] == []

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


def test_a_schedule_that_is_due_runs_a_task_with_its_overrides(ecs: Ecs) -> None:
    definition = ecs.register("scheduled", container("main", "echo usual"))
    network = {"awsvpcConfiguration": {"Subnets": [ecs.subnet], "AssignPublicIp": "ENABLED"}}
    parameters = {"TaskDefinitionArn": definition, "LaunchType": "FARGATE", "NetworkConfiguration": network}
    overrides = {"containerOverrides": [{"name": "main", "command": ["echo", "nightly"]}]}
    cluster = ecs.api.describe_clusters(clusters=["tests"])["clusters"][0]["clusterArn"]
    target = {"Arn": cluster, "RoleArn": ROLE, "EcsParameters": parameters, "Input": json.dumps(overrides)}
    ecs.client("scheduler").create_schedule(
        Name="nightly", ScheduleExpression="cron(0 3 * * ? *)", FlexibleTimeWindow={"Mode": "OFF"}, Target=target
    )

    ecs.machine.clocks["schedules"](time.time() + 24 * 3600)  # it is known, and due within another day
    ecs.machine.clocks["schedules"](time.time() + 48 * 3600)

    def tasks() -> list[str]:
        asked = {"cluster": "tests", "family": "scheduled"}
        return [arn for s in ("RUNNING", "STOPPED") for arn in ecs.api.list_tasks(**asked, desiredStatus=s)["taskArns"]]

    task = ecs.ended(until(tasks, bool)[0])
    assert (task["containers"][0]["exitCode"], ecs.lines(task, "main")) == (0, ["nightly"])
    ecs.client("scheduler").delete_schedule(Name="nightly")
