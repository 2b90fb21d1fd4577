"""docs/iam.md: who may do what and why, from template.yaml and the nested stacks."""

import re
from collections.abc import Iterator
from typing import Any

from cfn_flip import load

from templates.config import ENVIRONMENTS, ROOT, Config

POLICIES = ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy")
DOCUMENT = ROOT / "docs" / "iam.md"
INTRODUCTION = """\
# Who may do what, and why

<!-- Written by templates/grants_doc.py (make build) from template.yaml and templates/. -->

Every role of the stack with its statements. Where one does not name what it allows thing by thing (a `*` or `?`), or
grants what no end-to-end test uses, the reason stands beside it. Tests fail where a reason is missing or untrue.
Of roles that are there for each app, one is shown. `deploy-runner local iam` shows the same of a running local AWS,
with how often each grant was used.
"""


def build(config: Config, rendered: dict[str, str]) -> str:
    """Return the document. `rendered` has the text of every nested stack by its file's name."""
    templates = {"template.yaml": (ROOT / "template.yaml").read_text()} | {
        f"templates/{name.removesuffix('.yaml')}.py": text
        for name, text in sorted(rendered.items())
        if name.endswith(".yaml")
    }
    resources = {source: load(text)[0]["Resources"] for source, text in templates.items()}
    policies = [one for each in resources.values() for one in each.values() if one["Type"] in POLICIES]
    parts = [INTRODUCTION]
    for source, each in resources.items():
        for name, role in _one_of_each(each, config):
            # Another stack gets a role's name by a parameter that is called as the role is.
            attached = [policy for policy in policies if {"Ref": name} in policy["Properties"]["Roles"]]
            parts.append(_section(role, source, attached))
    return "\n".join(parts)


def _one_of_each(resources: dict[str, Any], config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the roles; of those that each app has, perhaps in each environment, the first."""
    apps, places, seen = "|".join(map(re.escape, config.allowlist.apps)), "|".join(ENVIRONMENTS), set()
    for name, resource in resources.items():
        if resource["Type"] == "AWS::IAM::Role":
            kind = re.sub(rf"-({apps})(-({places}))?$", "-APP", _text(resource["Properties"]["RoleName"]))
            if kind not in seen:
                seen.add(kind)
                yield name, resource


def _section(role: dict[str, Any], source: str, attached: list[dict[str, Any]]) -> str:
    properties = role["Properties"]
    reasons = dict(role.get("Metadata", {}).get("Reasons", {}))
    found = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    for policy in attached:
        found.append(policy["Properties"]["PolicyDocument"])
        reasons |= policy.get("Metadata", {}).get("Reasons", {})
    trust = [_trusted(statement) for statement in properties["AssumeRolePolicyDocument"]["Statement"]]
    title = f"## {_text(properties['RoleName'])}\n\nIn {source}. Assumed by {'; '.join(trust)}."
    if why := _why(reasons.get("Trust", {})):
        title += f" {why}"
    rows = [_row(statement, reasons) for document in found for statement in document["Statement"]]
    for arn in properties.get("ManagedPolicyArns", []):
        name = _text(arn).rpartition("/")[2]
        rows.append(f"| {name} | AWS's own policy | | | {_why(reasons.get(name, {}))} |")
    if not rows:
        return f"{title}\n\nIt may do nothing.\n"
    head = "| statement | allows | on | where | why |\n|---|---|---|---|---|\n"
    return f"{title}\n\n{head}" + "\n".join(rows) + "\n"


def _row(statement: dict[str, Any], reasons: dict[str, Any]) -> str:
    sid = statement.get("Sid", "")
    actions = ", ".join(f"`{action}`" for action in _listed(statement["Action"]))
    denied = "**denies** " if statement["Effect"] == "Deny" else ""
    resources = ", ".join(f"`{_text(resource)}`" for resource in _listed(statement["Resource"]))
    return f"| {sid} | {denied}{actions} | {resources} | {_conditions(statement)} | {_why(reasons.get(sid, {}))} |"


def _why(reason: dict[str, Any]) -> str:
    said = [reason["wildcard"]] if "wildcard" in reason else []
    unused: dict[str, list[str]] = {}
    for pattern, why in reason.get("unused", {}).items():
        unused.setdefault(why, []).extend([] if pattern == "*" else [f"`{pattern}`"])
    for why, patterns in unused.items():
        said += [" ".join(["Not used by the tests", *([f"({', '.join(patterns)})"] if patterns else [])]), why]
    return " ".join(f"{each}." for each in said)


def _trusted(statement: dict[str, Any]) -> str:
    kinds = statement["Principal"].items()
    who = ", ".join(f"`{_text(one)}`" for _, principals in kinds for one in _listed(principals))
    conditions = _conditions(statement)
    return f"{who} where {conditions}" if conditions else who


def _conditions(statement: dict[str, Any]) -> str:
    return ", ".join(
        f"{operator} `{key}` {' or '.join(f'`{_text(value)}`' for value in _listed(values))}"
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    """Return a value of a template as a reader takes it: references by name, ARNs from their service on."""
    match value:
        case {"Ref": name}:
            return f"{name}"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"{name}" if attribute == "Arn" else f"{name}.{attribute}"
        case {"Fn::FindInMap": [name, *_]}:
            return f"{name} of apps.yaml"
        case {"Fn::If": [_, one, _]}:
            return _text(one)
        case {"Fn::Sub": [text, *_]} | {"Fn::Sub": text}:
            text = re.sub(r"^arn:\$\{AWS::Partition\}:", "", text)
            return text.replace("${AWS::Region}:${AWS::AccountId}:", "").replace("::${AWS::AccountId}:", ":")
    return str(value)
