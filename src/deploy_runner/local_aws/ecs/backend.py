"""moto's ECS, as ECS: tasks are containers, services have a scheduler, and no field of a task definition is lost.

moto 5.2.5 only keeps records: its tasks move on by polling, its services run nothing, it has no service deployments,
and takes INACTIVE task definitions. No issue upstream asks for more: it is a mock by design.

Time passes as it does, but for minutes: bake times and the time-outs of hooks are counted in `Backend.minute`, which
tests set to less than 60 seconds.
"""

import threading
import time
from typing import Any

from botocore import xform_name
from moto.ec2.exceptions import InvalidSecurityGroupNotFoundError, InvalidSubnetIdError
from moto.ec2.models import ec2_backends
from moto.ecs import urls
from moto.ecs.exceptions import EcsClientException, ECSException, InvalidParameterException
from moto.ecs.models import EC2ContainerServiceBackend

from deploy_runner.local_aws.ecs import failure_detection, strategies
from deploy_runner.local_aws.ecs.definitions import overridden, platform_version, registered
from deploy_runner.local_aws.ecs.environment import Roles
from deploy_runner.local_aws.ecs.events import Events
from deploy_runner.local_aws.ecs.rollouts import ServiceDeployment
from deploy_runner.local_aws.ecs.service_record import DEFAULTS
from deploy_runner.local_aws.ecs.services import Service
from deploy_runner.local_aws.ecs.shapes import input_shape, now
from deploy_runner.local_aws.ecs.targets import check_load_balancers
from deploy_runner.local_aws.ecs.tasks import Task, Wanted
from deploy_runner.local_aws.faults import facts_of_task
from deploy_runner.local_aws.machine import Machine

_KEPT_TASKS = 1000


