"""The runner tasks: their cluster, images, task definitions, roles and logs."""

from typing import Any

from troposphere import (
    AWSHelperFn,
    AWSObject,
    Equals,
    GetAtt,
    If,
    Not,
    Output,
    Parameter,
    Ref,
    Select,
    Split,
    Sub,
    Tags,
    Template,
)
from troposphere.ec2 import SecurityGroup, SecurityGroupRule
from troposphere.ecr import ImageScanningConfiguration, LifecyclePolicy, Repository
from troposphere.ecs import (
    Cluster,
    ClusterSetting,
    ContainerDefinition,
    ContainerDependency,
    Environment,
    EphemeralStorage,
    HealthCheck,
    LogConfiguration,
    MountPoint,
    RuntimePlatform,
    Secret,
    TaskDefinition,
    Volume,
)
from troposphere.iam import Policy, PolicyType, Role
from troposphere.logs import LogGroup

from deploy_runner.domain.deployment import WORKSPACE
from deploy_runner.domain.runner_task import MAY_BUILD
from templates.config import PATH, Config
from templates.iam import ANY_TASK, PULL, allow, arn, document, log_in, reasons, trust_ecs_tasks
from templates.lifecycle import keep_newest

BUILDERS = {
    "DockerBuilderArm64": ("docker-builder-arm64", "ARM64"),
    "DockerBuilderX8664": ("docker-builder-x86-64", "X86_64"),
}
DEPLOYERS = {
    "AppDeployerArm64": ("app-deployer-arm64", "ARM64"),
    "AppDeployerX8664": ("app-deployer-x86-64", "X86_64"),
}
VOLUME = "workspace"


def build(config: Config) -> Template:
    """Return the runner. terraform-runner is there where its image is given."""
    template = Template("The deploy runner's tasks on AWS Fargate.")
    template.set_version()
    _add_parameters(template)

    cluster = template.add_resource(
        Cluster(
            "Cluster",
            ClusterName="deploy-runner",
            ClusterSettings=[ClusterSetting(Name="containerInsights", Value="disabled")],
        )
    )
    group = template.add_resource(
        SecurityGroup(
            "SecurityGroup",
            GroupDescription="Runner tasks: no way in",
            VpcId=Ref("VpcId"),
            SecurityGroupEgress=[
                SecurityGroupRule(IpProtocol="-1", CidrIp="0.0.0.0/0", Description="Registries, AWS and GitHub")
            ],
            Tags=Tags(Name="deploy-runner"),
        )
    )
    clones, deployers = (
        template.add_resource(
            Repository(
                f"{title}Repository",
                RepositoryName=f"deploy-runner/{name}",
                ImageScanningConfiguration=ImageScanningConfiguration(ScanOnPush=True),
                # A version is three: an image for either architecture, and the index of both.
                LifecyclePolicy=LifecyclePolicy(LifecyclePolicyText=keep_newest(60)),
                DeletionPolicy="RetainExceptOnCreate",
                UpdateReplacePolicy="Retain",
            )
        )
        for title, name in (("Clone", "clone"), ("AppDeployer", "app-deployer"))
    )
    # For a task whose role comes with RunTask: if it were forgotten, the task could do nothing.
    nothing = template.add_resource(
        Role(
            "NoPermissionsRole",
            Path=PATH,
            RoleName="deploy-runner-no-permissions",
            AssumeRolePolicyDocument=trust_ecs_tasks(),
            Metadata=reasons(Trust=ANY_TASK),
        )
    )

    group_of, execution = _add_kind(template, "DockerBuilder", "docker-builder")
    for title, (family, architecture) in BUILDERS.items():
        kaniko = _container("kaniko", "docker-builder", Ref("KanikoImage"), group_of, after=("clone", "SUCCESS"))
        containers = [_clone("docker-builder", group_of), kaniko]
        _add_task(template, title, family, "docker-builder", architecture, containers, execution, nothing)

    group_of, execution = _add_kind(template, "AppDeployer", "app-deployer")
    for title, (family, architecture) in DEPLOYERS.items():
        containers = _app_deployer(group_of)
        _add_task(template, title, family, "app-deployer", architecture, containers, execution, nothing)

    reader = template.add_resource(
        Role(
            "TerraformPlanRole",
            Path=PATH,
            RoleName="deploy-runner-terraform-plan",
            AssumeRolePolicyDocument=trust_ecs_tasks(),
            ManagedPolicyArns=[Sub("arn:${AWS::Partition}:iam::aws:policy/ReadOnlyAccess")],
            # A plan runs code of a pull request: it may look, but not at what people and apps store.
            Policies=[Policy(PolicyName="no-data", PolicyDocument=document(_deny_data()))],
            Metadata=reasons(
                ReadOnlyAccess={
                    "wildcard": "A plan reads whatever the infrastructure has; stored data is denied",
                    "unused": {"*": "No flow runs terraform-runner yet"},
                },
                Trust=ANY_TASK,
            ),
            Condition="HasTerraformRunner",
        )
    )
    title, kind, only = "TerraformRunner", "terraform-runner", "HasTerraformRunner"
    group_of, execution = _add_kind(template, title, kind, only)
    main = _container(kind, kind, Ref(f"{title}Image"), group_of, after=("clone", "SUCCESS"))
    _add_task(template, title, kind, kind, "ARM64", [_clone(kind, group_of), main], execution, reader, only)

    for name, value in {
        "ClusterArn": GetAtt(cluster, "Arn"),
        "SecurityGroupId": GetAtt(group, "GroupId"),
        "CloneRepositoryUri": GetAtt(clones, "RepositoryUri"),
        "AppDeployerRepositoryUri": GetAtt(deployers, "RepositoryUri"),
        "Registry": Select(0, Split("/", GetAtt(clones, "RepositoryUri"))),
        "DockerBuilderArm64Arn": Ref("DockerBuilderArm64"),
        "DockerBuilderX8664Arn": Ref("DockerBuilderX8664"),
        "AppDeployerArm64Arn": Ref("AppDeployerArm64"),
        "AppDeployerX8664Arn": Ref("AppDeployerX8664"),
        "DockerBuilderExecutionRoleArn": GetAtt("DockerBuilderExecutionRole", "Arn"),
        "AppDeployerExecutionRoleArn": GetAtt("AppDeployerExecutionRole", "Arn"),
        "NoPermissionsRoleArn": GetAtt(nothing, "Arn"),
    }.items():
        template.add_output(Output(name, Value=value))
    return template


