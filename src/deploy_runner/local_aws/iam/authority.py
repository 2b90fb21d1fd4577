"""Who acts, and whether they may: moto's roles and sessions, held to their policies.

moto's own check (`moto.iam.access_control`) leaves out resources and most conditions, and is off in its server unless
asked for; no issue upstream covers both.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from deploy_runner.local_aws.iam.evaluate import (
    Asked,
    Decision,
    Match,
    PolicyNotUnderstood,
    Principal,
    Value,
    identity_says,
    matches,
    parsed,
    resource_says,
    strongest,
)
from deploy_runner.local_aws.iam.record import RECORD, Used
from deploy_runner.local_aws.iam.resources import owner_of, policy_of
from deploy_runner.local_aws.machine import Machine

# AWS renews a task's and a function's credentials while it runs; here they are environment variables.
NEVER_RENEWED_SECONDS = 30 * 24 * 3600


class AccessDenied(Exception):
    """The text is AWS's message."""


class CannotAssume(AccessDenied):
    """A service of AWS may not act as a role."""


class InvalidIdentityToken(Exception):
    """A token of an identity provider that is not even held to a trust policy. The text is AWS's message."""


class TokenInvalid(Exception):
    """Temporary credentials that were never handed out, or have expired."""

    def __init__(self, *, expired: bool) -> None:
        super().__init__(f"The security token included in the request is {'expired' if expired else 'invalid'}.")
        self.expired = expired


@dataclass(frozen=True)
class Session:
    """A role's session."""

    account: str
    role_arn: str
    name: str
    policy: str = ""  # the session policy of AssumeRole

    @property
    def arn(self) -> str:
        """The session's ARN, which has no path."""
        partition = self.role_arn.split(":")[1]
        return f"arn:{partition}:sts::{self.account}:assumed-role/{self.role_arn.rpartition('/')[2]}/{self.name}"

    @property
    def principal(self) -> Principal:
        """The session as policies name it."""
        return Principal(arn=self.arn, role_arn=self.role_arn)


def session_of(access_key: str, token: str) -> Session | None:
    """Return whose temporary credentials these are, None for those of a person. Raises TokenInvalid."""
    if not access_key.startswith("ASIA") and not token:
        return None
    for partitions in list(sts_backends.values()):
        for backend in list(partitions.values()):
            found = backend.get_assumed_role_from_access_key(access_key)
            if found is None:
                continue
            if found.session_token != token:
                raise TokenInvalid(expired=False)
            if found.expiration.replace(tzinfo=UTC) < datetime.now(UTC):
                raise TokenInvalid(expired=True)
            return Session(found.account_id, found.role_arn, found.session_name, found.policy or "")
    raise TokenInvalid(expired=False)


def check(session: Session, needs: Iterable[Asked]) -> None:
    """Raise AccessDenied unless the session may do all of this."""
    role = role_of(session.role_arn)
    for asked in needs:
        whole = Asked(asked.action, asked.resource, {**_everywhere(session, role), **asked.context})
        used: list[Used] = []
        reason = _why_not(session, role, whole, used)
        if reason:
            message = denied(session.arn, asked.action, asked.resource, reason)
            RECORD.refuse(session.role_arn, asked.action, asked.resource, message)
            raise AccessDenied(message)
        RECORD.allow(used)


def denied(who: str, action: str, resource: str, reason: str) -> str:
    """Return AWS's words: IAM User Guide, "Troubleshoot access denied error messages".

    Three services write the action or the resource in their own way: aws-ia/terraform-aws-control_tower_account_factory
    #151 quotes SNS, aws/serverless-application-model#3633 SQS, aws-ia/terraform-aws-bedrock#41 S3.
    """
    service, _, name = action.partition(":")
    if service == "sns":
        action = f"SNS:{name}"
    elif service == "sqs":
        action = action.lower()
    elif service == "s3":
        resource = f'"{resource}"'
    if reason.startswith("because no "):
        reason += f" allows the {action} action"
    return f"User: {who} is not authorized to perform: {action} on resource: {resource} {reason}"


