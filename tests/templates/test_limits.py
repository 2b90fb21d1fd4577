"""200 apps in 3 environments stay within AWS's limits."""

import json
from typing import Any

import pytest

from deploy_runner.domain.apps import MAX_DEPLOYER_ROLES, load
from deploy_runner.local_aws.cloudformation.template import read
from templates import app_repositories, app_roles, deploy_target, render
from templates.config import Config, logical_id, push_role_name

from .stacks import Stack, arn, documents, trusts

# docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
TEMPLATE_BYTES, RESOURCES = 1_000_000, 500
# docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: characters without white space
INLINE, MANAGED, TRUST, ATTACHED = 10_240, 6_144, 2_048, 10
# docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
DEFINITION_BYTES = 1_048_576
# app_roles' parameters: names of roles
ROLES = {
    parameter: parameter.removesuffix("Role") for parameter in (*app_roles.ASSUME_TARGETS, *app_roles.READ_RELEASES)
}
TARGET = {"Environment": "prod", "DeployRunnerAccount": "111111111111"}
APPS, ENVIRONMENTS = 200, ("dev", "staging", "prod")


@pytest.fixture(scope="module")
def config() -> Config:
    """Long names, each app with an image repository of its own, each environment in an account of its own."""
    lines = ["version: 1", "environments:"]
    for index, name in enumerate(ENVIRONMENTS):
        place = f"account: '{111111111111 + index}', region: ap-southeast-1, cluster: {name}"
        lines.append(f"  {name}: {{{place}, refs: {{branches: [main]}}}}")
    lines.append("apps:")
    for index in range(APPS):
        name = f"an-app-with-quite-a-long-name-that-someone-chose-{index:03}"
        lines += [f"  {name}:", f"    repository: {{name: lightwave-media/{name}, id: {1000 + index}}}"]
        lines += [f"    image_repository: lightwave-media/apps/{name}", "    environments:"]
        lines += [f"      {env}: {{services: {{{name}: [app]}}, cluster: {env}-{index % 5}}}" for env in ENVIRONMENTS]
    return Config(load("\n".join(lines)))


@pytest.fixture(scope="module")
def deployers() -> Config:
    """As many app-deployers as may be, in one account, beside docker-builders to 200 apps."""
    lines = ["version: 1", "environments:"]
    place = "account: '111111111111', region: ap-southeast-1, refs: {branches: [main]}"
    lines += [f"  {env}: {{{place}}}" for env in ENVIRONMENTS]
    lines.append("apps:")
    for index in range(APPS):
        name = f"an-app-with-quite-a-long-name-someone-chose-{index:03}"
        lines += [f"  {name}:", f"    repository: {{name: lightwave-media/{name}, id: {1000 + index}}}"]
        lines += ["    runner: app-deployer"] if index < MAX_DEPLOYER_ROLES // len(ENVIRONMENTS) else []
        lines += [f"    image_repository: lightwave-media/apps/{name}", "    environments:"]
        lines += [f"      {env}: {{services: {{{name}: [app]}}, cluster: {env}}}" for env in ENVIRONMENTS]
    return Config(load("\n".join(lines)))


def test_as_many_app_deployers_as_are_allowed_fit_into_a_template(deployers: Config) -> None:
    content = render.render(deployers)["app_roles.yaml"]
    assert len(content.encode()) < TEMPLATE_BYTES
    assert len(read(content)["Resources"]) <= RESOURCES


def characters(document: Any) -> int:
    return len(json.dumps(document, separators=(",", ":")))


def test_every_template_is_small_enough(config: Config) -> None:
    for name, content in render.render(config).items():
        if name.endswith(".yaml"):
            assert len(content.encode()) < TEMPLATE_BYTES, name
            assert len(read(content)["Resources"]) <= RESOURCES, name
        else:
            assert len(content.encode()) < DEFINITION_BYTES, name


