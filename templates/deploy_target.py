"""An environment in its account: the role that changes its services, and the way of its ECS events to us."""

from typing import Any

from troposphere import And, Equals, FindInMap, GetAtt, Not, Output, Parameter, Ref, Sub, Template
from troposphere.events import Rule, Target
from troposphere.iam import Policy, Role

from templates.config import APPS_PATH, ENVIRONMENT_TAG, ENVIRONMENTS, PATH, Config
from templates.iam import ECS_TASKS, Statement, allow, arn, document, reasons, trust

DETAIL_TYPES = ["ECS Deployment State Change", "ECS Task State Change", "ECS Service Action"]


def build(config: Config) -> Template:
    """Return the target. Services are granted by their tag, so that a new app needs no new policy."""
    template = Template("A deploy target: lets the deploy runner change the ECS services of one environment.")
    template.set_version()
    environments = sorted({*ENVIRONMENTS, *config.allowlist.targets})
    template.add_parameter(Parameter("Environment", Type="String", AllowedValues=environments))
    template.add_parameter(
        Parameter("DeployRunnerAccount", Type="String", AllowedPattern="[0-9]{12}", Description="Where it is installed")
    )
    template.add_parameter(Parameter("DeployRunnerRegion", Type="String", Default="us-east-1"))
    template.add_condition(
        "ForwardsEvents",
        Not(
            And(
                Equals(Ref("AWS::AccountId"), Ref("DeployRunnerAccount")),
                Equals(Ref("AWS::Region"), Ref("DeployRunnerRegion")),
            )
        ),
    )
    for environment in environments:
        # apps.yaml may not have an environment that template.yaml has
        clusters = config.clusters(environment) or (f"arn:aws:ecs:us-east-1:000000000000:cluster/{environment}",)
        template.add_mapping("Clusters", {environment: {"Arns": list(clusters)}})
        # A mapping must not be empty: what no schedule is called stands for none.
        schedules = config.schedules(environment) or ("arn:aws:scheduler:us-east-1:123456789012:schedule/none/none",)
        template.add_mapping("Schedules", {environment: {"Arns": list(schedules)}})

    statements = _statements()
    role = template.add_resource(
        Role(
            "Role",
            Path=PATH,
            RoleName=Sub("deploy-target-${Environment}"),
            Description=Sub("The deploy runner changes the ECS services of ${Environment}"),
            AssumeRolePolicyDocument=_trust(),
            Policies=[Policy(PolicyName="deploy", PolicyDocument=document(*statements))],
            Metadata=reasons(*statements),
        )
    )
    _forward_events(template)
    template.add_output(Output("RoleArn", Value=GetAtt(role, "Arn")))
    return template


def _trust() -> dict[str, Any]:
    """Trust our functions' roles by name: a role as principal must exist first, and is another once made anew."""
    roles = [
        arn("iam", f"role{PATH}deploy-runner-{name}", region="", account="${DeployRunnerAccount}")
        for name in (
            "clean-up",
            "deploy-service",
            "finish-deployment",
            "state-machine",
            "validate-request",
            "watch-rollout",
        )
    ]
    return trust(
        {"AWS": arn("iam", "root", region="", account="${DeployRunnerAccount}")},
        {"ArnEquals": {"aws:PrincipalArn": roles}},
    )


