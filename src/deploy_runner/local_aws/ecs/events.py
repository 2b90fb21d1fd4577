"""What ECS tells EventBridge: docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_cwe_events.html"""

import importlib
import logging
import queue
import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from deploy_runner.local_aws.ecs.shapes import now

_log = logging.getLogger(__name__)


class Events:
    """Sends events in order, in a thread of its own, so that a slow target holds up no task."""

    def __init__(self, account: str, region: str) -> None:
        self.account, self.region = account, region
        self._queue: queue.SimpleQueue[tuple[str, list[str], dict[str, Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._send_all, name="ecs events", daemon=True).start()

    def close(self) -> None:
        """Send nothing more."""
        self._queue.put(None)

    def task_changed(self, task: dict[str, Any]) -> None:
        """A task, or a container in it, changed; the detail resembles the task as DescribeTasks has it.

        .../ecs_task_events.html: a network interface is called `eni` here.
        """
        detail = {key: value for key, value in task.items() if key not in ("tags", "enableExecuteCommand")}
        detail["attachments"] = [
            attachment | ({"type": "eni"} if attachment["type"] == "ElasticNetworkInterface" else {})
            for attachment in task["attachments"]
        ]
        self._queue.put(("ECS Task State Change", [task["taskArn"]], detail | {"updatedAt": now()}))

    def deployment_changed(self, service_arn: str, deployment_id: str, name: str, reason: str) -> None:
        """A rollout began, ended or failed: SERVICE_DEPLOYMENT_IN_PROGRESS, _COMPLETED, _FAILED.

        .../ecs_service_deployment_events.html: the only time in whole seconds.
        """
        kind = "ERROR" if name.endswith("FAILED") else "INFO"
        detail = {"eventType": kind, "eventName": name, "deploymentId": deployment_id, "reason": reason}
        updated = now().strftime("%Y-%m-%dT%H:%M:%SZ")
        self._queue.put(("ECS Deployment State Change", [service_arn], detail | {"updatedAt": updated}))

    def service_acted(
        self, service_arn: str, cluster_arn: str, name: str, kind: str = "INFO",
        capacity_providers: Iterable[str] = (), reason: str | None = None,
    ) -> None:  # fmt: skip
        """What the scheduler has to say: .../ecs_service_events.html lists the names, with their kinds.

        SERVICE_STEADY_STATE, CAPACITY_PROVIDER_STEADY_STATE (with capacity_providers, by name), WARN of
        SERVICE_TASK_START_IMPAIRED, ERROR of SERVICE_TASK_PLACEMENT_FAILURE (with capacity_providers and a reason, as
        RESOURCE:FARGATE).
        """
        where = f"arn:aws:ecs:{self.region}:{self.account}:capacity-provider/"
        arns = [where + provider for provider in capacity_providers]
        detail = {"eventType": kind, "eventName": name, "clusterArn": cluster_arn, "createdAt": now()}
        detail |= {"capacityProviderArns": arns or None, "reason": reason}
        self._queue.put(("ECS Service Action", [service_arn], detail))

    def hook_changed(
        self, rollout_arn: str, service_arn: str, cluster_arn: str, name: str, hook: dict[str, Any]
    ) -> None:
        """A lifecycle hook changed: .../developerguide/ecs_hook_state_change_events.html"""
        detail = {"eventType": "INFO", "eventName": name, **hook, "clusterArn": cluster_arn, "serviceArn": service_arn}
        detail |= {"serviceDeploymentArn": rollout_arn, "updatedAt": now()}
        self._queue.put(("ECS Hook State Change", [rollout_arn], detail))

    def _send_all(self) -> None:
        while item := self._queue.get():
            kind, resources, detail = item
            try:
                module = importlib.import_module("deploy_runner.local_aws.events")
                module.emit(self.account, self.region, "aws.ecs", kind, resources, _plain(detail))
            except ModuleNotFoundError:
                continue
            except Exception:  # one target's failure must not end the others' events
                _log.exception("an event of ECS could not be delivered")


def _plain(value: Any) -> Any:
    """Return the value as JSON has it; times as ECS writes them: 2026-01-02T03:04:05.678Z."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03}Z"
    return value
