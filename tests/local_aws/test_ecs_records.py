"""What ECS remembers: every field of a task definition, and what a template says of ECS. No container runs."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from moto.ecs.models import EC2ContainerServiceBackend
from moto.ecs.responses import EC2ContainerServiceResponse

from deploy_runner.local_aws.ecs.kaniko import KanikoError, parse
from deploy_runner.local_aws.ecs.rollouts import threshold
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
    return 7 if shape.type_name in ("integer", "long", "float", "double") else f"{name}-value"


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(contains(w, p) for w, p in zip(whole, part, strict=True))
    return bool(whole == part)


@pytest.fixture(scope="module")
def ecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    machine = start(4711, tmp_path_factory.mktemp("light"), "ecs")
    yield client(machine, "ecs")
    machine.stop()


def everything() -> dict[str, Any]:
    return sample(input_shape("RegisterTaskDefinition")) | {
        "family": "everything",
        "tags": [{"key": "k", "value": "v"}],
    }


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
            family="x", requiresCompatibilities=["FARGATE"], cpu="256", memory="512", containerDefinitions=[main]
        )


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
