"""ECS's API, where it is more than moto's: requests reach the backend whole, and answers have AWS's fields."""

import base64
import re
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ecs.exceptions import ECSException, InvalidParameterException, ServiceNotFoundException
from moto.ecs.responses import EC2ContainerServiceResponse

from deploy_runner.local_aws.ecs.backend import Backend
from deploy_runner.local_aws.ecs.rollouts import ServiceDeployment
from deploy_runner.local_aws.ecs.services import Service
from deploy_runner.local_aws.ecs.shapes import NO_CAPACITY

_MOST_RESULTS = 100
_MOST_SERVICES = 10
_MOST_ARNS = 20  # in one DescribeServiceDeployments or DescribeServiceRevisions


def _moment(value: datetime | float) -> datetime:
    """Return a time of the request, which moto gives as it came, or without its zone, as one with a zone."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp(float(value), UTC)


def _name(item: Any) -> str:
    """Return what a page's token knows an item by."""
    return str(item["serviceDeploymentArn"] if isinstance(item, dict) else item)


class Responses(EC2ContainerServiceResponse):  # type: ignore[misc]  # moto has no types for us
    """Handles one request."""

    @property
    def _ecs(self) -> Backend:
        backend: Backend = self.ecs_backend
        return backend

    def _request(self) -> dict[str, Any]:
        return dict(self._get_params())

    def _page(self, items: list[Any], key: str, default: int = 100) -> ActionResult:
        """Return a page of a list; the token names the last item, so nothing comes twice when the list has grown."""
        size = self._get_param("maxResults") or default
        if not 1 <= size <= _MOST_RESULTS:
            raise InvalidParameterException(f"maxResults must be between 1 and {_MOST_RESULTS}.")
        names = [_name(item) for item in items]
        start = 0
        if token := self._get_param("nextToken"):
            try:
                start = names.index(base64.urlsafe_b64decode(token).decode()) + 1
            except ValueError as error:
                raise InvalidParameterException("Invalid token.") from error
        page: dict[str, Any] = {key: items[start : start + size]}
        if start + size < len(items):
            page["nextToken"] = base64.urlsafe_b64encode(names[start + size - 1].encode()).decode()
        return ActionResult(page)

    def _cluster(self) -> str:
        return str(self._get_param("cluster") or "default")

    def _with_tags(self, described: dict[str, Any]) -> dict[str, Any]:
        if "TAGS" not in (self._get_param("include") or []):
            described.pop("tags", None)
        return described

    def register_task_definition(self) -> ActionResult:
        definition = self._ecs.register(self._request())
        return ActionResult({"taskDefinition": definition, "tags": definition.tags})

    def list_task_definitions(self) -> ActionResult:
        arns = self._ecs.list_task_definitions(self._get_param("familyPrefix"), self._get_param("status") or "ACTIVE")
        return self._page(arns[::-1] if self._get_param("sort") == "DESC" else arns, "taskDefinitionArns")

    def list_task_definition_families(self) -> ActionResult:
        status = self._get_param("status") or "ALL"
        families = [
            family
            for family in self._ecs.list_task_definition_families(self._get_param("familyPrefix"))
            if status == "ALL"
            or ("ACTIVE" in {d.status for d in self._ecs.task_definitions[family].values()}) == (status == "ACTIVE")
        ]
        return self._page(families, "families")

    def run_task(self) -> ActionResult:
        tasks = self._ecs.run(self._request())
        failures = [{"reason": NO_CAPACITY}] * ((self._get_param("count") or 1) - len(tasks))
        return ActionResult({"tasks": [task.describe() for task in tasks], "failures": failures})

    def start_task(self) -> ActionResult:
        raise InvalidParameterException("No Container Instances were found in your cluster.")

    def describe_tasks(self) -> ActionResult:
        cluster, wanted = self._cluster(), self._get_param("tasks") or []
        tasks = self._ecs.describe_tasks(cluster, wanted)
        found = {task.id for task in tasks}
        failures = [
            {"arn": self._task_arn(cluster, name), "reason": "MISSING"}
            for name in wanted
            if name.rpartition("/")[2] not in found
        ]
        return ActionResult({"tasks": [self._with_tags(task.describe()) for task in tasks], "failures": failures})

    def _task_arn(self, cluster: str, name: str) -> str:
        if name.startswith("arn:"):
            return name
        return f"arn:aws:ecs:{self.region}:{self.current_account}:task/{cluster.rpartition('/')[2]}/{name}"

    def list_tasks(self) -> ActionResult:
        tasks = self._ecs.list_tasks(
            self._cluster(), self._get_param("containerInstance"), self._get_param("family"),
            self._get_param("startedBy"), self._get_param("serviceName"), self._get_param("desiredStatus") or "RUNNING",
        )  # fmt: skip
        if self._get_param("serviceName"):
            self._ecs._get_service(self._cluster(), self._get_param("serviceName"))
        launch_type = self._get_param("launchType")
        return self._page([t.task_arn for t in tasks if launch_type in (None, t.launch_type)], "taskArns")

    def stop_task(self) -> ActionResult:
        task = self._ecs.stop_task(self._cluster(), self._get_param("task"), self._get_param("reason"))
        return ActionResult({"task": task.describe()})

    def create_service(self) -> ActionResult:
        return ActionResult({"service": self._ecs.create(self._request()).describe()})

    def update_service(self) -> ActionResult:
        return ActionResult({"service": self._ecs.update(self._request()).describe()})

    def delete_service(self) -> ActionResult:
        force = bool(self._get_param("force"))
        service = self._ecs.delete_service(self._cluster(), self._get_param("service"), force)
        return ActionResult({"service": service.describe()})

    def describe_services(self) -> ActionResult:
        names = self._get_param("services") or []
        if not 1 <= len(names) <= _MOST_SERVICES:
            raise InvalidParameterException(f"services must have between 1 and {_MOST_SERVICES} names or ARNs.")
        services, failures = self._ecs.describe_services(self._cluster(), names)
        return ActionResult(
            {"services": [self._with_tags(service.describe()) for service in services], "failures": failures}
        )

    def list_services(self) -> ActionResult:
        arns = self._ecs.list_services(
            self._cluster(), self._get_param("schedulingStrategy"), self._get_param("launchType")
        )
        return self._page(arns, "serviceArns", 10)

    # moto 5.2.5 has none of these five.

    def list_service_deployments(self) -> ActionResult:
        service = self._ecs._get_service(self._cluster(), self._get_param("service"))
        if service.status == "INACTIVE":  # "Amazon ECS deletes the service deployment when you delete a service."
            raise ServiceNotFoundException()
        statuses, created = self._get_param("status") or [], self._get_param("createdAt") or {}
        found = [
            rollout.brief(service.arn, service.cluster_arn)
            for rollout in list(service.service_deployments)
            if (not statuses or rollout.status in statuses)
            and ("after" not in created or rollout.created >= _moment(created["after"]))
            and ("before" not in created or rollout.created <= _moment(created["before"]))
        ]
        return self._page(found, "serviceDeployments", 20)

    def describe_service_deployments(self) -> ActionResult:
        found, failures = [], []
        for arn in self._arns("serviceDeploymentArns"):
            known = self._ecs.service_deployment(arn)
            if known:
                found.append(known[1].describe(known[0]))
            else:
                failures.append({"arn": arn, "reason": "MISSING"})
        return ActionResult({"serviceDeployments": found, "failures": failures})

    def describe_service_revisions(self) -> ActionResult:
        revisions = {arn: (s, r) for s in list(self._ecs.services.values()) for arn, r in s.revisions.items()}
        wanted = self._arns("serviceRevisionArns")
        found = [revisions[arn][1].describe(revisions[arn][0].arn, revisions[arn][0].cluster_arn)
                 for arn in wanted if arn in revisions]  # fmt: skip
        failures = [{"arn": arn, "reason": "MISSING"} for arn in wanted if arn not in revisions]
        return ActionResult({"serviceRevisions": found, "failures": failures})

    def stop_service_deployment(self) -> ActionResult:
        stop_type = self._get_param("stopType") or "ROLLBACK"
        if stop_type != "ROLLBACK":  # the only one that API_StopServiceDeployment documents
            raise InvalidParameterException(f"The stop type {stop_type} is not supported. Valid values are: ROLLBACK")
        service, rollout = self._rollout()
        service.stop_rollout(rollout)
        return ActionResult({"serviceDeploymentArn": rollout.arn})

    def continue_service_deployment(self) -> ActionResult:
        hook_id = str(self._get_param("hookId") or "")
        if not re.fullmatch(r"ecs-(pause|lambda)-.+", hook_id):
            raise InvalidParameterException("Invalid hookId: hookId must follow the format: ecs-{hookType}-{id}")
        action = self._get_param("action") or "CONTINUE"
        if action not in ("CONTINUE", "ROLLBACK"):
            raise InvalidParameterException(f"Invalid action {action}. Valid values are: CONTINUE, ROLLBACK")
        service, rollout = self._rollout()
        service.continue_rollout(rollout, hook_id, action)
        return ActionResult({"serviceDeploymentArn": rollout.arn})

    def _rollout(self) -> tuple[Service, ServiceDeployment]:
        known = self._ecs.service_deployment(self._get_param("serviceDeploymentArn"))
        if known is None:
            raise ECSException("ServiceDeploymentNotFoundException", "The service deployment does not exist.")
        return known

    def _arns(self, name: str) -> list[str]:
        arns = list(self._get_param(name) or [])
        if not 1 <= len(arns) <= _MOST_ARNS:
            raise InvalidParameterException(f"{name} must have between 1 and {_MOST_ARNS} ARNs.")
        return arns
