"""Who may do what: exactly this, pair by pair."""

import json

import pytest

from deploy_runner.local_aws.iam.evaluate import Asked, Decision, identity_says

from .stacks import Grant, Stack, arn, documents, grants

CLUSTER = arn("ecs", "cluster/deploy-runner")
TASKS = {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
TRACE = (["xray:PutTraceSegments", "xray:PutTelemetryRecords"], ["*"], None)
GITHUB_KEY = (
    ["secretsmanager:GetSecretValue"],
    [arn("secretsmanager", "secret:/lightwave/cicd/github-app-private-key-??????")],
    None,
)
LOG_IN = (["ecr:GetAuthorizationToken"], ["*"], None)
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
PUSH = ["ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart"]
TARGETS = (
    ["sts:AssumeRole"],
    [
        *(arn("iam", f"role/deploy-runner/deploy-target-{name}", "") for name in ("dev", "staging", "prod")),
        "arn:aws:iam::210987654321:role/deploy-runner/deploy-target-sandbox",
    ],
    None,
)
TABLE = arn("dynamodb", "table/deploy-runner-deployments")

type Rule = tuple[list[str], list[str], dict[str, object] | None]


def logs(group: str) -> Rule:
    return (["logs:CreateLogStream", "logs:PutLogEvents"], [arn("logs", f"log-group:{group}:*")], None)


def execution_role(kind: str, *images: str) -> list[Rule]:
    pull: Rule = (PULL, [arn("ecr", f"repository/deploy-runner/{name}") for name in images], None)
    return [LOG_IN, pull, GITHUB_KEY, logs(f"/deploy-runner/{kind}")]


def push_role(app: str) -> list[Rule]:
    return [LOG_IN, (PULL + PUSH, [arn("ecr", f"repository/{app}"), arn("ecr", f"repository/{app}/cache")], None)]


def deployer_role(app: str, environment: str) -> list[Rule]:
    """All in one environment, one service and one family, though a Dockerfile of the app has it too."""
    service = f"{environment}/{app}"
    tagged: dict[str, object] = {"aws:ResourceTag/deploy-runner:environment": environment}
    family = arn("ecs", f"task-definition/{app}-{environment}:*")
    tags = {"aws:RequestTag/deploy-runner:environment": environment, "aws:RequestTag/deploy-runner:app": app}
    runners: dict[str, object] = {"ArnEquals": {"ecs:cluster": CLUSTER}}
    return [
        *push_role(app),
        (
            ["ecs:DescribeServiceRevisions", "ecs:DescribeServices", "ecs:ListServiceDeployments"],
            [arn("ecs", f"service/{service}")],
            {"StringEquals": tagged},
        ),
        (
            ["ecs:UpdateService"],
            [arn("ecs", f"service/{service}")],
            {"StringEquals": tagged, "ArnLike": {"ecs:task-definition": family}},
        ),
        (["ecs:DescribeServiceRevisions"], [arn("ecs", f"service-revision/{service}/*")], None),
        (["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"], ["*"], None),
        (
            ["ecs:RegisterTaskDefinition"],
            [family],
            {"StringEquals": tags, "ForAnyValue:StringEquals": {"ecs:compute-compatibility": "FARGATE"}},
        ),
        (["ecs:TagResource"], [family], {"StringEquals": {"ecs:CreateAction": "RegisterTaskDefinition"}}),
        (["iam:PassRole"], [arn("iam", f"role/apps/{app}/{environment}/*", "")], TASKS),
        (["ecs:ListTasks"], ["*"], runners),
        (["ecs:DescribeTasks"], [arn("ecs", "task/deploy-runner/*")], runners),
    ]


def target_role(environment: str) -> list[Rule]:
    in_cluster: dict[str, object] = {"ArnEquals": {"ecs:cluster": [arn("ecs", f"cluster/{environment}")]}}
    tagged: dict[str, object] = {"StringEquals": {"aws:ResourceTag/deploy-runner:environment": environment}}
    return [
        (
            [
                "ecs:UpdateService", "ecs:DescribeServices", "ecs:ListServiceDeployments",
                "ecs:DescribeServiceRevisions", "ecs:StopServiceDeployment",
            ],
            [arn("ecs", "service/*")],
            tagged,
        ),
        (["ecs:DescribeServiceRevisions"], [arn("ecs", "service-revision/*")], in_cluster),
        (["ecs:StopServiceDeployment"], [arn("ecs", "service-deployment/*")], in_cluster),
        (["ecs:RunTask"], [arn("ecs", "task-definition/*")], tagged | in_cluster),
        (["ecs:StopTask"], [arn("ecs", "task/*")], tagged | in_cluster),
        (
            ["ecs:TagResource"],
            [arn("ecs", "task/*")],
            {"StringEquals": {
                "ecs:CreateAction": "RunTask", "aws:RequestTag/deploy-runner:environment": environment
            }},
        ),
        (
            ["scheduler:GetSchedule", "scheduler:UpdateSchedule"],
            ["arn:aws:scheduler:us-east-1:123456789012:schedule/none/none"],  # no app of apps.yaml has one
            None,
        ),
        (
            ["iam:PassRole"],
            [arn("iam", "role/apps/*", "")],
            {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}},
        ),
        (["ecs:DescribeTasks"], [arn("ecs", "task/*")], in_cluster),
        (["ecs:ListTasks"], ["*"], in_cluster),
        (["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"], ["*"], None),
        (
            ["ecs:RegisterTaskDefinition"],
            [arn("ecs", "task-definition/*")],
            {"StringEquals": {"aws:RequestTag/deploy-runner:environment": environment}},
        ),
        (
            ["ecs:TagResource"],
            [arn("ecs", "task-definition/*")],
            {"StringEquals": {"ecs:CreateAction": "RegisterTaskDefinition"}},
        ),
        (["iam:PassRole"], [arn("iam", "role/apps/*", "")], TASKS),
        (["logs:GetLogEvents"], [arn("logs", "log-group:/apps/*:log-stream:*")], None),
    ]  # fmt: skip


