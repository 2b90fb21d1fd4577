"""The tasks of a deployment's execution: runner tasks and releases, which carry its id as their group."""

from typing import TYPE_CHECKING

from deploy_runner.aws.clients import aws_errors

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient


def stop_tasks_of(ecs: "ECSClient", cluster: str, deployment_id: str, why: str) -> int:
    """Stop every task of a deployment in a cluster that is still to run. Return how many there were, ended or not.

    Step Functions stops the task of an execution that is stopped by best effort:
    docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync
    """
    with aws_errors(f"The tasks of {cluster} must be readable and stoppable", "Deploy the stack and the target again"):
        pages = ecs.get_paginator("list_tasks").paginate(cluster=cluster, desiredStatus="RUNNING")
        count = 0
        for page in pages:
            arns = page["taskArns"]
            tasks = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
            for task in tasks:
                if task.get("group") == deployment_id and task.get("lastStatus") != "STOPPED":
                    ecs.stop_task(cluster=cluster, task=str(task["taskArn"]), reason=why)
                    count += 1
        return count
