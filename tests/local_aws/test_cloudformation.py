"""CloudFormation on this machine: what it refuses, makes, changes and rolls back, and the real command lines."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deploy_runner.local_aws.cloudformation import template as templates
from deploy_runner.local_aws.machine import Machine
from tests.local_aws.light import client, start
from tests.waiting import finished, until

PORT = 4725
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("local")
    machine = start(PORT, folder, "iam", "s3", "events", "awslambda", "stepfunctions", "cloudformation")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def aws(machine: Machine) -> Callable[[str], Any]:
    return lambda service: client(machine, service)


@pytest.fixture
def cfn(aws: Any) -> Iterator[Any]:
    cloudformation = aws("cloudformation")
    yield cloudformation
    for stack in cloudformation.describe_stacks()["Stacks"]:
        if "ParentId" not in stack:
            settled(cloudformation, stack["StackId"])
            cloudformation.update_termination_protection(EnableTerminationProtection=False, StackName=stack["StackId"])
            cloudformation.delete_stack(StackName=stack["StackId"])
            assert settled(cloudformation, stack["StackId"]) == "DELETE_COMPLETE"


def settled(cfn: Any, name: str) -> str:
    """Wait for the stack, and return how it stands; pytest shows what is printed when a test fails."""
    status: str = until(
        lambda: cfn.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"],
        lambda status: not status.endswith("IN_PROGRESS") or status == "REVIEW_IN_PROGRESS",
    )
    for event in cfn.describe_stack_events(StackName=name)["StackEvents"]:
        if event.get("ResourceStatusReason", "User Initiated") != "User Initiated":
            print(event["LogicalResourceId"], event["ResourceStatus"], event.get("ResourceStatusReason"))
    return status


def create(cfn: Any, name: str, template: Any, parameters: dict[str, str] | None = None, **more: Any) -> str:
    cfn.create_stack(StackName=name, TemplateBody=body(template), Parameters=listed(parameters), **more)
    return settled(cfn, name)


def update(cfn: Any, name: str, template: Any, parameters: dict[str, str] | None = None, **more: Any) -> str:
    cfn.update_stack(StackName=name, TemplateBody=body(template), Parameters=listed(parameters), **more)
    return settled(cfn, name)


def body(template: Any) -> str:
    return template if isinstance(template, str) else json.dumps(template)


def listed(parameters: dict[str, str] | None) -> list[dict[str, str]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in (parameters or {}).items()]


def outputs(cfn: Any, name: str) -> dict[str, str]:
    stack = cfn.describe_stacks(StackName=name)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def events(cfn: Any, name: str) -> list[tuple[str, str]]:
    pages = cfn.get_paginator("describe_stack_events").paginate(StackName=name)
    newest_first = [event for page in pages for event in page["StackEvents"]]
    return [(event["LogicalResourceId"], event["ResourceStatus"]) for event in reversed(newest_first)]


def reason(cfn: Any, name: str, status: str) -> str:
    for event in cfn.describe_stack_events(StackName=name)["StackEvents"]:
        if event["ResourceStatus"] == status and "ResourceStatusReason" in event:
            return str(event["ResourceStatusReason"])
    raise AssertionError(f"no event {status}")


def topic(name: str, **properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": name} | properties}


# --- What it refuses --------------------------------------------------------------------------------------------------
PARAMETERS = """
Parameters:
  Name: {Type: String, AllowedPattern: "[a-z]+"}
  Kind: {Type: String, AllowedValues: [a, b], Default: a}
  Size: {Type: Number, MinValue: 2, Default: 3}
  Id: {Type: String, AllowedPattern: "[0-9]+", ConstraintDescription: must be numeric., Default: "1"}