def _why_not(session: Session, role: Any, asked: Asked, used: list[Used]) -> str:
    """Return why a session may not do something, nothing where it may; then `used` has what allowed it.

    In one account a resource's policy that names the role itself is enough, but for a boundary or a session policy that
    does not allow it: IAM User Guide, "Policy evaluation for requests within a single account". A resource in another
    account has to let the role in as well: "Cross-account policy evaluation logic".
    """
    if role is None:
        return f"because the role {session.role_arn} does not exist"
    try:
        found = [(name, match) for name, text in identity_policies(role) for match in matches(parsed(text), asked)]
        said = {"identity-based policy": strongest(match.effect for _, match in found)}
        if role.permissions_boundary_arn:
            boundary = parsed(_managed(role, role.permissions_boundary_arn))
            said["permissions boundary"] = identity_says([boundary], asked)
        if session.policy:
            said["session policy"] = identity_says([parsed(session.policy)], asked)
        on_resource = policy_of(asked.action, asked.resource)
        by_resource, itself = resource_says(on_resource, asked, session.principal)
    except (PolicyNotUnderstood, ValueError) as error:
        return f"because {error}"
    for kind, decision in {**said, "resource-based policy": by_resource}.items():
        if decision is Decision.DENY:
            return f"with an explicit deny in {'an' if kind[0] == 'i' else 'a'} {kind}"
    if _is_elsewhere(session, asked):
        said["resource-based policy"] = by_resource
    elif by_resource is Decision.ALLOW and itself:
        del said["identity-based policy"]
    missing = [kind for kind, decision in said.items() if decision is Decision.NOTHING]
    used += [used_grant for name, match in found for used_grant in _used(session, name, match)]
    return f"because no {missing[0]}" if missing else ""


def _is_elsewhere(session: Session, asked: Asked) -> bool:
    """Whether the resource is another account's. Of roles to assume, `check_assume` looks at the trust policy."""
    account = owner_of(asked.resource)
    return bool(account) and account != session.account and not asked.action.startswith("sts:")


def _used(session: Session, policy: str, match: Match) -> Iterator[Used]:
    for action, resource in match.grants:
        yield Used(session.role_arn, policy, match.statement, action, resource)


def check_assume(session: Session, role_arn: str, context: Mapping[str, Value], action: str = "sts:AssumeRole") -> None:
    """Raise AccessDenied unless a session may assume a role, by its own policies and the role's trust policy.

    In one account it is enough that the trust policy names the session's role itself.
    """
    role = role_of(role_arn)
    own = _everywhere(session, role_of(session.role_arn))
    reason = "because no resource-based policy"
    try:
        said, itself = _trusts(role, Asked(action, role_arn, {**own, **context}), session.principal)
    except (PolicyNotUnderstood, ValueError) as error:
        said, itself, reason = Decision.NOTHING, False, f"because {error}"
    if said is Decision.DENY:
        reason = "with an explicit deny in a resource-based policy"
    same_account = role_arn.split(":")[4] == session.account
    if said is not Decision.ALLOW or not (itself and same_account):
        check(session, [Asked(action, role_arn, context)])
    if said is not Decision.ALLOW:
        message = denied(session.arn, action, role_arn, reason)
        RECORD.refuse(role_arn, action, role_arn, message)
        raise AccessDenied(message)
    RECORD.enter(role_arn, session.arn)


