"""docker-builder and app-deployer: of their containers the one that runs the app's Dockerfile sees no key."""

import pytest
from moto.cloudformation.exceptions import ValidationError

from .stacks import ACCOUNT, REQUIRED, Stack, arn, packaged

KANIKO = "ghcr.io/osscontainertools/kaniko@sha256:4ea0e7301e3f6806de15150e4982c73018351e28c1dca6947bd3b4afb5ae3c60"
WORKSPACE = [{"SourceVolume": "workspace", "ContainerPath": "/deploy-runner", "ReadOnly": False}]
LOGS = {
    "LogDriver": "awslogs",
    "Options": {
        "awslogs-group": "/deploy-runner/docker-builder",
        "awslogs-region": "us-east-1",
        "awslogs-stream-prefix": "docker-builder",
    },
}


@pytest.mark.parametrize(
    ("logical_id", "family", "architecture"),
    [
        ("DockerBuilderArm64", "docker-builder-arm64", "ARM64"),
        ("DockerBuilderX8664", "docker-builder-x86-64", "X86_64"),
    ],
)
def test_the_task_definition(main: Stack, logical_id: str, family: str, architecture: str) -> None:
    resource = main.nested("Runner").resources[logical_id]
    definition = resource["Properties"]
    containers = definition.pop("ContainerDefinitions")

    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert definition == {
        "Family": family,
        "RequiresCompatibilities": ["FARGATE"],
        "NetworkMode": "awsvpc",
        "RuntimePlatform": {"CpuArchitecture": architecture, "OperatingSystemFamily": "LINUX"},
        "Cpu": "2048",
        "Memory": "4096",
        "EphemeralStorage": {"SizeInGiB": 50},
        "ExecutionRoleArn": arn("iam", "role/deploy-runner/deploy-runner-docker-builder-execution", ""),
        "TaskRoleArn": arn("iam", "role/deploy-runner/deploy-runner-no-permissions", ""),
        "Volumes": [{"Name": "workspace"}],
        "Tags": [{"Key": "deploy-runner:kind", "Value": "docker-builder"}],
    }
    assert containers == [
        {
            "Name": "clone",
            "Image": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/deploy-runner/clone:latest",
            "Essential": False,
            "Environment": [
                {"Name": "GITHUB_API_URL", "Value": "https://api.github.com"},
                {"Name": "GITHUB_URL", "Value": "https://github.com"},
                {"Name": "GITHUB_APP_ID", "Value": "1001"},
            ],
            "Secrets": [
                {
                    "Name": "GITHUB_APP_PRIVATE_KEY",
                    "ValueFrom": arn("secretsmanager", "secret:/lightwave/cicd/github-app-private-key"),
                }
            ],
            "MountPoints": WORKSPACE,
            "LogConfiguration": LOGS,
        },
        {
            "Name": "kaniko",
            "Image": KANIKO,
            "Essential": True,
            "DependsOn": [{"ContainerName": "clone", "Condition": "SUCCESS"}],
            "MountPoints": WORKSPACE,
            "LogConfiguration": LOGS,
        },
    ]


def test_a_clone_image_that_is_given_is_taken(everything: Stack) -> None:
    containers = everything.nested("Runner").resources["DockerBuilderArm64"]["Properties"]["ContainerDefinitions"]
    assert containers[0]["Image"].endswith("deploy-runner/clone@sha256:" + "a" * 64)


@pytest.mark.parametrize("image", ["ghcr.io/osscontainertools/kaniko:v1.28.2", "kaniko@sha256:abc", ""])
def test_kaniko_is_taken_by_digest_alone(image: str) -> None:
    with pytest.raises(ValidationError, match="must name the image by its digest"):
        Stack(packaged(), REQUIRED | {"KanikoImage": image})


def test_every_kind_of_runner_task_keeps_the_key_from_what_it_runs(everything: Stack) -> None:
    definitions = everything.nested("Runner").of_type("AWS::ECS::TaskDefinition")
    assert {d["Family"] for d in definitions.values()} == {
        "docker-builder-arm64", "docker-builder-x86-64", "terraform-runner", "app-deployer-arm64", "app-deployer-x86-64"
    }  # fmt: skip
    for definition in definitions.values():
        containers = definition["ContainerDefinitions"]
        *_, clone, main = containers
        assert [container["Name"] for container in containers if "Secrets" in container] == [clone["Name"]] == ["clone"]
        assert main["DependsOn"] == [{"ContainerName": "clone", "Condition": "SUCCESS"}]
        assert not any(container.get("Privileged") for container in containers)


@pytest.mark.parametrize("logical_id", ["AppDeployerArm64", "AppDeployerX8664"])
def test_an_app_deployer_ends_with_the_container_that_deploys(main: Stack, logical_id: str) -> None:
    deploy, clone, kaniko = main.nested("Runner").resources[logical_id]["Properties"]["ContainerDefinitions"]

    # Its exit code is the task's, and nothing is built before it has looked for another task of the deployment.
    assert [(c["Name"], c["Essential"]) for c in (deploy, clone, kaniko)] == [
        ("deploy", True), ("clone", False), ("kaniko", False),
    ]  # fmt: skip
    assert deploy["HealthCheck"]["Command"] == ["CMD", "test", "-e", "/tmp/may-build"]
    assert clone["DependsOn"] == [{"ContainerName": "deploy", "Condition": "HEALTHY"}]
    # What a Dockerfile's RUN can write is nothing to it.
    assert (deploy["MountPoints"], kaniko["MountPoints"]) == ([], WORKSPACE)
    assert deploy["Image"] == f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/deploy-runner/app-deployer:latest"
    assert kaniko["Image"] == KANIKO


def test_an_app_deployer_image_that_is_given_is_taken(everything: Stack) -> None:
    containers = everything.nested("Runner").resources["AppDeployerArm64"]["Properties"]["ContainerDefinitions"]
    assert "@sha256:" in containers[0]["Image"]


def test_nothing_comes_in_from_the_network(main: Stack) -> None:
    groups = main.nested("Runner").of_type("AWS::EC2::SecurityGroup")
    assert [group.get("SecurityGroupIngress") for group in groups.values()] == [None]
    assert main.nested("Runner").of_type("AWS::EC2::SecurityGroupIngress") == {}


def test_what_outlives_the_stack(everything: Stack) -> None:
    for stack in everything.all():
        for name, resource in stack.resources.items():
            policies = resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")
            if resource["Type"] == "AWS::ECS::TaskDefinition":
                assert policies == ("Retain", "Retain"), name
            # A first deployment that fails takes these with it, or the next would find their names taken.
            elif resource["Type"] in ("AWS::ECR::Repository", "AWS::DynamoDB::Table", "AWS::IAM::OIDCProvider"):
                assert policies == ("RetainExceptOnCreate", "Retain"), name
            elif not resource["Type"].endswith("Version"):  # SAM retains what it publishes
                assert policies[0] in (None, "Delete", "RetainExceptOnCreate"), name