Resources:
  Topic: {Type: AWS::SNS::Topic}
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Parameters: \[Name\] must have values"),
        ({"Name": "x", "Other": "y"}, r"Parameters: \[Other\] do not exist in the template"),
        ({"Name": "X"}, r"Parameter 'Name' must match pattern \[a-z\]\+"),
        ({"Name": "x", "Kind": "c"}, "Parameter 'Kind' must be one of AllowedValues"),
        ({"Name": "x", "Size": "1"}, "Parameter 'Size' must be a number not less than 2"),
        ({"Name": "x", "Size": "many"}, "Parameter 'Size' must be a number"),
        ({"Name": "x", "Id": "x"}, "Parameter Id failed to satisfy constraint: must be numeric."),
    ],
)
def test_parameters_are_held_to_the_template(cfn: Any, given: dict[str, str], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        create(cfn, "refused", PARAMETERS, given)
    assert not cfn.describe_stacks()["Stacks"] or "refused" not in str(cfn.describe_stacks()["Stacks"])


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({}, "At least one Resources member must be defined"),
        ({"A": {"Type": "AWS::Nothing::Here"}}, r"Unrecognized resource types: \[AWS::Nothing::Here\]"),
        ({"A": {"Type": "AWS::QuickSight::Topic"}}, r"Unrecognized resource types: \[AWS::QuickSight::Topic\]"),
        ({"A": topic({"Ref": "B"})}, r"Unresolved resource dependencies \[B\] in the Resources block of the template"),  # type: ignore[arg-type]
        ({"A": topic({"Fn::GetAtt": ["B", "Arn"]})}, "instance of Fn::GetAtt references undefined resource B"),  # type: ignore[arg-type]
        ({"A": topic({"Ref": "B"}), "B": topic({"Ref": "A"})}, r"Circular dependency between resources: \[A, B\]"),  # type: ignore[arg-type]
        ({"A": {"Type": "AWS::SNS::Topic", "Condition": "No"}}, "Unresolved condition dependency No"),
        ({"A-1": topic("a")}, "Resource name A-1 is non alphanumeric"),
    ],
)
def test_what_is_wrong_with_a_template_is_said_at_once(cfn: Any, resources: Any, message: str) -> None:
    with pytest.raises(ClientError, match=message):
        create(cfn, "refused", {"Resources": resources})


STATEMENT = {"Effect": "Allow", "Action": "logs:PutLogEvents", "Resource": "*"}
ROLE = {
    "Type": "AWS::IAM::Role",
    "Properties": {
        "Path": "/deploy-runner/",
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
                for service in ("lambda.amazonaws.com", "states.amazonaws.com")
            ],
        },
        "Policies": [{"PolicyName": "p", "PolicyDocument": {"Version": "2012-10-17", "Statement": [STATEMENT]}}],
    },
}


def test_capabilities_must_be_acknowledged(cfn: Any) -> None:
    named = {"Resources": {"Role": ROLE | {"Properties": ROLE["Properties"] | {"RoleName": "r"}}}}  # type: ignore[operator]
    with pytest.raises(ClientError, match=r"Requires capabilities : \[CAPABILITY_NAMED_IAM\]"):
        create(cfn, "iam", named, Capabilities=["CAPABILITY_IAM"])
    assert create(cfn, "iam", {"Resources": {"Role": ROLE}}, Capabilities=["CAPABILITY_IAM"]) == "CREATE_COMPLETE"


def test_rules_hold_before_anything_is_made(cfn: Any) -> None:
    template = """
    Parameters: {Mode: {Type: String}, Vpc: {Type: String, Default: ""}}
    Rules:
      Named:
        RuleCondition: !Equals [!Ref Mode, existing]
        Assertions: [{Assert: !Not [!Equals [!Ref Vpc, ""]], AssertDescription: Mode existing needs Vpc.}]
    Resources: {Topic: {Type: AWS::SNS::Topic}}
    """
    with pytest.raises(ClientError, match=r"Mode existing needs Vpc\."):
        create(cfn, "rules", template, {"Mode": "existing"})
    assert create(cfn, "rules", template, {"Mode": "own"}) == "CREATE_COMPLETE"