def check_assume_as_person(account: str, asked: Asked) -> None:
    """Raise AccessDenied unless a role's trust policy lets the account's administrator in, who has all other rights."""
    user = f"arn:aws:iam::{account}:user/local"
    person = Principal(arn=user, role_arn=user)
    keys: dict[str, Value] = {
        "aws:PrincipalArn": user, "aws:PrincipalAccount": account, "aws:PrincipalType": "User", "aws:username": "local",
        "aws:PrincipalIsAWSService": "false", "aws:PrincipalTag/": None, "aws:SourceArn": None,
        "aws:SourceAccount": None, "aws:MultiFactorAuthPresent": None, "aws:PrincipalOrgID": None,
        "aws:SecureTransport": "true",
    }  # fmt: skip
    reason = "because no resource-based policy"
    try:
        whole = Asked(asked.action, asked.resource, keys | dict(asked.context))
        said, _ = _trusts(role_of(asked.resource), whole, person)
    except (PolicyNotUnderstood, ValueError) as error:
        said, reason = Decision.NOTHING, f"because {error}"
    if said is not Decision.ALLOW:
        raise AccessDenied(denied(user, asked.action, asked.resource, reason))
    RECORD.enter(asked.resource, "a person")


def assume_as_service(
    machine: Machine, role_arn: str, service: str, source_arn: str, session_name: str, seconds: int
) -> Any:
    """Return a role's session (of moto's) for a service of AWS that acts for `source_arn`. Raises CannotAssume.

    aws:SourceArn and aws:SourceAccount: IAM User Guide, "The confused deputy problem". The role has to be of the same
    account as what the service acts for: "You cannot use the PassRole permission to pass a cross-account role".
    """
    elsewhere = len({owner_of(role_arn), owner_of(source_arn)} - {""}) > 1
    if machine.enforces_iam and elsewhere:
        message = f"{service} cannot act for {source_arn} as a role of another account: {role_arn}"
        RECORD.refuse(role_arn, "sts:AssumeRole", role_arn, message)
        raise CannotAssume(message)
    if machine.enforces_iam and not trusts_service(role_arn, service, source_arn):
        message = f"{service} is unable to assume the role {role_arn} for {source_arn}"
        RECORD.refuse(role_arn, "sts:AssumeRole", role_arn, message)
        raise CannotAssume(message)
    RECORD.enter(role_arn, service)
    return sts_backends[machine.account_id]["aws"].assume_role(
        region_name=machine.region, role_session_name=session_name, role_arn=role_arn, policy="", duration=seconds,
        external_id="",
    )  # fmt: skip


def trusts_service(role_arn: str, service: str, source_arn: str) -> bool:
    """Whether a role's trust policy lets a service of AWS assume it, acting for `source_arn`."""
    try:
        asked = Asked("sts:AssumeRole", role_arn, _of_service(service, source_arn))
        return _trusts(role_of(role_arn), asked, Principal(service=service))[0] is Decision.ALLOW
    except (PolicyNotUnderstood, ValueError):
        return False


def lets_service(action: str, resource: str, service: str, source_arn: str) -> bool:
    """Whether a resource's policy lets a service of AWS do something with it, acting for `source_arn`."""
    try:
        asked = Asked(action, resource, _of_service(service, source_arn))
        said, _ = resource_says(policy_of(action, resource), asked, Principal(service=service))
    except (PolicyNotUnderstood, ValueError):
        return False
    return said is Decision.ALLOW


def _of_service(service: str, source_arn: str) -> dict[str, Value]:
    """Return the keys of a request that a service makes on its own: "The confused deputy problem"."""
    return {
        "aws:SourceArn": source_arn, "aws:SourceAccount": source_arn.split(":")[4],
        "aws:PrincipalIsAWSService": "true", "aws:PrincipalServiceName": service, "aws:SourceOrgID": None,
        "aws:PrincipalArn": None, "sts:ExternalId": None, "aws:PrincipalTag/": None, "aws:SourceOwner": None,
        "aws:SecureTransport": "true", "aws:PrincipalAccount": None, "aws:PrincipalOrgID": None,
    }  # fmt: skip


