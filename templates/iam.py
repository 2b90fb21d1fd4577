"""Small helpers for policies, in the shape that troposphere and CloudFormation take.

A statement's reasons are written beside it. They go into the `Metadata` of the resource that has the policy, for
`deploy-runner local iam`, docs/iam.md and the tests, which ask for one wherever there is a wildcard or nothing used a
grant, and take none elsewhere.
"""

from typing import Any

from troposphere import Sub

ECS_TASKS = "ecs-tasks.amazonaws.com"
ANY_TASK = {"wildcard": "ECS assumes it for a task, whose id it makes"}  # of trust_ecs_tasks
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


def arn(service: str, resource: str, *, region: str = "${AWS::Region}", account: str = "${AWS::AccountId}") -> Sub:
    """Return the ARN of a resource of this partition; `resource` may hold ${parameters}."""
    return Sub(f"arn:${{AWS::Partition}}:{service}:{region}:{account}:{resource}")


class Statement(dict[str, Any]):
    """A statement of a policy, and what its readers should know of it, which is no part of the policy."""

    reasons: dict[str, Any]


def allow(
    sid: str,
    actions: list[str],
    resources: Any,
    conditions: dict[str, Any] | None = None,
    *,
    wildcard: str = "",
    unused: dict[str, str] | None = None,
) -> Statement:
    """Return a statement that allows actions on resources.

    `wildcard` says why what it allows is not named one by one, `unused` why it has actions (or a pattern of them) that
    no end-to-end test uses.
    """
    statement = Statement(Sid=sid, Effect="Allow", Action=actions, Resource=resources)
    if conditions:
        statement["Condition"] = conditions
    statement.reasons = {"wildcard": wildcard} if wildcard else {}
    if unused:
        statement.reasons["unused"] = unused
    return statement


def log_in() -> Statement:
    """Return the statement that lets a role log in to the account's registry."""
    return allow("LogInToTheRegistry", ["ecr:GetAuthorizationToken"], "*", wildcard="ECR has no resource for it")


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    """Return a policy document."""
    return {"Version": "2012-10-17", "Statement": [dict(statement) for statement in statements]}


def reasons(*statements: Statement, **more: dict[str, Any]) -> dict[str, Any]:
    """Return what is written beside statements, as a resource's Metadata.

    `more` is for what has no statement here: `Trust` is a role's trust policy, any other an attached policy's name.
    """
    return {"Reasons": {each["Sid"]: each.reasons for each in statements if each.reasons} | more}


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
