"""How types of resources are handled: by the public API, or by a model of moto's or of another extension (ECS)."""

import contextlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from moto.core.common_models import CloudFormationModel

from deploy_runner.local_aws.cloudformation.stacks import Kind, Resource, changed_properties

KINDS: dict[str, Kind] = {}


def kind[K: type](resource_type: str) -> Callable[[K], K]:
    """Register a class as how resources of this type are handled."""

    def register(cls: K) -> K:
        KINDS[resource_type] = cls()
        return cls

    return register


def kind_of(resource_type: str) -> Kind | None:
    """How resources of a type are handled, None for a type that local AWS does not have."""
    if resource_type in KINDS:
        return KINDS[resource_type]
    model = _models().get(resource_type)
    if model is None:
        return None
    KINDS[resource_type] = MotoKind(model)
    return KINDS[resource_type]


@cache
def _models() -> dict[str, Any]:
    import moto.cloudformation.parsing  # noqa: F401 - imports every service's models

    def below(model: type) -> list[type]:
        children: list[type] = model.__subclasses__()
        return [found for child in children for found in (child, *below(child))]

    found: dict[str, Any] = {}
    for model in cast("list[Any]", below(CloudFormationModel)):
        with contextlib.suppress(NotImplementedError):
            name = model.cloudformation_type()
            if name and not (name in found and model.__module__.startswith("moto.")):
                found[name] = model
    return found


class MotoKind:
    """A type that has a CloudFormationModel."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def _json(self, resource: Resource, properties: dict[str, Any]) -> dict[str, Any]:
        return {"Type": resource.type, "Properties": json.loads(json.dumps(properties))}

    def _where(self, resource: Resource) -> tuple[str, str]:
        machine = resource.stack.engine.machine
        return machine.account_id, machine.region

    def _name(self, resource: Resource) -> str:
        # moto says "" or None where a type has no name of its own.
        name = self.model.cloudformation_name_type()
        given = resource.properties.get(name) if name else None
        longest = 32 if "ElasticLoadBalancing" in resource.type else 63
        return str(given or resource.name(longest, lower=resource.type == "AWS::S3::Bucket"))

    def create(self, resource: Resource) -> None:
        facts = {"LogicalId": resource.logical_id, "StackId": resource.stack.id, "ResourceType": resource.type}
        resource.model = self.model.create_from_cloudformation_json(
            self._name(resource), self._json(resource, resource.properties), *self._where(resource), **facts
        )
        resource.physical_id = str(resource.model.physical_resource_id)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        changed = changed_properties(old, resource.properties)
        if changed == {"Tags"} and resource.type.startswith("AWS::EC2::"):
            retag_ec2(resource, old)
            return
        if getattr(self.model.update_from_cloudformation_json, "__isabstractmethod__", False):
            raise NotImplementedError(f"Local AWS cannot change {', '.join(sorted(changed))} of {resource.type}")
        name = (
            resource.physical_id
            if self.model.cloudformation_name_type() not in resource.properties
            else self._name(resource)
        )
        resource.model = self.model.update_from_cloudformation_json(
            original_resource=resource.model, new_resource_name=name,
            cloudformation_json=self._json(resource, resource.properties),
            account_id=self._where(resource)[0], region_name=self._where(resource)[1],
        )  # fmt: skip
        resource.physical_id = str(resource.model.physical_resource_id)

    def delete(self, resource: Resource) -> None:
        if hasattr(resource.model, "delete"):
            with contextlib.suppress(TypeError):
                resource.model.delete(*self._where(resource))
                return
        if not getattr(self.model.delete_from_cloudformation_json, "__isabstractmethod__", False):
            properties = self._json(resource, resource.properties)
            self.model.delete_from_cloudformation_json(resource.physical_id, properties, *self._where(resource))

    def attribute(self, resource: Resource, name: str) -> Any:
        from moto.cloudformation.exceptions import UnformattedGetAttTemplateException

        try:
            return resource.model.get_cfn_attribute(name)
        except UnformattedGetAttTemplateException as error:
            raise KeyError(name) from error


def retag_ec2(resource: Resource, old: dict[str, Any], named: str | None = None) -> None:
    """Bring the tags of an EC2 resource to what the template says; `named` where its Ref is not its id."""
    client, ids = resource.aws("ec2"), [named or resource.physical_id]
    if gone := tag_map(old).keys() - tag_map(resource.properties).keys():
        client.delete_tags(Resources=ids, Tags=[{"Key": key} for key in gone])
    if tags := resource.properties.get("Tags"):
        client.create_tags(Resources=ids, Tags=tags)


class ApiKind:
    """A type whose handler calls the public API."""

    attributes: dict[str, str] = {}  # noqa: RUF012 - never changed. GetAtt name -> key of `resource.model`

    def create(self, resource: Resource) -> None:
        raise NotImplementedError

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        changed = ", ".join(sorted(changed_properties(old, resource.properties)))
        raise NotImplementedError(f"Local AWS cannot change {changed} of {resource.type}")

    def delete(self, resource: Resource) -> None:
        raise NotImplementedError

    def attribute(self, resource: Resource, name: str) -> Any:
        return resource.model[self.attributes[name]]


def without(properties: dict[str, Any], *names: str) -> dict[str, Any]:
    """`properties` but for some."""
    return {key: value for key, value in properties.items() if key not in names}


def tag_map(properties: dict[str, Any]) -> dict[str, str]:
    """The tags of `properties` by their keys."""
    return {tag["Key"]: str(tag["Value"]) for tag in properties.get("Tags") or []}


def _typed(client: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments` as the API's types and names: CloudFormation takes "5" for a number, and all names in capitals."""
    method = client.meta.method_to_api_mapping[operation]
    shape = client.meta.service_model.operation_model(method).input_shape
    return cast("dict[str, Any]", _shaped(shape, arguments))


def _shaped(shape: Any, value: Any) -> Any:
    if shape.type_name == "structure" and isinstance(value, dict):
        names = {member.lower(): member for member in shape.members}
        known = {names.get(key.lower(), key): each for key, each in value.items()}
        return {k: _shaped(shape.members[k], v) if k in shape.members else v for k, v in known.items()}
    if shape.type_name == "list" and isinstance(value, list):
        return [_shaped(shape.member, item) for item in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {k: _shaped(shape.value, v) for k, v in value.items()}
    if shape.type_name in ("integer", "long") and isinstance(value, str | float):
        return int(value)
    if shape.type_name in ("float", "double") and isinstance(value, str):
        return float(value)
    if shape.type_name == "boolean" and isinstance(value, str):
        return value.lower() == "true"
    if shape.type_name == "string" and not isinstance(value, str):
        return (
            str(value).lower()
            if isinstance(value, bool)
            else json.dumps(value)
            if isinstance(value, dict | list)
            else str(value)
        )
    return value


def call(resource: Resource, service: str, operation: str, **arguments: Any) -> Any:
    """Call the API with the arguments that are not None."""
    client = resource.aws(service)
    given = {key: value for key, value in arguments.items() if value is not None}
    return getattr(client, operation)(**_typed(client, operation, given))


def set_tags(
    resource: Resource, old: dict[str, Any], tag: Callable[[Any], Any], untag: Callable[[list[str]], Any]
) -> None:
    """Bring the tags to what the template says, by the operations of its service."""
    before, after = tag_map(old), tag_map(resource.properties)
    if gone := sorted(before.keys() - after.keys()):
        untag(gone)
    if changed := {key: value for key, value in after.items() if before.get(key) != value}:
        tag(changed)


def pairs(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags as most APIs have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def text_of(value: Any) -> str:
    """A value as text, as CloudFormation writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
