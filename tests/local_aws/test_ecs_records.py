"""What ECS remembers: every field of a task definition, and what a template says of ECS. No container runs."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from moto.ecs.models import EC2ContainerServiceBackend
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.logs.models import logs_backends

from deploy_runner.local_aws.ecs.containers import why_not_pulled, why_not_started
from deploy_runner.local_aws.ecs.failure_detection import threshold
from deploy_runner.local_aws.ecs.kaniko import KanikoError, parse
from deploy_runner.local_aws.ecs.logs import LogStream
from deploy_runner.local_aws.ecs.shapes import from_template, input_shape
from tests.local_aws.light import client, start

pytestmark = pytest.mark.xdist_group("local_aws_in_process")


def sample(shape: Shape, name: str = "x") -> Any:
    """A value for every member of a shape."""
    if isinstance(shape, StructureShape):
        return {key: sample(member, key) for key, member in shape.members.items()}
    if isinstance(shape, ListShape):
        return [sample(shape.member, name)]
    if isinstance(shape, MapShape):
        return {"Key-of_it": sample(shape.value, name)}
    if shape.type_name == "boolean":
        return True
    if isinstance(shape, StringShape) and shape.enum:
        return shape.enum[0]
    return 7 if shape.type_name in ("integer", "long", "float", "double") else f"{name}-value"


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(contains(w, p) for w, p in zip(whole, part, strict=True))
    return bool(whole == part)


@pytest.fixture(scope="module")
def ecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    machine = start(4791, tmp_path_factory.mktemp("light"), "ecs")
    yield client(machine, "ecs")
    machine.stop()


def everything() -> dict[str, Any]:
    request: dict[str, Any] = sample(input_shape("RegisterTaskDefinition"))
    (container,) = request["containerDefinitions"]
    container |= {
        "dependsOn": [{"containerName": "other", "condition": "START"}], "stopTimeout": 120, "startTimeout": 2,
        "environmentFiles": [{"type": "s3", "value": "arn:aws:s3:::bucket/folder/file.env"}],
        "healthCheck": {"command": ["CMD", "true"], "interval": 5, "timeout": 2, "retries": 1, "startPeriod": 0},
        "secrets": [{"name": "secret", "valueFrom": "arn"}],
    }  # fmt: skip
    return request | {
        "family": "everything", "tags": [{"key": "k", "value": "v"}], "cpu": "256", "memory": "512",
        "containerDefinitions": [container, {"name": "other", "image": "x"}],
    }  # fmt: skip


def test_every_field_of_a_task_definition_comes_back(ecs: Any) -> None:
    request = everything()

    ecs.register_task_definition(**request)

    answer = ecs.describe_task_definition(taskDefinition="everything", include=["TAGS"])
    assert answer["tags"] == request.pop("tags")
    for name, value in request.items():
        assert contains(answer["taskDefinition"][name], value), name
    assert answer["taskDefinition"]["registeredAt"]
    assert "tags" not in ecs.describe_task_definition(taskDefinition="everything")

    # AND what was described can be registered again, without what is output only
    members = input_shape("RegisterTaskDefinition").members
    again = {key: value for key, value in answer["taskDefinition"].items() if key in members}
    ecs.register_task_definition(**again)
    copy = ecs.describe_task_definition(taskDefinition="everything")["taskDefinition"]
    assert {key: copy[key] for key in again} == again


def test_the_newest_revisions_come_first_if_asked_and_page_by_page(ecs: Any) -> None:
    containers = [{"name": "main", "image": "x", "memory": 4}]
    arns = [
        ecs.register_task_definition(family="paged", containerDefinitions=containers)["taskDefinition"][
            "taskDefinitionArn"
        ]
        for _ in range(3)
    ]

    pages = ecs.get_paginator("list_task_definitions").paginate(
        familyPrefix="paged", sort="DESC", PaginationConfig={"PageSize": 2}
    )

    assert [page["taskDefinitionArns"] for page in pages] == [[arns[2], arns[1]], [arns[0]]]


def test_fargate_needs_an_execution_role_for_logs_and_secrets(ecs: Any) -> None:
    main = {"name": "main", "image": "x", "logConfiguration": {"logDriver": "awslogs"}}

    with pytest.raises(ecs.exceptions.ClientException, match="execution role"):
        ecs.register_task_definition(
            family="x", requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
            containerDefinitions=[main],
        )  # fmt: skip


FARGATE = {"requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512"}


def depending(*conditions: str, **more: Any) -> list[dict[str, Any]]:
    """A container that depends on another one."""
    other = {"name": "other", "image": "x"} | more
    return [{"name": "main", "dependsOn": [{"containerName": "other", "condition": c} for c in conditions]}, other]


@pytest.mark.parametrize(
    ("task", "containers", "message"),
    [
        ({"networkMode": "host"}, [], "Fargate only supports network mode"),
        ({"cpu": None}, [], "Fargate requires that 'cpu' be defined at the task level."),
        ({"memory": None}, [], "Fargate requires that 'memory' be defined at the task level."),
        ({"cpu": "512", "memory": "512"}, [], "No Fargate configuration exists for given values: 512 CPU, 512 memory."),
        ({"cpu": "8 vCPU", "memory": "17GB"}, [], "No Fargate configuration exists for given values: 8192 CPU, 17408"),
        ({"cpu": "much"}, [], "Invalid 'cpu' setting for task"),
        ({"ipcMode": "task"}, [], "Tasks using the Fargate launch type do not support ipcMode."),
        ({"pidMode": "host"}, [], "do not support pidMode 'host'"),
        ({"ephemeralStorage": {"sizeInGiB": 20}}, [], "must be between 21 and 200 GiB"),
        ({"volumes": [{"name": "v", "host": {"sourcePath": "/"}}]}, [], "do not support sourcePath"),
        ({}, [{"privileged": True}], "Fargate requires that the 'privileged' setting be 'false'."),
        ({}, [{"linuxParameters": {"sharedMemorySize": 64}}], "do not support sharedMemorySize"),
        ({}, [{"logConfiguration": {"logDriver": "syslog"}}], "syslog is not a valid log driver"),
        ({}, [{"stopTimeout": 121}], "must have a container stop timeout of less than 120 seconds."),
        ({}, [{"stopTimeout": 1}], "Granular stop timeout on container 'main' must be at least 2 seconds."),
        ({}, [{"portMappings": [{"containerPort": 80, "hostPort": 81}]}], "ports in port mappings must match."),
        ({}, [{"memory": 600}], "The 'memory' setting for container 'main' is greater than for the task."),
        ({}, [{"memory": 6, "memoryReservation": 7}], "greater than or equal to 'memoryReservation'"),
        ({}, [{"ulimits": [{"name": "nofile", "softLimit": 2, "hardLimit": 1}]}], "Soft limit exceeds hard limit"),
        ({"executionRoleArn": "r"}, [{"environment": [{"name": "A", "value": ""}],
                                      "secrets": [{"name": "A", "valueFrom": "x"}]}], "such as 'A'."),
        ({}, [{"healthCheck": {"command": ["curl", "x"]}}], "must start with CMD or CMD-SHELL"),
        ({}, [{"healthCheck": {"command": ["CMD", "x"], "interval": 4}}], "interval must be between 5 and 300"),
        ({}, [{"healthCheck": {"command": ["CMD", "x"], "timeout": 61}}], "timeout must be between 2 and 60"),
        ({}, [{"healthCheck": {"command": ["CMD", "x"], "retries": 11}}], "retries must be between 1 and 10"),
        ({}, [{"healthCheck": {"command": ["CMD", "x"], "startPeriod": 301}}], "startPeriod must be between 0 and 300"),
        ({}, [{"environmentFiles": [{"type": "efs", "value": "arn:aws:s3:::b/k.env"}]}], "type must be s3"),
        ({}, [{"environmentFiles": [{"type": "s3", "value": "s3://b/k.env"}]}], "Invalid arn syntax."),
        ({}, [{"environmentFiles": [{"type": "s3", "value": "arn:aws:s3:::b/k.txt"}]}], "the extension .env"),
        ({}, [{"environmentFiles": [{"type": "s3", "value": "arn:aws:s3:::b/k.env"}] * 11}], "Specify ten or less"),
        ({}, depending("START")[:1], "Cannot depend on container . 'other' because it does not exist"),
        ({}, depending("SUCCESS"), "with SUCCESS or COMPLETE condition cannot be an essential container"),
        ({}, depending("HEALTHY"), "must have health check configured"),
        ({}, depending("READY"), "Invalid dependency condition READY"),
        ({}, depending("START", dependsOn=[{"containerName": "main", "condition": "START"}]), "a cycle: main, other"),
    ],
)  # fmt: skip
def test_what_fargate_has_not_is_refused_at_once(
    ecs: Any, task: dict[str, Any], containers: list[dict[str, Any]], message: str
) -> None:
    request = {key: value for key, value in (FARGATE | task).items() if value is not None}
    definitions = [{"name": "main", "image": "x"} | container for container in containers or [{}]]

    with pytest.raises(ecs.exceptions.ClientException, match=message):
        ecs.register_task_definition(family="refused", containerDefinitions=definitions, **request)


def test_defaults_and_sizes_are_filled_in(ecs: Any) -> None:
    main = {"name": "main", "image": "x", "portMappings": [{"containerPort": 80}]}
    main |= {"healthCheck": {"command": ["CMD-SHELL", "true"]}}

    answer = ecs.register_task_definition(
        family="filled", containerDefinitions=[main], **(FARGATE | {"cpu": ".5 vCPU", "memory": "1 GB"})
    )["taskDefinition"]

    assert (answer["cpu"], answer["memory"]) == ("512", "1024")
    (container,) = answer["containerDefinitions"]
    assert container["healthCheck"] == {"command": ["CMD-SHELL", "true"], "interval": 30, "timeout": 5, "retries": 3}
    assert container["portMappings"] == [{"containerPort": 80, "hostPort": 80, "protocol": "tcp"}]


def test_a_templates_properties_become_the_apis() -> None:
    properties = {
        "Family": "f", "Cpu": 256, "Tags": [{"Key": "a", "Value": "b"}], "EnableFaultInjection": "true",
        "RuntimePlatform": {"CpuArchitecture": "ARM64"},
        "ContainerDefinitions": [
            {
                "Name": "main", "Essential": "false", "PortMappings": [{"ContainerPort": "80"}],
                "DockerLabels": {"Com.Example": "x"},
                "LogConfiguration": {"LogDriver": "awslogs", "Options": {"awslogs-group": "g"}},
                "DependsOn": [{"ContainerName": "other", "Condition": "SUCCESS"}],
                "Secrets": [{"Name": "S", "ValueFrom": "arn"}],
            }
        ],
        "Volumes": [{"Name": "v", "EFSVolumeConfiguration": {"FilesystemId": "fs-1"}}],
        "ProxyConfiguration": {"ContainerName": "p", "ProxyConfigurationProperties": [{"Name": "n", "Value": "v"}]},
    }  # fmt: skip

    request = from_template(properties, input_shape("RegisterTaskDefinition"))

    assert request == {
        "family": "f", "cpu": "256", "tags": [{"key": "a", "value": "b"}], "enableFaultInjection": True,
        "runtimePlatform": {"cpuArchitecture": "ARM64"},
        "containerDefinitions": [
            {
                "name": "main", "essential": False, "portMappings": [{"containerPort": 80}],
                "dockerLabels": {"Com.Example": "x"},
                "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "g"}},
                "dependsOn": [{"containerName": "other", "condition": "SUCCESS"}],
                "secrets": [{"name": "S", "valueFrom": "arn"}],
            }
        ],
        "volumes": [{"name": "v", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}],
        "proxyConfiguration": {"containerName": "p", "properties": [{"name": "n", "value": "v"}]},
    }  # fmt: skip


def test_a_document_in_a_template_is_taken_as_it_is() -> None:
    hook = {"HookTargetArn": "arn", "LifecycleStages": ["PRE_SCALE_UP"], "HookDetails": {"Bucket": {"name": "b"}}}
    service = {"DeploymentConfiguration": {"BakeTimeInMinutes": "5", "LifecycleHooks": [hook]}}

    request = from_template(service, input_shape("CreateService"))

    assert request["deploymentConfiguration"] == {
        "bakeTimeInMinutes": 5,
        "lifecycleHooks": [
            {"hookTargetArn": "arn", "lifecycleStages": ["PRE_SCALE_UP"], "hookDetails": {"Bucket": {"name": "b"}}}
        ],
    }


@pytest.mark.parametrize(("desired", "failed"), [(0, 3), (1, 3), (6, 3), (7, 4), (400, 200), (1000, 200)])
def test_the_circuit_breakers_threshold(desired: int, failed: int) -> None:
    assert threshold(desired) == failed


def test_kanikos_flags_are_read_as_its_own_parser_reads_them() -> None:
    words = [
        "--destination=a:1",
        "--destination",
        "b:2",
        "-f",
        "x/Dockerfile",
        "--cache",
        "--build-arg=A=B=C",
        "--no-push=false",
    ]

    assert parse(words) == {
        "destination": ["a:1", "b:2"], "dockerfile": ["x/Dockerfile"], "cache": ["true"], "build-arg": ["A=B=C"],
        "no-push": ["false"],
    }  # fmt: skip
    for wrong in (["--bogus"], ["--cache", "true"], ["--destination"], ["build"]):
        with pytest.raises(KanikoError):
            parse(wrong)


PULL = "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
DENIED = (
    "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: "
    "authorization failed"
)


@pytest.mark.parametrize(
    ("image", "engine", "ecs"),
    [
        ("app:1", "manifest for app:1 not found: manifest unknown: manifest unknown",
         "failed to resolve ref docker.io/library/app:1: docker.io/library/app:1: not found"),
        ("me/app:1", "pull access denied for me/app, repository does not exist: denied: x",
         f"failed to resolve ref docker.io/me/app:1: {DENIED}"),
        ("x.io/a:1", "unable to retrieve auth token: invalid username/password: unauthorized: incorrect",
         f"failed to resolve ref x.io/a:1: {DENIED}"),
        ("x.io/a:1", "no matching manifest for linux/amd64 in the manifest list entries",
         "image Manifest does not contain descriptor matching platform 'linux/"),
        ("x.io/a:1", 'choosing image instance: no image found in manifest list for architecture amd64, variant ""',
         "image Manifest does not contain descriptor matching platform 'linux/"),
        ("x.io/a:1", 'Get "https://x.io/v2/": dial tcp 10.0.0.1:443: i/o timeout',
         'failed to resolve ref x.io/a:1: failed to do request: Get "https://x.io/v2/": dial tcp 10.0.0.1:443: i/o '
         "timeout"),
    ],
)  # fmt: skip
def test_what_docker_and_podman_say_of_an_image_is_said_as_ecs_does(image: str, engine: str, ecs: str) -> None:
    assert why_not_pulled(image, engine).startswith(PULL + ecs)


@pytest.mark.parametrize(
    "engine",
    [
        'failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed'
        ': unable to start container process: exec: "x": executable file not found in $PATH: unknown',
        'runc: runc create failed: unable to start container process: exec: "x": executable file not found in $PATH: '
        "OCI runtime attempted to invoke a command that was not found",
    ],
)  # fmt: skip
def test_what_docker_and_podman_say_of_a_program_is_said_as_ecs_does(engine: str) -> None:
    assert why_not_started(engine) == (
        "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: failed "
        "to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "
        '"x": executable file not found in $PATH: unknown'
    )


def test_lines_of_stdout_and_stderr_do_not_mix(ecs: Any) -> None:
    logs_backends["123456789012"]["us-east-1"].create_log_group("/mixed", {})
    options = {"awslogs-group": "/mixed", "awslogs-stream-prefix": "p"}
    stream = LogStream("123456789012", "us-east-1", {"logDriver": "awslogs", "options": options}, "main", "task")

    for chunk, descriptor in ((b"sh: ", 2), (b"one\ntw", 1), (b"not found\n", 2), (b"o", 1)):
        stream.write(chunk, descriptor)
    stream.close()

    events = logs_backends["123456789012"]["us-east-1"].groups["/mixed"].streams["p/main/task"].events
    assert [event.message for event in events] == ["one", "sh: not found", "two"]


def test_moto_itself_still_lacks_what_is_added_here() -> None:
    """Once this fails, moto has caught up: see what of local_aws/ecs it makes unnecessary."""
    register = inspect.signature(EC2ContainerServiceBackend.register_task_definition)
    assert "enable_fault_injection" not in register.parameters
    for operation in (
        "list_service_deployments",
        "describe_service_deployments",
        "describe_service_revisions",
        "stop_service_deployment",
    ):
        assert not hasattr(EC2ContainerServiceResponse, operation)
    plain = EC2ContainerServiceBackend("us-east-1", "123456789012")
    plain.create_cluster("c")
    definition = plain.register_task_definition("f", [{"name": "n", "image": "i", "memory": 4}])
    plain.deregister_task_definition(definition.arn)
    tasks = plain.run_task("c", definition.arn, 1, None, "", None, "FARGATE")
    assert [task.last_status for task in tasks] == ["RUNNING"]  # of an INACTIVE definition, and nothing runs
