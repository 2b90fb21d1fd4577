"""A task: its containers run for real, in the order that `dependsOn` asks for, and in one network namespace.

Statuses: docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html
Reasons: docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
"""

import contextlib
import logging
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from docker.errors import DockerException
from moto.ec2.models import ec2_backends

from deploy_runner.local_aws.ecs import metadata
from deploy_runner.local_aws.ecs.containers import (
    CannotPull,
    CannotStart,
    EngineContainer,
    Plan,
    Process,
    is_kaniko,
    namespace,
    pull,
    split_image,
    with_digest,
)
from deploy_runner.local_aws.ecs.environment import (
    FileUnavailable,
    SecretUnavailable,
    secret_value,
    variables_of_files,
)
from deploy_runner.local_aws.ecs.kaniko import KanikoBuild
from deploy_runner.local_aws.ecs.logs import LogGroupMissing, LogRefused, LogStream
from deploy_runner.local_aws.ecs.shapes import hex_id, now, number_id
from deploy_runner.local_aws.faults import facts_of_task
from deploy_runner.local_aws.iam.authority import refusal

_STOP_SECONDS = 30  # stopTimeout's default: API_ContainerDefinition
_STORAGE_GIB = 20  # .../developerguide/fargate-task-storage.html
_KILLED = 128 + 9
_KEPT = timedelta(hours=1)  # "stopped tasks appear in the returned results for at least one hour": API_DescribeTasks
_log = logging.getLogger(__name__)
_HEALTH_PROBE_SECONDS = 0.3  # until a container is healthy for the first time; ECS waits for a whole interval


class FailedToStart(Exception):
    """The task stops with TaskFailedToStart; the text is its stoppedReason."""


@dataclass
class Container:
    """What DescribeTasks says of a container, and its process."""

    name: str
    definition: dict[str, Any]
    status: str = "PENDING"
    exit_code: int | None = None
    reason: str | None = None
    digest: str = ""
    health: str = "UNKNOWN"
    process: Process | None = None
    started: bool = False
    plan: Plan | None = None
    failed_checks: int = 0
    started_at: float = 0.0  # monotonic
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    runtime_id: str = field(default_factory=lambda: number_id(10))

    @property
    def essential(self) -> bool:
        """Whether the task ends with it."""
        return bool(self.definition.get("essential", True))

    @property
    def ended(self) -> bool:
        """Whether it ran, and runs no more."""
        return self.status == "STOPPED"

    def meets(self, condition: str) -> bool:
        """Tell whether a container that depends on this one by `condition` may start."""
        return {
            "START": self.started,
            "COMPLETE": self.ended,
            "SUCCESS": self.ended and self.exit_code == 0,
            "HEALTHY": self.health == "HEALTHY",
        }[condition]

    @property
    def needs(self) -> dict[str, str]:
        """The containers that it depends on, and the condition of each."""
        return {d["containerName"]: d["condition"] for d in self.definition.get("dependsOn") or []}

    def never_meets(self, condition: str) -> bool:
        """Tell whether it is too late for `condition`."""
        if condition == "SUCCESS":
            return self.ended and self.exit_code != 0
        return condition == "HEALTHY" and self.ended

    def is_late(self, condition: str) -> bool:
        """Tell whether its startTimeout is over, in which it must meet whatever others wait for, but START."""
        seconds = self.definition.get("startTimeout")
        waited = time.monotonic() - self.started_at if self.started and condition != "START" else 0.0
        return bool(seconds) and not self.meets(condition) and waited > float(seconds or 0)


@dataclass
class Wanted:
    """What RunTask, or a service, asked for."""

    cluster: Any
    definition: Any
    launch_type: str = "FARGATE"
    capacity_provider: str | None = None
    group: str = ""
    started_by: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    platform_version: str = "1.4.0"
    tags: list[dict[str, str]] = field(default_factory=list)
    execute_command: bool = False
    digests: dict[str, str] = field(default_factory=dict)  # that its service resolved, by container