# --- Values -----------------------------------------------------------------------------------------------------------
def test_functions_of_templates(cfn: Any) -> None:
    template = """
    Parameters:
      Items: {Type: CommaDelimitedList, Default: "a, b"}
      Secret: {Type: String, NoEcho: true, Default: hidden}
      Enabled: {Type: String, Default: "true"}
    Mappings: {Sizes: {us-east-1: {small: "1"}}}
    Conditions: {IsOn: !Equals [!Ref Enabled, "true"], IsOff: !Not [!Condition IsOn]}
    Resources:
      Topic: {Type: AWS::SNS::Topic, Properties: {DisplayName: !If [IsOff, x, !Ref AWS::NoValue]}}
      Absent: {Type: AWS::SNS::Topic, Condition: IsOff}
      Queue: {Type: AWS::SQS::Queue, Properties: {VisibilityTimeout: "33"}}
    Outputs:
      Joined: {Value: !Join ["-", !Ref Items]}
      Sub: {Value: !Sub ["${Topic.TopicName}/${own}/${!literal}/${AWS::Region}", {own: !Select [1, !Ref Items]}]}
      Map: {Value: !FindInMap [Sizes, !Ref AWS::Region, small]}
      Arn: {Value: !GetAtt Queue.Arn}
      Cidr: {Value: !Select [1, !Cidr [10.0.0.0/24, 2, 6]]}
      Split: {Value: !Select [1, !Split [".", "a.b"]]}
      Base: {Value: !Base64 x}
      Absent: {Value: no, Condition: IsOff}
    """
    assert create(cfn, "values", template) == "CREATE_COMPLETE"
    given = outputs(cfn, "values")
    topic_name = given["Sub"].partition("/")[0]
    assert given == {
        "Joined": "a-b", "Sub": f"{topic_name}/b/${{literal}}/us-east-1", "Map": "1", "Cidr": "10.0.0.64/26",
        "Split": "b", "Base": "eA==", "Arn": given["Arn"],
    }  # fmt: skip
    assert given["Arn"].startswith("arn:aws:sqs:us-east-1:123456789012:values-Queue-")
    stack = cfn.describe_stacks(StackName="values")["Stacks"][0]
    shown = {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in stack["Parameters"]}
    assert shown == {"Items": "a,b", "Secret": "****", "Enabled": "true"}
    assert "hidden" not in str(cfn.describe_stack_events(StackName="values"))