def _add_parameters(template: Template) -> None:
    for name in ("VpcId", "GitHubApiUrl", "GitHubUrl", "GitHubAppId", "GitHubAppPrivateKeySecret"):
        template.add_parameter(Parameter(name, Type="String"))
    template.add_parameter(Parameter("KanikoImage", Type="String", AllowedPattern=r"[^@ ]+@sha256:[0-9a-f]{64}"))
    for name in ("CloneImage", "TerraformRunnerImage", "AppDeployerImage"):
        template.add_parameter(Parameter(name, Type="String", Default=""))
        template.add_condition(f"Has{name.removesuffix('Image')}", Not(Equals(Ref(name), "")))
    template.add_parameter(Parameter("BuilderCpu", Type="String", Default="2048"))
    template.add_parameter(Parameter("BuilderMemory", Type="String", Default="4096"))
    template.add_parameter(Parameter("LogRetentionDays", Type="Number", Default=90))


def _add_kind(template: Template, title: str, kind: str, condition: str | None = None) -> tuple[AWSObject, AWSObject]:
    """Add the log group and the execution role that the tasks of a kind share."""
    only = {"Condition": condition} if condition else {}
    logs = template.add_resource(
        LogGroup(
            f"{title}Logs",
            LogGroupName=f"/deploy-runner/{kind}",
            RetentionInDays=Ref("LogRetentionDays"),
            DeletionPolicy="RetainExceptOnCreate",
            UpdateReplacePolicy="Retain",
            **only,
        )
    )
    images = [GetAtt("CloneRepository", "Arn")]
    if kind != "docker-builder":  # Kaniko's image is public
        images.append(arn("ecr", f"repository/deploy-runner/{kind}"))
    role = template.add_resource(
        Role(
            f"{title}ExecutionRole",
            Path=PATH,
            RoleName=f"deploy-runner-{kind}-execution",
            AssumeRolePolicyDocument=trust_ecs_tasks(execution=True),
            **only,
        )
    )
    execution = [
        log_in(),
        allow(
            "PullImages",
            PULL,
            images,
            unused={"ecr:BatchCheckLayerAvailability": "AWS's own AmazonECSTaskExecutionRolePolicy has it for pulls"}
            if kind != "terraform-runner"
            else {"*": f"The tests run no {kind}"},
        ),
        allow(
            "ReadGitHubKey",
            ["secretsmanager:GetSecretValue"],
            Sub(f"{_APP_KEY}-??????"),
            wildcard="Secrets Manager ends a secret's ARN with six random characters",
        ),
        allow(
            "WriteLogs",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            GetAtt(logs, "Arn"),
            wildcard="A task writes log streams of its own; the group is this one",
        ),
    ]
    template.add_resource(
        PolicyType(
            f"{title}ExecutionPolicy",
            PolicyName=f"{kind}-execution",
            Roles=[Ref(role)],
            PolicyDocument=document(*execution),
            Metadata=reasons(*execution),
            **only,
        )
    )
    return logs, role


# A secret's ARN without its random end names the secret too:
# docs.aws.amazon.com/secretsmanager/latest/userguide/troubleshoot.html#ARN_secretnamehyphen
_APP_KEY = "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:${GitHubAppPrivateKeySecret}"


