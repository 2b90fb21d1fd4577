"""The tasks of a deployment's execution: runner tasks and releases, which carry its id as their group."""

from typing import TYPE_CHECKING, Literal

from deploy_runner.aws.clients import aws_errors

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient

_DESIRED: tuple[Literal["RUNNING", "STOPPED"], ...] = ("RUNNING", "STOPPED")


def stop_tasks_of(ecs: "ECSClient", cluster: str, deployment_id: str, why: str) -> int:
    """Stop every task of a deployment in a cluster. Return how many have not ended yet: one may take its time to stop.

    Such a task is to be STOPPED as soon as it was asked to, and its containers run on for their `stopTimeout`:
    docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ListTasks.html, desiredStatus. Step Functions stops the task
    of an execution that is stopped by best effort:
    docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync
    """
    with aws_errors(f"The tasks of {cluster} must be readable and stoppable", "Deploy the stack and the target again"):
        count = 0
        for wanted in _DESIRED:
            for page in ecs.get_paginator("list_tasks").paginate(cluster=cluster, desiredStatus=wanted):
                arns = page["taskArns"]
                tasks = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
                for task in tasks:
                    if task.get("group") == deployment_id and task.get("lastStatus") != "STOPPED":
                        count += 1
                        if task.get("desiredStatus") != "STOPPED":
                            ecs.stop_task(cluster=cluster, task=str(task["taskArn"]), reason=why)
        return count
