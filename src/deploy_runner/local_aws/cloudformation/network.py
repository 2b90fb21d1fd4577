"""The resource types of a network. moto's own models cannot change what is there, or replace it with another id."""

import contextlib
from typing import Any

from botocore.exceptions import ClientError

from deploy_runner.local_aws.cloudformation.kinds import ApiKind, call, kind, retag_ec2
from deploy_runner.local_aws.cloudformation.stacks import Resource, changed_properties


def _tagged(resource: Resource, what: str) -> list[dict[str, Any]] | None:
    tags = resource.properties.get("Tags")
    return [{"ResourceType": what, "Tags": tags}] if tags else None


class Ec2Kind(ApiKind):
    """One whose Ref is an id, kept with what EC2 said of it; most changes but tags replace it."""

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        if changed_properties(old, resource.properties) - {"Tags"}:
            super().update(resource, old)
        retag_ec2(resource, old)


@kind("AWS::EC2::VPC")
class Vpc(Ec2Kind):
    """A VPC."""

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "ec2", "create_vpc", CidrBlock=properties["CidrBlock"],
            TagSpecifications=_tagged(resource, "vpc"), InstanceTenancy=properties.get("InstanceTenancy"),
        )  # fmt: skip
        resource.physical_id = made["Vpc"]["VpcId"]
        self._switch(resource, {})

    @staticmethod
    def _switch(resource: Resource, old: dict[str, Any]) -> None:
        for name in sorted(changed_properties(old, resource.properties) & {"EnableDnsSupport", "EnableDnsHostnames"}):
            value = {"Value": resource.properties.get(name, name == "EnableDnsSupport")}
            call(resource, "ec2", "modify_vpc_attribute", VpcId=resource.physical_id, **{name: value})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        self._switch(resource, old)
        retag_ec2(resource, old)

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_vpc", VpcId=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        of_this = [{"Name": "vpc-id", "Values": [resource.physical_id]}]
        client = resource.aws("ec2")
        if name == "DefaultSecurityGroup":
            found = client.describe_security_groups(Filters=[*of_this, {"Name": "group-name", "Values": ["default"]}])
            return found["SecurityGroups"][0]["GroupId"]
        if name == "DefaultNetworkAcl":
            found = client.describe_network_acls(Filters=[*of_this, {"Name": "default", "Values": ["true"]}])
            return found["NetworkAcls"][0]["NetworkAclId"]
        return {"VpcId": resource.physical_id, "CidrBlock": resource.properties["CidrBlock"]}[name]


@kind("AWS::EC2::Subnet")
class Subnet(Ec2Kind):
    """A subnet."""

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "ec2", "create_subnet", VpcId=properties["VpcId"], CidrBlock=properties["CidrBlock"],
            AvailabilityZone=properties.get("AvailabilityZone"), TagSpecifications=_tagged(resource, "subnet"),
        )  # fmt: skip
        resource.model, resource.physical_id = made["Subnet"], made["Subnet"]["SubnetId"]
        self._switch(resource, {})

    @staticmethod
    def _switch(resource: Resource, old: dict[str, Any]) -> None:
        if "MapPublicIpOnLaunch" in changed_properties(old, resource.properties):
            value = {"Value": resource.properties.get("MapPublicIpOnLaunch", False)}
            call(resource, "ec2", "modify_subnet_attribute", SubnetId=resource.physical_id, MapPublicIpOnLaunch=value)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        self._switch(resource, old)
        retag_ec2(resource, old)

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_subnet", SubnetId=resource.physical_id)

    attributes = {"SubnetId": "SubnetId", "AvailabilityZone": "AvailabilityZone", "CidrBlock": "CidrBlock"}  # noqa: RUF012


