"""What the nested stacks are rendered from: apps.yaml. All else is a parameter of theirs."""

from dataclasses import dataclass
from pathlib import Path

from deploy_runner.domain.apps import Allowlist, App, load_file
from deploy_runner.domain.errors import AllowlistInvalid

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ("dev", "staging", "prod")  # those that template.yaml has a deploy target for

PATH = "/deploy-runner/"
PUSH_PATH = "/deploy-runner/push/"
DEPLOYER_PATH = "/deploy-runner/deployer/"
APPS_PATH = "/apps/"  # where the roles of the apps' own tasks are
ENVIRONMENT_TAG = "deploy-runner:environment"  # on every ECS service that may be deployed to
MAX_ROLE_NAME = 64  # docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html


@dataclass(frozen=True, slots=True)
class Config:
    """The allowlist, which says what apps and targets there are."""

    allowlist: Allowlist

    @property
    def image_repositories(self) -> tuple[str, ...]:
        """Return the ECR repositories of all apps, each once."""
        return tuple(sorted({app.image_repository for app in self.allowlist.apps.values()}))

    def clusters(self, environment: str) -> tuple[str, ...]:
        """Return the ARNs of the ECS clusters of an environment."""
        return tuple(
            sorted(
                f"arn:{at.target.partition}:ecs:{at.target.region}:{at.target.account}:cluster/{at.cluster}"
                for at in {
                    at.cluster: at
                    for app in self.allowlist.apps.values()
                    for at in app.environments.values()
                    if at.name == environment
                }.values()
            )
        )

    def schedules(self, environment: str) -> tuple[str, ...]:
        """Return the ARNs of the schedules that follow the images of an environment."""
        return tuple(
            sorted(
                f"arn:{at.target.partition}:scheduler:{at.target.region}:{at.target.account}:schedule/{s.group}/{s.name}"
                for app in self.allowlist.apps.values()
                for at in app.environments.values()
                if at.name == environment
                for s in at.scheduled_tasks
            )
        )


def read_config(path: Path = ROOT / "apps.yaml") -> Config:
    """Return what apps.yaml says. Raises AllowlistInvalid."""
    return Config(load_file(path))


def deployer_role_name(app: App, environment: str) -> str:
    """Return the name of an app-deployer's role; apps.yaml is refused where IAM would not take it."""
    return f"deployer-{app.name_in(environment)}"


def push_role_name(app: str) -> str:
    """Return the name of an app's push role. Role names are unique in an account whatever their path: hence the prefix.

    Raises AllowlistInvalid where IAM would not take it.
    """
    name = f"push-{app}"
    if len(name) > MAX_ROLE_NAME:
        raise AllowlistInvalid(
            f"apps.{app}: the push role {name} must have at most {MAX_ROLE_NAME} characters. Shorten the app's name."
        )
    return name


def logical_id(*words: str) -> str:
    """Return words as a CloudFormation logical id: unique for different names of apps and repositories.

    Letters and digits alone are allowed there, so that what else a name may hold is spelled out.
    """
    spelled = {"-": "Dash", ".": "Dot", "_": "Underscore", "/": "Slash"}
    return "".join("".join(spelled.get(c, c) for c in word[:1].upper() + word[1:]) for word in words)
