"""What Step Functions asks of a role before it takes a state machine, and before a state acts as another role."""
# mypy: allow-subclassing-any

import json
from typing import Any

from moto.core.exceptions import AWSError
from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
from moto.stepfunctions.parser.asl.component.state.exec.state_task.credentials import StateCredentials
from moto.stepfunctions.parser.asl.component.state.exec.state_task.state_task import StateTask
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

from deploy_runner.local_aws.iam.authority import (
    AccessDenied,
    Session,
    check_assume,
    refusal,
    trusts_service,
)
from deploy_runner.local_aws.iam.record import RECORD
from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.stepfunctions import tasks
from deploy_runner.local_aws.stepfunctions.interpreter import failure

# Developer Guide, "IAM policies for integrated services", Amazon ECS: for `.sync`
_RULE_ACTIONS = ("events:DescribeRule", "events:PutRule", "events:PutTargets")
_SYNC_RULES = {"arn:aws:states:::ecs:runTask.sync": "StepFunctionsGetEventsForECSTaskRule"}
# Developer Guide, "Using CloudWatch Logs to log execution history": the policy of the role
_LOG_ACTIONS = (
    "CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery", "ListLogDeliveries",
    "PutResourcePolicy", "DescribeResourcePolicies", "DescribeLogGroups",
)  # fmt: skip


class AccessDeniedException(AWSError):
    """The state machine's role lacks what Step Functions needs of it."""

    TYPE = "AccessDeniedException"


def check_role(machine: Machine, arn: str, role: str, definition: str, logging: dict[str, Any] | None) -> None:
    """Raise AccessDeniedException where CreateStateMachine and UpdateStateMachine do.

    The texts are as terraform-aws-modules/terraform-aws-step-functions#41 and its like quote them.
    """
    if not machine.enforces_iam:
        return
    region, account = arn.split(":")[3:5]
    services = ("states.amazonaws.com", f"states.{region}.amazonaws.com")
    if not any(trusts_service(role, service, arn) for service in services):
        raise AccessDeniedException(
            "Neither the global service principal states.amazonaws.com, nor the regional one is authorized to assume "
            "the provided role."
        )
    for name in {_SYNC_RULES[resource] for resource in _resources(json.loads(definition)) if resource in _SYNC_RULES}:
        rule = f"arn:aws:events:{region}:{account}:rule/{name}"
        context = {"events:ManagedBy": "states.amazonaws.com", "events:creatorAccount": account}
        if any(refusal(machine, role, "StepFunctions", action, rule, context) for action in _RULE_ACTIONS):
            raise AccessDeniedException(f"'{role}' is not authorized to create managed-rule.")
    if (logging or {}).get("level", "OFF") != "OFF" and any(
        refusal(machine, role, "StepFunctions", f"logs:{action}", "*") for action in _LOG_ACTIONS
    ):
        raise AccessDeniedException("The state machine IAM Role is not authorized to access the Log Destination")


def _resources(value: Any) -> set[str]:
    """Return the Resource of every Task in a definition, however deep."""
    if isinstance(value, list):
        return {resource for item in value for resource in _resources(item)}
    if not isinstance(value, dict):
        return set()
    own = {value["Resource"]} if isinstance(value.get("Resource"), str) else set()
    return own | {resource for item in value.values() for resource in _resources(item)}


def install() -> None:
    """Hold a state's `Credentials` to what the state machine's role may assume."""
    plain = StateTask._eval_state_credentials
    if plain.__module__ == __name__:
        return

    def eval_state_credentials(self: Any, env: Environment) -> StateCredentials:
        credentials = plain(self, env)
        own = env.aws_execution_details.role_arn
        if credentials.role_arn == own:
            RECORD.enter(own, "states.amazonaws.com")
        if not tasks._Task.clients.machine.enforces_iam or credentials.role_arn == own:
            return credentials
        try:
            # Developer Guide, "Accessing resources in other AWS accounts in Step Functions": the external id
            machine_arn = env.states.context_object.context_object_data["StateMachine"]["Id"]
            context = {"sts:ExternalId": machine_arn, "sts:RoleSessionName": "StepFunctions"}
            check_assume(Session(own.split(":")[4], own, "StepFunctions"), credentials.role_arn, context)
        except AccessDenied as error:
            cause = f"The role {own} is not authorized to assume the task state's role, {credentials.role_arn}: {error}"
            details = TaskFailedEventDetails(
                resource=self._get_sfn_resource(), resourceType=self._get_sfn_resource_type(),
                error="States.Permissions", cause=cause,
            )  # fmt: skip
            details = EventDetails(taskFailedEventDetails=details)
            raise failure(env, "States.Permissions", cause, details, HistoryEventType.TaskFailed) from error
        return credentials

    StateTask._eval_state_credentials = eval_state_credentials
