"""The accounts of the organization: each member has the role by which the management account administers it.

docs.aws.amazon.com/organizations/latest/userguide/orgs_manage_accounts_access.html
"""

import json
from collections.abc import Mapping

from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from deploy_runner.local_aws.machine import ACCOUNT_ID, Machine

ACCESS_ROLE = "OrganizationAccountAccessRole"
_EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}
_LONG = 30 * 24 * 3600  # seconds: longer than local AWS is up


def access_role(account: str) -> str:
    """Return the ARN of a member's role for the administrators of the management account."""
    return f"arn:aws:iam::{account}:role/{ACCESS_ROLE}"


def add_member(account: str) -> None:
    """Make the role that AWS makes in an account that an organization creates."""
    trust = {
        "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT_ID}:root"}, "Action": "sts:AssumeRole",
    }  # fmt: skip
    backend = iam_backends[account]["aws"]
    backend.create_role(
        role_name=ACCESS_ROLE, assume_role_policy_document=json.dumps(_document(trust)), path="/",
        permissions_boundary=None, description="", tags=[], max_session_duration=3600,
    )  # fmt: skip
    backend.put_role_policy(ACCESS_ROLE, "AdministratorAccess", json.dumps(_document(_EVERYTHING)))


def administrator_of(machine: Machine) -> tuple[str, str, str | None]:
    """Return the access key, secret and token of an administrator of a machine's account."""
    if machine.account_id == ACCOUNT_ID:
        return "local", "local", None
    role = sts_backends[machine.account_id]["aws"].assume_role(
        region_name=machine.region, role_session_name="CloudFormation", role_arn=access_role(machine.account_id),
        policy="", duration=_LONG, external_id="",
    )  # fmt: skip
    return role.access_key_id, role.secret_access_key, role.session_token


def _document(statement: Mapping[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": [statement]}