def trusts_web_identity(role_arn: str, issuer: str, audience: str, claims: Mapping[str, Value]) -> bool:
    """Whether a role's trust policy lets in a token of an issuer, by its claims, which are condition keys.

    Raises InvalidIdentityToken where the account does not know the issuer, or not for this audience: the texts are as
    aws-actions/configure-aws-credentials#721 and awslabs/amazon-eks-irsa-cfn#18 quote them.
    """
    account = role_arn.split(":")[4] if role_arn.count(":") >= 5 else ""
    arn = f"arn:aws:iam::{account}:oidc-provider/{issuer}"
    provider = iam_backends[account]["aws"].open_id_providers.get(arn) if account else None
    if provider is None:
        raise InvalidIdentityToken(f"No OpenIDConnect provider found in your account for https://{issuer}")
    if audience not in provider.client_id_list:
        raise InvalidIdentityToken("Incorrect token audience")
    try:
        asked = Asked("sts:AssumeRoleWithWebIdentity", role_arn, claims)
        said, _ = _trusts(role_of(role_arn), asked, Principal(federated=arn))
    except (PolicyNotUnderstood, ValueError):
        said = Decision.NOTHING
    if said is Decision.ALLOW:
        RECORD.enter(role_arn, f"a token of {issuer}")
    return said is Decision.ALLOW


def refusal(
    machine: Machine, role_arn: str, session_name: str, action: str, resource: str,
    context: Mapping[str, Value] | None = None,
) -> str:  # fmt: skip
    """Return why a role may not do what a service does as that role, nothing where it may."""
    if not machine.enforces_iam:
        return ""
    try:
        account = role_arn.split(":")[4] if role_arn.count(":") >= 5 else machine.account_id
        check(Session(account, role_arn, session_name), [Asked(action, resource, context or {})])
    except AccessDenied as error:
        return str(error)
    return ""


def role_of(arn: str) -> Any:
    """Return moto's role of an ARN, None where there is none."""
    parts = arn.split(":")
    if len(parts) < 6:
        return None
    with contextlib.suppress(NotFoundException):
        return iam_backends[parts[4]][parts[1]].get_role_by_arn(arn)
    return None


def _trusts(role: Any, asked: Asked, principal: Principal) -> tuple[Decision, bool]:
    if role is None:
        return Decision.NOTHING, False
    text = role.assume_role_policy_document
    return resource_says(parsed(text if isinstance(text, str) else json.dumps(text)), asked, principal)


def identity_policies(role: Any) -> list[tuple[str, str]]:
    """Return the names and texts of a role's own and attached policies."""
    own = [(str(name), str(text)) for name, text in list(role.policies.items())]
    return own + [(arn.rpartition("/")[2], _managed(role, arn)) for arn in list(role.managed_policies)]


def _managed(role: Any, arn: str) -> str:
    policy = iam_backends[role.account_id][role.partition].get_policy(arn)
    document = next(version.document for version in policy.versions if version.version_id == policy.default_version_id)
    return document if isinstance(document, str) else json.dumps(document)


def _everywhere(session: Session, role: Any) -> dict[str, Value]:
    """Return the keys that every request of a role's session has: "AWS global condition context keys"."""
    now = datetime.now(UTC)
    tags: dict[str, Value] = {f"aws:PrincipalTag/{t['Key']}": t["Value"] for t in (role.tags if role else None) or []}
    role_id = role.id if role else "AROA"
    return tags | {
        "aws:PrincipalTag/": None, "aws:PrincipalArn": session.role_arn, "aws:PrincipalAccount": session.account,
        "aws:PrincipalType": "AssumedRole", "aws:userid": f"{role_id}:{session.name}", "aws:username": None,
        "aws:PrincipalIsAWSService": "false", "aws:PrincipalServiceName": None, "aws:PrincipalOrgID": None,
        "aws:SourceArn": None, "aws:SourceAccount": None, "aws:SourceOwner": None, "aws:SourceVpc": None,
        "aws:SourceVpce": None,
        "aws:ViaAWSService": "false", "aws:CalledVia": None, "aws:MultiFactorAuthPresent": None,
        "aws:MultiFactorAuthAge": None, "aws:FederatedProvider": None, "aws:ResourceOrgID": None,
        "aws:SecureTransport": "true",  # it would be, on AWS's endpoints
        "aws:CurrentTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "aws:EpochTime": str(int(now.timestamp())),
    }  # fmt: skip
