"""`deploy-runner images`: build the runners' images and push them to the repositories that the stack made."""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_runner.domain.errors import DeployRunnerError


@dataclass(frozen=True)
class Image:
    """What an image is made of: the output with its repository's URI, its Dockerfile, and the files that go into it.

    `packages` is a requirements file whose packages are put into the build context.
    """

    output: str
    dockerfile: str
    sources: tuple[str, ...]
    packages: str = ""


CLONE = Image(
    "CloneRepositoryUri",
    "runners/docker-builder/Dockerfile",
    ("runners/docker-builder", "src/deploy_runner/github", "src/deploy_runner/domain/errors.py"),
)
APP_DEPLOYER = Image(
    "AppDeployerRepositoryUri",
    "runners/app-deployer/Dockerfile",
    ("runners/app-deployer", "src/deploy_runner/aws", "src/deploy_runner/domain", "requirements-app-deployer.lock"),
    "requirements-app-deployer.lock",
)
IMAGES = (CLONE, APP_DEPLOYER)
# Of boto3's descriptions of services, which are most of it, what app-deployer calls.
KEPT_SERVICES = ("ecr", "ecs")
# Those of the stack's task definitions: one repository's `latest` serves them all.
PLATFORMS = ("linux/arm64", "linux/amd64")
NATIVE = "native"

# Registries' media types: OCI image specification, "Media Types"; distribution, "Image Manifest V 2, Schema 2".
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

# How Docker and Podman say that a program, or the image below, is another processor's.
FOREIGN = re.compile(r".*(?:exec format error|does not match the \w+ platform).*", re.IGNORECASE)


class ImagesNotPushed(DeployRunnerError):
    """The runners' images could not be built or pushed."""

    exit_code = 1


