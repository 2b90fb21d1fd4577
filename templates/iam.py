"""Small helpers for policies, in the shape that troposphere and CloudFormation take."""

from typing import Any

from troposphere import Sub

ECS_TASKS = "ecs-tasks.amazonaws.com"
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


def arn(service: str, resource: str, *, region: str = "${AWS::Region}", account: str = "${AWS::AccountId}") -> Sub:
    """Return the ARN of a resource of this partition; `resource` may hold ${parameters}."""
    return Sub(f"arn:${{AWS::Partition}}:{service}:{region}:{account}:{resource}")


def allow(sid: str, actions: list[str], resources: Any, conditions: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a statement that allows actions on resources."""
    statement = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
    return {**statement, "Condition": conditions} if conditions else statement


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    """Return a policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def trust(principal: dict[str, Any], conditions: dict[str, Any], action: str = "sts:AssumeRole") -> dict[str, Any]:
    """Return a trust policy for one principal under conditions."""
    return document({"Effect": "Allow", "Action": action, "Principal": principal, "Condition": conditions})


def trust_ecs_tasks(*, execution: bool = False) -> dict[str, Any]:
    """Return the trust policy of a task's role or of an execution role, against the confused deputy.

    docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html names aws:SourceArn for tasks' roles alone.
    """
    conditions = {"StringEquals": {"aws:SourceAccount": Sub("${AWS::AccountId}")}}
    if not execution:
        conditions["ArnLike"] = {"aws:SourceArn": arn("ecs", "*")}
    return trust({"Service": ECS_TASKS}, conditions)