APPS = ("cineos", "createos", "lightwave-backend", "photographos")
INVOKED = (
    "validate-request", "report-status", "deploy-service", "watch-rollout", "acquire-lock", "finish-deployment"
)  # fmt: skip
FUNCTIONS = (*INVOKED, "clean-up", "sweep")
CHANGE = [f"dynamodb:{action}" for action in ("ConditionCheckItem", "DeleteItem", "GetItem", "PutItem", "UpdateItem")]
TOKENS: Rule = (["states:SendTaskSuccess", "states:SendTaskFailure"], ["*"], None)
EXECUTIONS = arn("states", "execution:deploy-app:*")


def invokes(*names: str) -> Rule:
    return (["lambda:InvokeFunction"], [arn("lambda", f"function:deploy-runner-{name}:live") for name in names], None)


MAY: dict[str, list[Rule]] = {
    "deploy-runner-state-machine": [
        (
            ["lambda:InvokeFunction"],
            [arn("lambda", f"function:deploy-runner-{name}:*") for name in INVOKED],
            None,
        ),
        (
            ["ecs:RunTask"],
            [
                arn("ecs", "task-definition/docker-builder-arm64:*"),
                arn("ecs", "task-definition/docker-builder-x86-64:*"),
                arn("ecs", "task-definition/app-deployer-arm64:*"),
                arn("ecs", "task-definition/app-deployer-x86-64:*"),
            ],
            {"ArnEquals": {"ecs:cluster": CLUSTER}},
        ),
        (["ecs:TagResource"], [arn("ecs", "task/deploy-runner/*")], {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
        (
            ["ecs:DescribeTasks", "ecs:StopTask"],
            [arn("ecs", "task/deploy-runner/*")],
            {"ArnEquals": {"ecs:cluster": CLUSTER}},
        ),
        (
            ["iam:PassRole"],
            [
                arn("iam", "role/deploy-runner/push/push-*", ""),
                arn("iam", "role/deploy-runner/deployer/deployer-*", ""),
                arn("iam", "role/deploy-runner/deploy-runner-docker-builder-execution", ""),
                arn("iam", "role/deploy-runner/deploy-runner-app-deployer-execution", ""),
                arn("iam", "role/deploy-runner/deploy-runner-no-permissions", ""),
            ],
            TASKS,
        ),
        (
            ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
            [arn("events", "rule/StepFunctionsGetEventsForECSTaskRule")],
            None,
        ),
        (["ecr:BatchGetImage"], [arn("ecr", f"repository/{app}") for app in APPS], None),
        TARGETS,
        (
            [
                f"logs:{name}"
                for name in (
                    "CreateLogDelivery",
                    "GetLogDelivery",
                    "UpdateLogDelivery",
                    "DeleteLogDelivery",
                    "ListLogDeliveries",
                    "PutResourcePolicy",
                    "DescribeResourcePolicies",
                    "DescribeLogGroups",
                )
            ],
            ["*"],
            None,
        ),
        ([*TRACE[0], "xray:GetSamplingRules", "xray:GetSamplingTargets"], ["*"], None),
    ],
    "deploy-runner-validate-request": [
        GITHUB_KEY,
        TARGETS,
        (["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query"], [TABLE], None),
        logs("/aws/lambda/deploy-runner-validate-request"),
        TRACE,
    ],
    "deploy-runner-acquire-lock": [
        (CHANGE, [TABLE], None),
        TOKENS,
        invokes("clean-up"),
        logs("/aws/lambda/deploy-runner-acquire-lock"),
        TRACE,
    ],
    "deploy-runner-finish-deployment": [
        (CHANGE[1:], [TABLE], None),
        TARGETS,
        TOKENS,
        invokes("clean-up"),
        (["states:GetExecutionHistory"], [EXECUTIONS], None),
        (["logs:GetLogEvents"], [arn("logs", "log-group:/deploy-runner/*:log-stream:*")], None),
        logs("/aws/lambda/deploy-runner-finish-deployment"),
        TRACE,
    ],
    "deploy-runner-clean-up": [
        (CHANGE[1:], [TABLE], None),
        TARGETS,
        TOKENS,
        invokes("report-status", "clean-up"),
        (["states:DescribeExecution", "states:GetExecutionHistory"], [EXECUTIONS], None),
        (["ecs:ListTasks"], ["*"], {"ArnEquals": {"ecs:cluster": CLUSTER}}),
        (
            ["ecs:DescribeTasks", "ecs:StopTask"],
            [arn("ecs", "task/deploy-runner/*")],
            {"ArnEquals": {"ecs:cluster": CLUSTER}},
        ),
        (["sqs:SendMessage"], [arn("sqs", "deploy-runner-lost-events")], None),
        logs("/aws/lambda/deploy-runner-clean-up"),
        TRACE,
    ],
    "deploy-runner-sweep": [
        (["dynamodb:DeleteItem", "dynamodb:Query", "dynamodb:UpdateItem"], [TABLE], None),
        TOKENS,
        invokes("clean-up", "report-status", "watch-rollout"),
        (["states:DescribeExecution"], [EXECUTIONS], None),
        logs("/aws/lambda/deploy-runner-sweep"),
        TRACE,
    ],
    "deploy-runner-report-status": [
        GITHUB_KEY,
        (["dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:UpdateItem"], [TABLE], None),
        (["sns:Publish"], [arn("sns", "deploy-runner-outcomes")], None),
        (
            ["events:PutEvents"],
            [arn("events", "event-bus/default")],
            {"ForAllValues:StringEquals": {"events:source": "deploy-runner"}, "Null": {"events:source": "false"}},
        ),
        logs("/aws/lambda/deploy-runner-report-status"),
        TRACE,
    ],
    "deploy-runner-deploy-service": [
        TARGETS,
        (["dynamodb:ConditionCheckItem", "dynamodb:UpdateItem"], [TABLE], None),
        logs("/aws/lambda/deploy-runner-deploy-service"),
        TRACE,
    ],
    "deploy-runner-watch-rollout": [
        TARGETS,
        (["dynamodb:PutItem", "dynamodb:Query", "dynamodb:DeleteItem", "dynamodb:UpdateItem"], [TABLE], None),
        (["sqs:SendMessage"], [arn("sqs", "deploy-runner-lost-events")], None),
        TOKENS,
        logs("/aws/lambda/deploy-runner-watch-rollout"),
        TRACE,
    ],
    "deploy-runner-docker-builder-execution": execution_role("docker-builder", "clone"),
    "deploy-runner-terraform-runner-execution": execution_role("terraform-runner", "clone", "terraform-runner"),
    "deploy-runner-app-deployer-execution": execution_role("app-deployer", "clone", "app-deployer"),
    "deploy-runner-no-permissions": [],
    **{f"push-{app}": push_role(app) for app in APPS},
    **{f"deployer-photographos-{name}": deployer_role("photographos", name) for name in ("dev", "staging", "prod")},
    **{f"deploy-target-{name}": target_role(name) for name in ("dev", "staging", "prod")},
    "deploy-runner-github": [
        (
            ["states:StartExecution"],
            [arn("states", "stateMachine:deploy-app")],
            {"ForAnyValue:StringEquals": {"states:StateMachineQualifier": "live"}},
        ),
        (
            ["states:DescribeExecution", "states:GetExecutionHistory", "states:StopExecution"],
            [arn("states", "execution:deploy-app:*")],
            None,
        ),
        (["logs:FilterLogEvents"], [arn("logs", "log-group:/deploy-runner/*")], None),
        (["logs:GetLogEvents"], [arn("logs", "log-group:/deploy-runner/*:log-stream:*")], None),
    ],
}


OURS = {"aws:ResourceTag/deploy-runner:environment": "dev"}
ITS_FAMILY = {"ecs:task-definition": arn("ecs", "task-definition/photographos-dev:7")}
ITS_TAGS = {
    "aws:RequestTag/deploy-runner:environment": "dev",
    "aws:RequestTag/deploy-runner:app": "photographos",
    "ecs:compute-compatibility": "FARGATE",
}
TO_ECS = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
ITS_SERVICE = arn("ecs", "service/dev/photographos")


@pytest.mark.parametrize(
    ("action", "resource", "context", "allowed"),
    [
        ("ecs:UpdateService", ITS_SERVICE, OURS | ITS_FAMILY, True),
        ("ecs:UpdateService", ITS_SERVICE, OURS | {"ecs:task-definition": None}, False),  # the desired count alone
        (
            "ecs:UpdateService",
            ITS_SERVICE,
            OURS | {"ecs:task-definition": arn("ecs", "task-definition/createos-prod:7")},
            False,
        ),
        ("ecs:UpdateService", arn("ecs", "service/dev/cineos"), OURS | ITS_FAMILY, False),
        ("ecs:UpdateService", arn("ecs", "service/prod/photographos"), OURS | ITS_FAMILY, False),
        ("ecs:RegisterTaskDefinition", arn("ecs", "task-definition/photographos-dev:*"), ITS_TAGS, True),
        (  # with a folder of the host in it, say
            "ecs:RegisterTaskDefinition",
            arn("ecs", "task-definition/photographos-dev:*"),
            ITS_TAGS | {"ecs:compute-compatibility": "EC2"},
            False,
        ),
        ("ecs:RegisterTaskDefinition", arn("ecs", "task-definition/cineos-dev:*"), ITS_TAGS, False),
        ("ecs:RegisterTaskDefinition", arn("ecs", "task-definition/photographos-prod:*"), ITS_TAGS, False),
        (
            "ecs:RegisterTaskDefinition",
            arn("ecs", "task-definition/photographos-dev:*"),
            ITS_TAGS | {"aws:RequestTag/deploy-runner:app": "cineos"},
            False,
        ),
        ("iam:PassRole", arn("iam", "role/apps/photographos/dev/photographos-dev-task", ""), TO_ECS, True),
        ("iam:PassRole", arn("iam", "role/apps/photographos/prod/photographos-prod-task", ""), TO_ECS, False),
        ("iam:PassRole", arn("iam", "role/apps/cineos/dev/cineos-dev-task", ""), TO_ECS, False),
        ("iam:PassRole", arn("iam", "role/deploy-runner/deploy-target-dev", ""), TO_ECS, False),
        ("ecs:RunTask", arn("ecs", "task-definition/photographos-dev:7"), {}, False),
        ("ecr:PutImage", arn("ecr", "repository/photographos"), {}, True),
        ("ecr:PutImage", arn("ecr", "repository/cineos"), {}, False),
        ("sts:AssumeRole", arn("iam", "role/deploy-runner/deploy-target-dev", ""), {}, False),
        ("states:SendTaskSuccess", "*", {}, False),
        ("dynamodb:PutItem", TABLE, {}, False),
        ("secretsmanager:GetSecretValue", GITHUB_KEY[1][0].replace("??????", "aBcDeF"), {}, False),
    ],
)
def test_what_a_dockerfile_could_do_with_the_role_of_an_app_deployer(
    everything: Stack, action: str, resource: str, context: dict[str, str | None], allowed: bool
) -> None:
    """In dev it may change its own service, within its own family and roles; nothing else of anybody's."""
    policies = documents(everything)["deployer-photographos-dev"]
    absent = dict.fromkeys(("ecs:cluster", "ecs:CreateAction"))

    assert (identity_says(policies, Asked(action, resource, absent | context)) is Decision.ALLOW) is allowed


@pytest.mark.parametrize("role", MAY)
def test_a_role_may_do_exactly_this(everything: Stack, role: str) -> None:
    expected = {
        Grant(action, resource, json.dumps(conditions, sort_keys=True) if conditions else "")
        for actions, resources, conditions in MAY[role]
        for action in actions
        for resource in resources
    }

    assert {grant for document in documents(everything)[role] for grant in grants(document)} == expected


def test_there_are_no_other_roles(everything: Stack) -> None:
    # terraform-plan has AWS's ReadOnlyAccess, and is looked at below
    assert set(documents(everything)) == {*MAY, "deploy-runner-terraform-plan"}


def test_a_plan_reads_settings_but_no_data(everything: Stack) -> None:
    (role,) = [
        properties
        for stack in everything.all()
        for properties in stack.of_type("AWS::IAM::Role").values()
        if properties["RoleName"] == "deploy-runner-terraform-plan"
    ]
    assert role["ManagedPolicyArns"] == ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
    (document,) = documents(everything)["deploy-runner-terraform-plan"]
    assert {grant.effect for grant in grants(document)} == {"Deny"}
    assert {"secretsmanager:GetSecretValue", "ssm:GetParameter", "states:GetExecutionHistory"} <= {
        grant.action for grant in grants(document)
    }


def test_without_its_image_there_is_no_terraform_runner(main: Stack) -> None:
    names = set(documents(main))

    assert {name for name in names if "terraform" in name} == set()
    definitions = [d["Family"] for s in main.all() for d in s.of_type("AWS::ECS::TaskDefinition").values()]
    assert sorted(definitions) == [
        "app-deployer-arm64", "app-deployer-x86-64", "docker-builder-arm64", "docker-builder-x86-64",
    ]  # fmt: skip


def test_only_an_app_that_chose_it_has_an_app_deployers_role(main: Stack) -> None:
    """A task without one has the role that may do nothing."""
    names = {name for name in documents(main) if name.startswith("deployer-")}

    assert names == {f"deployer-photographos-{environment}" for environment in ("dev", "staging", "prod")}
    definitions = main.nested("Runner").of_type("AWS::ECS::TaskDefinition").values()
    assert {d["TaskRoleArn"].rpartition("/")[2] for d in definitions} == {"deploy-runner-no-permissions"}


def test_only_who_needs_it_reads_the_github_key(everything: Stack) -> None:
    readers = {
        role
        for role, found in documents(everything).items()
        for document in found
        for grant in grants(document)
        if grant.action == "secretsmanager:GetSecretValue" and grant.effect == "Allow"
    }

    assert readers == {
        "deploy-runner-validate-request",
        "deploy-runner-report-status",
        "deploy-runner-docker-builder-execution",
        "deploy-runner-terraform-runner-execution",
        "deploy-runner-app-deployer-execution",
    }


def test_no_role_may_change_roles_or_start_the_machine(everything: Stack) -> None:
    for role, found in documents(everything).items():
        for grant in (g for document in found for g in grants(document) if g.effect == "Allow"):
            service, _, action = grant.action.partition(":")
            assert "*" not in grant.action, role
            assert service != "iam" or action == "PassRole", role
            assert grant.action != "states:StartExecution" or role == "deploy-runner-github"
