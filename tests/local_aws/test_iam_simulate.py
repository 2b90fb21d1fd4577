"""Our evaluator and one that others wrote (the npm package @cloud-copilot/iam-simulate) come to the same decisions."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from deploy_runner.local_aws.iam.evaluate import Asked, Decision, identity_says, listed, named_statements
from tests.templates.stacks import REQUIRED, Stack, arn, documents, packaged

from .test_iam import CONDITIONS, KEYS

NAMES = {"Allowed": Decision.ALLOW, "ImplicitlyDenied": Decision.NOTHING, "ExplicitlyDenied": Decision.DENY}
type Request = tuple[str, str, dict[str, Any]]


def simulated(requests: list[dict[str, Any]]) -> list[Decision | str]:
    script = Path(__file__).with_name("simulate.mjs")
    done = subprocess.run(["node", script], input=json.dumps(requests), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [NAMES.get(said, said) for said in json.loads(done.stdout)]


def ours(policies: list[dict[str, Any]], action: str, resource: str, context: dict[str, Any]) -> Decision:
    keys = {
        key for policy in policies for _, statement in named_statements(policy)
        for each in statement.get("Condition", {}).values() for key in each
    }  # fmt: skip
    return identity_says(policies, Asked(action, resource, dict.fromkeys(keys) | context))


SEVERAL = {"events:source", "states:StateMachineQualifier"}  # keys that AWS lists as ArrayOfString


def requests_of(statement: dict[str, Any]) -> list[Request]:
    """What a statement allows, and what differs from it in one thing: the resource, or one condition."""
    keys = [
        (key, listed(value)[0])
        for op, each in statement.get("Condition", {}).items()
        for key, value in each.items()
        if op != "Null"
    ]
    met = {key: concrete(value) for key, value in keys}
    met = {key: [value] if key in SEVERAL else value for key, value in met.items()}
    contexts = [met, *({**met, key: "x"} for key in met if key not in SEVERAL), *([{}] if keys else [])]
    contexts += [{**met, key: ["x", *met[key]]} for key in met if key in SEVERAL]
    found: list[Request] = []
    for action in listed(statement["Action"]):
        for pattern in listed(statement["Resource"]):
            resource = concrete(pattern)
            found += [(action, resource, context) for context in contexts]
            if resource != "*":
                found.append((action, resource.replace("123456789012", "999999999999"), met))
                found.append((action, re.sub(r"([:/])([^:/]+)(:\d+)?$", r"\1z\2\3", resource), met))
    return found


# The simulator holds resources to the forms that AWS has for them.
FORMS = {
    ":service-deployment/*": ":service-deployment/dev/x/1",
    ":service/*": ":service/dev/x", ":service-revision/*": ":service-revision/dev/x/1", ":task/*": ":task/dev/x",
    ":task-definition/*": ":task-definition/x:1", "arm64:*": "arm64:1", "x86-64:*": "x86-64:1",
}  # fmt: skip


def concrete(pattern: str) -> str:
    """Some text that a pattern with wildcards stands for."""
    for end, instead in FORMS.items():
        if pattern.endswith(end):
            pattern = pattern.removesuffix(end) + instead
    if ":log-group:" in pattern and ":log-stream:" not in pattern:
        pattern = pattern.removesuffix(":*") + ":log-stream:x"
    return pattern if pattern == "*" else pattern.replace("*", "x1").replace("?", "A")


def test_every_role_may_do_the_same_by_both() -> None:
    """Each role is asked for what it may do and what is nearly that, and for a sample of what the others may do."""
    roles = documents(Stack(packaged(), REQUIRED))
    asked = {
        role: [request for document in found for each in document["Statement"] for request in requests_of(each)]
        for role, found in roles.items()
        if not role.endswith(("-staging", "-prod", "-createos", "-photographos", "-lightwave-backend"))  # alike
    }
    sample = [request for each in asked.values() for request in each[::8]]
    cases = [
        {"role": role, "policies": roles[role], "action": action, "resource": resource, "context": context}
        for role, own in asked.items()
        for action, resource, context in [*own, *sample]
    ]
    theirs = simulated(cases)
    differing = []
    for case, decided in zip(cases, theirs, strict=True):
        own = ours(case["policies"], case["action"], case["resource"], case["context"])
        if own is not decided:
            differing.append((case["role"], case["action"], case["resource"], case["context"], own, decided))
    assert differing == []
    assert theirs.count(Decision.ALLOW) > 100
    assert theirs.count(Decision.NOTHING) > 300


# Their keys must be real ones, and of the type that AWS has.
REAL = {"absent": "aws:PrincipalTag/absent", "s3:max-keys": "aws:MultiFactorAuthAge"}


def renamed(condition: dict[str, Any]) -> dict[str, Any]:
    return {op: {REAL.get(key, key): value for key, value in each.items()} for op, each in condition.items()}


def test_conditions_mean_the_same_to_both() -> None:
    context = {REAL.get(key, key): value for key, value in KEYS.items() if value is not None and key[-1] != "/"}
    cases = [
        {
            "action": "ecs:UpdateService", "resource": arn("ecs", "service/dev/cineos"), "context": context,
            "policies": [{
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Action": "ecs:*", "Resource": "*", "Condition": renamed(condition)},
                ],
            }],
        }
        for condition, _ in CONDITIONS
    ]  # fmt: skip
    differing = [
        (condition, holds, said)
        for (condition, holds), said in zip(CONDITIONS, simulated(cases), strict=True)
        if said is not (Decision.ALLOW if holds else Decision.NOTHING)
    ]
    assert differing == []
