"""Who is granted what, what of it was used, and why the rest is there: `/_local/iam`.

The reasons stand in the templates, beside the policies, as `Metadata` of the resource that has them: by a statement's
Sid, `wildcard` says why its actions or resources are not named one by one, and `unused` why an action is granted though
our tests do not use it, by a pattern of actions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from moto.iam.models import iam_backends

from deploy_runner.local_aws.iam.accounts import ACCESS_ROLE
from deploy_runner.local_aws.iam.authority import identity_policies
from deploy_runner.local_aws.iam.evaluate import glob, listed, named_statements, parsed
from deploy_runner.local_aws.iam.record import RECORD, Record, Used
from deploy_runner.local_aws.machine import Machine

REASONS = "Reasons"  # the key in Metadata


def report(machine: Machine) -> list[dict[str, Any]]:
    """Return every role with its grants, who became it, and what it was refused."""
    there = [role for account in machine.accounts for role in list(iam_backends[account]["aws"].roles.values())]
    roles = [role for role in there if role.name != ACCESS_ROLE]
    reasons, record = dict(_reasons(machine)), RECORD.snapshot()
    in_order = sorted(roles, key=lambda role: str(role.name))
    found = [_role(role, reasons.get(role.name, {}), record) for role in in_order]
    known = {role["arn"] for role in found}
    gone = sorted({refused.role_arn for refused in record.refused} - known)
    nothing: dict[str, Any] = {"grants": [], "entered": {}}
    return found + [{"role": arn, "arn": arn, **nothing, "refused": _refused(arn, record)} for arn in gone]


def _role(role: Any, reasons: Mapping[str, Any], record: Record) -> dict[str, Any]:
    grants = []
    for policy, text in identity_policies(role):
        for name, statement in named_statements(parsed(text)):
            why = reasons.get(name, {})
            for action in listed(statement.get("Action")):
                for resource in listed(statement.get("Resource")):
                    grants.append(
                        {
                            "policy": policy, "statement": name, "effect": statement.get("Effect"), "action": action,
                            "resource": resource, "conditions": statement.get("Condition") or {},
                            "used": record.used[Used(role.arn, policy, name, action, resource)],
                            "wildcard": has_wildcard(action, resource), "why_wildcard": why.get("wildcard", ""),
                            "why_unused": why_unused(why, action),
                        }
                    )  # fmt: skip
    entered = {who: count for (arn, who), count in sorted(record.entered.items()) if arn == role.arn}
    return {
        "role": role.name, "arn": role.arn, "grants": grants, "entered": entered, "refused": _refused(role.arn, record),
    }  # fmt: skip


def _refused(role_arn: str, record: Record) -> list[dict[str, Any]]:
    return [
        {"action": one.action, "resource": one.resource, "message": one.message, "times": times}
        for one, times in sorted(record.refused.items(), key=lambda item: str(item[0]))
        if one.role_arn == role_arn
    ]


def has_wildcard(action: str, resource: str) -> bool:
    """Whether a grant is of more than one action on one resource."""
    return any(character in action + resource for character in "*?")


def why_unused(reasons: Mapping[str, Any], action: str) -> str:
    """Return why a statement grants an action that our tests do not use."""
    patterns = reasons.get("unused", {})
    return next((str(why) for pattern, why in patterns.items() if glob(pattern).fullmatch(action)), "")


def _reasons(machine: Machine) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names of roles with what the templates say of their statements."""
    found: dict[str, dict[str, Any]] = {}
    for kind, physical_id, properties, metadata in machine.stack_resources():
        if REASONS in metadata and kind.startswith("AWS::IAM::"):
            names = [physical_id] if kind == "AWS::IAM::Role" else properties.get("Roles") or []
            for name in names:
                found.setdefault(name, {}).update(metadata[REASONS])
    yield from found.items()
