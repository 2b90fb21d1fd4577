"""A small ECS in memory, for what units need and moto lacks: service deployments and revisions."""

import copy
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

PREFIX = "arn:aws:ecs:us-east-1:123456789012"
CLUSTER = "dev"


def service_arn(name: str) -> str:
    return f"{PREFIX}:service/{CLUSTER}/{name}"


class FakeEcs:
    """Keeps the calls that change something, in order. `describe` answers are copies, so nobody can change them."""

    def __init__(self) -> None:
        self.definitions: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.service_deployments: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.changes: list[tuple[str, dict[str, Any]]] = []
        self.described = 0
        self.fail_next: dict[str, Exception] = {}

    def _may_fail(self, operation: str) -> None:
        if operation in self.fail_next:
            raise self.fail_next.pop(operation)

    # --- set up ---

    def add_definition(self, family: str, tags: dict[str, str] | None = None, **more: Any) -> str:
        revision = 1 + sum(arn.rsplit("/", 1)[1].split(":")[0] == family for arn in self.definitions)
        arn = f"{PREFIX}:task-definition/{family}:{revision}"
        containers = more.pop(
            "containerDefinitions", [{"name": "app", "image": "old"}, {"name": "proxy", "image": "p"}]
        )
        definition = {"taskDefinitionArn": arn, "family": family, "revision": revision, "status": "ACTIVE"}
        definition |= {"containerDefinitions": containers, **more}
        self.definitions[arn] = (definition, [{"key": k, "value": v} for k, v in (tags or {}).items()])
        return arn

    def add_service(self, name: str, definition: str, **more: Any) -> None:
        primary = {"id": "ecs-svc/1", "status": "PRIMARY", "taskDefinition": definition, "rolloutState": "COMPLETED"}
        primary |= {"desiredCount": 1, "runningCount": 1, "failedTasks": 0}
        service = {"serviceName": name, "serviceArn": service_arn(name), "status": "ACTIVE", "desiredCount": 1}
        self.services[name] = service | {"taskDefinition": definition, "deployments": [primary], **more}

    def add_rollout(self, definition: str, status: str, reason: str = "", created: float = 1.0) -> None:
        number = len(self.service_deployments) + 1
        self.service_deployments.append(
            {
                "serviceDeploymentArn": f"sd-{number}", "targetServiceRevisionArn": f"sr-{definition}",
                "status": status, "statusReason": reason, "createdAt": datetime.fromtimestamp(created, UTC),
            }
        )  # fmt: skip

    # --- ECS's operations ---

    def describe_services(self, cluster: str, services: list[str]) -> dict[str, Any]:
        self._may_fail("DescribeServices")
        return {"services": [copy.deepcopy(self.services[name]) for name in services if name in self.services]}

    def list_task_definitions(self, **given: Any) -> dict[str, Any]:
        assert given["sort"] == "DESC"
        arns = [arn for arn in self.definitions if arn.rsplit("/", 1)[1].split(":")[0] == given["familyPrefix"]]
        arns.sort(key=lambda arn: int(arn.rsplit(":", 1)[1]), reverse=True)
        start, page = int(given.get("nextToken", 0)), 3
        more = {"nextToken": str(start + page)} if start + page < len(arns) else {}
        return {"taskDefinitionArns": arns[start : start + page], **more}

    def describe_task_definition(self, taskDefinition: str, include: list[str]) -> dict[str, Any]:  # noqa: N803
        assert include == ["TAGS"]
        self.described += 1
        definition, tags = self.definitions[taskDefinition]
        return {"taskDefinition": copy.deepcopy(definition), "tags": copy.deepcopy(tags)}

    def register_task_definition(self, **given: Any) -> dict[str, Any]:
        self._may_fail("RegisterTaskDefinition")
        self.changes.append(("RegisterTaskDefinition", copy.deepcopy(given)))
        tags = {tag["key"]: tag["value"] for tag in given.pop("tags")}
        arn = self.add_definition(given.pop("family"), tags, **given)
        return {"taskDefinition": {"taskDefinitionArn": arn}}

    def update_service(self, **given: Any) -> dict[str, Any]:
        self._may_fail("UpdateService")
        self.changes.append(("UpdateService", given))
        service = self.services[given["service"]]
        old = service["deployments"][0] | {"status": "ACTIVE"}
        new = old | {"status": "PRIMARY", "taskDefinition": given["taskDefinition"], "rolloutState": "IN_PROGRESS"}
        service |= {"taskDefinition": given["taskDefinition"], "deployments": [new | {"runningCount": 0}, old]}
        self.add_rollout(given["taskDefinition"], "IN_PROGRESS")
        return {"service": copy.deepcopy(service)}

    def stop_service_deployment(self, **given: Any) -> dict[str, Any]:
        self._may_fail("StopServiceDeployment")
        self.changes.append(("StopServiceDeployment", given))
        stopped = next(
            d for d in self.service_deployments if d["serviceDeploymentArn"] == given["serviceDeploymentArn"]
        )
        stopped["status"] = "ROLLBACK_IN_PROGRESS"
        return {"serviceDeploymentArn": given["serviceDeploymentArn"]}

    def gone_back(self, service: str, definition: str) -> None:
        """ECS is back at a revision."""
        self.service_deployments[-1]["status"] = "ROLLBACK_SUCCESSFUL"
        primary = self.services[service]["deployments"][0]
        primary |= {"taskDefinition": definition, "rolloutState": "COMPLETED", "runningCount": 1}
        self.services[service] |= {"taskDefinition": definition, "deployments": [primary]}

    def list_service_deployments(self, **given: Any) -> dict[str, Any]:
        assert given["createdAt"]["after"] < datetime.now(UTC)
        return {"serviceDeployments": copy.deepcopy(self.service_deployments)}

    def describe_service_revisions(self, serviceRevisionArns: list[str]) -> dict[str, Any]:  # noqa: N803
        assert len(serviceRevisionArns) <= 20
        known = [{"serviceRevisionArn": arn, "taskDefinition": arn.removeprefix("sr-")} for arn in serviceRevisionArns]
        return {"serviceRevisions": known}

    def list_tasks(self, **given: Any) -> dict[str, Any]:
        assert given["desiredStatus"] == "STOPPED"
        return {"taskArns": [task["taskArn"] for task in self.tasks]}

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        return {"tasks": [task for task in copy.deepcopy(self.tasks) if task["taskArn"] in tasks]}


def client_error(code: str, message: str = "no", operation: str = "UpdateService", status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)
