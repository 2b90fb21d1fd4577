"""The new revision of a task definition: its base with the image replaced, and nothing else lost."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy_runner.domain.errors import TargetMisconfigured, show

# Fields that DescribeTaskDefinition gives and RegisterTaskDefinition does not take; a test holds this to botocore.
OUTPUT_ONLY = frozenset(
    {
        "taskDefinitionArn",
        "revision",
        "status",
        "requiresAttributes",
        "compatibilities",
        "registeredAt",
        "registeredBy",
        "deregisteredAt",
        "deleteRequestedAt",
    }
)
TAG_PREFIX = "deploy-runner:"
DEPLOYMENT_TAG = f"{TAG_PREFIX}deployment"
SHA_TAG = f"{TAG_PREFIX}sha"
SERVICE_TAG = f"{TAG_PREFIX}service"
BASE_TAG = f"{TAG_PREFIX}base"
ENVIRONMENT_TAG = f"{TAG_PREFIX}environment"
MANAGED_TAG = f"{TAG_PREFIX}managed"
PREVIOUS_TAG = f"{TAG_PREFIX}previous"  # the number of the revision that served before
MAX_TAGS = 50  # docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-using-tags.html

Tags = Sequence[Mapping[str, str]]


def new_revision(
    base: Mapping[str, Any], base_tags: Tags, containers: Iterable[str], image: str, tags: Mapping[str, str]
) -> dict[str, Any]:
    """Return the input of RegisterTaskDefinition: base with `image` in the named containers.

    The base's tags stay, but for ours of an earlier deployment and AWS's own (`aws:` cannot be set). Raises
    TargetMisconfigured where the base has no such container or the tags are too many.
    """
    revision = {key: copy.deepcopy(value) for key, value in base.items() if key not in OUTPUT_ONLY}
    definitions = {definition.get("name"): definition for definition in revision.get("containerDefinitions", [])}
    for name in containers:
        if name not in definitions:
            have = ", ".join(str(known) for known in definitions) or "none"
            rule = f"The task definition {base.get('family')} must have every container named in apps.yaml"
            raise TargetMisconfigured(rule, name, f"Correct `services` there; it has: {have}")
        definitions[name]["image"] = image
    kept = [dict(tag) for tag in base_tags if not tag["key"].startswith((TAG_PREFIX, "aws:"))]
    kept += [{"key": key, "value": value} for key, value in tags.items()]
    if len(kept) > MAX_TAGS:
        rule = f"A task definition must have at most {MAX_TAGS} tags, {len(tags)} of them ours"
        raise TargetMisconfigured(rule, len(kept), f"Remove some from {show(base.get('family'))}")
    revision["tags"] = kept
    return revision


def our_tags(deployment: Mapping[str, Any], service: str, base_arn: str | None) -> dict[str, str]:
    """Return the tags that make a revision ours. `base_arn` is given where the base is the newest of its family."""
    tags = {
        MANAGED_TAG: "true",
        DEPLOYMENT_TAG: str(deployment["id"]),
        f"{TAG_PREFIX}app": str(deployment["app"]),
        ENVIRONMENT_TAG: str(deployment["environment"]),
        SHA_TAG: str(deployment["sha"]),
        SERVICE_TAG: service,
    }
    return {**tags, BASE_TAG: base_arn} if base_arn else tags


def check_app_deployer(definition: Mapping[str, Any], app: str, environment: str) -> None:
    """Refuse a task definition that an app-deployer's role may not register anew: templates/app_roles.py.

    Raises TargetMisconfigured.
    """
    remedy = "Make it so with Terraform, or let docker-builder build the app: remove `runner` from apps.yaml"
    family, roles = f"{app}-{environment}", f":role/apps/{app}/{environment}/"
    if definition.get("family") != family:
        rule = f"With app-deployer, the task definition's family must be {family}"
        raise TargetMisconfigured(rule, definition.get("family"), remedy)
    if "FARGATE" not in definition.get("requiresCompatibilities", []):
        rule = "With app-deployer, the task definition's requiresCompatibilities must have FARGATE"
        raise TargetMisconfigured(rule, definition.get("requiresCompatibilities"), remedy)
    for name in ("taskRoleArn", "executionRoleArn"):
        if definition.get(name) and roles not in definition[name]:
            rule = f"With app-deployer, {name} must be a role under /apps/{app}/{environment}/"
            raise TargetMisconfigured(rule, definition[name], remedy)


def tag_of(tags: Tags, key: str) -> str | None:
    """Return the value of a tag, or None."""
    return next((tag["value"] for tag in tags if tag["key"] == key), None)


def is_ours(tags: Tags) -> bool:
    """Return whether we registered the revision with these tags."""
    return tag_of(tags, MANAGED_TAG) == "true"


def is_of(tags: Tags, deployment_id: str, service: str) -> bool:
    """Return whether the revision with these tags was registered by this deployment for this service."""
    return is_ours(tags) and tag_of(tags, DEPLOYMENT_TAG) == deployment_id and tag_of(tags, SERVICE_TAG) == service