def _container(
    name: str,
    kind: str,
    image: AWSHelperFn,
    logs: AWSObject,
    essential: bool = True,
    after: tuple[str, str] | None = None,
    **more: Any,
) -> ContainerDefinition:
    """Return a container that starts once the one before it meets a condition."""
    if after:
        more["DependsOn"] = [ContainerDependency(ContainerName=after[0], Condition=after[1])]
    more.setdefault("MountPoints", [MountPoint(SourceVolume=VOLUME, ContainerPath=WORKSPACE, ReadOnly=False)])
    return ContainerDefinition(
        Name=name,
        Image=image,
        Essential=essential,
        LogConfiguration=LogConfiguration(
            LogDriver="awslogs",
            Options={
                "awslogs-group": Ref(logs),
                "awslogs-region": Ref("AWS::Region"),
                "awslogs-stream-prefix": kind,
            },
        ),
        **more,
    )


def _app_deployer(logs: AWSObject) -> list[ContainerDefinition]:
    """Return the three containers of an app-deployer: `deploy` decides first whether to build at all, and ends last.

    With it the task ends, so its exit code is the task's. It has no part in the volume, which a Dockerfile's RUN can
    write to.
    """
    image = If("HasAppDeployer", Ref("AppDeployerImage"), Sub("${AppDeployerRepository.RepositoryUri}:latest"))
    check = HealthCheck(Command=["CMD", "test", "-e", MAY_BUILD], Interval=5, Timeout=2, Retries=10)
    deploy = _container("deploy", "app-deployer", image, logs, HealthCheck=check, MountPoints=[])
    clone = _clone("app-deployer", logs, after=("deploy", "HEALTHY"))
    kaniko = _container("kaniko", "app-deployer", Ref("KanikoImage"), logs, False, ("clone", "SUCCESS"))
    return [deploy, clone, kaniko]


def _clone(kind: str, logs: AWSObject, after: tuple[str, str] | None = None) -> ContainerDefinition:
    """Return the one container that sees the GitHub App's key. It ends before anything of the app's runs."""
    return _container(
        "clone",
        kind,
        If("HasClone", Ref("CloneImage"), Sub("${CloneRepository.RepositoryUri}:latest")),
        logs,
        essential=False,
        after=after,
        Environment=[
            Environment(Name="GITHUB_API_URL", Value=Ref("GitHubApiUrl")),
            Environment(Name="GITHUB_URL", Value=Ref("GitHubUrl")),
            Environment(Name="GITHUB_APP_ID", Value=Ref("GitHubAppId")),
        ],
        Secrets=[Secret(Name="GITHUB_APP_PRIVATE_KEY", ValueFrom=Sub(_APP_KEY))],
    )


def _add_task(
    template: Template,
    title: str,
    family: str,
    kind: str,
    architecture: str,
    containers: list[ContainerDefinition],
    execution: AWSObject,
    role: AWSObject,
    condition: str | None = None,
) -> None:
    """Add a task definition. An execution that runs still names the one that it started with, so it is retained."""
    only = {"Condition": condition} if condition else {}
    template.add_resource(
        TaskDefinition(
            title,
            Family=family,
            RequiresCompatibilities=["FARGATE"],
            NetworkMode="awsvpc",
            RuntimePlatform=RuntimePlatform(CpuArchitecture=architecture, OperatingSystemFamily="LINUX"),
            Cpu=Ref("BuilderCpu"),
            Memory=Ref("BuilderMemory"),
            EphemeralStorage=EphemeralStorage(SizeInGiB=50),
            ExecutionRoleArn=GetAtt(execution, "Arn"),
            TaskRoleArn=GetAtt(role, "Arn"),
            Volumes=[Volume(Name=VOLUME)],
            ContainerDefinitions=containers,
            Tags=Tags({"deploy-runner:kind": kind}),
            DeletionPolicy="Retain",
            UpdateReplacePolicy="Retain",
            **only,
        )
    )


def _deny_data() -> dict[str, Any]:
    """Return the statement that takes stored data out of ReadOnlyAccess."""
    return {
        "Sid": "NoStoredData",
        "Effect": "Deny",
        "Action": [
            "dynamodb:BatchGetItem",
            "dynamodb:GetItem",
            "dynamodb:GetRecords",
            "dynamodb:PartiQLSelect",
            "dynamodb:Query",
            "dynamodb:Scan",
            "ec2:GetPasswordData",
            "logs:FilterLogEvents",
            "logs:GetLogEvents",
            "logs:GetLogRecord",
            "logs:GetQueryResults",
            "logs:StartLiveTail",
            "logs:StartQuery",
            "secretsmanager:GetSecretValue",
            "sqs:ReceiveMessage",
            "ssm:GetParameter",
            "ssm:GetParameterHistory",
            "ssm:GetParameters",
            "ssm:GetParametersByPath",
            "states:GetExecutionHistory",
        ],
        "Resource": "*",
    }
