"""Stands in for Kaniko's executor, which only runs inside its own image: the engine builds, and pushes the same image.

It takes the flags of github.com/osscontainertools/kaniko, cmd/executor/cmd/root.go, and fails as the executor does.
"""

import contextlib
import inspect
import os
import re
import secrets
import signal
import socket
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from deploy_runner.local_aws.ecs.containers import Plan, digest_in_registry, split_image
from deploy_runner.local_aws.iam.authority import AccessDenied, TokenInvalid, check, session_of
from deploy_runner.local_aws.iam.evaluate import Asked
from deploy_runner.local_aws.iam.requests import Call, image_need
from deploy_runner.local_aws.machine import Machine

_BOOLEANS = {
    "cache", "cache-copy-layers", "cache-run-layers", "cleanup", "compressed-caching", "force", "force-build-metadata",
    "ignore-var-run", "insecure", "insecure-pull", "log-timestamp", "materialize", "no-push", "no-push-cache",
    "preserve-context", "push-ignore-immutable-tag-errors", "reproducible", "single-snapshot",
    "skip-default-registry-fallback",
    "skip-push-permission-check", "skip-tls-verify", "skip-tls-verify-pull", "skip-unused-stages", "use-new-run",
    "whitelist-var-run",
}  # fmt: skip
_VALUES = {
    "annotation", "bucket", "build-arg", "cache-dir", "cache-repo", "cache-ttl", "compression", "compression-level",
    "context", "context-sub-path", "credential-helpers", "custom-platform", "destination", "digest-file", "dockerfile",
    "git", "ignore-path", "image-download-retry", "image-fs-extract-retry", "image-name-tag-with-digest-file",
    "image-name-with-digest-file", "insecure-registry", "kaniko-dir", "label", "log-format", "oci-layout-path",
    "push-retry", "registry-certificate", "registry-client-cert", "registry-map", "registry-mirror", "secret",
    "skip-tls-verify-registry", "snapshot-mode", "tar-path", "target", "verbosity",
}  # fmt: skip
_SHORT = {"-c": "context", "-f": "dockerfile", "-d": "destination", "-b": "bucket", "-v": "verbosity"}
_UNSUPPORTED = {"secret", "tar-path", "oci-layout-path", "bucket"}
_NO_DOCKERFILE = (
    "error resolving dockerfile path: please provide a valid path to a Dockerfile within the build context "
    "with --dockerfile"
)
# docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
_PUSH = (
    "BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage",
)  # fmt: skip


class KanikoError(Exception):
    """The build ends with exit code 1, and this is its last line."""


def parse(arguments: list[str]) -> dict[str, list[str]]:
    """Return each flag's values, in order. Raises KanikoError for what the executor does not know."""
    flags: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        name = _SHORT.get(name, name.removeprefix("--") if name.startswith("--") else "")
        if not name:
            raise KanikoError(f'Error: unknown command "{word}" for "executor"')
        if name in _BOOLEANS:
            flags.setdefault(name, []).append(value.lower() if has_value else "true")
        elif name in _VALUES:
            if not has_value:
                if not rest:
                    raise KanikoError(f"Error: flag needs an argument: {word}")
                value = rest.pop(0)
            flags.setdefault(name, []).append(value)
        else:
            raise KanikoError(f"Error: unknown flag: --{name}")
    return flags


