"""The base images of the examples and of our runners, where no public registry need be reached.

With Podman, `public.ecr.aws` is mirrored to the local registry, and these two images are what it has. They are made
from Debian's own packages: busybox-static, and a minimal Debian with CA certificates. With Docker the real ones are
pulled.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import docker

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.local_aws.engine import start_engine
from deploy_runner.local_aws.registry import free_port, start_registry

DEBIAN_SUITE = "bookworm"
BUSYBOX_DOCKERFILE = """\
FROM scratch
COPY rootfs/ /
CMD ["sh"]
"""
DEBIAN_DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
CMD ["bash"]
"""


class BaseImagesMissing(DeployRunnerError):
    """The base images could not be made."""


def cache_dir() -> Path:
    """Return our folder for what can be made again: `$XDG_CACHE_HOME/deploy-runner`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deploy-runner"


def _folder() -> Path:
    return cache_dir() / "base-images-1"  # the number changes with what is made here


def base_images_made() -> bool:
    """Tell whether the base images are there."""
    return (_folder() / ".complete").exists()


def base_images_dir() -> Path:
    """Return the folder of the registry that holds the base images, made if need be."""
    if not base_images_made():
        make_base_images(_folder())
    return _folder()


def make_base_images(folder: Path) -> None:
    """Make the base images and leave them as a registry's storage in `folder`.

    Needs Podman, root and Debian's archive. Raises BaseImagesMissing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="deploy-runner-base-"))
    port = free_port()
    state = work / "state"
    state.mkdir()
    try:
        _busybox(work / "busybox")
        _debian(work / "debian")
        engine = start_engine(state, work / "images", port - 2)
        stop = start_registry(folder, port, state)
        try:
            for name, tag, context in (("busybox", "stable", "busybox"), ("debian", "bookworm-slim", "debian")):
                repository = f"127.0.0.1:{port}/public.ecr.aws/docker/library/{name}"
                engine.client.images.build(path=str(work / context), tag=f"{repository}:{tag}")
                for line in engine.client.images.push(repository, tag, stream=True, decode=True):
                    if "error" in line:
                        raise BaseImagesMissing("The base images must be made", line["error"], "Try again")
        finally:
            stop()
            engine.stop()
        (folder / ".complete").touch()
    except (subprocess.CalledProcessError, docker.errors.DockerException) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise BaseImagesMissing(
            "The base images must be made from Debian's packages", said[-200:], "Is Debian's archive reached?"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _busybox(context: Path) -> None:
    rootfs = context / "rootfs"
    for name in ("bin", "etc", "tmp", "root", "var"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", rootfs / "bin" / "busybox")
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (rootfs / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (context / "Dockerfile").write_text(BUSYBOX_DOCKERFILE)


def _debian(context: Path) -> None:
    context.mkdir()
    (context / "Dockerfile").write_text(DEBIAN_DOCKERFILE)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", DEBIAN_SUITE]
    subprocess.run([*command, str(context / "rootfs.tar")], check=True, capture_output=True, text=True)
