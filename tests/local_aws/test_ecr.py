"""What is pushed to the registry is in ECR, and ECR's rules hold for a push and a pull."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import docker
import pytest

from deploy_runner.local_aws import server
from deploy_runner.local_aws.machine import Machine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = server.start(4760, tmp_path_factory.mktemp("ecr"), ["registry", "ecr"])
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def ecr(machine: Machine) -> Any:
    return boto3.client(
        "ecr", endpoint_url=machine.endpoint, region_name="us-east-1",
        aws_access_key_id="local", aws_secret_access_key="local",
    )  # fmt: skip


def build(machine: Machine, uri: str, tag: str, content: str) -> Any:
    dockerfile = f"FROM public.ecr.aws/docker/library/busybox:stable\nRUN echo {content} > /content\n"
    return machine.engine.client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=f"{uri}:{tag}")[0]


def push(machine: Machine, uri: str, tag: str) -> str:
    """Return the error, or nothing."""
    lines = machine.engine.client.images.push(uri, tag, stream=True, decode=True)
    return " ".join(line["error"] for line in lines if "error" in line)


def test_a_pushed_image_is_in_ecr_and_is_pulled_by_its_digest(machine: Machine, ecr: Any) -> None:
    uri = ecr.create_repository(repositoryName="apps/pushed")["repository"]["repositoryUri"]
    assert uri == f"{machine.registry}/apps/pushed"
    build(machine, uri, "1", "one")
    assert push(machine, uri, "1") == ""

    image = ecr.batch_get_image(repositoryName="apps/pushed", imageIds=[{"imageTag": "1"}])["images"][0]
    digest = image["imageId"]["imageDigest"]
    machine.engine.client.images.remove(f"{uri}:1", force=True)
    machine.engine.client.images.pull(f"{uri}@{digest}")

    # AND a tag that is pushed again moves
    build(machine, uri, "1", "two")
    assert push(machine, uri, "1") == ""
    details = ecr.describe_images(repositoryName="apps/pushed", imageIds=[{"imageTag": "1"}])["imageDetails"]
    assert [d["imageDigest"] for d in details] != [digest]


def test_a_repository_must_exist_before_a_push(machine: Machine) -> None:
    uri = f"{machine.registry}/apps/missing"
    build(machine, uri, "1", "x")
    assert "The repository with name 'apps/missing' does not exist" in push(machine, uri, "1")


def test_an_immutable_tag_is_not_overwritten(machine: Machine, ecr: Any) -> None:
    created = ecr.create_repository(repositoryName="apps/immutable", imageTagMutability="IMMUTABLE")
    uri = created["repository"]["repositoryUri"]
    build(machine, uri, "1", "one")
    assert push(machine, uri, "1") == ""
    build(machine, uri, "1", "other")
    assert "cannot be overwritten because the repository is immutable" in push(machine, uri, "1")


def test_a_tag_that_is_excluded_from_immutability_moves(machine: Machine, ecr: Any) -> None:
    uri = ecr.create_repository(
        repositoryName="apps/mixed", imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "lat*"}],
    )["repository"]["repositoryUri"]  # fmt: skip
    for content in ("one", "two"):
        build(machine, uri, "latest", content)
        assert push(machine, uri, "latest") == ""


def test_an_image_that_was_deleted_in_ecr_cannot_be_pulled(machine: Machine, ecr: Any) -> None:
    uri = ecr.create_repository(repositoryName="apps/deleted")["repository"]["repositoryUri"]
    build(machine, uri, "1", "one")
    push(machine, uri, "1")
    ecr.batch_delete_image(repositoryName="apps/deleted", imageIds=[{"imageTag": "1"}])
    machine.engine.client.images.remove(f"{uri}:1", force=True)
    with pytest.raises(docker.errors.APIError):
        machine.engine.client.images.pull(f"{uri}:1")


def test_containers_reach_aws_and_nothing_else_does(machine: Machine) -> None:
    engine = machine.engine
    url = machine.for_container(f"{machine.endpoint}/_local/health")
    said = engine.client.containers.run(
        "public.ecr.aws/docker/library/busybox:stable", ["wget", "-qO-", url], network=engine.network, remove=True,
        labels=dict([engine.label.split("=", 1)]),
    )  # fmt: skip
    assert b"ok" in said


def test_moto_still_has_images_of_its_own_and_aws_uris(tmp_path: Path) -> None:
    """Once moto can hand out a registry, ecr.py can go."""
    import subprocess
    import sys

    program = (
        "import boto3, moto\n"
        "with moto.mock_aws():\n"
        "    ecr = boto3.client('ecr', region_name='us-east-1')\n"
        "    print(ecr.create_repository(repositoryName='app')['repository']['repositoryUri'])\n"
    )
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=keys).stdout
    assert said.strip() == "123456789012.dkr.ecr.us-east-1.amazonaws.com/app"
