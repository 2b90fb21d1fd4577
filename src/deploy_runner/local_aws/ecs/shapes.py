"""What a template's properties, requests and answers have in common: the shapes of ECS's API, as botocore has them."""

import secrets
from datetime import UTC, datetime
from functools import cache
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, Shape, StructureShape

# repost.aws/knowledge-center/ecs-fargate-runtask-capacity
NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


@cache
def _model() -> Any:
    return botocore.session.get_session().get_service_model("ecs")


@cache
def input_shape(operation: str) -> StructureShape:
    """Return the input shape of an operation, as `RegisterTaskDefinition`."""
    shape: StructureShape = _model().operation_model(operation).input_shape
    return shape


# Where a template's name is more than another spelling of the API's: AWS CloudFormation, AWS::ECS::TaskDefinition.
_RENAMED = {"proxyconfigurationproperties": "properties"}


def from_template(value: Any, shape: Shape) -> Any:
    """Convert a template's properties (PascalCase, numbers perhaps as text) to the API's; drop what it has not."""
    if getattr(shape, "is_document_type", False):
        return value  # any JSON, with the keys of whoever wrote it
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        members = {name.lower(): name for name in shape.members}
        converted = {}
        for key, item in value.items():
            name = members.get(_RENAMED.get(key.lower(), key.lower()))
            if name and item is not None:
                converted[name] = from_template(item, shape.members[name])
        return converted
    if isinstance(shape, ListShape):
        return [from_template(item, shape.member) for item in (value if isinstance(value, list) else [value])]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {str(key): from_template(item, shape.value) for key, item in value.items()}
    if shape.type_name in ("integer", "long") and isinstance(value, str):
        return int(value)
    if shape.type_name in ("float", "double") and isinstance(value, str):
        return float(value)
    if shape.type_name == "boolean" and isinstance(value, str):
        return value.lower() == "true"
    if shape.type_name == "string" and isinstance(value, bool):
        return str(value).lower()
    if shape.type_name == "string" and not isinstance(value, str):
        return str(getattr(value, "arn", None) or value)  # moto may hand over a resource instead of its Ref
    return value


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def hex_id() -> str:
    """Return a task's id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def number_id(digits: int = 19) -> str:
    """Return an id of digits alone, as ecs-svc/ and service revisions have."""
    return str(secrets.randbelow(9 * 10 ** (digits - 1)) + 10 ** (digits - 1))
