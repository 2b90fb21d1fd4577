#!/usr/bin/env python3
"""Deploy what Kaniko builds beside this container: register a revision with the image by digest, update the service.

It starts first, and is the task's one essential container. Its health check lets `clone` start, and then Kaniko, once
it knows that no other task does the work of this deployment: a RunTask that is tried again must not build twice. It
takes nothing from the volume, which a Dockerfile's RUN can write to: the digest is what the registry says. Whether the
rollout went well is not judged here, but by the state machine, as for every deployment.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 the environment failed. On failure one line on stderr
says why. Runs on Debian bookworm: Python 3.11.
"""

import argparse
import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from deploy_runner.aws.clients import aws_errors, client
from deploy_runner.aws.ecs import register_revision, update_service
from deploy_runner.domain.errors import AwsUnavailable, DeployRunnerError, one_line, show
from deploy_runner.domain.runner_task import MAY_BUILD, BuildFailed, RunnerTask, first_of, is_built, runner_task

WORK_FAILED, REQUEST_WRONG, ENVIRONMENT_FAILED = 1, 2, 3

OWN_CONTAINER = "deploy"
ENVIRONMENT = (
    "APP_NAME", "DEPLOYMENT_ID", "ECS_CLUSTER", "ECS_CONTAINER_METADATA_URI_V4", "ECS_SERVICE", "ENVIRONMENT",
    "GIT_REF",
)  # fmt: skip
LOOK_EVERY = 1.0  # seconds; the metadata is this task's own, and its reading costs nothing
ASK_EVERY = 5.0  # seconds, where another task does the work: ECS is asked
RETRY_AFTER = (1, 2, 4, 8, 16)  # seconds, where AWS does not answer

T = TypeVar("T")


class DeployError(DeployRunnerError):
    """The container ends with an exit code."""

    def __init__(self, exit_code: int, rule: str, value: object = None, remedy: str = "") -> None:
        super().__init__(rule, value, remedy)
        self.exit_code = exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        remedy = "The state machine writes these arguments: report this"
        raise DeployError(REQUEST_WRONG, f"The arguments must be right, but {one_line(message)}", remedy=remedy)


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{show(text)} is not {what}")
        return text

    return check


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments, checked."""
    parser = _Parser(description="Deploy the image that is built beside this container.", allow_abbrev=False)
    image = r"[a-z0-9.:-]+/[a-z0-9._/-]+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
    parser.add_argument("--image", required=True, type=_matching(image, "REGISTRY/REPOSITORY:TAG"))
    container = _matching(r"[A-Za-z0-9_-]{1,255}", "a container's name")
    parser.add_argument("--container", required=True, action="append", type=container, dest="containers")
    return parser.parse_args(arguments)


def metadata(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what ECS says of this task in it.

    docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html
    """
    url = f"{environment['ECS_CONTAINER_METADATA_URI_V4']}/task"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - ECS's own
            found: dict[str, Any] = json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise AwsUnavailable(f"The task metadata must be readable ({one_line(str(error), 100)})") from error
    return found