def _statements() -> list[Statement]:
    tagged = {"StringEquals": {f"aws:ResourceTag/{ENVIRONMENT_TAG}": Ref("Environment")}}
    in_clusters = {"ArnEquals": {"ecs:cluster": FindInMap("Clusters", Ref("Environment"), "Arns")}}
    return [
        allow(
            "ServicesOfTheEnvironment",
            [
                "ecs:DescribeServiceRevisions",
                "ecs:DescribeServices",
                "ecs:ListServiceDeployments",
                "ecs:StopServiceDeployment",
                "ecs:UpdateService",
            ],
            arn("ecs", "service/*"),
            tagged,
            wildcard="The services are those that carry the environment's tag, so that a new app needs no new policy",
        ),
        # These have no tags of their own. ECS wants the service's statement above as well.
        allow(
            "RevisionsOfTheEnvironment",
            ["ecs:DescribeServiceRevisions"],
            arn("ecs", "service-revision/*"),
            in_clusters,
            wildcard="A revision's id is made by ECS; the condition keeps to the environment's clusters",
        ),
        allow(
            "RolloutsOfTheEnvironment",
            ["ecs:StopServiceDeployment"],
            arn("ecs", "service-deployment/*"),
            in_clusters,
            wildcard="A rollout's id is made by ECS; the condition keeps to the environment's clusters",
        ),
        allow(
            "TasksOfTheEnvironment",
            ["ecs:DescribeTasks"],
            arn("ecs", "task/*"),
            in_clusters,
            wildcard="A task's id is made by ECS; the condition keeps to the environment's clusters",
        ),
        # ListTasks of a service and the reading of task definitions take no resource.
        allow(
            "ListTasks",
            ["ecs:ListTasks"],
            "*",
            in_clusters,
            wildcard="By service it takes no resource; the condition keeps to the environment's clusters",
        ),
        allow(
            "ReadTaskDefinitions",
            ["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"],
            "*",
            wildcard="ECS has no resource for these",
        ),
        allow(
            "RegisterRevisionsTaggedAsOurs",
            ["ecs:RegisterTaskDefinition"],
            arn("ecs", "task-definition/*"),
            {"StringEquals": {f"aws:RequestTag/{ENVIRONMENT_TAG}": Ref("Environment")}},
            wildcard="The families are the apps'; what is registered carries the environment's tag",
        ),
        allow(
            "TagThemWhileRegistering",
            ["ecs:TagResource"],
            arn("ecs", "task-definition/*"),
            {"StringEquals": {"ecs:CreateAction": "RegisterTaskDefinition"}},
            wildcard="As above, and only while registering",
        ),
        # The release commands of apps: a task of a revision that we registered, and nothing else.
        allow(
            "RunReleases",
            ["ecs:RunTask"],
            arn("ecs", "task-definition/*"),
            {**tagged, **in_clusters},
            wildcard="The families are the apps'; what may be run carries the environment's tag",
        ),
        allow(
            "TagReleases",
            ["ecs:TagResource"],
            arn("ecs", "task/*"),
            {"StringEquals": {"ecs:CreateAction": "RunTask", f"aws:RequestTag/{ENVIRONMENT_TAG}": Ref("Environment")}},
            wildcard="A task's id is made by ECS; only while running one",
        ),
        allow(
            "StopReleases",
            ["ecs:StopTask"],
            arn("ecs", "task/*"),
            {**tagged, **in_clusters},
            wildcard="A task's id is made by ECS; what may be stopped carries the environment's tag",
            unused={"*": "Only for a deployment that is stopped while its release runs"},
        ),
        # Scheduled tasks that follow an app's image.
        allow(
            "FollowWithSchedules",
            ["scheduler:GetSchedule", "scheduler:UpdateSchedule"],
            FindInMap("Schedules", Ref("Environment"), "Arns"),
            unused={"*": "Only in the sandbox have the tests' apps a schedule"},
        ),
        allow(
            "PassTheRolesOfSchedules",
            ["iam:PassRole"],
            arn("iam", f"role{APPS_PATH}*", region=""),
            {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}},
            wildcard=f"The roles of schedules are kept under {APPS_PATH} too, and go to the scheduler alone",
        ),
        allow(
            "PassTheRolesOfApps",
            ["iam:PassRole"],
            arn("iam", f"role{APPS_PATH}*", region=""),
            {"StringEquals": {"iam:PassedToService": ECS_TASKS}},
            wildcard=f"The apps' own roles are kept under {APPS_PATH}, and go to ECS tasks alone",
        ),
        # Why a task died is in its log's last lines.
        allow(
            "ReadLogStreamsOfApps",
            ["logs:GetLogEvents"],
            arn("logs", f"log-group:{APPS_PATH}*:log-stream:*"),
            wildcard=f"The apps' log groups are kept under {APPS_PATH}; a stream is named after its task",
        ),
    ]


def _forward_events(template: Template) -> None:
    bus = arn("events", "event-bus/default", region="${DeployRunnerRegion}", account="${DeployRunnerAccount}")
    forward = allow("Forward", ["events:PutEvents"], bus)
    role = template.add_resource(
        Role(
            "ForwardEventsRole",
            Path=PATH,
            RoleName=Sub("deploy-target-${Environment}-events"),
            AssumeRolePolicyDocument=trust(
                {"Service": "events.amazonaws.com"},
                {"StringEquals": {"aws:SourceAccount": Ref("AWS::AccountId")}},
            ),
            Policies=[Policy(PolicyName="forward", PolicyDocument=document(forward))],
            Metadata=reasons(forward),
            Condition="ForwardsEvents",
        )
    )
    template.add_resource(
        Rule(
            "ForwardEvents",
            Description="ECS events, for the deploy runner's account",
            EventPattern={"source": ["aws.ecs"], "detail-type": DETAIL_TYPES},
            Targets=[Target(Id="deploy-runner", Arn=bus, RoleArn=GetAtt(role, "Arn"))],
            Condition="ForwardsEvents",
        )
    )
