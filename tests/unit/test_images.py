"""`deploy-runner images` leaves an index from which each architecture pulls its own image."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import docker
import pytest
from moto.moto_api._internal import moto_api_backend

from deploy_runner.cli import images
from deploy_runner.cli.main import main
from deploy_runner.local_aws import server
from deploy_runner.local_aws.machine import Machine

# No program runs at its build, so it is built for any platform everywhere.
DOCKERFILE = "FROM scratch\nARG TARGETARCH\nCOPY runners/docker-builder/$TARGETARCH /processor\n"
NAMES = {"Clone": "runner/clone", "AppDeployer": "runner/app-deployer"}
TEMPLATE = {
    "Resources": {
        title: {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": name}} for title, name in NAMES.items()
    },
    "Outputs": {f"{title}RepositoryUri": {"Value": {"Fn::GetAtt": [title, "RepositoryUri"]}} for title in NAMES},
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Local AWS with a stack that has the repository."""
    moto_api_backend.reset()  # what another module's tests left: moto keeps its state in this process
    machine = server.start(4800, tmp_path_factory.mktemp("images"), ["registry", "ecr", "cloudformation"])
    try:
        session = boto3.Session("local", "local", region_name=machine.region)
        cloudformation = session.client("cloudformation", endpoint_url=machine.endpoint)
        cloudformation.create_stack(StackName="deploy-runner", TemplateBody=json.dumps(TEMPLATE))
        waiter = cloudformation.get_waiter("stack_create_complete")
        waiter.wait(StackName="deploy-runner", WaiterConfig={"Delay": 0.1, "MaxAttempts": 100})
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def ecr(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A checkout as the working folder, and the environment of a shell at local AWS."""
    for name, value in machine.exports.items():
        monkeypatch.setenv(name, value)
    dockerfile = tmp_path / "runners" / "docker-builder" / "Dockerfile"
    dockerfile.parent.mkdir(parents=True)
    dockerfile.write_text(DOCKERFILE)
    with_uv(tmp_path)
    other = tmp_path / images.APP_DEPLOYER.dockerfile
    other.parent.mkdir()
    other.write_text(f"{DOCKERFILE}ARG PACKAGES\nCOPY $PACKAGES/ /packages\n")
    (tmp_path / images.APP_DEPLOYER.packages).write_text("# nothing to install\n")
    for processor in map(images.architecture, images.PLATFORMS):
        (dockerfile.parent / processor).write_text(processor)
    monkeypatch.chdir(tmp_path)
    return boto3.client("ecr")


def with_uv(checkout: Path) -> None:
    """What tools/setup leaves in a checkout."""
    (checkout / ".tools").mkdir()
    (checkout / ".tools" / "uv-command").symlink_to(Path(__file__).parents[2] / ".tools" / "uv-command")


def index(ecr: Any, tag: str) -> dict[str, Any]:
    image = ecr.batch_get_image(repositoryName="runner/clone", imageIds=[{"imageTag": tag}])["images"][0]
    return {"digest": image["imageId"]["imageDigest"], **json.loads(image["imageManifest"])}


@pytest.mark.engine
@pytest.mark.xdist_group("local_aws_in_process")
def test_latest_has_an_image_for_either_architecture(machine: Machine, ecr: Any, capsys: Any) -> None:
    assert main(["images"]) == 0

    uri = f"{machine.registry}/runner/clone"
    found = index(ecr, "latest")
    clone, app_deployer = capsys.readouterr().out.splitlines()
    assert clone == f"{uri}@{found['digest']}"
    assert app_deployer.startswith(f"{machine.registry}/runner/app-deployer@sha256:")
    assert {e["platform"]["architecture"] for e in found["manifests"]} == {"arm64", "amd64"}
    for entry in found["manifests"]:
        processor = entry["platform"]["architecture"]
        image = machine.engine.client.images.pull(uri, tag="latest", platform=f"linux/{processor}")
        assert image.attrs["Architecture"] == processor

    # AND the hash of the sources names the index, and with an architecture the image
    described = ecr.describe_images(repositoryName="runner/clone")["imageDetails"]
    tags = {tag: image["imageDigest"] for image in described for tag in image["imageTags"]}
    hash_ = images.source_hash(Path.cwd(), images.CLONE.sources)
    assert tags[hash_] == tags["latest"] == found["digest"]
    assert {tags[f"{hash_}-arm64"], tags[f"{hash_}-amd64"]} == {e["digest"] for e in found["manifests"]}


@pytest.mark.engine
@pytest.mark.xdist_group("local_aws_in_process")
def test_again_changes_nothing_and_a_change_moves_latest(ecr: Any, capsys: Any) -> None:
    said = []
    for _ in range(2):
        assert main(["images", "--platform", "native"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]

    for processor in map(images.architecture, images.PLATFORMS):
        Path("runners/docker-builder", processor).write_text("changed")
    assert main(["images", "--platform", "native"]) == 0
    assert capsys.readouterr().out not in said
    assert len(index(ecr, "latest")["manifests"]) == 1


@pytest.mark.engine
@pytest.mark.xdist_group("local_aws_in_process")
@pytest.mark.parametrize("before", [False, True])
def test_an_image_of_another_processor_than_its_name_says_is_not_built(
    machine: Machine, ecr: Any, before: bool
) -> None:
    """Podman goes on with a base image of the wrong architecture, and with a cache of it: so the Dockerfile looks."""
    if not machine.engine.mirrors_public_ecr:
        pytest.skip("the public registry has the base image for every architecture")
    engine = machine.engine.client
    (native,) = images.resolve([images.NATIVE], engine)
    (foreign,) = set(images.PLATFORMS) - {native}
    upper = (Path(__file__).parents[2] / images.CLONE.dockerfile).read_text().split("RUN apt-get")[0]
    Path(images.CLONE.dockerfile).write_text(f"{upper}RUN echo {before}\n")
    if before:
        images.build(engine, Path.cwd(), images.CLONE.dockerfile, native, "clone:native")
    with pytest.raises(images.PlatformNotBuilt, match="--platform native"):
        images.build(engine, Path.cwd(), images.CLONE.dockerfile, foreign, "clone:foreign")
    images.build(engine, Path.cwd(), images.CLONE.dockerfile, native, "clone:native")


def test_the_packages_of_app_deployer_are_those_of_the_lock_and_small() -> None:
    root = Path(__file__).parents[2]
    folder = root / images.install_packages(root, images.APP_DEPLOYER.packages)

    assert (folder / "boto3").is_dir()
    assert {path.name for path in (folder / "botocore" / "data").iterdir() if path.is_dir()} == {"ecr", "ecs"}
    assert not list(folder.rglob("*.so"))  # of no architecture
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 15_000_000


def test_packages_that_cannot_be_installed_are_named(tmp_path: Path) -> None:
    with_uv(tmp_path)
    (tmp_path / "lock").write_text("no-such-package-of-anyone==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(images.ImagesNotPushed, match="uv must install the packages of lock"):
        images.install_packages(tmp_path, "lock")
    assert not list((tmp_path / "build").iterdir())


def engine_that_says(*log: str) -> Any:
    def build(**_: Any) -> None:
        raise docker.errors.BuildError("exit status 1", [{"stream": f"{line}\n"} for line in log])

    return SimpleNamespace(images=SimpleNamespace(build=build), version=lambda: {"Arch": "amd64"})


def test_without_emulation_the_remedy_is_said(tmp_path: Path) -> None:
    engine = engine_that_says("STEP 3/3: RUN true", "exec /bin/sh: exec format error")
    with pytest.raises(images.PlatformNotBuilt) as error:
        images.build(engine, tmp_path, "Dockerfile", "linux/arm64", "clone:1-arm64")
    message = str(error.value)
    assert "linux/arm64: exec /bin/sh: exec format error" in message
    assert "binfmt" in message
    assert "--platform native" in message


def test_a_build_that_fails_otherwise_shows_its_log(tmp_path: Path) -> None:
    engine = engine_that_says("STEP 2/3: RUN apt-get update", "E: no such host")
    with pytest.raises(images.ImagesNotPushed, match="E: no such host"):
        images.build(engine, tmp_path, "Dockerfile", "linux/amd64", "clone:1-amd64")


def test_native_is_the_engine_s_own_and_each_platform_is_built_once() -> None:
    engine = engine_that_says()
    assert images.resolve(["native", "linux/amd64", "linux/arm64"], engine) == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize("command", [["--platform", "windows/amd64"], ["--platform"]])
def test_an_unknown_platform_is_refused(command: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["images", *command])
    assert "linux/arm64" in capsys.readouterr().err or not command[1:]


class Ecr:
    """ECR as it answers where Docker's containerd image store pushed an index with an attestation."""

    exceptions = SimpleNamespace(ImageAlreadyExistsException=KeyError)

    def __init__(self) -> None:
        self.put: list[dict[str, Any]] = []

    def batch_get_image(self, **_: Any) -> Any:
        of = [{"digest": f"sha256:{a}", "mediaType": images.OCI_MANIFEST, "size": 1, "platform": {"architecture": a}}
              for a in ("amd64", "unknown")]  # fmt: skip
        return {"images": [{"imageManifest": json.dumps({"manifests": of})}]}

    def put_image(self, **arguments: Any) -> None:
        self.put.append(arguments)


def test_an_index_of_one_image_is_not_put_into_another_index() -> None:
    ecr = Ecr()
    images.put_index(ecr, "registry/clone", "1", ["linux/amd64"])
    assert [put["imageTag"] for put in ecr.put] == ["1", "latest"]
    put = json.loads(ecr.put[1]["imageManifest"])
    assert [entry["digest"] for entry in put["manifests"]] == ["sha256:amd64"]
    assert put["mediaType"] == ecr.put[1]["imageManifestMediaType"] == images.OCI_INDEX
