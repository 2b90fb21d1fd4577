"""The stacks as CloudFormation would make them: templates after the SAM transform, with every function evaluated."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy_runner.local_aws.cloudformation.template import Values, in_order, parameter_values, read, transform

ROOT = Path(__file__).parents[2]
ACCOUNT, REGION = "123456789012", "us-east-1"
REQUIRED = {
    "GitHubAppId": "1001",
    "InfrastructureLiveRepository": "lightwave-media/infrastructure-live",
    "InfrastructureLiveRepositoryId": "1000",
    "InfrastructureLiveOwnerId": "100",
}


def arn(service: str, resource: str, region: str = REGION) -> str:
    return f"arn:aws:{service}:{region}:{ACCOUNT}:{resource}"


def packaged() -> dict[str, Any]:
    """template.yaml as `sam package` would leave it, but for the nested stacks' addresses."""
    template = read((ROOT / "template.yaml").read_text())
    template["Globals"]["Function"]["CodeUri"] = "s3://artifacts/code.zip"
    template["Resources"]["DeployApp"]["Properties"]["DefinitionUri"] = "s3://artifacts/definition.json"
    return template


class Stack:
    """One stack with its nested stacks. What needs no value of its own gets one that tells where it comes from."""

    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, str], account: str = ACCOUNT) -> None:
        given = parameter_values(dict(template), dict(parameters), lambda kind, name, value: value)
        self.template = transform(dict(template), given, REGION)
        self.account = account
        pseudo = {"AWS::AccountId": account, "AWS::Region": REGION, "AWS::Partition": "aws", "AWS::StackName": "s"}
        self.values = Values(self.template, given, pseudo, self._value_of, str, str)
        self.values.check_rules()
        self._nested: dict[str, Stack] = {}
        self.order = in_order(self.template["Resources"])  # raises where there is a circle

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources that exist, their properties evaluated."""
        return {
            name: {**resource, "Properties": self.values(resource.get("Properties", {}))}
            for name, resource in self.template["Resources"].items()
            if self.values.included(resource)
        }

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        return {n: r["Properties"] for n, r in self.resources.items() if r["Type"] == kind}

    def outputs(self) -> dict[str, Any]:
        outputs = self.template.get("Outputs", {})
        return {n: self.values(output["Value"]) for n, output in outputs.items() if self.values.included(output)}

    def nested(self, name: str) -> "Stack":
        if name not in self._nested:
            properties = self.template["Resources"][name]["Properties"]
            template = read((ROOT / properties["TemplateURL"]).read_text())
            self._nested[name] = Stack(template, self.values(properties.get("Parameters", {})), self.account)
        return self._nested[name]

    def all(self) -> "Iterator[Stack]":
        yield self
        for name in self.of_type("AWS::CloudFormation::Stack"):
            yield from self.nested(name).all()

    def _value_of(self, name: str, attribute: str | None) -> Any:
        resource = self.template["Resources"][name]
        kind = resource["Type"]
        if kind == "AWS::CloudFormation::Stack" and attribute:
            return self.nested(name).outputs()[attribute.removeprefix("Outputs.")]
        p: dict[str, Any] = resource.get("Properties", {})

        def own(key: str) -> str:
            return str(self.values(p[key]))

        match kind:
            case "AWS::IAM::Role":
                return arn("iam", f"role{own('Path')}{own('RoleName')}", "") if attribute else own("RoleName")
            case "AWS::Lambda::Function":
                return arn("lambda", f"function:{own('FunctionName')}") if attribute else own("FunctionName")
            case "AWS::Lambda::Version":
                return arn("lambda", f"function:{own('FunctionName')}:7")
            case "AWS::Lambda::Alias":
                return arn("lambda", f"function:{own('FunctionName')}:{own('Name')}")
            case "AWS::StepFunctions::StateMachine":
                return "deploy-app" if attribute == "Name" else arn("states", f"stateMachine:{own('StateMachineName')}")
            case "AWS::StepFunctions::StateMachineAlias":
                return arn("states", f"stateMachine:deploy-app:{own('Name')}")
            case "AWS::ECS::TaskDefinition":
                return arn("ecs", f"task-definition/{own('Family')}:3")
            case "AWS::ECS::Cluster":
                return arn("ecs", f"cluster/{own('ClusterName')}") if attribute else own("ClusterName")
            case "AWS::ECR::Repository":
                if attribute == "RepositoryUri":
                    return f"{self.account}.dkr.ecr.{REGION}.amazonaws.com/{own('RepositoryName')}"
                return arn("ecr", f"repository/{own('RepositoryName')}")
            case "AWS::Logs::LogGroup":
                return arn("logs", f"log-group:{own('LogGroupName')}:*") if attribute else own("LogGroupName")
            case "AWS::DynamoDB::Table":
                return arn("dynamodb", f"table/{own('TableName')}") if attribute else own("TableName")
            case "AWS::SNS::Topic":
                return arn("sns", own("TopicName"))
            case "AWS::SQS::Queue":
                return arn("sqs", own("QueueName"))
            case "AWS::Events::Rule":
                return arn("events", f"rule/{name}")
            case "AWS::IAM::OIDCProvider":
                return arn("iam", "oidc-provider/token.actions.githubusercontent.com", "")
        return f"{name}.{attribute or 'id'}"


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Grant:
    """One action on one resource."""

    action: str
    resource: str
    conditions: str = ""
    effect: str = "Allow"


def grants(document: Mapping[str, Any]) -> set[Grant]:
    """The pairs of a policy."""
    return {
        Grant(action, resource, json.dumps(s["Condition"], sort_keys=True) if s.get("Condition") else "", s["Effect"])
        for s in document["Statement"]
        for action in listed(s["Action"])
        for resource in listed(s["Resource"])
    }


def documents(stack: Stack) -> dict[str, list[dict[str, Any]]]:
    """Every policy document by the name of the role that it is for, in this stack and the nested ones."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in stack.all():
        for role in each.of_type("AWS::IAM::Role").values():
            found.setdefault(role["RoleName"], []).extend(p["PolicyDocument"] for p in role.get("Policies", []))
        for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
            for policy in each.of_type(kind).values():
                for name in policy["Roles"]:
                    found.setdefault(name, []).append(policy["PolicyDocument"])
    return found


def target_elsewhere() -> Stack:
    """The target of the environment that apps.yaml has in another account."""
    template = read((ROOT / "templates" / "rendered" / "deploy_target.yaml").read_text())
    return Stack(template, {"Environment": "sandbox", "DeployRunnerAccount": ACCOUNT}, "210987654321")


def reasons(stack: Stack) -> dict[str, dict[str, dict[str, Any]]]:
    """What is written beside the statements of every role: by the role's name, and there by the statement's Sid."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for each in stack.all():
        for resource in each.resources.values():
            if resource["Type"].startswith("AWS::IAM::") and "Reasons" in resource.get("Metadata", {}):
                own = resource["Properties"]
                for name in [own["RoleName"]] if resource["Type"] == "AWS::IAM::Role" else own["Roles"]:
                    found.setdefault(name, {}).update(resource["Metadata"]["Reasons"])
    return found


def trusts(stack: Stack) -> dict[str, dict[str, Any]]:
    """Every role's trust policy by the role's name."""
    return {
        role["RoleName"]: role["AssumeRolePolicyDocument"]
        for each in stack.all()
        for role in each.of_type("AWS::IAM::Role").values()
    }