def again(work: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """Return what `work` returns, tried again while AWS does not answer. All that is done here may be done twice."""
    for seconds in RETRY_AFTER:
        try:
            return work()
        except AwsUnavailable:
            sleep(seconds)
    return work()


def tasks_of(ecs: Any, cluster: str, family: str, group: str) -> list[RunnerTask]:
    """Return this deployment's tasks: those that run, and those that ended, which ECS shows for about an hour."""
    found = []
    remedy = "Let the app-deployer's role list and describe the deploy runner's tasks"
    with aws_errors("The tasks of this deployment must be readable", remedy):
        for status in ("RUNNING", "STOPPED"):
            pages = ecs.get_paginator("list_tasks").paginate(cluster=cluster, family=family, desiredStatus=status)
            for page in pages:
                if page["taskArns"]:
                    found += ecs.describe_tasks(cluster=cluster, tasks=page["taskArns"])["tasks"]
    return [runner_task(task, OWN_CONTAINER) for task in found if task.get("group") == group]


def wait_for_other(ecs: Any, cluster: str, other: RunnerTask, sleep: Callable[[float], None]) -> int:
    """Return the exit code of the task that does the work, once it has ended."""

    def look(arn: str) -> RunnerTask:
        remedy = "Let the app-deployer's role describe the deploy runner's tasks"
        with aws_errors("The task that does the work must be readable", remedy):
            tasks = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"]
        return runner_task(tasks[0], OWN_CONTAINER) if tasks else RunnerTask(arn, 0.0, live=False)

    while other.exit_code is None and other.live:
        sleep(ASK_EVERY)
        other = again(partial(look, other.arn), sleep)
    return WORK_FAILED if other.exit_code is None else other.exit_code


def digest_of(ecr: Any, repository: str, tag: str) -> str:
    """Return the digest of what Kaniko has pushed: the registry's word, not the volume's."""
    with aws_errors(f"The image {repository}:{tag} must be readable", "Look at the app-deployer's role"):
        images = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": tag}])["images"]
    if not images:
        remedy = "Look at the log of kaniko, and at the app-deployer's role"
        raise DeployError(WORK_FAILED, "The build must leave its image in the registry", f"{repository}:{tag}", remedy)
    return str(images[0]["imageId"]["imageDigest"])


def deploy(
    options: argparse.Namespace, environment: Mapping[str, str], ecs: Any, ecr: Any,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:  # fmt: skip
    """Do what the arguments and the environment say; returns a line for the log. Raises DeployRunnerError."""
    missing = [name for name in ENVIRONMENT if not environment.get(name)]
    if missing:
        remedy = "The state machine and ECS set it: report this"
        raise DeployError(REQUEST_WRONG, f"The environment must have {', '.join(missing)}", remedy=remedy)
    own = again(lambda: metadata(environment), sleep)
    cluster, group = own["Cluster"], environment["DEPLOYMENT_ID"]
    tasks = again(lambda: tasks_of(ecs, cluster, own["Family"], group), sleep)
    other = first_of(tasks, own["TaskARN"])
    if other:
        print(f"this deployment is the work of {other.arn}", flush=True)
        code = wait_for_other(ecs, cluster, other, sleep)
        if code:
            raise DeployError(code, "The first task of this deployment must end well", other.arn, "Look at its log")
        return {"done_by": other.arn}
    Path(MAY_BUILD).touch()
    try:
        while not is_built(again(lambda: metadata(environment), sleep)["Containers"]):
            sleep(LOOK_EVERY)
    except BuildFailed as failed:
        raise DeployError(WORK_FAILED, f"The image must be built, but {failed}", remedy="Look at its log") from None
    uri, _, tag = options.image.rpartition(":")
    digest = again(lambda: digest_of(ecr, uri.partition("/")[2], tag), sleep)
    deployment = {
        "id": group, "app": environment["APP_NAME"], "environment": environment["ENVIRONMENT"],
        "sha": environment["GIT_REF"], "image": {"repository_uri": uri},
        "target": {"cluster": environment["ECS_CLUSTER"], "task_definition_base": "service"},
    }  # fmt: skip
    service = {"name": environment["ECS_SERVICE"], "containers": options.containers}
    rollout = again(lambda: register_revision(ecs, deployment, service, digest), sleep)
    again(lambda: update_service(ecs, rollout), sleep)
    return {"service": rollout.service, "task_definition": rollout.task_definition, "digest": digest}


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    # As a container's first process we would ignore SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        print(json.dumps(deploy(parse(arguments), os.environ, client("ecs"), client("ecr"))), flush=True)
    except DeployError as error:
        print(f"deploy: {one_line(str(error), 500)}", file=sys.stderr)
        return error.exit_code
    except DeployRunnerError as error:
        print(f"deploy: {one_line(str(error), 500)}", file=sys.stderr)
        return ENVIRONMENT_FAILED
    except Exception as error:  # a bug of ours: its text may quote anything
        print(f"deploy: it has a bug: {type(error).__name__} in line {_line(error)}", file=sys.stderr)
        return ENVIRONMENT_FAILED
    return 0


def _line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        line, trace = trace.tb_lineno, trace.tb_next
    return line


if __name__ == "__main__":
    sys.exit(main())
