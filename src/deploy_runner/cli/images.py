"""`deploy-runner images`: build the runners' images and push them to the repositories that the stack made."""

import argparse
import base64
import hashlib
import sys
from pathlib import Path
from typing import Any

from deploy_runner.domain.errors import DeployRunnerError

# What an image is made of: the output with its repository's URI, its Dockerfile, and the files that go into it.
CLONE = (
    "CloneRepositoryUri",
    "runners/docker-builder/Dockerfile",
    ("runners/docker-builder", "src/deploy_runner/github", "src/deploy_runner/domain/errors.py"),
)


class ImagesNotPushed(DeployRunnerError):
    """The runners' images could not be built or pushed."""

    exit_code = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `deploy-runner images` takes."""
    parser.add_argument("--stack", default="deploy-runner", help="the stack's name (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, push, and print each image's URI by digest."""
    import boto3
    import docker
    from botocore.exceptions import ClientError

    try:
        stack = boto3.client("cloudformation").describe_stacks(StackName=arguments.stack)["Stacks"][0]
    except ClientError as error:
        raise ImagesNotPushed(
            rule="the stack exists", value=f"{arguments.stack}: {error.response['Error']['Message']}",
            remedy="`sam deploy` first, or name it with --stack",
        ) from error  # fmt: skip
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    output, dockerfile, sources = CLONE
    uri = outputs[output]
    auth = boto3.client("ecr").get_authorization_token()["authorizationData"][0]
    user, password = base64.b64decode(auth["authorizationToken"]).decode().split(":", 1)
    try:
        engine = docker.from_env()
        print(build_and_push(engine, Path.cwd(), uri, dockerfile, sources, {"username": user, "password": password}))
    except docker.errors.DockerException as error:
        raise ImagesNotPushed(
            rule="the images are built and pushed by a container engine", value=str(error)[-400:],
            remedy="start Docker, or set DOCKER_HOST to an engine's socket",
        ) from error  # fmt: skip
    return 0


def build_and_push(
    engine: Any, checkout: Path, uri: str, dockerfile: str, sources: tuple[str, ...], auth: dict[str, str]
) -> str:
    """Build one image, tag it with a hash of its sources (and `latest`), and push it; returns its URI by digest."""
    files = sorted(
        path
        for source in sources
        for path in ([checkout / source] if (checkout / source).is_file() else (checkout / source).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(checkout)).encode() + b"\0" + path.read_bytes() + b"\0")
    tag = digest.hexdigest()[:12]
    print(f"building {dockerfile} as {uri}:{tag}", file=sys.stderr)
    engine.images.build(path=str(checkout), dockerfile=dockerfile, tag=f"{uri}:{tag}", network_mode="host")
    pushed = ""
    for name in (tag, "latest"):
        engine.images.get(f"{uri}:{tag}").tag(uri, name)
        for line in engine.images.push(uri, name, auth_config=auth, stream=True, decode=True):
            if "error" in line:
                raise ImagesNotPushed(rule=f"{uri} takes a push", value=line["error"], remedy="may you push there?")
            pushed = line.get("aux", {}).get("Digest", pushed)
    return f"{uri}@{pushed}"