class PlatformNotBuilt(DeployRunnerError):
    """The container engine does not run programs of a platform, so it cannot build for it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `deploy-runner images` takes."""
    parser.add_argument("--stack", default="deploy-runner", help="the stack's name (default: %(default)s)")
    parser.add_argument(
        "--platform", action="append", choices=(*PLATFORMS, NATIVE), dest="platforms",
        help=f"build for it; can be given again; {NATIVE} is this machine's own (default: {' and '.join(PLATFORMS)})",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, push, and print each image's URI by digest."""
    import boto3
    import docker
    from botocore.exceptions import BotoCoreError, ClientError

    if not (Path.cwd() / CLONE.dockerfile).is_file():
        raise ImagesNotPushed(
            rule="The images are built from a checkout of the deploy runner",
            value=f"no {CLONE.dockerfile} in {Path.cwd()}",
            remedy="cd to the checkout",
        )  # fmt: skip
    try:
        stack = boto3.client("cloudformation").describe_stacks(StackName=arguments.stack)["Stacks"][0]
    except ClientError as error:
        raise ImagesNotPushed(
            rule="The stack must exist", value=f"{arguments.stack}: {error.response['Error']['Message']}",
            remedy="`sam deploy` first, or name it with --stack",
        ) from error  # fmt: skip
    except BotoCoreError as error:  # no region, no credentials, no answer
        raise ImagesNotPushed(
            rule="AWS must be reached to see the stack", value=str(error),
            remedy='Set a region and credentials, as for the AWS CLI; for local AWS: eval "$(deploy-runner local env)"',
        ) from error  # fmt: skip
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    for image in IMAGES:
        if image.output not in outputs:
            raise ImagesNotPushed(
                rule=f"The stack must have the output {image.output}",
                value=f"{arguments.stack} is {stack['StackStatus']}", remedy="Mend it with `sam deploy` first",
            )  # fmt: skip
    try:
        engine = docker.from_env()
        platforms = resolve(arguments.platforms or PLATFORMS, engine)
        tags = {image: source_hash(Path.cwd(), image.sources) for image in IMAGES}
        for image in IMAGES:
            packages = install_packages(Path.cwd(), image.packages) if image.packages else ""
            for platform in platforms:
                name = f"{outputs[image.output]}:{tags[image]}-{architecture(platform)}"
                build(engine, Path.cwd(), image.dockerfile, platform, name, packages)
        ecr = boto3.client("ecr")
        auth = ecr.get_authorization_token()["authorizationData"][0]
        user, password = base64.b64decode(auth["authorizationToken"]).decode().split(":", 1)
        for image in IMAGES:
            uri, tag = outputs[image.output], tags[image]
            for platform in platforms:
                push(engine, uri, f"{tag}-{architecture(platform)}", {"username": user, "password": password})
            print(put_index(ecr, uri, tag, platforms))
    except docker.errors.DockerException as error:
        raise ImagesNotPushed(
            rule="A container engine must build and push the images", value=str(error)[-400:],
            remedy="start Docker, or set DOCKER_HOST to an engine's socket",
        ) from error  # fmt: skip
    except ClientError as error:
        raise ImagesNotPushed(
            rule="ECR must take the images", value=error.response["Error"]["Message"],
            remedy="you need ecr:GetAuthorizationToken, ecr:BatchGetImage, ecr:PutImage and what a push needs",
        ) from error  # fmt: skip
    return 0


def architecture(platform: str) -> str:
    """Return the processor of `linux/PROCESSOR`."""
    return platform.partition("/")[2]


def resolve(platforms: list[str] | tuple[str, ...], engine: Any) -> list[str]:
    """Return each platform once, with `native` as the one that the engine runs on."""
    return list(dict.fromkeys(f"linux/{engine.version()['Arch']}" if p == NATIVE else p for p in platforms))


def source_hash(checkout: Path, sources: tuple[str, ...]) -> str:
    """Return a tag that is another one as soon as a source is."""
    files = sorted(
        path
        for source in sources
        for path in ([checkout / source] if (checkout / source).is_file() else (checkout / source).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(checkout)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def install_packages(checkout: Path, lock: str) -> str:
    """Return the folder of the checkout with a requirements file's packages in it, for Debian bookworm's Python.

    They are installed by uv, and by their hashes, outside the build, so that it needs no package index. All of them are
    pure Python: one folder serves both architectures. Raises ImagesNotPushed.
    """
    digest = hashlib.sha256((checkout / lock).read_bytes()).hexdigest()[:12]
    folder = checkout / "build" / f"packages-{digest}"
    if folder.is_dir():
        return str(folder.relative_to(checkout))
    uv = checkout / ".tools" / "uv-command"
    command = [str(uv) if uv.exists() else "uv", "pip", "install", "--quiet", "--python", sys.executable]
    command += ["--python-version", "3.11", "--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", lock]
    (checkout / "build").mkdir(exist_ok=True)
    # Made beside its place and then moved there: two at once do not see half of each other.
    made = Path(tempfile.mkdtemp(prefix="made.", dir=checkout / "build"))
    try:
        subprocess.run([*command, "--target", str(made)], cwd=checkout, check=True, capture_output=True, text=True)
        for service in made.glob("botocore/data/*/"):
            if service.name not in KEPT_SERVICES:
                shutil.rmtree(service)
        made.chmod(0o755)
        if not folder.is_dir():
            os.replace(made, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImagesNotPushed(
            rule=f"uv must install the packages of {lock}", value=(getattr(error, "stderr", "") or str(error))[-400:],
            remedy="`tools/setup` installs uv; it needs the package index",
        ) from error  # fmt: skip
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return str(folder.relative_to(checkout))


def build(engine: Any, checkout: Path, dockerfile: str, platform: str, image: str, packages: str = "") -> None:
    """Build an image for a platform. Raises PlatformNotBuilt, ImagesNotPushed."""
    from docker.errors import BuildError

    print(f"building {dockerfile} for {platform} as {image}", file=sys.stderr)
    try:
        built, _ = engine.images.build(
            path=str(checkout), dockerfile=dockerfile, tag=image, platform=platform, network_mode="host",
            # BuildKit and Podman set TARGETARCH, Docker's older builder does not.
            buildargs={"TARGETARCH": architecture(platform), **({"PACKAGES": packages} if packages else {})},
        )  # fmt: skip
    except BuildError as error:
        log = "".join(str(line.get("stream", "")) for line in error.build_log) + str(error.msg)
        if foreign := FOREIGN.search(log):
            raise _not_built(platform, foreign[0].strip()) from error
        raise ImagesNotPushed(
            rule=f"{dockerfile} is built", value=f"it is not, for {platform}", remedy=f"read its log:\n{log[-3000:]}"
        ) from error
    if built.attrs["Architecture"] != architecture(platform):  # Podman's cache holds steps of all platforms alike
        raise _not_built(platform, f"it built for {built.attrs['Architecture']}")


def _not_built(platform: str, why: str) -> PlatformNotBuilt:
    return PlatformNotBuilt(
        rule="The container engine must run programs of each platform that it builds for",
        value=f"{platform}: {why}",
        remedy="Install QEMU's binfmt handlers (Docker Desktop has them), or give `--platform native` "
        "where only apps of this machine's architecture are built",
    )


def push(engine: Any, uri: str, tag: str, auth: dict[str, str]) -> None:
    """Push one image. Raises ImagesNotPushed."""
    for line in engine.images.push(uri, tag, auth_config=auth, stream=True, decode=True):
        if "error" in line:
            raise ImagesNotPushed(rule=f"{uri} takes a push", value=line["error"], remedy="may you push there?")


def put_index(ecr: Any, uri: str, tag: str, platforms: list[str]) -> str:
    """Put an index of the pushed images as `tag` and `latest`, of which each machine pulls its own image.

    Returns its URI by digest. Source: Amazon ECR User Guide, "Pushing a multi-architecture image".
    """
    repository = uri.partition("/")[2]
    entries = [
        entry for platform in platforms
        for entry in _entries(ecr, repository, f"{tag}-{architecture(platform)}", architecture(platform))
    ]  # fmt: skip
    media_type = OCI_INDEX if all(entry["mediaType"] == OCI_MANIFEST for entry in entries) else DOCKER_LIST
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
    for name in (tag, "latest"):
        try:
            ecr.put_image(
                repositoryName=repository, imageManifest=manifest, imageManifestMediaType=media_type,
                imageTag=name, imageDigest=digest,
            )  # fmt: skip
        except ecr.exceptions.ImageAlreadyExistsException:  # as it should be
            continue
    return f"{uri}@{digest}"


def _entries(ecr: Any, repository: str, tag: str, processor: str) -> list[dict[str, Any]]:
    """Return what an index says of a pushed image."""
    answer = ecr.batch_get_image(
        repositoryName=repository, imageIds=[{"imageTag": tag}],
        acceptedMediaTypes=[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST],
    )  # fmt: skip
    if not answer["images"]:
        raise ImagesNotPushed("what was pushed is in ECR", f"{repository}:{tag}", "run it again")
    image = answer["images"][0]
    manifest = json.loads(image["imageManifest"])
    if "manifests" in manifest:  # Docker's containerd image store pushes an index even of one image
        return [e for e in manifest["manifests"] if e.get("platform", {}).get("architecture") == processor]
    return [
        {
            "mediaType": image["imageManifestMediaType"],
            "digest": image["imageId"]["imageDigest"],
            "size": len(image["imageManifest"].encode()),
            "platform": {"architecture": processor, "os": "linux"},
        }
    ]
