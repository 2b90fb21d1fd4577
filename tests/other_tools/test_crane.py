"""crane takes ECR's registry here for ECR's: it is the command line of go-containerregistry, with which Kaniko pushes.

github.com/google/go-containerregistry/tree/main/cmd/crane; osscontainertools/kaniko, pkg/executor/push.go
"""

import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from .conftest import Aws

pytestmark = [
    pytest.mark.engine,
    pytest.mark.tools,
    pytest.mark.xdist_group("other_tools"),
    pytest.mark.skipif(not shutil.which("crane"), reason="crane is not on PATH: `make test-tools` compiles it"),
]


class Crane:
    """crane, logged in to ECR as `aws ecr get-login-password` says, and an image of one file that it can push."""

    def __init__(self, aws: Aws, folder: Path) -> None:
        self.aws, self.ecr, self.folder = aws, aws.client("ecr"), folder
        self.layer = folder / "layer.tar"
        with tarfile.open(self.layer, "w") as tar:
            file = tarfile.TarInfo("greeting")
            file.size = 5
            tar.addfile(file, BytesIO(b"hello"))
        endpoint = self.ecr.get_authorization_token()["authorizationData"][0]["proxyEndpoint"]
        self.registry = endpoint.partition("://")[2]
        code, password, complained = aws.run("aws", "ecr", "get-login-password")
        assert code == 0, complained
        assert self("auth", "login", self.registry, "-u", "AWS", "-p", password.strip())[0] == 0

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        return self.aws.run("crane", *arguments, DOCKER_CONFIG=str(self.folder))

    def push(self, image: str) -> tuple[int, str, str]:
        return self("append", "-f", str(self.layer), "-t", image)

    def repository(self, name: str, mutability: str = "MUTABLE") -> str:
        """Create a repository; returns its URI."""
        created = self.ecr.create_repository(repositoryName=name, imageTagMutability=mutability)
        return str(created["repository"]["repositoryUri"])

    def digests(self, name: str) -> dict[str, list[str]]:
        """The tags of each image, as ECR says them."""
        images = self.ecr.describe_images(repositoryName=name)["imageDetails"]
        return {image["imageDigest"]: image.get("imageTags", []) for image in images}


@pytest.fixture
def crane(aws: Aws, tmp_path: Path) -> Crane:
    return Crane(aws, tmp_path)


def test_what_is_pushed_is_whole_and_has_the_same_digest_for_ecr(crane: Crane) -> None:
    uri, other = crane.repository("tools/pushed"), crane.repository("tools/copied")

    code, said, complained = crane.push(f"{uri}:1")

    assert code == 0, complained
    digest = said.strip().rpartition("@")[2]
    assert crane.digests("tools/pushed") == {digest: ["1"]}
    assert crane("digest", f"{uri}:1")[1].strip() == digest
    assert crane("validate", "--remote", f"{uri}@{digest}")[0] == 0
    exported = crane.folder / "exported.tar"
    assert crane("export", f"{uri}@{digest}", str(exported))[0] == 0
    with tarfile.open(exported) as tar:
        assert tar.extractfile("greeting").read() == b"hello"  # type: ignore[union-attr]

    # AND a copy, for which the registry mounts the layers that it has, is the same image
    assert crane("copy", f"{uri}@{digest}", f"{other}:1")[0] == 0
    assert crane.digests("tools/copied") == {digest: ["1"]}


def test_what_ecr_refuses_is_refused_in_its_words(crane: Crane) -> None:
    uri = crane.repository("tools/immutable", "IMMUTABLE")
    assert crane.push(f"{uri}:1")[0] == 0

    refusals = {
        "TAG_INVALID: The image tag '1' already exists": ("mutate", f"{uri}:1", "--label", "a=b", "-t", f"{uri}:1"),
        "NAME_UNKNOWN: The repository with name 'none' does not exist": (
            "copy",
            f"{uri}:1",
            f"{crane.registry}/none:1",
        ),
        "MANIFEST_UNKNOWN: Requested image not found": ("manifest", f"{uri}:2"),
    }
    for complaint, arguments in refusals.items():
        code, _, complained = crane(*arguments)
        assert (code, complaint in complained) == (1, True), complained
