"""AWS::ECS::* in templates: all properties reach ECS as through the API; a service is created once it is stable.

moto 5.2.5 takes a service's cluster, task definition and count, and a task definition's family, containers, volumes and
memory, and loses the rest.
"""

from typing import Any

from moto.ecs import models
from moto.ecs.models import ecs_backends

from deploy_runner.local_aws.ecs.services import Service
from deploy_runner.local_aws.ecs.shapes import from_template, input_shape, now

GONE_SECONDS = 60.0


def _request(operation: str, template: dict[str, Any], **more: Any) -> dict[str, Any]:
    request: dict[str, Any] = from_template(template.get("Properties") or {}, input_shape(operation))
    return request | {key: value for key, value in more.items() if value is not None}


def _backend(account_id: str, region_name: str) -> Any:
    return ecs_backends[account_id][region_name]


def _create_cluster(
    cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
) -> Any:
    request = _request("CreateCluster", cloudformation_json)
    return _backend(account_id, region_name).create_cluster(
        request.get("clusterName") or resource_name, request.get("tags"), request.get("settings"),
        request.get("configuration"), request.get("capacityProviders"), request.get("defaultCapacityProviderStrategy"),
        service_connect_defaults=request.get("serviceConnectDefaults"),
    )  # fmt: skip


def _delete_cluster(cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str) -> None:
    _backend(account_id, region_name).delete_cluster(resource_name)


def _create_definition(
    cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
) -> Any:
    request = _request("RegisterTaskDefinition", cloudformation_json)
    request.setdefault("family", resource_name)
    return _backend(account_id, region_name).register(request)


def _update_definition(
    cls: Any,
    original_resource: Any,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> Any:
    """Change the tags; a change of anything else is a replacement, which is a new resource."""
    original_resource.tags = _request("RegisterTaskDefinition", cloudformation_json).get("tags", [])
    return original_resource


def _delete_definition(
    cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
) -> None:
    _backend(account_id, region_name).deregister_task_definition(resource_name)


def _create_service(
    cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
) -> Service:
    properties = cloudformation_json.get("Properties") or {}
    request = _request("CreateService", cloudformation_json, serviceName=properties.get("ServiceName") or resource_name)
    if (request.get("schedulingStrategy") or "REPLICA") == "REPLICA":
        request.setdefault("desiredCount", 1)
    service: Service = _backend(account_id, region_name).create(request)
    return service


def _update_service(
    cls: Any,
    original_resource: Service,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> Service:
    backend = _backend(account_id, region_name)
    request = _request("CreateService", cloudformation_json)
    cluster = (request.get("cluster") or "default").rpartition("/")[2]
    name = request.get("serviceName") or original_resource.name
    if cluster != original_resource.cluster_name or name != original_resource.name:
        service = _create_service(cls, new_resource_name, cloudformation_json, account_id, region_name)
        backend.delete_service(original_resource.cluster_name, original_resource.name, force=True)
        return service
    request = _request("UpdateService", cloudformation_json, cluster=cluster, service=original_resource.name)
    original_resource.asked = now()
    backend.update(request)
    if "tags" in (tags := _request("CreateService", cloudformation_json)):
        original_resource.tags = tags["tags"]
    return original_resource


def _delete_service(cls: Any, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str) -> None:
    _, cluster, name = resource_name.rsplit("/", 2)
    service = _backend(account_id, region_name).delete_service(cluster, name, force=True)
    service.wait_inactive(GONE_SECONDS)


def _attributes(**known: str) -> tuple[Any, Any]:
    """Return has_cfn_attr and get_cfn_attribute for attributes that are kept under other names."""

    def has(cls: Any, attr: str) -> bool:
        return attr in known

    def get(self: Any, attribute_name: str) -> str:
        from moto.cloudformation.exceptions import UnformattedGetAttTemplateException

        if attribute_name not in known:
            raise UnformattedGetAttTemplateException()
        return str(getattr(self, known[attribute_name]))

    return classmethod(has), get


def patch() -> None:
    """Put the functions above into moto's models: moto finds a resource's class by its type, and the first one wins."""
    patched: list[tuple[Any, Any, Any, Any, dict[str, str]]] = [
        (models.Cluster, _create_cluster, None, _delete_cluster, {"Arn": "arn"}),
        (
            models.TaskDefinition, _create_definition, _update_definition, _delete_definition,
            {"TaskDefinitionArn": "arn"},
        ),
        (models.Service, _create_service, _update_service, _delete_service, {"Name": "name", "ServiceArn": "arn"}),
    ]  # fmt: skip
    for model, create, update, delete, attributes in patched:
        model.create_from_cloudformation_json = classmethod(create)
        model.delete_from_cloudformation_json = classmethod(delete)
        if update:
            model.update_from_cloudformation_json = classmethod(update)
        model.has_cfn_attr, model.get_cfn_attribute = _attributes(**attributes)
