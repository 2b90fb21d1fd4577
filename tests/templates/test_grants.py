"""Each wildcard has its reason beside it, and no reason stands beside what is not there.

That each grant which nothing used has one as well is a matter of tests/end_to_end/test_grants.py.
"""

from typing import Any

import pytest

from deploy_runner.local_aws.iam.evaluate import glob
from deploy_runner.local_aws.iam.report import has_wildcard

from .grants import RoleGrant, granted
from .stacks import Stack, reasons, trusts


@pytest.fixture(scope="module")
def grants(everything: Stack) -> dict[RoleGrant, str]:
    return dict(granted(everything))


@pytest.fixture(scope="module")
def written(everything: Stack) -> dict[tuple[str, str], dict[str, Any]]:
    return {(role, sid): why for role, each in reasons(everything).items() for sid, why in each.items()}


def wild(grants: dict[RoleGrant, str], stack: Stack) -> set[tuple[str, str]]:
    """Roles and statements that have a wildcard: in an action, a resource, or the value of a condition."""
    found = {(g.role, g.statement) for g, keys in grants.items() if has_wildcard(g.action, g.resource + keys)}
    conditions = {role: [s.get("Condition", {}) for s in policy["Statement"]] for role, policy in trusts(stack).items()}
    return found | {(role, "Trust") for role, each in conditions.items() if has_wildcard("", str(each))}


def test_each_wildcard_has_its_reason(
    grants: dict[RoleGrant, str], written: dict[tuple[str, str], dict[str, Any]], everything: Stack
) -> None:
    explained = {where for where, why in written.items() if "wildcard" in why}
    assert wild(grants, everything) == explained


def test_each_reason_is_of_a_statement_that_exists(
    grants: dict[RoleGrant, str], written: dict[tuple[str, str], dict[str, Any]]
) -> None:
    for (role, sid), why in written.items():
        assert why, (role, sid)
        assert why.keys() <= {"wildcard", "unused"}, (role, sid)
        actions = [g.action for g in grants if (g.role, g.statement) == (role, sid)]
        assert actions or sid == "Trust", f"{role} has no statement {sid}"
        for pattern in why.get("unused", {}):
            assert any(glob(pattern).fullmatch(action) for action in actions), f"{role}, {sid}: {pattern}"


def test_a_reason_is_a_sentence_for_a_reader(written: dict[tuple[str, str], dict[str, Any]]) -> None:
    for why in written.values():
        for text in [why.get("wildcard", "Written"), *why.get("unused", {}).values()]:
            assert isinstance(text, str)
            assert text[:1].isupper()
            assert not text.endswith(".")
