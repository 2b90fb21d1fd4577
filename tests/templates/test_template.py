"""template.yaml: what holds it together, and what its parts promise each other."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from moto.cloudformation.exceptions import ValidationError

from deploy_runner.local_aws.cloudformation.template import read
from functions.report_status import tell

from .stacks import REQUIRED, ROOT, Stack, arn, packaged

FUNCTIONS = {
    "ValidateRequestFunction": "validate_request",
    "ReportStatusFunction": "report_status",
    "DeployServiceFunction": "deploy_service",
    "WatchRolloutFunction": "watch_rollout",
    "AcquireLockFunction": "acquire_lock",
    "FinishDeploymentFunction": "finish_deployment",
    "CleanUpFunction": "clean_up",
    "SweepFunction": "sweep",
}
EVENTS = ["ECS Deployment State Change", "ECS Task State Change", "ECS Service Action"]


def test_the_turn_at_telling_outlasts_its_function() -> None:
    timeout = read((ROOT / "template.yaml").read_text())["Resources"]["ReportStatusFunction"]["Properties"]["Timeout"]
    assert timeout + 10 <= tell.TURN_SECONDS  # clocks differ


def test_the_parameters_that_have_no_default() -> None:
    parameters = read((ROOT / "template.yaml").read_text())["Parameters"]
    assert {name for name, spec in parameters.items() if "Default" not in spec} == set(REQUIRED)


@pytest.mark.parametrize("missing", REQUIRED)
def test_it_is_refused_without_one_of_them(missing: str) -> None:
    with pytest.raises(ValidationError, match=rf"Parameters: \[{missing}\] must have values"):
        Stack(packaged(), {name: value for name, value in REQUIRED.items() if name != missing})


@pytest.mark.parametrize("given", [{}, {"VpcId": "vpc-1234"}, {"SubnetIds": "subnet-1"}])
def test_an_existing_network_must_be_named(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="NetworkMode existing needs"):
        Stack(packaged(), REQUIRED | {"NetworkMode": "existing"} | given)


@pytest.mark.parametrize(
    ("more", "address", "subnets"),
    [
        ({}, "ENABLED", "PublicSubnet0.id,PublicSubnet1.id"),
        ({"NetworkMode": "private-nat"}, "DISABLED", "PrivateSubnet0.id,PrivateSubnet1.id"),
        (
            {"NetworkMode": "existing", "VpcId": "vpc-1234", "SubnetIds": "subnet-1,subnet-2"},
            "DISABLED",
            "subnet-1,subnet-2",
        ),
    ],
    ids=["public-egress", "private-nat", "existing"],
)
def test_the_network_of_each_mode(more: dict[str, str], address: str, subnets: str) -> None:
    stack = Stack(packaged(), REQUIRED | more)

    machine = stack.of_type("AWS::StepFunctions::StateMachine")["DeployApp"]
    assert machine["DefinitionSubstitutions"]["AssignPublicIp"] == address
    assert machine["DefinitionSubstitutions"]["RunnerSubnets"] == subnets
    gateways = [name for each in stack.all() for name in each.of_type("AWS::EC2::NatGateway")]
    assert gateways == (["NatGateway"] if more.get("NetworkMode") == "private-nat" else [])
    group = stack.nested("Runner").of_type("AWS::EC2::SecurityGroup")["SecurityGroup"]
    assert group["VpcId"] == more.get("VpcId", "Vpc.id")


def test_the_definition_gets_every_substitution_and_versions_of_the_functions(main: Stack) -> None:
    text = (ROOT / "templates" / "rendered" / "deploy_app.asl.json").read_text()
    machine = main.of_type("AWS::StepFunctions::StateMachine")["DeployApp"]
    given = machine["DefinitionSubstitutions"]

    assert set(re.findall(r"\$\{(\w+)\}", text)) == set(given)
    for name in (
        "ValidateRequest", "ReportStatus", "DeployService", "WatchRollout", "AcquireLock", "FinishDeployment"
    ):  # fmt: skip
        assert re.fullmatch(r"arn:aws:lambda:us-east-1:123456789012:function:deploy-runner-[a-z-]+:[0-9]+", given[name])
    assert given["RunnerCluster"] == arn("ecs", "cluster/deploy-runner")


def test_the_state_machine(main: Stack) -> None:
    machine = main.of_type("AWS::StepFunctions::StateMachine")["DeployApp"]

    assert machine["StateMachineName"] == "deploy-app"
    assert machine["TracingConfiguration"] == {"Enabled": True}
    # what states get and give, task tokens among it, is not in the log
    assert machine["LoggingConfiguration"]["Level"] == "ALL"
    assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False
    assert main.outputs()["StateMachineAliasArn"] == arn("states", "stateMachine:deploy-app:live")
    assert main.outputs()["StateMachineArn"] == arn("states", "stateMachine:deploy-app")


@pytest.mark.parametrize(("logical_id", "folder"), FUNCTIONS.items())
def test_a_function(main: Stack, logical_id: str, folder: str) -> None:
    function = main.of_type("AWS::Lambda::Function")[logical_id]
    name = folder.replace("_", "-")

    assert function["FunctionName"] == f"deploy-runner-{name}"
    assert function["Handler"] == f"functions.{folder}.handler.lambda_handler"
    assert (ROOT / "functions" / folder / "handler.py").is_file()
    assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
    assert function["TracingConfig"] == {"Mode": "Active"}
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    groups = {g["LogGroupName"]: g for g in main.of_type("AWS::Logs::LogGroup").values()}
    assert groups[function["LoggingConfig"]["LogGroup"]]["RetentionInDays"] == "90"
    aliases = [a for a in main.of_type("AWS::Lambda::Alias").values() if a["FunctionName"] == function["FunctionName"]]
    assert [alias["Name"] for alias in aliases] == ["live"]
    assert function["Environment"]["Variables"] == {
        "POWERTOOLS_SERVICE_NAME": name,
        "POWERTOOLS_METRICS_NAMESPACE": "DeployRunner",
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "GITHUB_API_URL": "https://api.github.com",
        "GITHUB_APP_ID": "1001",
        "GITHUB_APP_PRIVATE_KEY_SECRET": "/lightwave/cicd/github-app-private-key",
        "DEPLOYMENTS_TABLE": "deploy-runner-deployments",
        "OUTCOMES_TOPIC_ARN": arn("sns", "deploy-runner-outcomes"),
        "RUNNER_CLUSTER": "deploy-runner",
        "CLEAN_UP_FUNCTION": "deploy-runner-clean-up:live",
        "REPORT_STATUS_FUNCTION": "deploy-runner-report-status:live",
        "WATCH_ROLLOUT_FUNCTION": "deploy-runner-watch-rollout:live",
        "APP_DEPLOYER_TASK_DEFINITION_ARM64": arn("ecs", "task-definition/app-deployer-arm64:3"),
        "APP_DEPLOYER_TASK_DEFINITION_X86_64": arn("ecs", "task-definition/app-deployer-x86-64:3"),
        "BUILDER_TASK_DEFINITION_ARM64": arn("ecs", "task-definition/docker-builder-arm64:3"),
        "BUILDER_TASK_DEFINITION_X86_64": arn("ecs", "task-definition/docker-builder-x86-64:3"),
        "PUSH_ROLE_ARN_PREFIX": arn("iam", "role/deploy-runner/push/push-", ""),
        "DEPLOYER_ROLE_ARN_PREFIX": arn("iam", "role/deploy-runner/deployer/deployer-", ""),
        "REGISTRY_PREFIX": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    }


@pytest.mark.parametrize(("architecture", "platform"), [("arm64", "aarch64"), ("x86_64", "x86_64")])
def test_functions_and_their_libraries_are_for_the_processor_that_was_asked_for(
    architecture: str, platform: str
) -> None:
    functions = Stack(packaged(), REQUIRED | {"LambdaArchitecture": architecture}).of_type("AWS::Lambda::Function")
    assert [function["Architectures"] for function in functions.values()] == [[architecture]] * len(FUNCTIONS)

    command = ["make", "--dry-run", "build-ValidateRequestFunction", f"LAMBDA_ARCHITECTURE={architecture}"]
    recipe = subprocess.run([*command, "ARTIFACT=nowhere"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"--python-platform {platform}-manylinux2014" in recipe


@pytest.mark.parametrize("logical_id", FUNCTIONS)
def test_a_new_version_is_published_whatever_of_a_function_changes(main: Stack, logical_id: str) -> None:
    """SAM hashes properties as they are written, so a value behind a Ref or GetAtt must be in the description."""
    (version_id,) = [v for v in main.template["Resources"] if v.startswith(f"{logical_id}Version")]
    version = main.template["Resources"][version_id]
    assert (version["DeletionPolicy"], version["UpdateReplacePolicy"]) == ("Retain", "Retain")
    environment = main.template["Resources"][logical_id]["Properties"]["Environment"]["Variables"]
    # of the stack's own resources only the names are used, which stand in the template's text
    own = {"DeploymentsTable", "OutcomesTopic", "Runner.Outputs.Registry"}

    told = references(version["Properties"]["Description"])

    assert told >= references(environment) - own
    assert len(main.of_type("AWS::Lambda::Version")[version_id]["Description"]) <= 256


def references(value: Any) -> set[str]:
    """Return what Ref, Fn::GetAtt and Fn::Sub name in a piece of a template, but for AWS's own."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    found = references(list(value.values()))
    if "Ref" in value:
        found.add(value["Ref"])
    if "Fn::GetAtt" in value:
        attribute = value["Fn::GetAtt"]
        found.add(attribute if isinstance(attribute, str) else ".".join(attribute))
    if "Fn::Sub" in value:
        text, given = value["Fn::Sub"] if isinstance(value["Fn::Sub"], list) else (value["Fn::Sub"], {})
        found |= {name for name in re.findall(r"\$\{([^}]+)\}", text) if name not in given}
    return {name for name in found if not name.startswith("AWS::")}


