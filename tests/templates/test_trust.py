"""What the trust policies let in, and above all what they do not."""

from typing import Any

import pytest

from deploy_runner.local_aws.cloudformation.template import read
from deploy_runner.local_aws.iam.evaluate import Asked, Decision, Principal, resource_says

from .stacks import ACCOUNT, ROOT, Stack, arn, trusts

ISSUER = "token.actions.githubusercontent.com"
# Claims of a job's token as GitHub describes them (docs.github.com/en/actions/reference/security/oidc), for a workflow
# on main of infrastructure-live whose job names the environment deploy-runner.
NAMED = {
    "iss": f"https://{ISSUER}",
    "aud": "sts.amazonaws.com",
    "sub": "repo:lightwave-media/infrastructure-live:environment:deploy-runner",
    "repository": "lightwave-media/infrastructure-live",
    "repository_id": "1000",
    "repository_owner": "lightwave-media",
    "repository_owner_id": "100",
    "ref": "refs/heads/main",
    "ref_type": "branch",
    "environment": "deploy-runner",
    "event_name": "workflow_dispatch",
}
WITH_IDS = NAMED | {"sub": "repo:lightwave-media@100/infrastructure-live@1000:environment:deploy-runner"}


def lets_in(policy: dict[str, Any], action: str, principal: str, context: dict[str, str]) -> bool:
    """Whether a service, an identity provider, or a role of the account with this root comes in."""
    keys = {key for statement in policy["Statement"] for wanted in statement["Condition"].values() for key in wanted}
    asked = Asked(action, "", dict.fromkeys(keys) | context)  # a key that is not given is known to be absent
    if principal.endswith(".amazonaws.com"):
        who = Principal(service=principal)
    elif ":oidc-provider/" in principal:
        who = Principal(federated=principal)
    else:
        who = Principal(role_arn=context["aws:PrincipalArn"])
    return resource_says(policy, asked, who)[0] is Decision.ALLOW


def github_lets_in(stack: Stack, claims: dict[str, str]) -> bool:
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
    context = {f"{ISSUER}:{name}": value for name, value in claims.items()}
    return lets_in(trusts(stack)["deploy-runner-github"], "sts:AssumeRoleWithWebIdentity", provider, context)


@pytest.mark.parametrize("claims", [NAMED, WITH_IDS], ids=["sub by name", "sub with ids"])
def test_the_workflow_in_infrastructure_live_comes_in(main: Stack, claims: dict[str, str]) -> None:
    assert github_lets_in(main, claims)


@pytest.mark.parametrize("form", [NAMED, WITH_IDS], ids=["sub by name", "sub with ids"])
@pytest.mark.parametrize(
    "difference",
    [
        pytest.param({"aud": "https://github.com/lightwave-media"}, id="another audience"),
        pytest.param({"repository_id": "6666"}, id="a repository that took over the name"),
        pytest.param({"ref": "refs/heads/experiment"}, id="another branch"),
        pytest.param({"ref": "refs/tags/main"}, id="a tag of that name"),
        pytest.param({"ref": "refs/pull/7/merge", "event_name": "pull_request"}, id="a pull request"),
        pytest.param({"environment": "production"}, id="another environment"),
        pytest.param({"sub": "repo:lightwave-media/infrastructure-live:ref:refs/heads/main"}, id="no environment"),
        pytest.param({"sub": "repo:lightwave-media/infrastructure-live:pull_request"}, id="sub of a pull request"),
        pytest.param({"sub": "repo:someone/infrastructure-live:environment:deploy-runner"}, id="sub of a fork"),
        pytest.param(
            {"sub": "repo:lightwave-media@666/infrastructure-live@1000:environment:deploy-runner"},
            id="another owner's id",
        ),
        pytest.param(
            {"sub": "repo:lightwave-media@100/infrastructure-live@6666:environment:deploy-runner"},
            id="another id in sub",
        ),
        pytest.param({"sub": "repo:lightwave-media/cineos:environment:deploy-runner"}, id="an app's repository"),
        pytest.param({"sub": "repo:lightwave-media/infrastructure-live:environment:*"}, id="a wildcard"),
    ],
)
def test_no_other_workflow_comes_in(main: Stack, form: dict[str, str], difference: dict[str, str]) -> None:
    assert not github_lets_in(main, form | difference)


@pytest.mark.parametrize("claim", ["aud", "sub", "repository_id", "ref", "environment"])
def test_a_token_that_lacks_a_claim_does_not_come_in(main: Stack, claim: str) -> None:
    assert not github_lets_in(main, {name: value for name, value in NAMED.items() if name != claim})


def test_a_fork_does_not_come_in(main: Stack) -> None:
    fork = NAMED | {
        "sub": "repo:someone/infrastructure-live:environment:deploy-runner",
        "repository": "someone/infrastructure-live",
        "repository_id": "2000",
        "repository_owner": "someone",
        "repository_owner_id": "200",
    }
    assert not github_lets_in(main, fork)


