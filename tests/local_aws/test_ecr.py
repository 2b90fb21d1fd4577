"""What is pushed to the registry is in ECR, and ECR's rules hold for a push and a pull."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import docker
import pytest
from botocore.exceptions import ClientError
from docker.errors import ContainerError

from deploy_runner.local_aws import server
from deploy_runner.local_aws.ecs.containers import pull
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


OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def index_of(ecr: Any, name: str, tag: str, processor: str = "amd64") -> str:
    image = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": tag}])["images"][0]
    entry = {
        "mediaType": image["imageManifestMediaType"],
        "digest": image["imageId"]["imageDigest"],
        "size": len(image["imageManifest"]),
        "platform": {"os": "linux", "architecture": processor},
    }
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})


def refusal(ecr: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as refused:
        ecr.put_image(**arguments)
    return refused.value.response["Error"]["Code"], refused.value.response["Error"]["Message"]


def test_an_index_that_is_put_is_pulled_and_runs(machine: Machine, ecr: Any) -> None:
    uri = ecr.create_repository(repositoryName="apps/index")["repository"]["repositoryUri"]
    client = machine.engine.client
    build(machine, uri, "1", "through the index")
    assert push(machine, uri, "1") == ""
    client.images.remove(f"{uri}:1", force=True)
    index = index_of(ecr, "apps/index", "1", client.version()["Arch"])
    put = ecr.put_image(repositoryName="apps/index", imageManifest=index, imageTag="latest")["image"]
    digest = put["imageId"]["imageDigest"]
    assert digest == f"sha256:{hashlib.sha256(index.encode()).hexdigest()}"

    for reference in (f"{uri}:latest", f"{uri}@{digest}"):
        image, _ = pull(machine, reference)
        labels = dict([machine.engine.label.split("=", 1)])
        assert client.containers.run(image, ["cat", "/content"], remove=True, labels=labels) == b"through the index\n"

    # AND ECR has it as one image, whose tag moves
    ecr.put_image(repositoryName="apps/index", imageManifest=index, imageTag="1")
    details = ecr.describe_images(repositoryName="apps/index", imageIds=[{"imageDigest": digest}])["imageDetails"]
    assert [sorted(d["imageTags"]) for d in details] == [["1", "latest"]]
    assert details[0]["imageManifestMediaType"] == OCI_INDEX


def test_an_index_that_is_there_is_not_put_again(machine: Machine, ecr: Any) -> None:
    uri = ecr.create_repository(repositoryName="apps/again")["repository"]["repositoryUri"]
    build(machine, uri, "1", "one")
    push(machine, uri, "1")
    again = {"repositoryName": "apps/again", "imageManifest": index_of(ecr, "apps/again", "1"), "imageTag": "latest"}
    ecr.put_image(**again)
    code, message = refusal(ecr, **again)
    assert code == "ImageAlreadyExistsException"
    assert "and tag 'latest' already exists in the repository with name 'apps/again'" in message


def test_what_lacks_its_parts_or_its_place_is_not_put(machine: Machine, ecr: Any) -> None:
    uri = ecr.create_repository(repositoryName="apps/parts", imageTagMutability="IMMUTABLE")["repository"][
        "repositoryUri"
    ]
    build(machine, uri, "1", "one")
    push(machine, uri, "1")
    index, name = index_of(ecr, "apps/parts", "1"), "apps/parts"
    gone = "sha256:" + "0" * 64
    other = json.loads(index)
    other["manifests"][0]["digest"] = gone
    image = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "1"}])["images"][0]["imageManifest"]
    hollow = json.loads(image)
    hollow["layers"][0]["digest"] = gone

    assert refusal(ecr, repositoryName="apps/none", imageManifest=index)[0] == "RepositoryNotFoundException"
    assert refusal(ecr, repositoryName=name, imageManifest=json.dumps(other)) == (
        "ReferencedImagesNotFoundException",
        f"Images with digests '[{gone}]' required for pushing image into repository with name 'apps/parts' in the "
        "registry with id '123456789012' do not exist",
    )
    code, message = refusal(ecr, repositoryName=name, imageManifest=json.dumps(hollow))
    assert code == "LayersNotFoundException"
    assert f"Layers with digests '[{gone}]'" in message
    assert refusal(ecr, repositoryName=name, imageManifest=index, imageTag="1")[0] == "ImageTagAlreadyExistsException"
    assert refusal(ecr, repositoryName=name, imageManifest=index, imageDigest=gone)[0] == (
        "ImageDigestDoesNotMatchException"
    )
    for wrong in ("{", '{"schemaVersion": 2}'):
        assert refusal(ecr, repositoryName=name, imageManifest=wrong)[0] == "InvalidParameterException"

    # AND nothing of it is there
    assert [d.get("imageTags") for d in ecr.describe_images(repositoryName=name)["imageDetails"]] == [["1"]]


def test_containers_reach_aws_and_no_page_that_is_for_people(machine: Machine) -> None:
    engine = machine.engine

    def asked(page: str) -> bytes:
        url = machine.for_container(f"{machine.endpoint}/_local/{page}")
        said: bytes = engine.client.containers.run(
            "public.ecr.aws/docker/library/busybox:stable", ["wget", "-qO-", url], network=engine.network, remove=True,
            labels=dict([engine.label.split("=", 1)]),
        )  # fmt: skip
        return said

    assert b"ok" in asked("health")
    for page in ("env", "faults", "services"):
        with pytest.raises(ContainerError, match="404"):
            asked(page)


def test_moto_still_has_images_of_its_own_and_aws_uris(tmp_path: Path) -> None:
    """Once moto can hand out a registry, ecr.py can go."""
    import subprocess
    import sys

    program = (
        "import boto3, moto\n"
        "with moto.mock_aws():\n"
        "    ecr = boto3.client('ecr', region_name='us-east-1')\n"
        "    print(ecr.create_repository(repositoryName='app')['repository']['repositoryUri'])\n"
        '    index = \'{"mediaType": "index", "manifests": [{"digest": "sha256:none"}]}\'\n'
        "    put = ecr.put_image(repositoryName='app', imageManifest=index, imageTag='1')\n"
        "    print(put['image']['imageId']['imageTag'])\n"
    )
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=keys).stdout
    assert said.split() == ["123456789012.dkr.ecr.us-east-1.amazonaws.com/app", "1"]