def test_a_function_ends_before_the_state_that_waits_for_it(main: Stack) -> None:
    states = json.loads((ROOT / "templates" / "rendered" / "deploy_app.asl.json").read_text())["States"]
    for state in states.values():
        arguments = state.get("Arguments", {})
        found = re.match(r"\$\{(\w+)\}", str(arguments.get("FunctionName", "")) if isinstance(arguments, dict) else "")
        if found and isinstance(state["TimeoutSeconds"], int):
            timeout = main.of_type("AWS::Lambda::Function")[f"{found[1]}Function"]["Timeout"]
            assert timeout < state["TimeoutSeconds"]


def test_the_roles_of_builds_are_where_the_functions_look_for_them(main: Stack) -> None:
    prefix = main.of_type("AWS::Lambda::Function")["ValidateRequestFunction"]["Environment"]["Variables"]
    roles = main.nested("AppRoles").of_type("AWS::IAM::Role").values()

    arns = {arn("iam", f"role{role['Path']}{role['RoleName']}", "") for role in roles}
    assert f"{prefix['PUSH_ROLE_ARN_PREFIX']}cineos" in arns
    assert f"{prefix['DEPLOYER_ROLE_ARN_PREFIX']}photographos-dev" in arns


ENDED = {
    "stateMachineArn": [arn("states", "stateMachine:deploy-app")],
    "status": ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"],
}


