"""The types of Elastic Load Balancing that moto's models lose properties of, or cannot delete: by the public API.

moto 5.2.5 takes no TargetGroupAttributes, LoadBalancerAttributes, Type or ForwardConfig from a template, and deletes
neither target groups nor listeners with their stack.
"""

from typing import Any

from deploy_runner.local_aws.cloudformation.kinds import ApiKind, call, kind, without
from deploy_runner.local_aws.cloudformation.stacks import Resource, changed_properties

# What ModifyTargetGroup and ModifyListener take; a change of anything else replaces the resource.
_HEALTH_CHECK = (
    "HealthCheckProtocol", "HealthCheckPort", "HealthCheckPath", "HealthCheckEnabled", "HealthCheckIntervalSeconds",
    "HealthCheckTimeoutSeconds", "HealthyThresholdCount", "UnhealthyThresholdCount", "Matcher",
)  # fmt: skip
_LISTENER = ("Port", "Protocol", "SslPolicy", "Certificates", "DefaultActions", "AlpnPolicy")


@kind("AWS::ElasticLoadBalancingV2::TargetGroup")
class TargetGroup(ApiKind):
    """A target group, with its attributes and the targets that the template names."""

    attributes = {  # noqa: RUF012
        "TargetGroupArn": "TargetGroupArn", "TargetGroupName": "TargetGroupName", "TargetGroupFullName": "FullName",
        "LoadBalancerArns": "LoadBalancerArns",
    }  # fmt: skip

    def create(self, resource: Resource) -> None:
        properties = {"Name": resource.name(32)} | without(resource.properties, "TargetGroupAttributes", "Targets")
        (made,) = call(resource, "elbv2", "create_target_group", **properties)["TargetGroups"]
        resource.model = made | {"FullName": made["TargetGroupArn"].rpartition(":")[2], "LoadBalancerArns": []}
        resource.physical_id = made["TargetGroupArn"]
        self._attributes(resource)
        if targets := resource.properties.get("Targets"):
            call(resource, "elbv2", "register_targets", TargetGroupArn=resource.physical_id, Targets=targets)

    def _attributes(self, resource: Resource) -> None:
        if attributes := resource.properties.get("TargetGroupAttributes"):
            call(
                resource, "elbv2", "modify_target_group_attributes", TargetGroupArn=resource.physical_id,
                Attributes=attributes,
            )  # fmt: skip

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        changed = changed_properties(old, resource.properties)
        if changed - {*_HEALTH_CHECK, "TargetGroupAttributes"}:
            super().update(resource, old)
        check = {name: resource.properties.get(name) for name in _HEALTH_CHECK if name in changed}
        if check:
            call(resource, "elbv2", "modify_target_group", TargetGroupArn=resource.physical_id, **check)
        self._attributes(resource)

    def delete(self, resource: Resource) -> None:
        call(resource, "elbv2", "delete_target_group", TargetGroupArn=resource.physical_id)


@kind("AWS::ElasticLoadBalancingV2::LoadBalancer")
class LoadBalancer(ApiKind):
    """A load balancer: a record, since the services here have addresses of their own."""

    attributes = {  # noqa: RUF012
        "DNSName": "DNSName", "CanonicalHostedZoneID": "CanonicalHostedZoneId", "LoadBalancerArn": "LoadBalancerArn",
        "LoadBalancerName": "LoadBalancerName", "LoadBalancerFullName": "FullName", "SecurityGroups": "SecurityGroups",
    }  # fmt: skip

    def create(self, resource: Resource) -> None:
        properties = {"Name": resource.name(32)} | without(resource.properties, "LoadBalancerAttributes")
        (made,) = call(resource, "elbv2", "create_load_balancer", **properties)["LoadBalancers"]
        resource.model = made | {"FullName": made["LoadBalancerArn"].rpartition(":loadbalancer/")[2]}
        resource.physical_id = made["LoadBalancerArn"]
        self._attributes(resource)

    def _attributes(self, resource: Resource) -> None:
        if attributes := resource.properties.get("LoadBalancerAttributes"):
            call(
                resource, "elbv2", "modify_load_balancer_attributes", LoadBalancerArn=resource.physical_id,
                Attributes=attributes,
            )  # fmt: skip

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        if changed_properties(old, resource.properties) != {"LoadBalancerAttributes"}:
            super().update(resource, old)
        self._attributes(resource)

    def delete(self, resource: Resource) -> None:
        call(resource, "elbv2", "delete_load_balancer", LoadBalancerArn=resource.physical_id)


@kind("AWS::ElasticLoadBalancingV2::Listener")
class Listener(ApiKind):
    """A listener, which makes its target groups those of its load balancer."""

    attributes = {"ListenerArn": "ListenerArn"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        properties = without(resource.properties, "ListenerAttributes")
        (resource.model,) = call(resource, "elbv2", "create_listener", **properties)["Listeners"]
        resource.physical_id = resource.model["ListenerArn"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        if changed_properties(old, resource.properties) - set(_LISTENER):
            super().update(resource, old)
        properties = {name: resource.properties.get(name) for name in _LISTENER}
        call(resource, "elbv2", "modify_listener", ListenerArn=resource.physical_id, **properties)

    def delete(self, resource: Resource) -> None:
        call(resource, "elbv2", "delete_listener", ListenerArn=resource.physical_id)
