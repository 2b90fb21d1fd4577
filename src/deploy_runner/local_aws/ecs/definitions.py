"""What RegisterTaskDefinition and RunTask refuse of a task, and what they fill in.

docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RegisterTaskDefinition.html and .../API_ContainerDefinition.html.
Where ECS's message is known, from issues that quote it, it is given here word for word; the bounds of health checks and
cycles are documented, but not how ECS words a refusal.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from moto.ecs.exceptions import EcsClientException, ECSException, InvalidParameterException

GIB = 1024  # MiB
# Task size: .../developerguide/fargate-tasks-services.html#fargate-tasks-size. CPU units -> MiB.
FARGATE_SIZES: dict[int, Iterable[int]] = {
    256: (512, GIB, 2 * GIB),
    512: range(GIB, 4 * GIB + 1, GIB),
    1024: range(2 * GIB, 8 * GIB + 1, GIB),
    2048: range(4 * GIB, 16 * GIB + 1, GIB),
    4096: range(8 * GIB, 30 * GIB + 1, GIB),
    8192: range(16 * GIB, 60 * GIB + 1, 4 * GIB),
    16384: range(32 * GIB, 120 * GIB + 1, 8 * GIB),
}
PLATFORM_VERSIONS = ("1.3.0", "1.4.0")  # of Linux
EPHEMERAL_GIB = range(21, 201)  # API_EphemeralStorage
TIMEOUTS = range(2, 121)  # seconds: startTimeout and stopTimeout on Fargate
# API_HealthCheck: the least, the most, and the default
HEALTH = {"interval": (5, 300, 30), "timeout": (2, 60, 5), "retries": (1, 10, 3), "startPeriod": (0, 300, None)}
ENVIRONMENT_FILES = 10
MAX_OVERRIDES = 8192  # characters of JSON: API_RunTask
MAX_STARTED_BY = 128
_ON_FARGATE_UNSUPPORTED = ("devices", "sharedMemorySize", "maxSwap", "swappiness")  # of linuxParameters


def registered(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request as ECS keeps it: with its defaults, and sizes as numbers. Raises EcsClientException."""
    containers = request.get("containerDefinitions") or []
    fargate = "FARGATE" in (request.get("requiresCompatibilities") or [])
    sizes = {key: units(request[key], key) for key in ("cpu", "memory") if request.get(key)}
    if fargate:
        check_fargate(request | sizes)
    if fargate or request.get("networkMode") == "awsvpc":
        containers = [_with_ports(container) for container in containers]
    _check_roles(request, containers, fargate)
    _check_dependencies(containers)
    containers = [_checked(container, sizes.get("memory")) for container in containers]
    return request | sizes | {"containerDefinitions": containers}


def units(value: Any, what: str) -> str:
    """Return CPU units or MiB, which may be given as `1 vCPU` or `2GB`, as ECS keeps them: digits alone."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(vcpus?|gb)?\s*", str(value), re.IGNORECASE)
    if not found:
        raise EcsClientException(f"Invalid '{what}' setting for task: {value}")
    return str(int(float(found[1]) * (1024 if found[2] else 1)))


def check_fargate(task: dict[str, Any]) -> None:
    """Refuse what Fargate has not: `task` is RegisterTaskDefinition's input."""
    if task.get("networkMode") != "awsvpc":
        raise EcsClientException("Fargate only supports network mode ‘awsvpc’.")
    for size in ("cpu", "memory"):
        if not task.get(size):
            raise EcsClientException(f"Fargate requires that '{size}' be defined at the task level.")
    check_size(task["cpu"], task["memory"])
    check_storage(task.get("ephemeralStorage"))
    if task.get("ipcMode"):
        raise EcsClientException("Tasks using the Fargate launch type do not support ipcMode.")
    for volume in task.get("volumes") or []:
        of_the_host = {"sourcePath": (volume.get("host") or {}).get("sourcePath")}
        for name, value in (
            of_the_host | {"dockerVolumeConfiguration": volume.get("dockerVolumeConfiguration")}
        ).items():
            if value:
                raise EcsClientException(f"Fargate compatible task definitions do not support {name}")
    for container in task.get("containerDefinitions") or []:
        if container.get("privileged"):
            raise EcsClientException("Fargate requires that the 'privileged' setting be 'false'.")
        for parameter in _ON_FARGATE_UNSUPPORTED:
            if (container.get("linuxParameters") or {}).get(parameter) is not None:
                raise EcsClientException(f"Fargate compatible task definitions do not support {parameter}")
        driver = (container.get("logConfiguration") or {}).get("logDriver", "awslogs")
        if driver not in ("awslogs", "splunk", "awsfirelens"):
            raise EcsClientException(f"{driver} is not a valid log driver. Must be one of [awslogs,splunk,awsfirelens]")
        if (container.get("stopTimeout") or 0) >= TIMEOUTS.stop:
            raise EcsClientException(
                "Tasks using the Fargate launch type must have a container stop timeout of less than 120 seconds."
            )