def test_every_policy_is_small_enough(config: Config) -> None:
    roles = Stack(app_roles.build(config).to_dict(), ROLES)
    target = Stack(deploy_target.build(config).to_dict(), TARGET)

    for stack in (roles, target):
        for role in stack.of_type("AWS::IAM::Role").values():
            assert sum(characters(policy["PolicyDocument"]) for policy in role["Policies"]) <= INLINE, role["RoleName"]
            assert len(role["RoleName"]) <= 64
        for name, trust in trusts(stack).items():
            assert characters(trust) <= TRUST, name
    managed = roles.of_type("AWS::IAM::ManagedPolicy")
    assert all(characters(policy["PolicyDocument"]) <= MANAGED for policy in managed.values())
    for name in ROLES.values():
        assert sum(name in policy["Roles"] for policy in managed.values()) <= ATTACHED


def test_nothing_is_lost_where_a_policy_is_split(config: Config) -> None:
    found = documents(Stack(app_roles.build(config).to_dict(), ROLES))["StateMachine"]

    assert len(found) > 1
    statements = [statement for document in found for statement in document["Statement"]]
    images = [resource for s in statements if s["Sid"] == "LookUpImages" for resource in s["Resource"]]
    assert sorted(images) == [arn("ecr", f"repository/{name}") for name in config.image_repositories]


def test_the_policies_of_the_main_stack_are_small_enough(everything: Stack) -> None:
    for stack in everything.all():
        for role in stack.of_type("AWS::IAM::Role").values():
            policies = [policy["PolicyDocument"] for policy in role.get("Policies", [])]
            assert sum(map(characters, policies)) <= INLINE, role["RoleName"]
            assert characters(role["AssumeRolePolicyDocument"]) <= TRUST, role["RoleName"]


def test_an_app_may_be_pulled_where_it_runs(config: Config) -> None:
    (first, *_) = (
        properties
        for properties in Stack(app_repositories.build(config).to_dict(), {}).of_type("AWS::ECR::Repository").values()
        if not properties["RepositoryName"].endswith("/cache")
    )

    (statement,) = first["RepositoryPolicyText"]["Statement"]
    assert statement["Principal"]["AWS"] == [f"arn:aws:iam::{111111111111 + index}:root" for index in range(3)]
    assert set(statement["Action"]) == {
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"
    }  # fmt: skip


def test_events_are_taken_from_exactly_the_other_accounts(config: Config) -> None:
    stack = Stack(app_roles.build(config).to_dict(), ROLES, account="111111111111")

    policies = stack.of_type("AWS::Events::EventBusPolicy").values()
    assert [policy["Statement"]["Principal"]["AWS"] for policy in policies] == [
        "arn:aws:iam::111111111112:root", "arn:aws:iam::111111111113:root"
    ]  # fmt: skip


def test_a_target_elsewhere_forwards_its_events(config: Config) -> None:
    template = deploy_target.build(config).to_dict()

    here = Stack(template, TARGET, account="111111111111")
    elsewhere = Stack(template, TARGET, account="111111111113")

    assert here.of_type("AWS::Events::Rule") == {}
    (rule,) = elsewhere.of_type("AWS::Events::Rule").values()
    assert rule["EventPattern"]["source"] == ["aws.ecs"]
    assert rule["Targets"][0]["Arn"] == "arn:aws:events:us-east-1:111111111111:event-bus/default"


def test_names_that_differ_have_logical_ids_that_differ() -> None:
    names = ["a-b", "a.b", "a_b", "a/b", "ab", "aB", "a--b"]
    assert len({logical_id("Images", name) for name in names}) == len(names)
    assert all(logical_id("Images", name).isalnum() for name in names)


def test_an_app_whose_role_name_would_be_too_long_is_refused() -> None:
    assert len(push_role_name("a" * 59)) == 64
    with pytest.raises(Exception, match="at most 64 characters"):
        push_role_name("a" * 60)