@pytest.mark.parametrize(
    ("name", "function", "pattern"),
    [
        ("RolloutEvents", "watch-rollout", {"source": ["aws.ecs"], "detail-type": EVENTS}),
        (
            "ExecutionEvents",
            "clean-up",
            {"source": ["aws.states"], "detail-type": ["Step Functions Execution Status Change"], "detail": ENDED},
        ),
    ],
)
def test_events_reach_the_alias_and_are_not_lost(
    main: Stack, name: str, function: str, pattern: dict[str, Any]
) -> None:
    rule = main.of_type("AWS::Events::Rule")[name]
    (target,) = rule["Targets"]

    assert rule["EventPattern"] == pattern
    assert target["Arn"] == arn("lambda", f"function:deploy-runner-{function}:live")
    assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
    assert target["DeadLetterConfig"]["Arn"] == arn("sqs", "deploy-runner-lost-events")
    (policy,) = main.of_type("AWS::SQS::QueuePolicy").values()
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert arn("events", f"rule/{name}") in statement["Condition"]["ArnEquals"]["aws:SourceArn"]
    permission = main.of_type("AWS::Lambda::Permission")[f"{name}Permission"]
    assert (permission["FunctionName"], permission["SourceArn"]) == (target["Arn"], arn("events", f"rule/{name}"))


def test_the_sweeper_comes_every_minute(main: Stack) -> None:
    rule = main.of_type("AWS::Events::Rule")["EveryMinute"]
    (target,) = rule["Targets"]
    permission = main.of_type("AWS::Lambda::Permission")["EveryMinutePermission"]

    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert target["Arn"] == permission["FunctionName"] == arn("lambda", "function:deploy-runner-sweep:live")


