"""Operations of ours that no other test calls over HTTP, so that their answers are read as well (tests/conftest.py)."""

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_aws import light

pytestmark = pytest.mark.xdist_group("local_aws_in_process")

ROLE = "arn:aws:iam::123456789012:role/operations"
Aws = Callable[[str], Any]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    folder = tmp_path_factory.mktemp("operations")
    machine = light.start(4765, folder, "events", "awslambda", "stepfunctions", "ecs", "cloudformation")
    yield lambda service: light.client(machine, service)
    machine.stop()


def trusting(service: str) -> str:
    principal = {"Service": f"{service}.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


def test_a_state_machine_its_versions_and_its_executions(aws: Aws) -> None:
    states, sqs = aws("stepfunctions"), aws("sqs")
    queue = sqs.create_queue(QueueName="tokens")["QueueUrl"]
    body = "{% $states.context.Task.Token %}"
    wait = {
        "Type": "Task", "Resource": "arn:aws:states:::aws-sdk:sqs:sendMessage.waitForTaskToken", "TimeoutSeconds": 60,
        "Arguments": {"QueueUrl": queue, "MessageBody": body}, "End": True,
    }  # fmt: skip
    definition = json.dumps({"QueryLanguage": "JSONata", "StartAt": "Wait", "States": {"Wait": wait}})
    assert states.validate_state_machine_definition(definition=definition)["result"] == "OK"
    assert states.validate_state_machine_definition(definition="{}")["result"] == "FAIL"
    arn = states.create_state_machine(name="m", definition=definition, roleArn=ROLE)["stateMachineArn"]
    version = states.publish_state_machine_version(stateMachineArn=arn)["stateMachineVersionArn"]
    states.update_state_machine(stateMachineArn=arn, roleArn=f"{ROLE}-2")  # or it would be the same version
    spare = states.publish_state_machine_version(stateMachineArn=arn)["stateMachineVersionArn"]
    route = [{"stateMachineVersionArn": version, "weight": 100}]
    alias = states.create_state_machine_alias(name="live", routingConfiguration=route)["stateMachineAliasArn"]

    def token() -> str:
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"]
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return str(message["Body"])

    def versions() -> list[str]:
        listed = states.list_state_machine_versions(stateMachineArn=arn)["stateMachineVersions"]
        return [each["stateMachineVersionArn"] for each in listed]

    good = states.start_execution(stateMachineArn=alias, name="good")["executionArn"]
    asked = token()
    states.send_task_heartbeat(taskToken=asked)
    states.send_task_success(taskToken=asked, output='{"done": true}')
    bad = states.start_execution(stateMachineArn=alias, name="bad")["executionArn"]
    states.send_task_failure(taskToken=token(), error="Broken", cause="on purpose")

    assert versions() == [spare, version]
    (only,) = states.list_state_machine_aliases(stateMachineArn=arn)["stateMachineAliases"]
    assert only["stateMachineAliasArn"] == alias
    assert states.describe_state_machine_for_execution(executionArn=good)["definition"] == definition
    for execution, last in ((good, "ExecutionSucceeded"), (bad, "ExecutionFailed")):
        while states.describe_execution(executionArn=execution)["status"] == "RUNNING":
            time.sleep(0.05)
        assert states.get_execution_history(executionArn=execution)["events"][-1]["type"] == last
    assert {e["name"] for e in states.list_executions(stateMachineArn=arn)["executions"]} == {"good", "bad"}
    states.delete_state_machine_version(stateMachineVersionArn=spare)
    assert versions() == [version]


def test_how_a_function_is_invoked_asynchronously(aws: Aws) -> None:
    aws("iam").create_role(RoleName="operations", AssumeRolePolicyDocument=trusting("lambda"))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("f.py", "def f(event, context): pass")
    functions = aws("lambda")
    code = {"ZipFile": archive.getvalue()}
    functions.create_function(FunctionName="f", Role=ROLE, Handler="f.f", Runtime="python3.13", Code=code)

    functions.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=1)
    functions.update_function_event_invoke_config(FunctionName="f", MaximumEventAgeInSeconds=60)

    found = functions.get_function_event_invoke_config(FunctionName="f")
    assert (found["MaximumRetryAttempts"], found["MaximumEventAgeInSeconds"]) == (1, 60)
    assert len(functions.list_function_event_invoke_configs(FunctionName="f")["FunctionEventInvokeConfigs"]) == 1
    functions.delete_function_event_invoke_config(FunctionName="f")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        functions.get_function_event_invoke_config(FunctionName="f")


def test_what_there_is_of_ecs_without_a_task(aws: Aws) -> None:
    ecs = aws("ecs")
    ecs.create_cluster(clusterName="c")
    ecs.register_task_definition(family="f", containerDefinitions=[{"name": "main", "image": "busybox", "memory": 64}])

    assert ecs.list_task_definition_families()["families"] == ["f"]
    with pytest.raises(ClientError, match="No Container Instances"):  # all is Fargate here
        ecs.start_task(cluster="c", taskDefinition="f", containerInstances=["i"])
    assert ecs.delete_cluster(cluster="c")["cluster"]["status"] == "INACTIVE"


def test_what_a_stack_has_besides_its_template(aws: Aws) -> None:
    cloudformation = aws("cloudformation")
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "of-a-stack"}}
    exported = {"Value": {"Ref": "Queue"}, "Export": {"Name": "of-a-stack"}}
    body = json.dumps({"Resources": {"Queue": queue}, "Outputs": {"Queue": exported}})

    assert cloudformation.validate_template(TemplateBody=body)["Parameters"] == []
    cloudformation.create_stack(StackName="s", TemplateBody=body)
    cloudformation.get_waiter("stack_create_complete").wait(StackName="s", WaiterConfig={"Delay": 1})

    assert [s["StackName"] for s in cloudformation.list_stacks()["StackSummaries"]] == ["s"]
    assert cloudformation.list_exports()["Exports"][0]["Name"] == "of-a-stack"
    assert cloudformation.list_change_sets(StackName="s")["Summaries"] == []
    (resource,) = cloudformation.describe_stack_resources(StackName="s")["StackResources"]
    assert resource["LogicalResourceId"] == "Queue"
    assert "StackPolicyBody" not in cloudformation.get_stack_policy(StackName="s")
    cloudformation.set_stack_policy(StackName="s", StackPolicyBody='{"Statement": []}')
    assert cloudformation.get_stack_policy(StackName="s")["StackPolicyBody"] == '{"Statement": []}'