def check_size(cpu: str, memory: str) -> None:
    """Refuse a pair of CPU units and MiB that Fargate has not."""
    if int(memory) not in FARGATE_SIZES.get(int(cpu), ()):
        raise EcsClientException(
            f"No Fargate configuration exists for given values: {cpu} CPU, {memory} memory. "
            "See the Amazon ECS documentation for the valid values."
        )


def check_storage(storage: dict[str, Any] | None) -> None:
    """Refuse a size of a task's ephemeral storage that Fargate has not."""
    if storage and storage.get("sizeInGiB") not in EPHEMERAL_GIB:
        raise EcsClientException(
            f"Ephemeral storage size must be between {EPHEMERAL_GIB[0]} and {EPHEMERAL_GIB[-1]} GiB."
        )


def overridden(request: dict[str, Any], definition: Any) -> dict[str, Any]:
    """Return the overrides of RunTask's input, with sizes as numbers. Raises what ECS raises for a wrong one."""
    if len(request.get("startedBy") or "") > MAX_STARTED_BY:
        raise InvalidParameterException(f"startedBy must be at most {MAX_STARTED_BY} characters long.")
    given = request.get("overrides") or {}
    if len(json.dumps(given, separators=(",", ":"))) > MAX_OVERRIDES:
        raise InvalidParameterException(f"Container Overrides length must be at most {MAX_OVERRIDES}")
    names = {c["name"] for c in definition.container_definitions}
    for override in given.get("containerOverrides") or []:
        if override.get("name") not in names:
            raise InvalidParameterException(
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
            )
        check_environment_files(override.get("environmentFiles") or [])
    sizes = {key: units(given[key], key) for key in ("cpu", "memory") if given.get(key)}
    if sizes and "FARGATE" in definition.compatibilities:
        check_size(sizes.get("cpu") or definition.cpu, sizes.get("memory") or definition.memory)
    check_storage(given.get("ephemeralStorage"))
    return given | sizes


def platform_version(request: dict[str, Any]) -> str:
    """Return the version of Fargate's platform that RunTask's or CreateService's input asks for.

    .../developerguide/platform-fargate.html: LATEST is 1.4.0. Raises PlatformUnknownException.
    """
    version = request.get("platformVersion") or "LATEST"
    if version not in ("LATEST", *PLATFORM_VERSIONS):
        raise ECSException("PlatformUnknownException", "The specified platform doesn't exist.")
    return PLATFORM_VERSIONS[-1] if version == "LATEST" else str(version)


def _with_ports(container: dict[str, Any]) -> dict[str, Any]:
    """Fill in what ECS fills in for awsvpc: the host's port is the container's."""
    mappings = []
    for mapping in container.get("portMappings") or []:
        port, host = mapping.get("containerPort"), mapping.get("hostPort")
        if port and host and host != port:
            raise EcsClientException(
                "When networkMode=awsvpc, the host ports and container ports in port mappings must match."
            )
        mappings.append({"protocol": "tcp"} | mapping | ({"hostPort": port} if port else {}))
    return container | {"portMappings": mappings}


def _check_roles(request: dict[str, Any], containers: list[dict[str, Any]], fargate: bool) -> None:
    if request.get("executionRoleArn"):
        return
    if any(c.get("secrets") for c in containers):
        raise EcsClientException(
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'."
        )
    drivers = {(c.get("logConfiguration") or {}).get("logDriver") for c in containers}
    if fargate and "awslogs" in drivers:
        raise EcsClientException(
            "Fargate requires task definition to have execution role ARN to support log driver awslogs."
        )