class KanikoBuild:
    """A build that ends like a container: with an exit code."""

    def __init__(self, machine: Machine, plan: Plan) -> None:
        self._machine, self._plan = machine, plan
        self.id = ""
        self._shm_bytes = (64 << 20) + 4096 * (1 + secrets.randbelow(60_000))
        self._stopped = False
        self._stream: Any = None

    def start(self, network_of: str | None) -> None:
        """Nothing to start: it builds in `wait`."""

    def stop(self, seconds: float) -> None:
        """End the build."""
        self._stopped = True
        self._end_processes()
        if self._stream is not None:
            # Closing the generator does not end its reading; the engine ends a build whose client is gone.
            response = inspect.getgeneratorlocals(self._stream).get("response")
            with contextlib.suppress(OSError, AttributeError, ValueError):
                self._machine.engine.client.api._get_raw_response_socket(response)._sock.shutdown(socket.SHUT_RDWR)

    def _end_processes(self) -> None:
        """End what a RUN of ours has started: Podman, unlike Docker, lets it run when a build's client is gone.

        Podman tells no build from another; ours has a /dev/shm of its own size.
        """
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                memory = os.statvfs(process / "root/dev/shm")
                if (
                    "buildah" in (process / "cgroup").read_text()
                    and memory.f_blocks * memory.f_frsize == self._shm_bytes
                ):
                    os.kill(int(process.name), signal.SIGKILL)

    def remove(self) -> None:
        """End the build, if it still runs."""
        self.stop(0)

    def wait(self) -> int:
        """Build and push, and return 0; or 1, with the reason as the last line of the log."""
        log = self._plan.logs
        try:
            self._build(parse(list(self._plan.definition.get("command") or [])))
        except KanikoError as error:
            log.line(str(error))
            return 137 if self._stopped else 1
        except (DockerException, RequestException, HTTPError, OSError, ValueError) as error:
            log.line(f"error building image: {error}")
            return 137 if self._stopped else 1
        finally:
            log.close()
        return 0

    def _build(self, flags: dict[str, list[str]]) -> None:
        unsupported = sorted(_UNSUPPORTED & flags.keys())
        if unsupported:
            raise KanikoError(f"error: --{unsupported[0]} is Kaniko's, but local AWS's stand-in does not have it")
        destinations = flags.get("destination", [])
        pushing = flags.get("no-push", ["false"])[-1] != "true"
        if pushing and not destinations:
            raise KanikoError("Error: you must provide --destination, or use --no-push")
        self._check_push_permissions(flags, destinations if pushing else [])
        context = self._context(flags)
        dockerfile = self._dockerfile(flags, context)
        tag = destinations[0] if destinations else None
        self._stream = self._machine.engine.client.api.build(
            path=str(context), dockerfile=str(dockerfile), tag=tag, decode=True, rm=True, forcerm=True,
            nocache=flags.get("cache", ["false"])[-1] != "true", buildargs=self._pairs(flags.get("build-arg", [])),
            labels=self._pairs(flags.get("label", [])), target=flags.get("target", [""])[-1] or None,
            platform=flags.get("custom-platform", [""])[-1] or None, network_mode="host", shmsize=self._shm_bytes,
        )  # fmt: skip
        self._follow()
        if not pushing:
            return
        digest = ""
        for destination in destinations:
            digest = self._push(tag or destination, destination, flags) or digest
        self._write_digests(flags, destinations, digest)

    def _follow(self) -> None:
        for line in self._stream:
            if line.get("stream"):
                self._plan.logs.write(line["stream"].encode())
            if line.get("error"):
                self._plan.logs.close()
                reason = line["error"].strip()
                found = re.search(r"exit (?:status|code):? (\d+)|returned a non-zero code: (\d+)", reason)
                if found:
                    self._plan.logs.line(reason)
                    code = found.group(1) or found.group(2)
                    reason = f"failed to execute command: waiting for process to exit: exit status {code}"
                raise KanikoError(f"error building image: error building stage: {reason}")
        if self._stopped:
            raise KanikoError("the build was stopped")

    def _root(self, path: str) -> tuple[Path, Path]:
        """Return a path of the container as one of this machine, and the volume's folder that it lies in."""
        found = self._plan.host_path(path)
        if found is None:
            raise KanikoError(f"error resolving source context: lstat {path}: no such file or directory")
        root = next(Path(folder) for folder in self._plan.binds if found.is_relative_to(folder))
        return found, root

    def _context(self, flags: dict[str, list[str]]) -> Path:
        given = flags.get("context", ["/workspace/"])[-1]
        path = given.removeprefix("dir://")
        if "://" in path:
            raise KanikoError("error: local AWS's stand-in for Kaniko builds from dir:// only")
        sub = flags.get("context-sub-path", [""])[-1]
        found, root = self._root(path.rstrip("/") + (f"/{sub}" if sub else ""))
        resolved = found.resolve()
        # In Kaniko's container a link can only lead to what is in it; here it would lead into this machine's files.
        if not resolved.is_dir() or not resolved.is_relative_to(root.resolve()):
            raise KanikoError(f"error resolving source context: lstat {path}: no such file or directory")
        return resolved

    def _dockerfile(self, flags: dict[str, list[str]], context: Path) -> Path:
        given = flags.get("dockerfile", ["Dockerfile"])[-1]
        candidates = [context / given] if not given.startswith("/") else [self._root(given)[0]]
        roots = [Path(folder).resolve() for folder in self._plan.binds]
        for candidate in candidates:
            resolved = candidate.resolve()
            if resolved.is_file() and any(resolved.is_relative_to(root) for root in roots):
                return resolved
        raise KanikoError(_NO_DOCKERFILE)

    def _pairs(self, words: list[str]) -> dict[str, str]:
        """Split NAME=VALUE; without a value it is the environment variable's, as in the executor."""
        pairs = (word.partition("=") for word in words)
        return {name: value if equals else self._plan.environment.get(name, "") for name, equals, value in pairs}

    def _check_push_permissions(self, flags: dict[str, list[str]], destinations: list[str]) -> None:
        """Fail before the build where the task's role may not push: executor/push.go, CheckPushPermissions.

        A registry's client signs nothing, so here is where ECR's permissions are looked at.
        """
        if flags.get("skip-push-permission-check", ["false"])[-1] == "true":
            return
        caching = flags.get("cache", ["false"])[-1] == "true" and flags.get("no-push-cache", ["false"])[-1] != "true"
        caches = flags.get("cache-repo", []) if caching and destinations else []
        for target in [*destinations, *caches]:
            if said := self._refused(target, "InitiateLayerUpload"):
                repository = split_image(target)[0].partition("/")[2]
                raise KanikoError(
                    "error checking push permissions -- make sure you entered the correct tag name, and that you are "
                    f'authenticated correctly, and try again: checking push permission for "{target}": '
                    f"POST https://{self._machine.registry}/v2/{repository}/blobs/uploads/: {said}"
                )

    def _refused(self, target: str, *actions: str) -> str:
        """Return what the registry says where the task's role may not do all of this to an image of ECR's."""
        registry, _, name = split_image(target)[0].partition("/")
        if registry != self._machine.registry or not self._machine.enforces_iam:
            return ""
        own = self._plan.environment
        call = Call("ecr", "GetAuthorizationToken", {}, self._machine.account_id, self._machine.region)
        try:
            session = session_of(own.get("AWS_ACCESS_KEY_ID", ""), own.get("AWS_SESSION_TOKEN", ""))
            if session is None:
                return "unexpected status code 401 Unauthorized: Not Authorized"
            check(session, [Asked("ecr:GetAuthorizationToken", "*")])
        except (AccessDenied, TokenInvalid):
            return "unexpected status code 401 Unauthorized: Not Authorized"
        try:
            check(session, [image_need(call, action, name) for action in actions])
        except AccessDenied as error:
            return f"DENIED: {error}"
        return ""

    def _push(self, built: str, destination: str, flags: dict[str, list[str]]) -> str:
        api = self._machine.engine.client.api
        repository, tag = split_image(destination)
        if destination != built:
            api.tag(built, repository, tag, force=True)
        self._plan.logs.line(f"Pushing image to {destination}")
        if said := self._refused(destination, *_PUSH):
            raise KanikoError(f"error pushing image: failed to push to destination {destination}: {said}")
        for line in api.push(repository, tag=tag, stream=True, decode=True):
            error = line.get("error")
            if error and "immutable" in error and flags.get("push-ignore-immutable-tag-errors", [""])[-1] == "true":
                self._plan.logs.line(f"Immutable tag error ignored for {destination}")
                return ""
            if error:
                raise KanikoError(f"error pushing image: failed to push to destination {destination}: {error.strip()}")
        digest = digest_in_registry(self._machine, destination)
        self._plan.logs.line(f"Pushed {repository}@{digest}")
        return digest

    def _write_digests(self, flags: dict[str, list[str]], destinations: list[str], digest: str) -> None:
        named = [f"{split_image(destination)[0]}@{digest}" for destination in destinations]
        tagged = [f"{destination}@{digest}" for destination in destinations]
        files = {
            "digest-file": digest,
            "image-name-with-digest-file": "\n".join(named),
            "image-name-tag-with-digest-file": "\n".join(tagged),
        }
        for flag, text in files.items():
            path = flags.get(flag, [""])[-1]
            where = self._plan.host_path(path) if path else None
            if where and where.parent.resolve().is_dir():
                where.write_text(text)