@kind("AWS::EC2::InternetGateway")
class InternetGateway(Ec2Kind):
    """An internet gateway."""

    attributes = {"InternetGatewayId": "InternetGatewayId"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        made = call(resource, "ec2", "create_internet_gateway", TagSpecifications=_tagged(resource, "internet-gateway"))
        resource.model, resource.physical_id = made["InternetGateway"], made["InternetGateway"]["InternetGatewayId"]

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_internet_gateway", InternetGatewayId=resource.physical_id)


@kind("AWS::EC2::VPCGatewayAttachment")
class VpcGatewayAttachment(ApiKind):
    """An internet gateway's attachment to a VPC."""

    @staticmethod
    def _named(properties: dict[str, Any]) -> dict[str, Any]:
        return {"InternetGatewayId": properties["InternetGatewayId"], "VpcId": properties["VpcId"]}

    def create(self, resource: Resource) -> None:
        call(resource, "ec2", "attach_internet_gateway", **self._named(resource.properties))
        resource.physical_id = f"IGW|{resource.properties['VpcId']}"

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        call(resource, "ec2", "detach_internet_gateway", **self._named(old))
        self.create(resource)

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "detach_internet_gateway", **self._named(resource.properties))


@kind("AWS::EC2::EIP")
class Address(Ec2Kind):
    """An elastic address; its Ref is the address."""

    attributes = {"AllocationId": "AllocationId", "PublicIp": "PublicIp"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        domain = resource.properties.get("Domain", "vpc")
        made = call(
            resource, "ec2", "allocate_address", Domain=domain, TagSpecifications=_tagged(resource, "elastic-ip")
        )
        resource.model, resource.physical_id = made, made["PublicIp"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        retag_ec2(resource, old, resource.model["AllocationId"])

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "release_address", AllocationId=resource.model["AllocationId"])


@kind("AWS::EC2::NatGateway")
class NatGateway(Ec2Kind):
    """A NAT gateway."""

    attributes = {"NatGatewayId": "NatGatewayId"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "ec2", "create_nat_gateway", SubnetId=properties["SubnetId"],
            AllocationId=properties.get("AllocationId"), ConnectivityType=properties.get("ConnectivityType"),
            TagSpecifications=_tagged(resource, "natgateway"),
        )  # fmt: skip
        resource.model, resource.physical_id = made["NatGateway"], made["NatGateway"]["NatGatewayId"]

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_nat_gateway", NatGatewayId=resource.physical_id)


@kind("AWS::EC2::RouteTable")
class RouteTable(Ec2Kind):
    """A route table."""

    attributes = {"RouteTableId": "RouteTableId"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        vpc = resource.properties["VpcId"]
        made = call(
            resource, "ec2", "create_route_table", VpcId=vpc, TagSpecifications=_tagged(resource, "route-table")
        )
        resource.model, resource.physical_id = made["RouteTable"], made["RouteTable"]["RouteTableId"]

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_route_table", RouteTableId=resource.physical_id)


@kind("AWS::EC2::SubnetRouteTableAssociation")
class SubnetRouteTableAssociation(ApiKind):
    """Which routes a subnet has."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = call(resource, "ec2", "associate_route_table", **resource.properties)["AssociationId"]

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "disassociate_route_table", AssociationId=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


@kind("AWS::EC2::Route")
class Route(ApiKind):
    """A route."""

    @staticmethod
    def _named(properties: dict[str, Any]) -> dict[str, Any]:
        keys = ("RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
        return {key: properties[key] for key in keys if key in properties}

    def create(self, resource: Resource) -> None:
        call(resource, "ec2", "create_route", **resource.properties)
        resource.physical_id = "|".join(self._named(resource.properties).values())

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        call(resource, "ec2", "replace_route", **resource.properties)

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_route", **self._named(resource.properties))


@kind("AWS::EC2::SecurityGroup")
class SecurityGroup(Ec2Kind):
    """A security group with its rules."""

    attributes = {"GroupId": "GroupId", "Id": "GroupId"}  # noqa: RUF012
    everywhere = [{"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}]  # noqa: RUF012 - EC2's rule where a template has none

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "ec2", "create_security_group", GroupName=properties.get("GroupName") or resource.name(),
            Description=properties["GroupDescription"], VpcId=properties.get("VpcId"),
            TagSpecifications=_tagged(resource, "security-group"),
        )  # fmt: skip
        resource.model, resource.physical_id = made, made["GroupId"]
        self._rules(resource, {})

    def _rules(self, resource: Resource, old: dict[str, Any]) -> None:
        for way in ("Ingress", "Egress"):
            default = self.everywhere if way == "Egress" else []
            before = old.get(f"SecurityGroup{way}") or default
            after = resource.properties.get(f"SecurityGroup{way}") or default
            for verb, rules in (
                ("revoke", [r for r in before if r not in after]),
                ("authorize", [r for r in after if r not in before]),
            ):
                for rule in rules:
                    operation = f"{verb}_security_group_{way.lower()}"
                    call(resource, "ec2", operation, GroupId=resource.physical_id, IpPermissions=[permission_of(rule)])

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        self._rules(resource, old)
        retag_ec2(resource, old)

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_security_group", GroupId=resource.physical_id)


def permission_of(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule of a template as EC2's API has it."""
    permission: dict[str, Any] = {"IpProtocol": str(rule["IpProtocol"])}
    permission |= {key: int(rule[key]) for key in ("FromPort", "ToPort") if key in rule}
    said = {"Description": rule["Description"]} if "Description" in rule else {}
    for way in ("Source", "Destination"):
        if group := rule.get(f"{way}SecurityGroupId"):
            permission["UserIdGroupPairs"] = [{"GroupId": group} | said]
        if prefixes := rule.get(f"{way}PrefixListId"):
            permission["PrefixListIds"] = [{"PrefixListId": prefixes} | said]
    if "CidrIp" in rule:
        permission["IpRanges"] = [{"CidrIp": rule["CidrIp"]} | said]
    if "CidrIpv6" in rule:
        permission["Ipv6Ranges"] = [{"CidrIpv6": rule["CidrIpv6"]} | said]
    return permission


@kind("AWS::EC2::SecurityGroupIngress")
@kind("AWS::EC2::SecurityGroupEgress")
class SecurityGroupRule(ApiKind):
    """A rule that is a resource of its own."""

    @staticmethod
    def _call(resource: Resource, verb: str) -> None:
        operation = f"{verb}_security_group_{resource.type.rpartition('SecurityGroup')[2].lower()}"
        rule = permission_of(resource.properties)
        call(resource, "ec2", operation, GroupId=resource.properties["GroupId"], IpPermissions=[rule])

    def create(self, resource: Resource) -> None:
        self._call(resource, "authorize")
        resource.physical_id = resource.name()

    def delete(self, resource: Resource) -> None:
        with contextlib.suppress(ClientError):  # the group may be gone
            self._call(resource, "revoke")

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


@kind("AWS::EC2::VPCEndpoint")
class VpcEndpoint(Ec2Kind):
    """An endpoint."""

    attributes = {"Id": "VpcEndpointId"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        properties = {key: value for key, value in resource.properties.items() if key != "Tags"}
        tags = _tagged(resource, "vpc-endpoint")
        made = call(resource, "ec2", "create_vpc_endpoint", TagSpecifications=tags, **properties)["VpcEndpoint"]
        resource.model, resource.physical_id = made, made["VpcEndpointId"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties = resource.properties
        changes: dict[str, Any] = {}
        for name in ("RouteTableIds", "SubnetIds", "SecurityGroupIds"):
            before, after = set(old.get(name) or []), set(properties.get(name) or [])
            changes |= {f"Add{name}": sorted(after - before) or None, f"Remove{name}": sorted(before - after) or None}
        if "PolicyDocument" in changed_properties(old, properties):
            changes |= {
                "PolicyDocument": properties.get("PolicyDocument"),
                "ResetPolicy": "PolicyDocument" not in properties,
            }
        if any(changes.values()):
            call(resource, "ec2", "modify_vpc_endpoint", VpcEndpointId=resource.physical_id, **changes)
        retag_ec2(resource, old)

    def delete(self, resource: Resource) -> None:
        call(resource, "ec2", "delete_vpc_endpoints", VpcEndpointIds=[resource.physical_id])