def _check_dependencies(containers: list[dict[str, Any]]) -> None:
    """Refuse what no order of starting can keep: API_ContainerDependency."""
    named = {container.get("name"): container for container in containers}
    needs = {name: [d.get("containerName") for d in c.get("dependsOn") or []] for name, c in named.items()}
    for container in containers:
        for dependency in container.get("dependsOn") or []:
            other, condition = named.get(dependency.get("containerName")), dependency.get("condition")
            if other is None:
                raise EcsClientException(
                    f"Cannot depend on container + '{dependency.get('containerName')}' because it does not exist"
                )
            if condition in ("SUCCESS", "COMPLETE") and other.get("essential", True):
                raise EcsClientException(
                    "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container"
                )
            if condition == "HEALTHY" and not other.get("healthCheck"):
                raise EcsClientException(
                    "A dependency container with HEALTHY condition must have health check configured"
                )
            if condition not in ("START", "COMPLETE", "SUCCESS", "HEALTHY"):
                raise EcsClientException(f"Invalid dependency condition {condition} of {container.get('name')}.")
    while free := [name for name, others in needs.items() if not set(others) & needs.keys()]:
        for name in free:
            del needs[name]
    if needs:
        raise EcsClientException(f"Container dependencies must not form a cycle: {', '.join(map(str, needs))}.")


def _checked(container: dict[str, Any], task_memory: str | None) -> dict[str, Any]:
    """Return a container's definition with the defaults of its health check."""
    name = container.get("name")
    memory, reserved = container.get("memory"), container.get("memoryReservation")
    if memory and reserved and reserved > memory:
        raise EcsClientException(
            f"Invalid setting for container '{name}'. 'memory' must be greater than or equal to 'memoryReservation'."
        )
    if memory and task_memory and memory > int(task_memory):
        raise EcsClientException(f"The 'memory' setting for container '{name}' is greater than for the task.")
    for which, setting in (("start", container.get("startTimeout")), ("stop", container.get("stopTimeout"))):
        if setting is not None and setting < TIMEOUTS.start:
            raise EcsClientException(f"Granular {which} timeout on container '{name}' must be at least 2 seconds.")
    for limit in container.get("ulimits") or []:
        if limit.get("softLimit", 0) > limit.get("hardLimit", 0) >= 0:
            raise EcsClientException(f"Soft limit exceeds hard limit for ulimit {limit.get('name')}")
    variables = {variable.get("name") for variable in container.get("environment") or []}
    secrets = [secret.get("name") for secret in container.get("secrets") or []]
    for secret in secrets:
        if secret in variables or secrets.count(secret) > 1:
            raise EcsClientException(
                "The secret name must be unique and not shared with any new or existing environment variables set on "
                f"the container, such as '{secret}'."
            )
    check_environment_files(container.get("environmentFiles") or [])
    if container.get("healthCheck"):
        return container | {"healthCheck": _health_check(container["healthCheck"])}
    return container


def _health_check(check: dict[str, Any]) -> dict[str, Any]:
    command = check.get("command") or []
    # NONE is what Docker's HEALTHCHECK takes to switch off an image's own check.
    if command != ["NONE"] and (len(command) < 2 or command[0] not in ("CMD", "CMD-SHELL")):
        raise EcsClientException(f"A health check's command must start with CMD or CMD-SHELL, not with {command[:1]}.")
    filled = dict(check)
    for name, (least, most, default) in HEALTH.items():
        value = check.get(name, default)
        if value is not None and not least <= value <= most:
            raise EcsClientException(f"A health check's {name} must be between {least} and {most}, not {value}.")
        if value is not None:
            filled[name] = value
    return filled


def check_environment_files(files: list[dict[str, Any]]) -> None:
    """Refuse what is no environment file: API_EnvironmentFile."""
    if len(files) > ENVIRONMENT_FILES:
        raise EcsClientException(
            "The maximum number of environment files was exceeded. Specify ten or less and try again."
        )
    for file in files:
        if file.get("type") != "s3":
            raise EcsClientException(f"An environment file's type must be s3, not {file.get('type')}.")
        if not re.fullmatch(r"arn:aws[\w-]*:s3:::[^/]+/.+", str(file.get("value"))):
            raise EcsClientException("Invalid arn syntax.")
        if not str(file["value"]).endswith(".env"):
            raise EcsClientException(f"An environment file must have the extension .env: {file['value']}.")