def test_an_event_that_a_function_cannot_handle_is_kept(main: Stack) -> None:
    configs = {config["FunctionName"]: config for config in main.of_type("AWS::Lambda::EventInvokeConfig").values()}
    assert {config["Qualifier"] for config in configs.values()} == {"live"}
    queue = arn("sqs", "deploy-runner-lost-events")
    for name in ("watch-rollout", "clean-up"):
        assert configs[f"deploy-runner-{name}"]["DestinationConfig"] == {"OnFailure": {"Destination": queue}}
    assert configs["deploy-runner-sweep"]["MaximumRetryAttempts"] == 0  # it comes again in a minute


def test_the_table(main: Stack) -> None:
    table = main.resources["DeploymentsTable"]["Properties"]

    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_every_log_group_ends_some_day(everything: Stack) -> None:
    groups = [group for stack in everything.all() for group in stack.of_type("AWS::Logs::LogGroup").values()]
    assert len(groups) == len(FUNCTIONS) + 1 + 3
    assert all(group["RetentionInDays"] == "90" for group in groups)


@pytest.mark.parametrize("name", ["Dev", "Staging", "Prod"])
def test_a_target_elsewhere_is_left_out(name: str) -> None:
    stack = Stack(packaged(), REQUIRED | {f"{name}TargetHere": "false"})
    targets = {n for n in stack.of_type("AWS::CloudFormation::Stack") if n.startswith("DeployTarget")}
    assert targets == {"DeployTargetDev", "DeployTargetStaging", "DeployTargetProd"} - {f"DeployTarget{name}"}


def test_apps_repositories_can_be_left_to_others() -> None:
    stack = Stack(packaged(), REQUIRED | {"CreateAppRepositories": "false"})
    names = [r["RepositoryName"] for each in stack.all() for r in each.of_type("AWS::ECR::Repository").values()]
    assert sorted(names) == ["deploy-runner/app-deployer", "deploy-runner/clone"]


# --- samconfig.toml and the examples ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samconfig() -> dict[str, Any]:
    return tomllib.loads((ROOT / "samconfig.toml").read_text())


@pytest.mark.parametrize("section", ["default", "local", "nonprod", "prod"])
def test_a_section_of_samconfig(samconfig: dict[str, Any], section: str) -> None:
    deploy = samconfig[section]["deploy"]["parameters"]
    overrides = dict(word.split("=", 1) for word in deploy.get("parameter_overrides", []))

    assert samconfig[section]["build"]["parameters"]["build_in_source"] is True
    assert deploy["stack_name"] == "deploy-runner"
    assert deploy["resolve_s3"] is True
    assert deploy["capabilities"] == ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
    assert deploy["confirm_changeset"] is (section != "local")
    Stack(packaged(), overrides if section == "local" else REQUIRED | overrides)


def test_the_example_service_is_one_that_may_be_deployed_to(main: Stack) -> None:
    parameters = {"App": "cineos", "Environment": "dev", "VpcId": "vpc-1", "SubnetIds": "subnet-1", "Secret": "x"}
    template = read((ROOT / "examples" / "app-service.yaml").read_text())
    example = Stack(template, parameters)

    service = example.resources["Service"]["Properties"]
    assert service["Tags"] == [{"Key": "deploy-runner:environment", "Value": "dev"}]
    assert service["ServiceName"] == "cineos"
    definition = example.resources["TaskDefinition"]["Properties"]
    for role in ("TaskRoleArn", "ExecutionRoleArn"):
        assert definition[role].startswith(arn("iam", "role/apps/cineos/dev/", ""))
    # what an app-deployer's role is for
    assert definition["Family"] == "cineos-dev"
    (container,) = definition["ContainerDefinitions"]
    assert container["Name"] == "app"
    assert container["LogConfiguration"]["Options"]["awslogs-group"] == "/apps/cineos/dev"
    assert container["LogConfiguration"]["Options"]["awslogs-stream-prefix"] == "cineos"
    assert container["Secrets"] == [{"Name": "SAMPLE_SECRET", "ValueFrom": "SampleSecret.id"}]
    plain = Stack(template, parameters | {"Secret": ""})
    assert "Secrets" not in plain.resources["TaskDefinition"]["Properties"]["ContainerDefinitions"][0]


@pytest.mark.parametrize("script", ["sample-app/start", "sample-app-that-crashes/start"])
def test_the_sample_apps_can_be_started(script: str) -> None:
    path: Path = ROOT / "examples" / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/bin/sh\n")
