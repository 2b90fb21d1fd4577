"""The task metadata endpoint, version 4, where each container finds out which task it is in and how the others stand.

docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html. On Fargate its
address is link-local; here it is that of AWS. Of its paths there are the container's and the task's, without `/stats`.
"""

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from moto.ecs.models import ecs_backends

from deploy_runner.local_aws.machine import Machine

_PATH = re.compile(r"/v4/([0-9a-f]{32})-(\d{10})(/task)?")


def uri(machine: Machine, task_id: str, index: int) -> str:
    """Return what ECS_CONTAINER_METADATA_URI_V4 is for a task's container: on Fargate too its end is such an id."""
    return f"{machine.endpoint}/v4/{task_id}-{index:010}"


def gate(machine: Machine) -> Callable[[Any], Any]:
    """Return what answers for the endpoint, and hands all else on."""

    def around(aws: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            found = _PATH.fullmatch(environ.get("PATH_INFO", ""))
            if not found:
                return aws(environ, start_response)
            page = _page(machine, found[1], int(found[2]), whole_task=bool(found[3]))
            status = "404 Not Found" if page is None else "200 OK"
            start_response(status, [("Content-Type", "application/json")])
            return [json.dumps(page, default=_text).encode()]

        return answer

    return around


def _page(machine: Machine, task_id: str, index: int, *, whole_task: bool) -> dict[str, Any] | None:
    backends = [ecs_backends[account][machine.region] for account in machine.accounts]
    clusters = [known for backend in backends for known in list(backend.tasks.values())]
    tasks = [task for known in clusters for task in list(known.values())]  # copies: tasks come and go meanwhile
    task = next((task.describe() for task in tasks if task.id == task_id), None)
    if task is None or index >= len(task["containers"]):
        return None
    if not whole_task:
        return _container(task, index)
    family, _, revision = task["taskDefinitionArn"].rpartition("/")[2].partition(":")
    return {
        "Cluster": task["clusterArn"], "TaskARN": task["taskArn"], "Family": family, "Revision": revision,
        "DesiredStatus": task["desiredStatus"], "KnownStatus": task["lastStatus"],
        "Limits": {"CPU": int(task["cpu"] or 0) / 1024, "Memory": int(task["memory"] or 0)},
        **{key: task[name] for key, name in _TIMES.items() if name in task},
        "AvailabilityZone": task["availabilityZone"], "LaunchType": task["launchType"],
        "Containers": [_container(task, number) for number in range(len(task["containers"]))],
    }  # fmt: skip


_TIMES = {"PullStartedAt": "pullStartedAt", "PullStoppedAt": "pullStoppedAt"}


def _container(task: dict[str, Any], index: int) -> dict[str, Any]:
    container = task["containers"][index]
    found = {
        "DockerId": f"{task['taskArn'].rpartition('/')[2]}-{index:010}", "Name": container["name"],
        "DockerName": container["name"], "Image": container["image"], "ImageID": container.get("imageDigest", ""),
        "DesiredStatus": task["desiredStatus"], "KnownStatus": container["lastStatus"], "Type": "NORMAL",
        "ContainerARN": container["containerArn"], "Networks": [
            {"NetworkMode": "awsvpc", "IPv4Addresses": [network["privateIpv4Address"]]}
            for network in container["networkInterfaces"]
        ],
    }  # fmt: skip
    if "exitCode" in container:  # only of one that has ended
        found["ExitCode"] = container["exitCode"]
    return found


def _text(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