def test_another_provider_does_not_come_in(main: Stack) -> None:
    context = {f"{ISSUER}:{name}": value for name, value in NAMED.items()}
    policy = trusts(main)["deploy-runner-github"]
    other = f"arn:aws:iam::{ACCOUNT}:oidc-provider/gitlab.com"
    assert not lets_in(policy, "sts:AssumeRoleWithWebIdentity", other, context)


def test_an_existing_provider_is_trusted_by_its_arn() -> None:
    template = read((ROOT / "templates" / "rendered" / "github_oidc_role.yaml").read_text())
    parameters = {
        "Repository": "lightwave-media/infrastructure-live", "RepositoryId": "1000", "OwnerId": "100", "Branch": "main",
        "GitHubEnvironment": "deploy-runner", "StateMachineName": "deploy-app", "CreateOidcProvider": "false",
    }  # fmt: skip
    stack = Stack(template, parameters)

    assert stack.of_type("AWS::IAM::OIDCProvider") == {}
    assert github_lets_in(stack, NAMED)


ROOT_PRINCIPAL = f"arn:aws:iam::{ACCOUNT}:root"


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
@pytest.mark.parametrize(
    ("role", "comes_in"),
    [
        ("deploy-runner/deploy-runner-deploy-service", True),
        ("deploy-runner/deploy-runner-validate-request", True),
        ("deploy-runner/deploy-runner-watch-rollout", True),
        ("deploy-runner/deploy-runner-report-status", False),
        ("deploy-runner/deploy-runner-finish-deployment", True),
        ("deploy-runner/deploy-runner-clean-up", True),
        ("deploy-runner/deploy-runner-state-machine", True),  # to run releases there
        ("deploy-runner/deploy-runner-sweep", False),
        ("deploy-runner/deploy-runner-acquire-lock", False),
        ("deploy-runner/deploy-runner-github", False),
        ("deploy-runner/push/push-cineos", False),
        ("deploy-runner-deploy-service", False),  # of another path
        ("apps/cineos-dev-task", False),
        ("Administrator", False),
    ],
)
def test_only_our_functions_come_into_a_target(main: Stack, environment: str, role: str, comes_in: bool) -> None:
    policy = trusts(main)[f"deploy-target-{environment}"]

    principal = {"aws:PrincipalArn": arn("iam", f"role/{role}", "")}
    assert lets_in(policy, "sts:AssumeRole", ROOT_PRINCIPAL, principal) is comes_in
    elsewhere = {"aws:PrincipalArn": f"arn:aws:iam::999999999999:role/{role}"}
    assert not lets_in(policy, "sts:AssumeRole", "arn:aws:iam::999999999999:root", elsewhere)


def test_only_ecs_in_this_account_comes_into_roles_of_tasks(everything: Stack) -> None:
    roles = [
        name
        for name in trusts(everything)
        if name.startswith(("push-", "deployer-"))
        or name.endswith(("-execution", "-no-permissions", "-terraform-plan"))
    ]
    assert len(roles) == 4 + 3 + 3 + 2
    here = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": arn("ecs", "cluster/deploy-runner")}
    for name in roles:
        policy = trusts(everything)[name]
        assert lets_in(policy, "sts:AssumeRole", "ecs-tasks.amazonaws.com", here), name
        assert not lets_in(policy, "sts:AssumeRole", "ec2.amazonaws.com", here), name
        assert not lets_in(policy, "sts:AssumeRole", "ecs-tasks.amazonaws.com", {}), name
        other = {"aws:SourceAccount": "999999999999", "aws:SourceArn": "arn:aws:ecs:us-east-1:999999999999:cluster/x"}
        assert not lets_in(policy, "sts:AssumeRole", "ecs-tasks.amazonaws.com", other), name


def test_only_this_state_machine_comes_into_its_role(main: Stack) -> None:
    policy = trusts(main)["deploy-runner-state-machine"]
    ours = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": arn("states", "stateMachine:deploy-app")}

    assert lets_in(policy, "sts:AssumeRole", "states.amazonaws.com", ours)
    other = ours | {"aws:SourceArn": arn("states", "stateMachine:someone-elses")}
    assert not lets_in(policy, "sts:AssumeRole", "states.amazonaws.com", other)


def test_every_role_is_looked_at_here(everything: Stack) -> None:
    lambdas = {
        name for name, policy in trusts(everything).items()
        if policy["Statement"][0]["Principal"] == {"Service": "lambda.amazonaws.com"}
    }  # fmt: skip
    rest = {n for n in trusts(everything) if not n.startswith(("push-", "deployer-", "deploy-target-"))} - lambdas
    verbs = (
        "validate-request", "report-status", "deploy-service", "watch-rollout", "acquire-lock", "finish-deployment",
        "clean-up", "sweep",
    )  # fmt: skip
    assert lambdas == {f"deploy-runner-{verb}" for verb in verbs}
    assert rest == {
        "deploy-runner-state-machine", "deploy-runner-github", "deploy-runner-no-permissions",
        "deploy-runner-docker-builder-execution", "deploy-runner-terraform-runner-execution",
        "deploy-runner-app-deployer-execution", "deploy-runner-terraform-plan",
    }  # fmt: skip
