"""The role of the workflow in infrastructure-live: it starts, follows and stops deployments, and nothing else."""

from typing import Any

from troposphere import Equals, GetAtt, If, Output, Parameter, Ref, Select, Split, Sub, Template
from troposphere.iam import OIDCProvider, Policy, Role

from templates.config import PATH, Config
from templates.iam import Statement, allow, arn, document, reasons, trust

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"
ALIAS = "live"


def build(config: Config) -> Template:
    """Return the role, and GitHub's OIDC provider where the account has none."""
    template = Template("What a GitHub workflow in infrastructure-live may do.")
    template.set_version()
    template.add_parameter(
        Parameter("CreateOidcProvider", Type="String", AllowedValues=["true", "false"], Default="true")
    )
    for name, pattern in {
        "Repository": "[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}",
        "RepositoryId": "[1-9][0-9]{0,18}",
        "OwnerId": "[1-9][0-9]{0,18}",
        "Branch": "[A-Za-z0-9._/-]{1,200}",
        "GitHubEnvironment": "[A-Za-z0-9._-]{1,200}",
        "StateMachineName": "[A-Za-z0-9_-]{1,80}",
    }.items():
        template.add_parameter(Parameter(name, Type="String", AllowedPattern=pattern))
    template.add_condition("MakesProvider", Equals(Ref("CreateOidcProvider"), "true"))
    # GitHub's certificate is checked by IAM itself; a thumbprint is not needed:
    # docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html
    provider = template.add_resource(
        OIDCProvider(
            "Provider",
            Url=f"https://{ISSUER}",
            ClientIdList=[AUDIENCE],
            Condition="MakesProvider",
            DeletionPolicy="RetainExceptOnCreate",  # other roles may have come to trust it
            UpdateReplacePolicy="Retain",
        )
    )
    existing = arn("iam", f"oidc-provider/{ISSUER}", region="")
    statements = _statements()
    role = template.add_resource(
        Role(
            "Role",
            Path=PATH,
            RoleName="deploy-runner-github",
            Description="The workflow in infrastructure-live starts deployments",
            MaxSessionDuration=3600,
            AssumeRolePolicyDocument=_trust(If("MakesProvider", Ref(provider), existing)),
            Policies=[Policy(PolicyName="start-deployments", PolicyDocument=document(*statements))],
            Metadata=reasons(*statements),
        )
    )
    template.add_output(Output("RoleArn", Value=GetAtt(role, "Arn")))
    return template


def _trust(provider: Any) -> dict[str, Any]:
    """Pin the one job: this repository by its id, this branch, this environment.

    `sub` has two forms: repositories made, renamed or transferred since 2026-07-15 have the ids in it. The other
    keys are claims of their own, which AWS STS compares since January 2026:
    docs.github.com/en/actions/reference/security/oidc
    """
    name = Sub("repo:${Repository}:environment:${GitHubEnvironment}")
    name_and_id = Sub(
        "repo:${Owner}@${OwnerId}/${Name}@${RepositoryId}:environment:${GitHubEnvironment}",
        Owner=_part(0),
        Name=_part(1),
    )
    return trust(
        {"Federated": provider},
        {
            "StringEquals": {
                f"{ISSUER}:aud": AUDIENCE,
                f"{ISSUER}:sub": [name, name_and_id],
                f"{ISSUER}:repository_id": Ref("RepositoryId"),
                f"{ISSUER}:ref": Sub("refs/heads/${Branch}"),
                f"{ISSUER}:environment": Ref("GitHubEnvironment"),
            }
        },
        "sts:AssumeRoleWithWebIdentity",
    )


def _part(index: int) -> Any:
    return Select(index, Split("/", Ref("Repository")))


def _statements() -> list[Statement]:
    machine = arn("states", "stateMachine:${StateMachineName}")
    executions = arn("states", "execution:${StateMachineName}:*")
    return [
        # An alias is no resource of its own here: docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
        allow(
            "StartOnTheAlias",
            ["states:StartExecution"],
            machine,
            {"ForAnyValue:StringEquals": {"states:StateMachineQualifier": ALIAS}},
        ),
        allow(
            "FollowAndStop",
            ["states:DescribeExecution", "states:GetExecutionHistory", "states:StopExecution"],
            executions,
            wildcard="Every deployment is an execution of this state machine",
        ),
        allow(
            "SearchRunnerLogs",
            ["logs:FilterLogEvents"],
            arn("logs", "log-group:/deploy-runner/*"),
            wildcard="Each kind of runner task has its log group under /deploy-runner/",
        ),
        allow(
            "ReadRunnerLogs",
            ["logs:GetLogEvents"],
            arn("logs", "log-group:/deploy-runner/*:log-stream:*"),
            wildcard="A stream is named after its task",
        ),
    ]
