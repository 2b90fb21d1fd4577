"""Every action with its resource and its conditions, against AWS's service authorization data (in policy_sentry).

A pair that AWS does not have grants nothing there, however well it works on one machine.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import policy_sentry
import pytest

from .stacks import ACCOUNT, REGION, Grant, Stack, documents, grants

# docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html: part of every request
GLOBAL_KEYS = {"aws:PrincipalArn", "aws:SourceAccount", "aws:SourceArn"}
# Actions that AWS lists with resources, but that ours use without one.
WITHOUT_RESOURCE = {
    # by service name the resource is not the container instance that AWS lists; ecs:cluster narrows it
    "ecs:ListTasks",
}


@cache
def authorization() -> dict[str, Any]:
    path = Path(policy_sentry.__file__).parent / "shared" / "data" / "iam-definition.json"
    return dict(json.loads(path.read_text()))


def privilege(action: str) -> dict[str, Any]:
    service, _, name = action.partition(":")
    privileges = authorization()[service]["privileges"]
    assert name in privileges, f"AWS has no action {action}"
    return dict(privileges[name])


def resource_types(action: str) -> dict[str, str]:
    """The ARN formats of an action's resource types, as regular expressions, by the type's name."""
    resources = authorization()[action.partition(":")[0]]["resources"]
    return {name: resources[name]["arn"] for name in privilege(action)["resource_types"] if name}


def resource_keys(action: str, kind: str) -> list[str]:
    """The condition keys of a resource type of an action's service."""
    return list(authorization()[action.partition(":")[0]]["resources"][kind]["condition_keys"])


def fits(resource: str, format_: str) -> bool:
    """Whether a policy's resource can name resources of this form: whether some ARN matches both."""
    own = {"Partition": "aws", "Region": REGION, "Account": ACCOUNT}
    if "role/deploy-runner/deploy-target-" in resource:  # which may be in another
        own["Account"] = resource.split(":")[4]
    return overlap(resource, re.sub(r"\$\{(\w+)\}", lambda found: own.get(found[1], "*"), format_))


@cache
def overlap(left: str, right: str) -> bool:
    """Whether some text matches both patterns, of which `*` stands for any text."""
    if not left or not right:
        return set(left + right) <= {"*"}
    if left[0] == "*":
        return overlap(left[1:], right) or overlap(left, right[1:])
    if right[0] == "*":
        return overlap(right, left)
    return left[0] == right[0] and overlap(left[1:], right[1:])


def all_grants(stack: Stack) -> list[tuple[str, Grant]]:
    found = [(role, g) for role, each in documents(stack).items() for document in each for g in grants(document)]
    return sorted(found, key=str)


def test_there_is_something_to_check(everything: Stack) -> None:
    assert len(all_grants(everything)) > 100


def test_every_action_exists(everything: Stack) -> None:
    for _, grant in all_grants(everything):
        privilege(grant.action)


def test_every_resource_is_one_that_its_action_takes(everything: Stack) -> None:
    wrong = []
    for role, grant in all_grants(everything):
        types = resource_types(grant.action)
        if grant.resource == "*":
            if types and grant.effect == "Allow" and grant.action not in WITHOUT_RESOURCE:
                wrong.append(f"{role}: {grant.action} on * though it takes {', '.join(types)}")
        elif not any(fits(grant.resource, format_) for format_ in types.values()):
            wrong.append(f"{role}: {grant.action} does not take {grant.resource}")
    assert wrong == []


def test_an_action_on_several_resources_has_them_all(everything: Stack) -> None:
    """DescribeServiceRevisions, for one, is asked of the service and of its revision."""
    wrong = []
    by_role: dict[tuple[str, str], list[str]] = {}
    for role, grant in all_grants(everything):
        by_role.setdefault((role, grant.action), []).append(grant.resource)
    for (role, action), resources in by_role.items():
        if "*" in resources or not action.startswith("ecs:") or action == "ecs:TagResource":
            continue
        for name, kind in privilege(action)["resource_types"].items():
            format_ = resource_types(action).get(name, "")
            if name and kind["required"] and not any(fits(resource, format_) for resource in resources):
                wrong.append(f"{role}: {action} needs a {name} too")
    assert wrong == []


def test_every_condition_key_is_one_that_its_action_has(everything: Stack) -> None:
    wrong = []
    for role, grant in all_grants(everything):
        kinds = privilege(grant.action)["resource_types"].values()
        known = {key for kind in kinds for key in kind["condition_keys"]} | GLOBAL_KEYS
        for keys in json.loads(grant.conditions or "{}").values():
            for key in keys:
                plain = re.sub(r"(Tag)/.+", r"\1/${TagKey}", key)
                if plain not in known:
                    wrong.append(f"{role}: {grant.action} has no key {key}")
    assert wrong == []


@pytest.mark.parametrize(
    ("action", "resource", "right"),
    [
        ("states:StartExecution", "arn:aws:states:us-east-1:123456789012:stateMachine:deploy-app", True),
        ("states:StopExecution", "arn:aws:states:us-east-1:123456789012:stateMachine:deploy-app", False),
        ("states:StopExecution", "arn:aws:states:us-east-1:123456789012:execution:deploy-app:*", True),
        ("ecs:UpdateService", "arn:aws:ecs:us-east-1:123456789012:service/*", True),
        ("ecs:UpdateService", "arn:aws:ecs:us-east-1:123456789012:cluster/dev", False),
    ],
)
def test_the_check_itself_tells_right_from_wrong(action: str, resource: str, right: bool) -> None:
    assert any(fits(resource, format_) for format_ in resource_types(action).values()) is right
