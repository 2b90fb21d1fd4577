"""The runner's own network: one VPC, two zones, no way in. NetworkMode existing does without this stack."""

from troposphere import (
    AWSObject,
    Equals,
    GetAtt,
    GetAZs,
    If,
    Join,
    Output,
    Parameter,
    Ref,
    Select,
    Sub,
    Tags,
    Template,
)
from troposphere.ec2 import (
    EIP,
    VPC,
    InternetGateway,
    NatGateway,
    Route,
    RouteTable,
    Subnet,
    SubnetRouteTableAssociation,
    VPCEndpoint,
    VPCGatewayAttachment,
)

from templates.config import Config

VPC_RANGE = "10.97.0.0/24"
PUBLIC_RANGES = ("10.97.0.0/26", "10.97.0.64/26")
PRIVATE_RANGES = ("10.97.0.128/26", "10.97.0.192/26")
EVERYWHERE = "0.0.0.0/0"


def build(config: Config) -> Template:
    """Return the network. The modes differ by a condition, so that a change of mode is an update of this stack."""
    template = Template("The network of the deploy runner's tasks.")
    template.set_version()
    mode = template.add_parameter(
        Parameter("NetworkMode", Type="String", AllowedValues=["public-egress", "private-nat"], Default="public-egress")
    )
    template.add_condition("IsPrivate", Equals(Ref(mode), "private-nat"))

    vpc = template.add_resource(
        VPC("Vpc", CidrBlock=VPC_RANGE, EnableDnsSupport=True, EnableDnsHostnames=True, Tags=_named("deploy-runner"))
    )
    gateway = template.add_resource(InternetGateway("InternetGateway", Tags=_named("deploy-runner")))
    attachment = template.add_resource(
        VPCGatewayAttachment("InternetGatewayAttachment", VpcId=Ref(vpc), InternetGatewayId=Ref(gateway))
    )
    public_table = template.add_resource(
        RouteTable("PublicRouteTable", VpcId=Ref(vpc), Tags=_named("deploy-runner-public"))
    )
    template.add_resource(
        Route(
            "PublicRoute",
            RouteTableId=Ref(public_table),
            DestinationCidrBlock=EVERYWHERE,
            GatewayId=Ref(gateway),
            DependsOn=attachment.title,
        )
    )
    public = [_subnet(template, "Public", index, block, public_table) for index, block in enumerate(PUBLIC_RANGES)]

    address = template.add_resource(
        EIP("NatAddress", Domain="vpc", Condition="IsPrivate", DependsOn=attachment.title, Tags=_named("deploy-runner"))
    )
    nat = template.add_resource(
        NatGateway(
            "NatGateway",
            AllocationId=GetAtt(address, "AllocationId"),
            SubnetId=Ref(public[0]),
            Condition="IsPrivate",
            Tags=_named("deploy-runner"),
        )
    )
    private_table = template.add_resource(
        RouteTable("PrivateRouteTable", VpcId=Ref(vpc), Condition="IsPrivate", Tags=_named("deploy-runner-private"))
    )
    template.add_resource(
        Route(
            "PrivateRoute",
            RouteTableId=Ref(private_table),
            DestinationCidrBlock=EVERYWHERE,
            NatGatewayId=Ref(nat),
            Condition="IsPrivate",
        )
    )
    private = [
        _subnet(template, "Private", index, block, private_table, "IsPrivate")
        for index, block in enumerate(PRIVATE_RANGES)
    ]
    # Image layers come from S3; through the gateway endpoint they cost nothing.
    template.add_resource(
        VPCEndpoint(
            "S3Endpoint",
            VpcId=Ref(vpc),
            VpcEndpointType="Gateway",
            ServiceName=Sub("com.amazonaws.${AWS::Region}.s3"),
            RouteTableIds=[Ref(public_table), If("IsPrivate", Ref(private_table), Ref("AWS::NoValue"))],
        )
    )

    template.add_output(Output("VpcId", Value=Ref(vpc)))
    template.add_output(
        Output(
            "SubnetIds", Value=If("IsPrivate", Join(",", list(map(Ref, private))), Join(",", list(map(Ref, public))))
        )
    )
    template.add_output(Output("AssignPublicIp", Value=If("IsPrivate", "DISABLED", "ENABLED")))
    return template


def _subnet(
    template: Template, kind: str, index: int, block: str, table: AWSObject, condition: str | None = None
) -> AWSObject:
    """Add a subnet in the zone of this index, with its route table."""
    only = {"Condition": condition} if condition else {}
    subnet = template.add_resource(
        Subnet(
            f"{kind}Subnet{index}",
            VpcId=Ref("Vpc"),
            CidrBlock=block,
            AvailabilityZone=Select(index, GetAZs("")),
            MapPublicIpOnLaunch=False,  # a task asks for its address itself
            Tags=_named(f"deploy-runner-{kind.lower()}-{index}"),
            **only,
        )
    )
    template.add_resource(
        SubnetRouteTableAssociation(f"{kind}SubnetRoutes{index}", SubnetId=Ref(subnet), RouteTableId=Ref(table), **only)
    )
    return subnet


def _named(name: str) -> Tags:
    return Tags(Name=name)
