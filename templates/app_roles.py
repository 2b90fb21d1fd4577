"""What apps.yaml grants: a push-only role per app, and exactly its images and targets to the roles that need them.

An app that chose app-deployer has a role per environment more, which may change that one service too.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from troposphere import Equals, Not, Parameter, Ref, Template
from troposphere.events import EventBusPolicy
from troposphere.iam import ManagedPolicy, Policy, Role

from deploy_runner.domain.apps import APP_DEPLOYER, App, Environment
from templates.config import (
    APPS_PATH,
    DEPLOYER_PATH,
    ENVIRONMENT_TAG,
    PATH,
    PUSH_PATH,
    Config,
    deployer_role_name,
    logical_id,
    push_role_name,
)
from templates.iam import ANY_TASK, ECS_TASKS, PULL, Statement, allow, arn, document, log_in, reasons, trust_ecs_tasks

# A managed policy may have 6,144 characters, and 10 of them stand on a role:
# docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html. The rest is for the statement around the ARNs.
MAX_ARN_CHARACTERS = 5_500
LONGEST_ARN_PREFIX = len('"arn:aws-us-gov:ecr:ap-southeast-1:123456789012:repository/",')
ASSUME_TARGETS = tuple(
    f"{name}Role" for name in ("CleanUp", "DeployService", "StateMachine", "ValidateRequest", "WatchRollout")
)
READ_RELEASES = ("FinishDeploymentRole",)
PUSH = ["ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart"]


def build(config: Config) -> Template:
    """Return the roles and policies. The parameters are names of roles of the main stack."""
    template = Template("What apps.yaml grants: to each app its push role, to the deploy runner its targets.")
    template.set_version()
    for name in (*ASSUME_TARGETS, *READ_RELEASES):
        template.add_parameter(Parameter(name, Type="String", Description="The name of a role"))

    for app in config.allowlist.apps.values():
        push = _push(app, "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
        template.add_resource(
            Role(
                logical_id("Push", app.name),
                Path=PUSH_PATH,
                RoleName=push_role_name(app.name),
                Description=f"A build of {app.name}: pushes to its own repository, and nothing else",
                AssumeRolePolicyDocument=trust_ecs_tasks(),
                Policies=[Policy(PolicyName="push", PolicyDocument=document(*push))],
                Metadata=reasons(*push, Trust=ANY_TASK),
            )
        )
        if app.runner == APP_DEPLOYER:
            for environment in app.environments.values():
                template.add_resource(_deployer(app, environment))

    for index, names in enumerate(_chunks(config.image_repositories)):
        template.add_resource(
            ManagedPolicy(
                f"LookUpImages{index}",
                Path=PATH,
                Description="Look up the images of the apps",
                Roles=[Ref("StateMachineRole")],
                PolicyDocument=document(
                    allow("LookUpImages", ["ecr:BatchGetImage"], [arn("ecr", f"repository/{name}") for name in names])
                ),
            )
        )
    targets = sorted({target.role_arn for target in config.allowlist.targets.values()})
    for name, roles, unused in (
        ("AssumeDeployTargets", ASSUME_TARGETS, ""),
        ("ReadWhyAReleaseFailed", READ_RELEASES, "The release commands of the tests' apps do not fail"),
    ):
        assume = allow(name, ["sts:AssumeRole"], targets, unused={"*": unused} if unused else None)
        template.add_resource(
            ManagedPolicy(
                name,
                Path=PATH,
                Description="Assume the roles of the deploy targets",
                Roles=[Ref(role) for role in roles],
                PolicyDocument=document(assume),
                Metadata=reasons(assume),
            )
        )
    _let_targets_forward_events(template, config)
    return template


def _push(app: App, *unused: str) -> list[Statement]:
    """Return what a build of an app may do; `unused` are actions on its images that no end-to-end test needs."""
    return [
        log_in(),
        allow(
            "PushAndPull",
            PULL + PUSH,
            arn("ecr", f"repository/{app.image_repository}"),
            unused=dict.fromkeys(unused, "A Dockerfile may start from an earlier image of its app; the tests' do not"),
        ),
        allow(
            "KeepLayers",
            PULL + PUSH,
            arn("ecr", f"repository/{app.image_repository}/cache"),
            unused={"*": "In local AWS the engine builds, and keeps layers itself; Kaniko uses it"},
        ),
    ]


def _deployer(app: App, environment: Environment) -> Role:
    """Return the role of an app-deployer. The app's Dockerfile can use it, so it names all that can be named.

    It may neither let the service run another app's revision nor pass another app's roles, nor touch another
    environment. Reading task definitions takes no resource, so those of other apps are open to it.
    """
    name = app.name_in(environment.name)
    (service,) = environment.services
    of_it = f"{environment.cluster}/{service.name}"
    family = arn("ecs", f"task-definition/{name}:*")
    runner = {"ArnEquals": {"ecs:cluster": arn("ecs", "cluster/deploy-runner")}}
    tagged = {f"aws:ResourceTag/{ENVIRONMENT_TAG}": environment.name}
    new_tags = {f"aws:RequestTag/{ENVIRONMENT_TAG}": environment.name, "aws:RequestTag/deploy-runner:app": app.name}
    any_revision = "ECS numbers the revisions; the family is the app's in this environment"
    statements = [
        *_push(app, "ecr:GetDownloadUrlForLayer"),
        allow(
            "ReadItsService",
            ["ecs:DescribeServiceRevisions", "ecs:DescribeServices", "ecs:ListServiceDeployments"],
            arn("ecs", f"service/{of_it}"),
            {"StringEquals": tagged},
        ),
        allow(
            "UpdateItToItsOwnFamily",
            ["ecs:UpdateService"],
            arn("ecs", f"service/{of_it}"),
            {"StringEquals": tagged, "ArnLike": {"ecs:task-definition": family}},
            wildcard=any_revision,
        ),
        allow(
            "ReadItsRevisions",
            ["ecs:DescribeServiceRevisions"],
            arn("ecs", f"service-revision/{of_it}/*"),
            wildcard="ECS makes the ids of a service's revisions",
        ),
        allow(
            "ReadTaskDefinitions",
            ["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"],
            "*",
            wildcard="ECS has no resource for either",
        ),
        allow(
            "RegisterRevisionsTaggedAsItsOwn",
            ["ecs:RegisterTaskDefinition"],
            family,
            # In what is for Fargate ECS takes no host's folder and no privileged container: on EC2 instances of the
            # cluster either would open the other apps there.
            {"StringEquals": new_tags, "ForAnyValue:StringEquals": {"ecs:compute-compatibility": "FARGATE"}},
            wildcard=any_revision,
        ),
        allow(
            "TagThemWhileRegistering",
            ["ecs:TagResource"],
            family,
            {"StringEquals": {"ecs:CreateAction": "RegisterTaskDefinition"}},
            wildcard=any_revision,
        ),
        allow(
            "PassItsRoles",
            ["iam:PassRole"],
            arn("iam", f"role{APPS_PATH}{app.name}/{environment.name}/*", region=""),
            {"StringEquals": {"iam:PassedToService": ECS_TASKS}},
            wildcard="The app's owners name its roles; their path is the app's in this environment",
        ),
        # A task that finds another one of its deployment does not build again.
        allow(
            "ListRunnerTasks",
            ["ecs:ListTasks"],
            "*",
            runner,
            wildcard="ECS has no resource for it; the cluster is ours",
        ),
        allow(
            "ReadRunnerTasks",
            ["ecs:DescribeTasks"],
            arn("ecs", "task/deploy-runner/*"),
            runner,
            wildcard="ECS makes the ids of tasks; the cluster is ours",
        ),
    ]
    return Role(
        logical_id("Deployer", app.name, environment.name),
        Path=DEPLOYER_PATH,
        RoleName=deployer_role_name(app, environment.name),
        Description=f"An app-deployer of {app.name} in {environment.name}: pushes, and changes its one service",
        AssumeRolePolicyDocument=trust_ecs_tasks(),
        Policies=[Policy(PolicyName="deploy", PolicyDocument=document(*statements))],
        Metadata=reasons(*statements, Trust=ANY_TASK),
    )


def _let_targets_forward_events(template: Template, config: Config) -> None:
    """Let the other accounts of apps.yaml put their ECS events on this account's bus."""
    for account in sorted({target.account for target in config.allowlist.targets.values()}):
        condition = template.add_condition(f"Is{account}Elsewhere", Not(Equals(Ref("AWS::AccountId"), account)))
        statement: dict[str, Any] = {
            "Effect": "Allow",
            "Principal": {"AWS": arn("iam", "root", region="", account=account)},
            "Action": "events:PutEvents",
            "Resource": arn("events", "event-bus/default"),
            # docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-bus-permissions.html: events of AWS's own
            # services keep their source, so nothing else comes this way
            "Condition": {
                "ForAllValues:StringEquals": {"events:source": "aws.ecs"},
                "Null": {"events:source": "false"},
            },
        }
        template.add_resource(
            EventBusPolicy(
                f"EventsOf{account}",
                EventBusName="default",
                StatementId=f"deploy-runner-events-of-{account}",
                Statement=statement,
                Condition=condition,
            )
        )


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    """Split repository names so that the policy of each part stays within its limit."""
    chunk: list[str] = []
    size = 0
    for name in names:
        characters = LONGEST_ARN_PREFIX + len(name)
        if chunk and size + characters > MAX_ARN_CHARACTERS:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += characters
    if chunk:
        yield chunk
