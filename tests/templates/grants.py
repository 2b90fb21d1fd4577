"""The grants of the templates as somebody wrote them: what differs by app, place, account or runner task is one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from deploy_runner.local_aws.iam.evaluate import named_statements
from templates.config import ENVIRONMENTS, read_config

from .stacks import Stack, documents, listed


@dataclass(frozen=True, order=True)
class RoleGrant:
    """One action on one resource, in a statement of a role."""

    role: str
    statement: str
    action: str
    resource: str

    @property
    def as_written(self) -> "RoleGrant":
        """The same for every app, environment, account and kind of runner task."""
        return replace(self, role=_role(self.role), resource=_resource(self.role, self.resource))

    def __str__(self) -> str:
        return f"{self.role}, {self.statement}: {self.action} on {self.resource}"


def granted(stack: Stack) -> Iterator[tuple[RoleGrant, str]]:
    """Every grant of every role, with the conditions of its statement. An attached policy of AWS's is one grant."""
    for role, found in documents(stack).items():
        for document in found:
            for sid, statement in named_statements(document):
                for action in listed(statement["Action"]) if statement["Effect"] == "Allow" else []:
                    for resource in listed(statement["Resource"]):
                        yield RoleGrant(role, sid, action, resource), str(statement.get("Condition", ""))
    for each in stack.all():
        for role in each.of_type("AWS::IAM::Role").values():
            for arn in role.get("ManagedPolicyArns", []):
                yield RoleGrant(role["RoleName"], arn.rpartition("/")[2], "*", "*"), ""


_ALLOWLIST = read_config().allowlist
_APPS = "|".join(map(re.escape, _ALLOWLIST.apps))
_IMAGES = "|".join(re.escape(app.image_repository) for app in _ALLOWLIST.apps.values())
_PLACES = "|".join(map(re.escape, {*ENVIRONMENTS, *_ALLOWLIST.targets}))
_RUNNER_TASKS = "docker-builder|terraform-runner|app-deployer"


def _role(name: str) -> str:
    name = re.sub(rf"^([a-z]+)-({_APPS})$", r"\1-APP", name)
    name = re.sub(rf"^deployer-({_APPS})-({_PLACES})$", "deployer-APP-ENVIRONMENT", name)
    name = re.sub(rf"^deploy-target-({_PLACES})", "deploy-target-ENVIRONMENT", name)
    return re.sub(rf"^deploy-runner-({_RUNNER_TASKS})-execution$", "deploy-runner-TASK-execution", name)


def _resource(role: str, arn: str) -> str:
    arn = re.sub(r":[0-9]{12}:", ":ACCOUNT:", arn)
    arn = re.sub(rf":repository/({_IMAGES})(?=/cache$|$)", ":repository/APP", arn)
    arn = re.sub(rf"/deploy-target-({_PLACES})$", "/deploy-target-ENVIRONMENT", arn)
    if role.startswith("deployer-"):
        arn = re.sub(rf"/({_PLACES})/({_APPS})(?=/|$)", "/ENVIRONMENT/APP", arn)
        arn = re.sub(rf"/({_APPS})([-/])({_PLACES})(?=[:/])", r"/APP\2ENVIRONMENT", arn)
    if role.endswith("-execution"):
        arn = re.sub(rf"(?<=/)({_RUNNER_TASKS})(?=$|:)", "TASK", arn)
    return arn