class Backend(EC2ContainerServiceBackend):  # type: ignore[misc]  # moto has no types for us
    """What moto's responses and other services of moto see as ECS."""

    machine: Machine  # set by install, before the first backend is made
    minute: float = 60.0  # seconds; a service takes it when it is created

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.closing = threading.Event()
        self.events = Events(account_id, region_name)
        self.roles = Roles(self.machine)
        self._asked: dict[str, tuple[dict[str, Any], list[Task]]] = {}  # by clientToken
        self._one_at_a_time = threading.Lock()

    @property
    def _url_module(self) -> Any:
        return urls  # moto looks for it beside the module of the class

    def close(self) -> None:
        """End every task and scheduler; nothing is reported any more."""
        self.closing.set()
        self.events.close()
        for service in list(self.services.values()):
            service.close()
        threads = [
            threading.Thread(target=task.kill, daemon=True)
            for tasks in list(self.tasks.values())
            for task in list(tasks.values())
            if not task.stopped
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5  # for all of them: what is left then ends with the engine
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    # --- task definitions -------------------------------------------------------------------------------------------

    def register(self, request: dict[str, Any]) -> Any:
        """Register a task definition from RegisterTaskDefinition's input; every field of it is kept.

        moto 5.2.5 drops enableFaultInjection and whatever botocore's shape gets next, and refuses almost nothing.
        """
        request = registered(request)
        fargate = "FARGATE" in (request.get("requiresCompatibilities") or [])
        definition = super().register_task_definition(
            request["family"], request.get("containerDefinitions") or [],
            **{
                key: request.get(name)
                for key, name in (
                    ("volumes", "volumes"), ("network_mode", "networkMode"), ("tags", "tags"), ("memory", "memory"),
                    ("requires_compatibilities", "requiresCompatibilities"), ("cpu", "cpu"), ("pid_mode", "pidMode"),
                )
            },
        )  # fmt: skip
        for name in input_shape("RegisterTaskDefinition").members:
            if name not in ("family", "containerDefinitions", "tags", "volumes") and request.get(name) is not None:
                setattr(definition, xform_name(name), request[name])
        definition.registered_at = now()
        definition.registered_by = f"arn:aws:iam::{self.account_id}:root"
        definition.requires_attributes = [{"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"}]
        if fargate:
            definition.requires_attributes.append({"name": "ecs.capability.task-eni"})
        return definition

    def deregister_task_definition(self, task_definition_str: str) -> Any:
        """Make a revision INACTIVE."""
        definition = super().deregister_task_definition(task_definition_str)
        definition.deregistered_at = now()
        return definition

    def runnable(self, name: str) -> Any:
        """Return an ACTIVE task definition; a family's name stands for its newest ACTIVE revision."""
        family, _, revision = name.rpartition("/")[2].partition(":")
        if not revision:
            active = [d for d in self.task_definitions.get(family, {}).values() if d.status == "ACTIVE"]
            if not active:
                raise EcsClientException("TaskDefinition not found.")
            return max(active, key=lambda d: int(d.revision))
        definition = self.task_definitions.get(family, {}).get(int(revision) if revision.isdigit() else -1)
        if definition is None:
            raise EcsClientException("TaskDefinition not found.")
        if definition.status != "ACTIVE":
            raise EcsClientException("TaskDefinition is inactive")
        return definition

    # --- clusters ---------------------------------------------------------------------------------------------------

    def create_cluster(self, cluster_name: str, *args: Any, **kwargs: Any) -> Any:
        """Create a cluster, or return the one that is there."""
        known = self.clusters.get(cluster_name)
        return known if known and known.status == "ACTIVE" else super().create_cluster(cluster_name, *args, **kwargs)

    def describe_clusters(self, cluster_names: list[str]) -> Any:
        """Describe clusters, with what runs in them."""
        clusters, failures = super().describe_clusters(cluster_names)
        for cluster in clusters:
            tasks = [t for t in self.tasks.get(cluster.name, {}).values() if t.desired_status == "RUNNING"]
            cluster.running_tasks_count = sum(t.last_status == "RUNNING" for t in tasks)
            cluster.pending_tasks_count = len(tasks) - cluster.running_tasks_count
            cluster.active_services_count = len(self.list_services(cluster.name))
        return clusters, failures

    def delete_cluster(self, cluster_str: str) -> Any:
        """Delete a cluster that has nothing in it."""
        cluster = self.active_cluster(cluster_str)
        if self.list_services(cluster.name):
            raise ECSException(
                "ClusterContainsServicesException", "The Cluster cannot be deleted while Services are active."
            )
        if any(not task.stopped for task in self.tasks.get(cluster.name, {}).values()):
            raise ECSException("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
        return super().delete_cluster(cluster_str)

    def active_cluster(self, name: str) -> Any:
        """Return a cluster. Raises ClusterNotFoundException, also for one that was deleted."""
        cluster = self._get_cluster(name)
        if cluster.status != "ACTIVE":
            raise ECSException("ClusterNotFoundException", "The referenced cluster was inactive.")
        return cluster

    # --- tasks ------------------------------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        """Keep a task; those that stopped long ago are forgotten, and of too many the oldest that have stopped."""
        tasks = self.tasks.setdefault(task.cluster_name, {})
        tasks[task.task_arn] = task
        stopped = [arn for arn, known in list(tasks.items()) if known.stopped]
        many = max(len(tasks) - _KEPT_TASKS, 0)
        for arn in stopped[:many] + [arn for arn in stopped[many:] if tasks[arn].forgotten]:
            del tasks[arn]

    def run(self, request: dict[str, Any]) -> list[Task]:
        """Start tasks from RunTask's input, fewer than it asks for where there is no capacity.

        A second request with the same clientToken starts none.
        docs.aws.amazon.com/AmazonECS/latest/APIReference/ECS_Idempotency.html
        """
        token = request.get("clientToken")
        if not token:
            return self._run(request)
        with self._one_at_a_time:
            if self._asked.get(token, (request,))[0] != request:
                raise ECSException(
                    "ConflictException", "The provided clientToken is already in use with a different RunTask request."
                )
            if token in self._asked:
                return self._asked[token][1]
            tasks = self._run(request)
            if tasks:  # what was refused for lack of capacity is to be tried again with the same token
                self._asked[token] = request, tasks
                for oldest in list(self._asked)[:-_KEPT_TASKS]:
                    del self._asked[oldest]
            return tasks

    def _run(self, request: dict[str, Any]) -> list[Task]:
        cluster = self.active_cluster(request.get("cluster") or "default")
        definition = self.runnable(request["taskDefinition"])
        launch_type, provider = self.launch(request, cluster)
        network = request.get("networkConfiguration") or {}
        self.check_network(definition, network)
        overrides = overridden(request, definition)
        for role in filter(None, self.roles_of(definition, overrides)):
            if why_not := self.roles.why_not(role, f"arn:aws:ecs:{self.region_name}:{self.account_id}:task/*"):
                raise EcsClientException(why_not)
        count = request.get("count") or 1
        if not 1 <= count <= 10:
            raise InvalidParameterException("count should be between 1 and 10.")
        tags = list(request.get("tags") or [])
        tags += definition.tags if request.get("propagateTags") == "TASK_DEFINITION" else []
        if request.get("enableECSManagedTags"):
            tags.append({"key": "aws:ecs:clusterName", "value": cluster.name})
        wanted = Wanted(
            cluster=cluster, definition=definition, launch_type=launch_type, capacity_provider=provider,
            group=request.get("group") or f"family:{definition.family}", started_by=request.get("startedBy") or "",
            overrides=overrides, network=network, tags=tags, execute_command=bool(request.get("enableExecuteCommand")),
            platform_version=platform_version(request),
        )  # fmt: skip
        facts = facts_of_task(cluster.name, definition.family, wanted.group)
        tasks = [Task(self, wanted) for _ in range(count) if not self.machine.faults.struck("capacity", **facts)]
        for task in tasks:
            self.add_task(task)
            task.start()
        return tasks

    def roles_of(self, definition: Any, overrides: dict[str, Any]) -> tuple[str | None, str | None]:
        """Return a task's execution role and task role, each an ARN where it was given by name."""
        found = []
        for key, attribute in (("executionRoleArn", "execution_role_arn"), ("taskRoleArn", "task_role_arn")):
            role = overrides.get(key) or getattr(definition, attribute, None)
            found.append(role if not role or role.startswith("arn:") else f"arn:aws:iam::{self.account_id}:role/{role}")
        return found[0], found[1]

    def launch(self, request: dict[str, Any], cluster: Any) -> tuple[str, str | None]:
        """Return launch type and capacity provider. There are no instances here, so all must come to Fargate."""
        launch_type = request.get("launchType")
        strategy = request.get("capacityProviderStrategy")
        if launch_type and strategy:
            raise InvalidParameterException(
                "Specifying both a launch type and capacity provider strategy is not supported."
            )
        if not launch_type:
            strategy = strategy or cluster.default_capacity_provider_strategy
        if strategy and strategy[0]["capacityProvider"] in ("FARGATE", "FARGATE_SPOT"):
            return "FARGATE", strategy[0]["capacityProvider"]
        if launch_type == "FARGATE":
            return "FARGATE", None
        raise InvalidParameterException("No Container Instances were found in your cluster.")

    def check_network(self, definition: Any, network: dict[str, Any]) -> None:
        """Refuse what awsvpc lacks: API_AwsVpcConfiguration."""
        if definition.network_mode != "awsvpc":
            return
        configuration = network.get("awsvpcConfiguration")
        if not configuration:
            raise InvalidParameterException(
                "Network Configuration must be provided when networkMode 'awsvpc' is specified."
            )
        if not configuration.get("subnets"):
            raise InvalidParameterException("subnets can not be empty.")
        ec2 = ec2_backends[self.account_id][self.region_name]
        try:
            ec2.describe_subnets(subnet_ids=configuration["subnets"])
            if configuration.get("securityGroups"):
                ec2.describe_security_groups(group_ids=configuration["securityGroups"])
        except (InvalidSubnetIdError, InvalidSecurityGroupNotFoundError) as error:
            raise InvalidParameterException(
                f"Error retrieving network information: {error.message} (ErrorCode: {error.code})"
            ) from error

    def describe_tasks(self, cluster_str: str, tasks: list[str]) -> list[Any]:
        """Return the tasks of a cluster by id or ARN; moto would return any cluster's."""
        cluster = self._get_cluster(cluster_str)
        if not tasks:
            raise InvalidParameterException("Tasks cannot be empty.")
        wanted = {task.rpartition("/")[2] for task in tasks}
        known = list(self.tasks.get(cluster.name, {}).values())
        return [task for task in known if task.id in wanted and not task.forgotten]

    def list_tasks(
        self,
        cluster_str: str | None = None,
        container_instance: str | None = None,
        family: str | None = None,
        started_by: str | None = None,
        service_name: str | None = None,
        desiredStatus: str | None = None,
    ) -> list[Any]:
        """Return tasks that match all that is given, oldest first."""
        cluster = self._get_cluster(cluster_str).name if cluster_str else None
        service = service_name.rpartition("/")[2] if service_name else None
        return [
            task
            for name, tasks in list(self.tasks.items())
            for task in list(tasks.values())
            if cluster in (None, name)
            and not task.forgotten
            and not container_instance
            and family in (None, task.family)
            and started_by in (None, task.started_by)
            and (service is None or task.group == f"service:{service}")
            and desiredStatus in (None, task.desired_status)
        ]

    def stop_task(self, cluster_str: str, task_str: str, reason: str | None) -> Any:
        """Ask a task to stop."""
        cluster = self._get_cluster(cluster_str or "default")
        task = next((t for t in self.describe_tasks(cluster.name, [task_str])), None)
        if task is None:
            raise InvalidParameterException("The referenced task was not found.")
        task.stop(reason or "Task stopped by user", "UserInitiated")
        return task

    # --- services ---------------------------------------------------------------------------------------------------

    def create(self, request: dict[str, Any]) -> Service:
        """Create a service from CreateService's input, and begin its first rollout."""
        cluster = self.active_cluster(request.get("cluster") or "default")
        key = f"{cluster.name}:{request['serviceName']}"
        known: Service | None = self.services.get(key)
        if known is not None and known.status == "ACTIVE":
            token = request.get("clientToken")
            if token and token == known.settings.get("clientToken"):
                return known  # the answer to the first request was lost: API_CreateService, clientToken
            raise InvalidParameterException("Creation of service was not idempotent.")
        if known is not None and known.status == "DRAINING":
            raise InvalidParameterException("Unable to Start a service that is still Draining.")
        controller = (request.get("deploymentController") or {}).get("type", "ECS")
        if controller != "ECS":
            raise InvalidParameterException(f"local AWS has no deployment controller but ECS, not {controller}.")
        definition = self.runnable(request.get("taskDefinition") or "")
        settings = request | {"cluster": cluster.name, "taskDefinition": definition.arn}
        self._check_deployments(request.get("deploymentConfiguration"), DEFAULTS, request)
        if not settings.get("capacityProviderStrategy"):
            settings["launchType"], provider = self.launch(request, cluster)
            if provider:
                settings["capacityProviderStrategy"] = [{"capacityProvider": provider, "weight": 1, "base": 0}]
                settings["launchType"] = None
        self.check_network(definition, request.get("networkConfiguration") or {})
        check_load_balancers(request.get("loadBalancers"), definition)
        service = Service(self, cluster, settings)
        self.services[key] = service
        service.start()
        return service

    def update(self, request: dict[str, Any]) -> Service:
        """Change a service by UpdateService's input."""
        service: Service = self._get_service(
            self.active_cluster(request.get("cluster") or "default").name, request["service"]
        )
        changes = {k: v for k, v in request.items() if k not in ("cluster", "service", "forceNewDeployment")}
        definition = self.describe_task_definition(service.task_definition)
        if request.get("taskDefinition"):
            definition = self.runnable(request["taskDefinition"])
            changes["taskDefinition"] = definition.arn
        network = request.get("networkConfiguration") or service.settings.get("networkConfiguration") or {}
        self.check_network(definition, network)
        balancers = request.get("loadBalancers")
        check_load_balancers(service.settings.get("loadBalancers") if balancers is None else balancers, definition)
        self._check_deployments(
            request.get("deploymentConfiguration"), service.deployment_configuration, service.settings | request
        )
        service.update(changes, bool(request.get("forceNewDeployment")))
        return service

    @staticmethod
    def _check_deployments(
        configuration: dict[str, Any] | None, before: dict[str, Any], service: dict[str, Any]
    ) -> None:
        """Refuse a deploymentConfiguration that cannot be, or not with the rest of the service."""
        whole = before | (configuration or {})
        failure_detection.check(whole)
        becomes_blue_green = whole["strategy"] == "BLUE_GREEN" != before["strategy"]
        if becomes_blue_green and "bakeTimeInMinutes" not in (configuration or {}):
            raise InvalidParameterException(
                "bakeTimeInMinutes is required when you use the BLUE_GREEN deployment strategy."
            )
        strategies.check(whole, configuration or {}, service.get("loadBalancers") or [])

    def delete_service(self, cluster_name: str, service_name: str, force: bool) -> Service:
        """Drain a service."""
        service: Service = self._get_service(cluster_name, service_name)
        if service.status == "ACTIVE" and service.desired_count > 0 and not force:
            raise InvalidParameterException("The service cannot be stopped while it is scaled above 0.")
        if service.status == "ACTIVE":
            service.drain()
        return service

    def list_services(
        self, cluster_str: str, scheduling_strategy: str | None = None, launch_type: str | None = None
    ) -> list[str]:
        """Return the ARNs of the services that were not deleted."""
        cluster = self._get_cluster(cluster_str)
        return sorted(
            service.arn
            for service in list(self.services.values())
            if service.cluster_name == cluster.name
            and service.status != "INACTIVE"
            and scheduling_strategy in (None, service.scheduling_strategy)
            and launch_type in (None, service.launch_type)
        )

    def service_deployment(self, arn: str) -> tuple[Service, ServiceDeployment] | None:
        """Return the service deployment with this ARN."""
        for service in list(self.services.values()):
            for rollout in service.service_deployments:
                if rollout.arn == arn:
                    return service, rollout
        return None