class Task:
    """One task, from PROVISIONING to STOPPED, in a thread of its own."""

    def __init__(
        self,
        backend: Any,
        wanted: Wanted,
        on_change: Callable[[], None] = lambda: None,
        drain: Callable[["Task"], None] = lambda task: None,
    ) -> None:
        """`drain` is called before its containers are stopped, and may take its time: they still answer."""
        self._backend, self._machine, self._wanted, self._on_change = backend, backend.machine, wanted, on_change
        self._drain = drain
        self.id = hex_id()
        self.cluster_name, self.cluster_arn = wanted.cluster.name, wanted.cluster.arn
        self.task_definition_arn: str = wanted.definition.arn
        self.family: str = wanted.definition.family
        self.group, self.started_by, self.tags = wanted.group, wanted.started_by, list(wanted.tags)
        self.container_instance_arn = None
        self.launch_type = wanted.launch_type
        self.last_status, self.desired_status = "PROVISIONING", "RUNNING"
        self.stop_code: str | None = None
        self.stopped_reason: str | None = None
        self.address = ""
        self.times: dict[str, datetime] = {"createdAt": now()}
        self.version = 1
        self.running_since: float | None = None  # monotonic
        self._overrides = {o["name"]: o for o in wanted.overrides.get("containerOverrides") or [] if "name" in o}
        self.containers = [
            Container(d["name"], _overridden(d, self._overrides.get(d["name"], {})))
            for d in wanted.definition.container_definitions
        ]
        self._attachment = {"id": str(uuid.uuid4()), "eni": f"eni-{hex_id()[:17]}", "mac": f"0a:{_mac(self.id)}"}
        self._wake = threading.Condition()
        self._stop_wanted: tuple[str, str] | None = None
        self._pause: EngineContainer | None = None
        self._volumes = backend.machine.state_dir / "tasks" / self.id
        self._thread = threading.Thread(target=self._live, name=f"task {self.id[:8]}", daemon=True)

    # --- what others see --------------------------------------------------------------------------------------------

    @property
    def task_arn(self) -> str:
        """The task's ARN."""
        region, account = self._backend.region_name, self._backend.account_id
        return f"arn:aws:ecs:{region}:{account}:task/{self.cluster_name}/{self.id}"

    @property
    def stopped(self) -> bool:
        """Whether it has ended and left nothing."""
        return self.last_status == "STOPPED"

    @property
    def forgotten(self) -> bool:
        """Whether it has ended so long ago that ECS knows it no more."""
        return self.stopped and now() - self.times["stoppedAt"] > _KEPT

    @property
    def health(self) -> str:
        """The worst of its essential containers' that have a health check, by which a service goes; or UNKNOWN."""
        return _worst([c.health for c in self.containers if c.essential and c.definition.get("healthCheck")])

    def advance(self) -> None:
        """Do nothing: moto would move its own tasks on here."""

    def describe(self) -> dict[str, Any]:
        """Return the task as DescribeTasks has it."""
        wanted, definition = self._wanted, self._wanted.definition
        named = [{"name": c.name} | self._overrides.get(c.name, {}) for c in self.containers]
        overrides = {"inferenceAcceleratorOverrides": []} | wanted.overrides | {"containerOverrides": named}
        storage = wanted.overrides.get("ephemeralStorage") or definition.ephemeral_storage
        machine_arch = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
        task: dict[str, Any] = {
            "taskArn": self.task_arn, "clusterArn": self.cluster_arn, "taskDefinitionArn": self.task_definition_arn,
            "lastStatus": self.last_status, "desiredStatus": self.desired_status,
            # Unlike `health`, a container without a health check counts as UNKNOWN: API_HealthCheck.
            "healthStatus": _worst([c.health for c in self.containers if c.essential]),
            "containers": [self._describe(container) for container in self.containers], "overrides": overrides,
            "group": self.group, "tags": self.tags, "launchType": self.launch_type, "version": self.version,
            "capacityProviderName": wanted.capacity_provider, "inferenceAccelerators": [],
            "platformVersion": wanted.platform_version, "platformFamily": "Linux",
            "cpu": wanted.overrides.get("cpu") or definition.cpu,
            "memory": wanted.overrides.get("memory") or definition.memory,
            "availabilityZone": self._zone, "enableExecuteCommand": wanted.execute_command,
            "attributes": [{"name": "ecs.cpu-architecture", "value": machine_arch}],
            "ephemeralStorage": storage or {"sizeInGiB": _STORAGE_GIB},
            "fargateEphemeralStorage": storage or {"sizeInGiB": _STORAGE_GIB},
            "attachments": self._attachments(), **self.times,
        }  # fmt: skip
        if "connectivityAt" in self.times:
            task["connectivity"] = "CONNECTED"
        if self.started_by:
            task["startedBy"] = self.started_by
        if self.stop_code:
            task |= {"stopCode": self.stop_code}
        if self.stopped_reason:
            task |= {"stoppedReason": self.stopped_reason}
        return task

    @property
    def _zone(self) -> str:
        """The Availability Zone of the task's subnet."""
        subnets = (self._wanted.network.get("awsvpcConfiguration") or {}).get("subnets") or [""]
        zones = ec2_backends[self._backend.account_id][self._backend.region_name].subnets
        return next((zone for zone, known in zones.items() if subnets[0] in known), f"{self._backend.region_name}a")

    def _describe(self, container: Container) -> dict[str, Any]:
        eni = self._attachment
        described: dict[str, Any] = {
            "containerArn": f"{self.task_arn.replace(':task/', ':container/')}/{container.id}",
            "taskArn": self.task_arn, "name": container.name, "image": container.definition["image"],
            "lastStatus": container.status, "healthStatus": container.health, "networkBindings": [],
            "networkInterfaces": (
                [{"attachmentId": eni["id"], "privateIpv4Address": self.address}] if self.address else []
            ),
            "cpu": str(container.definition.get("cpu", 0)),
        }  # fmt: skip
        for key in ("memory", "memoryReservation"):
            if container.definition.get(key):
                described[key] = str(container.definition[key])
        if container.started:
            described["runtimeId"] = f"{self.id}-{container.runtime_id}"
        for key, value in (
            ("exitCode", container.exit_code), ("reason", container.reason), ("imageDigest", container.digest or None)
        ):  # fmt: skip
            if value is not None:
                described[key] = value
        return described

    def _attachments(self) -> list[dict[str, Any]]:
        configuration = self._wanted.network.get("awsvpcConfiguration")
        if not configuration:
            return []
        status = {"PROVISIONING": "PRECREATED", "STOPPED": "DELETED"}.get(self.last_status, "ATTACHED")
        details = {
            "subnetId": (configuration.get("subnets") or [""])[0],
            "networkInterfaceId": self._attachment["eni"],
            "macAddress": self._attachment["mac"],
        }
        if self.address:
            details["privateDnsName"] = f"ip-{self.address.replace('.', '-')}.ec2.internal"
            details["privateIPv4Address"] = self.address
        return [
            {
                "id": self._attachment["id"], "type": "ElasticNetworkInterface", "status": status,
                "details": [{"name": name, "value": value} for name, value in details.items()],
            }
        ]  # fmt: skip

    def endpoint(self, container_name: str, port: int) -> tuple[str, int] | None:
        """Return where this machine reaches a port of the task, or None."""
        with contextlib.suppress(DockerException, OSError, KeyError, AttributeError):
            holder = self._pause or next(c.process for c in self.containers if c.name == container_name)
            if isinstance(holder, EngineContainer) and self.address:
                return holder.endpoint(port, self.address)
        return None

    # --- what others do ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._emit()
        self._thread.start()

    def stop(self, reason: str, code: str) -> None:
        """Ask the task to end."""
        with self._wake:
            if self._stop_wanted or self.desired_status == "STOPPED":
                return
            self._stop_wanted = (reason, code)
            self.stopped_reason, self.stop_code, self.desired_status = reason, code, "STOPPED"
            self.times.setdefault("stoppingAt", now())
            self._changed()

    def kill(self) -> None:
        """End it at once, without a word to anyone: the machine stops."""
        self.desired_status = "STOPPED"
        for container in self.containers:
            if container.process:
                container.process.remove()
        if self._pause:
            self._pause.remove()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, and tell whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # --- its life ---------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            try:
                self._prepare()
                self._run()
            except FailedToStart as error:
                self._ends(str(error), "TaskFailedToStart")
            except Exception as error:  # without a stop code it would count for nothing, and be replaced for ever
                if not self._backend.closing.is_set():
                    _log.exception("task %s", self.id)
                self._ends(f"InternalError: {type(error).__name__}: {error}", "TaskFailedToStart")
            self._stop_containers()
        finally:
            if not self._backend.closing.is_set():
                self._clean()

    def _to(self, status: str, *times: str) -> None:
        self.last_status = status
        for name in times:
            self.times.setdefault(name, now())
        self._changed()

    def _changed(self) -> None:
        """Tell that the task, or a container in it, is in another state: each has a version of its own."""
        with self._wake:
            self.version += 1
            self._emit()
            self._wake.notify_all()

    def _emit(self) -> None:
        if not self._backend.closing.is_set():
            self._backend.events.task_changed(self.describe())
            self._on_change()

    def _prepare(self) -> None:
        """Fetch secrets and images, and plan the containers."""
        self._to("PENDING", "connectivityAt")
        self._start_slowly()
        wanted, definition = self._wanted, self._wanted.definition
        execution_role, task_role = self._backend.roles_of(definition, wanted.overrides)
        for role in filter(None, (execution_role, task_role)):
            if why_not := self._backend.roles.why_not(role, self.task_arn):
                raise FailedToStart(why_not)
        region = self._backend.region_name
        base = {
            "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
            "AWS_ENDPOINT_URL": self._machine.endpoint,
        }  # fmt: skip
        if task_role:
            base |= self._backend.roles.credentials(task_role, self.id, self.task_arn)
        key, _, value = self._machine.engine.label.partition("=")
        labels = {key: value, "com.amazonaws.ecs.task-arn": self.task_arn}
        for index, container in enumerate(self.containers):
            base["ECS_CONTAINER_METADATA_URI_V4"] = metadata.uri(self._machine, self.id, index)
            environment = base | self._environment_files(container, execution_role)
            environment |= {e["name"]: e.get("value", "") for e in container.definition.get("environment") or []}
            environment |= self._secrets(container, execution_role)
            environment = {name: self._machine.for_container(text) for name, text in environment.items()}
            logs = self._logs(container, execution_role)
            container.plan = Plan(
                container.name, container.definition, environment, logs, self._binds(container), labels,
                memory=int(wanted.overrides.get("memory") or definition.memory or 0),
            )  # fmt: skip
        self.times["pullStartedAt"] = now()
        for container in self.containers:
            if not is_kaniko(container.definition["image"]):
                self._pull(container, execution_role)
        self.times["pullStoppedAt"] = now()
        real = [c for c in self.containers if not is_kaniko(c.definition["image"])]
        publish = [] if self._machine.engine.addresses_reachable else self._ports()
        if len(real) > 1:
            try:
                self._pause = namespace(self._machine, labels, publish)
            except (CannotPull, CannotStart) as error:
                raise FailedToStart(str(error)) from error
            self.address = self._pause.address()
        elif real and real[0].plan:
            real[0].plan.publish = publish

    def _ports(self) -> list[int]:
        mappings = [m for c in self.containers for m in c.definition.get("portMappings") or []]
        return [m["containerPort"] for m in mappings if m.get("protocol", "tcp") == "tcp" and "containerPort" in m]

    def _may(self, role: str | None, action: str, resource: str) -> str:
        """Return why the execution role may not do what is done as it, nothing where it may."""
        said = refusal(self._machine, role, self.id, action, resource) if role else ""
        return f"AccessDeniedException: {said}" if said else ""

    def _may_pull(self, image: str, role: str | None) -> None:
        repository, reference = split_image(image)
        registry, _, name = repository.partition("/")
        if registry != self._machine.registry or name.startswith("public.ecr.aws/"):
            return
        if said := self._may(role, "ecr:GetAuthorizationToken", "*"):
            raise FailedToStart(
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
                "failed: unable to retrieve ecr registry auth: service call has been retried 1 time(s): " + said
            )
        # The registry has one account's images, also for tasks of another.
        arn = f"arn:aws:ecr:{self._machine.region}:{self._machine.account_id}:repository/{name}"
        if any(self._may(role, f"ecr:{action}", arn) for action in ("BatchGetImage", "GetDownloadUrlForLayer")):
            raise CannotPull(
                f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
                f"{image}: pulling from host {registry} failed with status code [manifests {reference}]: 403 Forbidden"
            )

    def _pull(self, container: Container, role: str | None) -> None:
        try:
            self._may_pull(container.definition["image"], role)
            # DescribeTasks keeps the image as the definition has it; only what is pulled is the digest's.
            digest = self._wanted.digests.get(container.name)
            image, container.digest = pull(self._machine, with_digest(container.definition["image"], digest))
        except CannotPull as error:
            container.reason = str(error)
            raise FailedToStart(str(error)) from error
        assert container.plan is not None
        container.plan.image = image

    def _environment_files(self, container: Container, role: str | None) -> dict[str, str]:
        region = self._backend.region_name
        try:
            return variables_of_files(
                container.definition.get("environmentFiles") or [],
                lambda: self._backend.roles.client("s3", role or "", region, self.task_arn),
            )
        except FileUnavailable as error:
            raise FailedToStart(f"ResourceInitializationError: {error}") from error

    def _secrets(self, container: Container, role: str | None) -> dict[str, str]:
        region = self._backend.region_name
        found = {}
        for secret in container.definition.get("secrets") or []:
            try:
                found[secret["name"]] = secret_value(
                    secret["valueFrom"],
                    lambda service, where: self._backend.roles.client(service, role or "", where, self.task_arn),
                    region,
                )
            except SecretUnavailable as error:
                raise FailedToStart(
                    "ResourceInitializationError: unable to pull secrets or registry auth: "
                    f"execution resource retrieval failed: {error}"
                ) from error
        return found

    def _logs(self, container: Container, role: str | None) -> LogStream:
        configuration = container.definition.get("logConfiguration") or {}
        failed = (
            "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: "
            "failed to create Cloudwatch log stream: "
        )
        try:
            return LogStream(
                self._backend.account_id, self._backend.region_name, configuration, container.name, self.id,
                lambda action, resource: self._may(role, action, resource),
            )  # fmt: skip
        except LogGroupMissing as error:
            message = f"{failed}ResourceNotFoundException: The specified log group does not exist. : {error}"
            raise FailedToStart(message) from error
        except LogRefused as error:
            raise FailedToStart(f"{failed}{error}") from error

    def _binds(self, container: Container) -> dict[str, dict[str, str]]:
        mounts = list(container.definition.get("mountPoints") or [])
        for source in container.definition.get("volumesFrom") or []:
            other = next((c for c in self.containers if c.name == source.get("sourceContainer")), None)
            mounts += [m | {"readOnly": source.get("readOnly", False)} for m in self._mounts(other)]
        binds = {}
        for mount in mounts:
            folder = self._volumes / mount["sourceVolume"]
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o777)  # a volume of Fargate may be written to by every user of a task's containers
            binds[str(folder)] = {"bind": mount["containerPath"], "mode": "ro" if mount.get("readOnly") else "rw"}
        return binds

    def _mounts(self, container: Container | None) -> list[dict[str, Any]]:
        return list(container.definition.get("mountPoints") or []) if container else []

    def _run(self) -> None:
        """Start what may start, until the task is to end."""
        while True:
            self._start_ready()
            if self.last_status == "PENDING" and all(c.started for c in self.containers):
                self._to("ACTIVATING")
                self.running_since = time.monotonic()
                self._to("RUNNING", "startedAt")
                self._meet_fate()
            with self._wake:
                if self._stop_wanted:
                    return
                if any(c.essential and c.ended for c in self.containers) or all(c.ended for c in self.containers):
                    self._ends("Essential container in task exited", "EssentialContainerExited")
                    return
                self._wake.wait(0.5)

    def _start_ready(self) -> None:
        """Start each container whose dependencies hold; the start of one may let the next one start."""
        again = True
        while again and not self._stop_wanted:
            again = False
            for container in self.containers:
                if container.started or container.ended:
                    continue
                needs = [(self._named(name), condition) for name, condition in container.needs.items()]
                for other, condition in needs:
                    if other.never_meets(condition):
                        self._never_starts(container, other, "as dependency did not exit successfully.")
                    elif other.is_late(condition):
                        self._never_starts(container, other, "as dependency did not meet its condition in time.")
                        raise FailedToStart("Task failed to start")
                if not container.ended and all(other.meets(condition) for other, condition in needs):
                    self._start(container)
                    again = True

    def _named(self, name: str) -> Container:
        return next(c for c in self.containers if c.name == name)

    def _never_starts(self, container: Container, other: Container, why: str) -> None:
        # amazon-ecs-agent, dependencygraph/graph.go; what Fargate says is not documented.
        container.status = "STOPPED"
        container.reason = (
            f"dependency graph: failed to resolve the container ordering dependency [{other.name}] for target "
            f"[{container.name}] {why}"
        )
        if container.essential:
            raise FailedToStart("Task failed to start")
        self._changed()

    def _start(self, container: Container) -> None:
        assert container.plan is not None
        kaniko = is_kaniko(container.definition["image"])
        container.process = (KanikoBuild if kaniko else EngineContainer)(self._machine, container.plan)
        try:
            container.process.start(self._pause.id if self._pause else None)
        except CannotStart as error:
            container.status, container.reason = "STOPPED", str(error)
            raise FailedToStart("Task failed to start") from error
        container.started, container.status, container.started_at = True, "RUNNING", time.monotonic()
        if not self.address and isinstance(container.process, EngineContainer):
            with contextlib.suppress(DockerException):
                self.address = container.process.address()
        if any(not other.started for other in self.containers):
            self._changed()
        threading.Thread(target=self._watch, args=(container,), name=f"watch {container.name}", daemon=True).start()
        if container.definition.get("healthCheck") and isinstance(container.process, EngineContainer):
            threading.Thread(target=self._check_health, args=(container,), daemon=True).start()

    def _watch(self, container: Container) -> None:
        assert container.process is not None
        code = container.process.wait()
        if self._backend.closing.is_set():
            return
        if isinstance(container.process, EngineContainer) and container.process.out_of_memory and code == _KILLED:
            container.reason = "OutOfMemoryError: Container killed due to memory usage"
        with self._wake:
            container.exit_code, container.status = code, "STOPPED"
            self._changed()

    def _check_health(self, container: Container) -> None:
        """Run the container's health check as ECS does, but look at once, and often until it is healthy.

        It is never called unhealthy sooner than ECS would: API_HealthCheck.
        """
        check = container.definition["healthCheck"]
        interval, retries = float(check.get("interval") or 30), int(check.get("retries") or 3)
        grace = time.monotonic() + float(check.get("startPeriod") or 0)
        next_counted = grace + interval
        process = container.process
        while not container.ended and self.desired_status == "RUNNING" and isinstance(process, EngineContainer):
            healthy = process.is_healthy()
            before = container.health
            if healthy:
                container.failed_checks, container.health = 0, "HEALTHY"
                next_counted = time.monotonic()
            elif time.monotonic() >= next_counted:
                container.failed_checks += 1
                next_counted = time.monotonic() + interval
                if container.failed_checks >= retries:
                    container.health = "UNHEALTHY"
            if container.health != before:
                self._changed()
            time.sleep(_HEALTH_PROBE_SECONDS if container.health == "UNKNOWN" else interval)

    # --- its faults -------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, str]:
        """What faults are held against."""
        return facts_of_task(self.cluster_name, self.family, self.group)

    def _start_slowly(self) -> None:
        for fault, dice in self._machine.faults.strike("task", "slow_start", **self.facts):
            until = time.monotonic() + dice.uniform(fault.seconds, fault.more.get("up_to", fault.seconds))
            while time.monotonic() < until and self._stop_wanted is None:
                if self._backend.closing.wait(min(0.1, max(until - time.monotonic(), 0))):
                    raise FailedToStart("local AWS goes down")

    def _meet_fate(self) -> None:
        for fault, _ in self._machine.faults.strike("task", "kill_after", "interrupt_after", **self.facts):
            timer = threading.Timer(fault.seconds, self._break_off, (fault.effect == "interrupt_after",))
            timer.daemon = True
            timer.start()

    def _break_off(self, interrupted: bool) -> None:
        """Be taken back by Fargate Spot, or lose the essential containers at once: theirs is exit code 137.

        docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-capacity-providers.html, "Handling Spot termination
        notices".
        """
        if interrupted:
            self.stop("Your Spot Task was interrupted.", "SpotInterruption")
            return
        for container in self.containers:
            if container.essential and container.process and container.started and not container.ended:
                container.process.remove()

    # --- its end ----------------------------------------------------------------------------------------------------

    def _ends(self, reason: str, code: str) -> None:
        if self._stop_wanted:
            reason, code = self._stop_wanted
        self.stopped_reason, self.stop_code, self.desired_status = reason, code, "STOPPED"

    def _stop_containers(self) -> None:
        """End what still runs, dependents first, each by its own stopTimeout."""
        if not self.stop_code:
            self._ends("", "")
        self.times.setdefault("stoppingAt", now())
        if any(c.started and not c.ended for c in self.containers):
            self._to("DEACTIVATING")
            self._drain(self)
            self._to("STOPPING")
        else:
            self._to("STOPPING")
        remaining = [c for c in self.containers if c.started and not c.ended]
        while remaining:
            # API_ContainerDependency: the order of the start is reversed.
            needed = {name for c in remaining for name in c.needs}
            last = [c for c in remaining if c.name not in needed]
            self._stop_together(last)
            remaining = [c for c in remaining if c not in last and not c.ended]
        self.times.setdefault("executionStoppedAt", now())

    def _stop_together(self, containers: list[Container]) -> None:
        stoppers = []
        for container in containers:
            if container.process:
                seconds = float(container.definition.get("stopTimeout") or _STOP_SECONDS)
                stoppers.append(threading.Thread(target=container.process.stop, args=(seconds,), daemon=True))
                stoppers[-1].start()
        for stopper in stoppers:
            stopper.join()
        deadline = time.monotonic() + 5
        with self._wake:
            while not all(c.ended for c in containers) and time.monotonic() < deadline:
                self._wake.wait(0.1)

    def _clean(self) -> None:
        self._to("DEPROVISIONING")
        for container in self.containers:
            if container.process:
                container.process.remove()
            container.status = "STOPPED"
        if self._pause:
            self._pause.remove()
        shutil.rmtree(self._volumes, ignore_errors=True)
        self._to("STOPPED", "stoppedAt")


def _overridden(definition: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Return the container definition with the task's override in it: API_ContainerOverride."""
    merged = dict(definition)
    for key in ("command", "cpu", "memory", "memoryReservation", "resourceRequirements", "environmentFiles"):
        if override.get(key) is not None:
            merged[key] = override[key]
    environment = {e["name"]: e for e in definition.get("environment") or []}
    environment |= {e["name"]: e for e in override.get("environment") or []}
    merged["environment"] = list(environment.values())
    if (definition.get("healthCheck") or {}).get("command") == ["NONE"]:
        del merged["healthCheck"]
    return merged


def _worst(healths: list[str]) -> str:
    """Return a task's health from that of its containers, in the order of API_HealthCheck."""
    return next(
        (health for health in ("UNHEALTHY", "UNKNOWN") if health in healths), "HEALTHY" if healths else "UNKNOWN"
    )


def _mac(task_id: str) -> str:
    return ":".join(task_id[i : i + 2] for i in range(0, 10, 2))