# --- Failing ----------------------------------------------------------------------------------------------------------
def test_a_failing_resource_rolls_back_what_was_made(cfn: Any, aws: Any) -> None:
    bad = {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "not a name!"}, "DependsOn": ["First", "Kept"]}
    kept = topic("kept") | {"DeletionPolicy": "Retain"}
    template = {"Resources": {"First": topic("first"), "Kept": kept, "Bad": bad}}
    assert create(cfn, "failing", template) == "ROLLBACK_COMPLETE"
    told = events(cfn, "failing")
    assert (
        told.index(("First", "CREATE_COMPLETE"))
        < told.index(("Bad", "CREATE_FAILED"))
        < told.index(("First", "DELETE_COMPLETE"))
    )
    assert ("Kept", "DELETE_SKIPPED") in told
    assert told[-1] == ("failing", "ROLLBACK_COMPLETE")
    assert "Resource handler returned message" in reason(cfn, "failing", "CREATE_FAILED")
    assert (
        reason(cfn, "failing", "ROLLBACK_IN_PROGRESS")
        == "The following resource(s) failed to create: [Bad]. Rollback requested by user."
    )
    names = [arn["TopicArn"].rpartition(":")[2] for arn in aws("sns").list_topics()["Topics"]]
    assert "kept" in names
    assert "first" not in names
    aws("sns").delete_topic(TopicArn="arn:aws:sns:us-east-1:123456789012:kept")
    with pytest.raises(ClientError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        update(cfn, "failing", template)


def test_a_property_that_the_type_does_not_have_fails_the_resource(cfn: Any) -> None:
    template = {"Resources": {"Topic": topic("t", Colour="blue")}}
    assert create(cfn, "unknown", template) == "ROLLBACK_COMPLETE"
    assert "extraneous key [Colour] is not permitted" in reason(cfn, "unknown", "CREATE_FAILED")


def test_a_failing_update_restores_what_was(cfn: Any, aws: Any) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "restored", "VisibilityTimeout": 30}}
    assert create(cfn, "restored", {"Resources": {"Queue": queue, "Old": topic("old")}}) == "CREATE_COMPLETE"
    longer = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "restored", "VisibilityTimeout": 60}}
    bad = topic("not a name!") | {"DependsOn": ["Queue", "New"]}
    changed = {"Resources": {"Queue": longer, "New": topic("new"), "Bad": bad}}
    assert update(cfn, "restored", changed) == "UPDATE_ROLLBACK_COMPLETE"
    url = aws("sqs").get_queue_url(QueueName="restored")["QueueUrl"]
    attributes = aws("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "30"
    names = {arn["TopicArn"].rpartition(":")[2] for arn in aws("sns").list_topics()["Topics"]}
    assert names & {"old", "new"} == {"old"}
    with pytest.raises(ClientError, match="No updates are to be performed"):
        update(cfn, "restored", {"Resources": {"Queue": queue, "Old": topic("old")}})


def test_a_replaced_resource_is_made_before_the_old_one_goes(cfn: Any, aws: Any) -> None:
    template = {"Resources": {"Topic": topic("one")}, "Outputs": {"Arn": {"Value": {"Ref": "Topic"}}}}
    assert create(cfn, "replacing", template) == "CREATE_COMPLETE"
    template["Resources"]["Topic"]["Properties"]["TopicName"] = "two"
    assert update(cfn, "replacing", template) == "UPDATE_COMPLETE"
    assert outputs(cfn, "replacing")["Arn"].endswith(":two")
    told = events(cfn, "replacing")
    assert told.index(("replacing", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")) < told.index(("Topic", "DELETE_COMPLETE"))
    assert not any(arn["TopicArn"].endswith(":one") for arn in aws("sns").list_topics()["Topics"])


def test_a_protected_stack_stays(cfn: Any) -> None:
    template = {"Resources": {"Topic": topic("protected")}}
    assert create(cfn, "protected", template, EnableTerminationProtection=True) == "CREATE_COMPLETE"
    with pytest.raises(ClientError, match="cannot be deleted while TerminationProtection is enabled"):
        cfn.delete_stack(StackName="protected")


# --- Change sets ------------------------------------------------------------------------------------------------------
def change(cfn: Any, kind: str, template: Any, name: str = "changes", **more: Any) -> dict[str, Any]:
    cfn.create_change_set(StackName=name, ChangeSetName="c", ChangeSetType=kind, TemplateBody=body(template), **more)
    described: dict[str, Any] = cfn.describe_change_set(StackName=name, ChangeSetName="c")
    return described


def test_change_sets(cfn: Any) -> None:
    template = {"Resources": {"Topic": topic("cs"), "Queue": {"Type": "AWS::SQS::Queue"}}}
    made = change(cfn, "CREATE", template)
    assert cfn.describe_stacks(StackName="changes")["Stacks"][0]["StackStatus"] == "REVIEW_IN_PROGRESS"
    assert {c["ResourceChange"]["Action"] for c in made["Changes"]} == {"Add"}
    cfn.execute_change_set(StackName="changes", ChangeSetName="c")
    assert settled(cfn, "changes") == "CREATE_COMPLETE"
    cfn.delete_change_set(StackName="changes", ChangeSetName="c")

    same = change(cfn, "UPDATE", template)
    assert (same["Status"], same["ExecutionStatus"]) == ("FAILED", "UNAVAILABLE")
    assert same["StatusReason"].startswith("The submitted information didn't contain changes.")
    with pytest.raises(ClientError, match="cannot be executed in its current status"):
        cfn.execute_change_set(StackName="changes", ChangeSetName="c")
    cfn.delete_change_set(StackName="changes", ChangeSetName="c")

    other = {"Resources": {"Topic": topic("cs2"), "Added": topic("added")}}
    changes = {
        c["ResourceChange"]["LogicalResourceId"]: c["ResourceChange"] for c in change(cfn, "UPDATE", other)["Changes"]
    }
    assert {name: c["Action"] for name, c in changes.items()} == {"Topic": "Modify", "Added": "Add", "Queue": "Remove"}
    assert changes["Topic"]["Replacement"] == "True"
    with pytest.raises(ClientError, match="ChangeSet c already exists"):
        change(cfn, "UPDATE", other)


# --- Nested stacks ----------------------------------------------------------------------------------------------------
@pytest.fixture
def bucket(aws: Any, machine: Machine) -> Callable[[str, str], str]:
    aws("s3").create_bucket(Bucket="templates")

    def put(name: str, text: str) -> str:
        aws("s3").put_object(Bucket="templates", Key=f"of/{name}", Body=text.encode())
        return f"{machine.endpoint}/templates/of/{name}"

    return put


def test_nested_stacks(cfn: Any, bucket: Any) -> None:
    child = """
    Parameters: {Name: {Type: String}}
    Resources: {Topic: {Type: AWS::SNS::Topic, Properties: {TopicName: !Ref Name}}}
    Outputs: {Arn: {Value: !Ref Topic}}
    """
    parent: dict[str, Any] = {
        "Resources": {
            "Child": {
                "Type": "AWS::CloudFormation::Stack",
                "Properties": {"TemplateURL": bucket("child.yaml", child), "Parameters": {"Name": "inner"}},
            },
            "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": {"Fn::Sub": "${Child.Outputs.Arn}"}}},
        }
    }
    parent["Resources"].pop("Queue")
    parent["Outputs"] = {"Arn": {"Value": {"Fn::GetAtt": ["Child", "Outputs.Arn"]}}}
    assert create(cfn, "parent", parent) == "CREATE_COMPLETE"
    assert outputs(cfn, "parent")["Arn"].endswith(":inner")
    nested = [stack for stack in cfn.describe_stacks()["Stacks"] if "ParentId" in stack]
    assert [stack["RootId"] for stack in nested] == [cfn.describe_stacks(StackName="parent")["Stacks"][0]["StackId"]]
    parent["Resources"]["Child"]["Properties"]["Parameters"]["Name"] = "changed"
    assert update(cfn, "parent", parent) == "UPDATE_COMPLETE"
    assert outputs(cfn, "parent")["Arn"].endswith(":changed")


def test_a_failing_child_fails_its_parent(cfn: Any, bucket: Any) -> None:
    child = '{"Resources": {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "not a name!"}}}}'
    nested = {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": bucket("bad.json", child)}}
    assert create(cfn, "unlucky", {"Resources": {"Child": nested}}) == "ROLLBACK_COMPLETE"
    told = reason(cfn, "unlucky", "CREATE_FAILED")
    assert "was not successfully created: The following resource(s) failed to create: [Topic]." in told


def test_exports(cfn: Any) -> None:
    out = {
        "Resources": {"T": topic("exported")},
        "Outputs": {"Arn": {"Value": {"Ref": "T"}, "Export": {"Name": "the-arn"}}},
    }
    use = {
        "Resources": {
            "T": topic("user", DisplayName={"Fn::Select": [5, {"Fn::Split": [":", {"Fn::ImportValue": "the-arn"}]}]})
        }
    }
    assert create(cfn, "exporter", out) == "CREATE_COMPLETE"
    assert create(cfn, "user", use) == "CREATE_COMPLETE"
    assert cfn.list_imports(ExportName="the-arn")["Imports"] == ["user"]
    cfn.delete_stack(StackName="exporter")
    assert settled(cfn, "exporter") == "DELETE_FAILED"
    cfn.delete_stack(StackName="user")


# --- SAM and the real command lines -----------------------------------------------------------------------------------
SAM = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Colour: {Type: String, Default: blue}
Resources:
  Greeter:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: greeter
      Runtime: python3.13
      Handler: work.handler
      CodeUri: code
      Role: !GetAtt Role.Arn
      AutoPublishAlias: live
      Environment: {Variables: {COLOUR: !Ref Colour}}
      Events:
        Asked: {Type: EventBridgeRule, Properties: {Pattern: {source: [test]}}}
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties:
      Name: greeting
      Role: !GetAtt Role.Arn
      DefinitionUri: machine.asl.json
      DefinitionSubstitutions: {Greeter: !Ref Greeter.Version}
      AutoPublishAlias: live
  Nested:
    Type: AWS::CloudFormation::Stack
    Properties: {TemplateURL: nested.yaml, Parameters: {Colour: !Ref Colour}}
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - {Effect: Allow, Principal: {Service: [lambda.amazonaws.com, states.amazonaws.com]}, Action: sts:AssumeRole}
      ManagedPolicyArns: [!Sub "arn:${AWS::Partition}:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"]
      Policies:
        - PolicyName: greet
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - Effect: Allow
                Action: lambda:InvokeFunction
                Resource: !Sub arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:greeter:*
Outputs:
  Machine: {Value: !Ref Machine}
  Nested: {Value: !GetAtt Nested.Outputs.Colour}
"""
DEFINITION = {
    "StartAt": "Greet",
    "QueryLanguage": "JSONata",
    "States": {
        "Greet": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": "${Greeter}", "Payload": {}},
            "Output": "{% $states.result.Payload %}",
            "End": True,
        }
    },
}
NESTED = """
Parameters: {Colour: {Type: String}}
Resources: {Handle: {Type: AWS::CloudFormation::WaitConditionHandle}}
Outputs: {Colour: {Value: !Ref Colour}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "template.yaml").write_text(SAM)
    (tmp_path / "machine.asl.json").write_text(json.dumps(DEFINITION))
    (tmp_path / "nested.yaml").write_text(NESTED)
    (tmp_path / "code" / "work.py").write_text(
        "import os\ndef handler(event, context):\n    return 'hello ' + os.environ['COLOUR']\n"
    )
    return tmp_path


def run(machine: Machine, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "AWS_ENDPOINT_URL": machine.endpoint, "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.2", "HOME": str(folder),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.run(
        [BIN / command[0], *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def deploy(machine: Machine, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(
        machine, folder, "sam", "deploy", "--stack-name", "sam", "--resolve-s3", "--no-confirm-changeset",
        "--no-progressbar", "--no-fail-on-empty-changeset",
        "--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND", *more,
    )  # fmt: skip


def execute(aws: Any) -> Any:
    states = aws("stepfunctions")
    alias = "arn:aws:states:us-east-1:123456789012:stateMachine:greeting:live"
    arn = states.start_execution(stateMachineArn=alias)["executionArn"]
    told = finished(states, arn)
    assert told["status"] == "SUCCEEDED", told
    return json.loads(told["output"])


def test_the_real_sam_deploys_changes_and_deletes(machine: Machine, cfn: Any, aws: Any, project: Path) -> None:
    first = deploy(machine, project)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Successfully created/updated stack - sam" in first.stdout
    assert outputs(cfn, "sam")["Nested"] == "blue"
    assert execute(aws) == "hello blue"

    again = deploy(machine, project)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "No changes to deploy" in again.stdout + again.stderr

    (project / "code" / "work.py").write_text("def handler(event, context):\n    return 'changed'\n")
    changed = deploy(machine, project)
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert execute(aws) == "changed"
    versions = aws("lambda").list_versions_by_function(FunctionName="greeter")["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST", "1", "2"]  # SAM retains versions
    assert aws("lambda").get_alias(FunctionName="greeter", Name="live")["FunctionVersion"] == "2"
    rule = aws("events").list_rules()["Rules"][0]
    assert aws("events").list_targets_by_rule(Rule=rule["Name"])["Targets"][0]["Arn"].endswith("greeter:live")

    gone = run(machine, project, "sam", "delete", "--no-prompts", "--stack-name", "sam", "--region", "us-east-1")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    with pytest.raises(ClientError, match="Stack with id sam does not exist"):
        cfn.describe_stacks(StackName="sam")
    assert not aws("lambda").list_functions()["Functions"]


def test_the_real_aws_cli_deploys(machine: Machine, cfn: Any, tmp_path: Path) -> None:
    (tmp_path / "template.json").write_text(body({"Resources": {"Topic": topic("cli")}}))
    command = ("aws", "cloudformation", "deploy", "--stack-name", "cli", "--template-file", "template.json")
    first = run(machine, tmp_path, *command)
    assert first.returncode == 0, first.stdout + first.stderr
    again = run(machine, tmp_path, *command)
    assert "No changes to deploy" in again.stdout + again.stderr


def test_what_the_transform_refuses_fails_the_change_set(cfn: Any) -> None:
    function = "{Type: AWS::Serverless::Function, Properties: {Handler: a.b}}"
    template = f"Transform: AWS::Serverless-2016-10-31\nResources: {{F: {function}}}"
    told = change(cfn, "CREATE", template, "transformed")
    assert told["Status"] == "FAILED"
    assert told["StatusReason"].startswith(
        "Transform AWS::Serverless-2016-10-31 failed with: Invalid Serverless Application"
    )


def test_templates_and_summaries(cfn: Any) -> None:
    summary = cfn.get_template_summary(TemplateBody=PARAMETERS)
    assert {parameter["ParameterKey"] for parameter in summary["Parameters"]} == {"Name", "Kind", "Size", "Id"}
    assert summary["ResourceTypes"] == ["AWS::SNS::Topic"]
    assert create(cfn, "summary", PARAMETERS, {"Name": "x"}) == "CREATE_COMPLETE"
    assert cfn.get_template(StackName="summary")["TemplateBody"].strip() == PARAMETERS.strip()
    assert "Topic" in cfn.get_template(StackName="summary", TemplateStage="Processed")["TemplateBody"]["Resources"]


def test_events_come_in_pages_and_never_at_the_same_time(cfn: Any) -> None:
    template = {"Resources": {f"Topic{index}": topic(f"page-{index}") for index in range(40)}}
    assert create(cfn, "pages", template) == "CREATE_COMPLETE"
    first = cfn.describe_stack_events(StackName="pages")
    assert len(first["StackEvents"]) == 100
    assert "NextToken" in first
    times = [event["Timestamp"] for event in first["StackEvents"]]
    assert len(set(times)) == 100
    assert len(events(cfn, "pages")) == 40 * 3 + 2


# --- Resources --------------------------------------------------------------------------------------------------------
RESOURCES = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: t
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      TimeToLiveSpecification: {AttributeName: expires_at, Enabled: true}
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
      SSESpecification: {SSEEnabled: true}
  Repository:
    Type: AWS::ECR::Repository
    Properties:
      RepositoryName: app
      ImageTagMutability: IMMUTABLE
      ImageScanningConfiguration: {ScanOnPush: true}
      LifecyclePolicy:
        LifecyclePolicyText: >-
          {"rules": [{"rulePriority": 1, "selection": {"tagStatus": "untagged", "countType": "imageCountMoreThan",
          "countNumber": 5}, "action": {"type": "expire"}}]}
  Provider:
    Type: AWS::IAM::OIDCProvider
    Properties: {Url: "https://token.actions.githubusercontent.com", ClientIdList: [sts.amazonaws.com]}
  Secret: {Type: AWS::SecretsManager::Secret, Properties: {Name: /a/secret, GenerateSecretString: {PasswordLength: 20}}}
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      AlarmName: a
      MetricName: Errors
      Namespace: AWS/Lambda
      Statistic: Sum
      Period: "60"
      EvaluationPeriods: "1"
      Threshold: "1"
      ComparisonOperator: GreaterThanOrEqualToThreshold
  Logs: {Type: AWS::Logs::LogGroup, Properties: {LogGroupName: /l, RetentionInDays: 30}}
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: 10.9.0.0/24, EnableDnsHostnames: true}}
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: d
      VpcId: !Ref Vpc
      SecurityGroupEgress: [{IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: 0.0.0.0/0}]
"""


def test_resources_are_as_the_template_says(cfn: Any, aws: Any) -> None:
    assert create(cfn, "resources", RESOURCES) == "CREATE_COMPLETE"
    assert (
        aws("dynamodb").describe_time_to_live(TableName="t")["TimeToLiveDescription"]["AttributeName"] == "expires_at"
    )
    backups = aws("dynamodb").describe_continuous_backups(TableName="t")["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    repository = aws("ecr").describe_repositories(repositoryNames=["app"])["repositories"][0]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert "imageCountMoreThan" in aws("ecr").get_lifecycle_policy(repositoryName="app")["lifecyclePolicyText"]
    assert len(aws("secretsmanager").get_secret_value(SecretId="/a/secret")["SecretString"]) == 20
    assert aws("cloudwatch").describe_alarms(AlarmNames=["a"])["MetricAlarms"][0]["Threshold"] == 1.0
    assert aws("logs").describe_log_groups(logGroupNamePrefix="/l")["logGroups"][0]["retentionInDays"] == 30
    ids = {
        r["LogicalResourceId"]: r["PhysicalResourceId"]
        for r in cfn.list_stack_resources(StackName="resources")["StackResourceSummaries"]
    }
    group = aws("ec2").describe_security_groups(GroupIds=[ids["Group"]])["SecurityGroups"][0]
    assert [rule["FromPort"] for rule in group["IpPermissionsEgress"]] == [443]
    changed = (
        RESOURCES.replace("RetentionInDays: 30", "RetentionInDays: 7")
        .replace("IMMUTABLE", "MUTABLE")
        .replace("443", "80")
    )
    assert update(cfn, "resources", changed) == "UPDATE_COMPLETE"
    assert aws("logs").describe_log_groups(logGroupNamePrefix="/l")["logGroups"][0]["retentionInDays"] == 7
    group = aws("ec2").describe_security_groups(GroupIds=[ids["Group"]])["SecurityGroups"][0]
    assert [rule["FromPort"] for rule in group["IpPermissionsEgress"]] == [80]


def test_the_products_own_state_machine_survives_its_substitutions(cfn: Any, aws: Any, bucket: Any) -> None:
    rendered = Path(__file__).parents[2] / "templates" / "rendered" / "deploy_app.asl.json"
    if not rendered.exists():
        pytest.skip("the state machine is not rendered")
    bucket("machine.json", rendered.read_text())
    names = ["ValidateRequest", "ReportStatus", "DeployService", "WatchRollout", "AcquireLock", "FinishDeployment",
             "RunnerCluster", "RunnerSubnets", "RunnerSecurityGroup", "AssignPublicIp"]  # fmt: skip
    properties = {
        "StateMachineName": "deploy-app", "RoleArn": {"Fn::GetAtt": ["Role", "Arn"]},
        "DefinitionS3Location": {"Bucket": "templates", "Key": "of/machine.json"},
        "DefinitionSubstitutions": dict.fromkeys(names, "value-of-a-substitution"),
    }  # fmt: skip
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
    rule = {"Effect": "Allow", "Action": ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
            "Resource": "arn:aws:events:*:*:rule/StepFunctionsGetEventsForECSTaskRule"}  # fmt: skip
    hears: dict[str, Any] = copy.deepcopy(ROLE)
    policy = {"Version": "2012-10-17", "Statement": [rule]}
    hears["Properties"]["Policies"] = [{"PolicyName": "hear-of-tasks", "PolicyDocument": policy}]
    template = {"Resources": {"Role": hears, "Machine": machine}}
    assert create(cfn, "machine", template, Capabilities=["CAPABILITY_IAM"]) == "CREATE_COMPLETE"
    arn = "arn:aws:states:us-east-1:123456789012:stateMachine:deploy-app"
    definition = aws("stepfunctions").describe_state_machine(stateMachineArn=arn)["definition"]
    assert "${" not in definition
    assert "value-of-a-substitution" in definition


def test_yaml_is_read_as_cloudformation_reads_it() -> None:
    own = "{Version: 2012-10-17, Arn: !GetAtt B.Outputs.C, S: !Sub '${B}'}"
    text = f"Resources: {{A: {{Type: X, Properties: {own}}}}}"
    properties = templates.read(text)["Resources"]["A"]["Properties"]
    assert properties["Version"] == "2012-10-17"
    assert properties["Arn"] == {"Fn::GetAtt": ["B", "Outputs.C"]}
    assert list(templates.references(properties)) == [("B", "Outputs.C"), ("B", None)]


def test_moto_alone_still_lacks_the_transform() -> None:
    """When this fails, moto expands SAM templates, and ours may go."""
    program = """if True:
        from moto.cloudformation.parsing import get_model_map
        lacking = ["AWS::Lambda::Alias", "AWS::StepFunctions::StateMachineAlias", "AWS::IAM::OIDCProvider"]
        print([name for name in lacking if name in get_model_map()])"""
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert plain.stdout == "[]\n"
