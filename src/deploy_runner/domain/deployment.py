"""The deployment: an accepted request with every parameter of the later states. It is the state machine's one variable.

It stands in the execution's history, so nothing in it may be secret.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deploy_runner.domain.allow import Accepted
from deploy_runner.domain.apps import APP_DEPLOYER, App, Environment
from deploy_runner.domain.errors import TargetMisconfigured
from deploy_runner.domain.request import Request

# A mount, so Kaniko leaves what is below it out of the image (GoogleContainerTools/kaniko#464): a name that no app's
# Dockerfile uses, as many would use /workspace.
WORKSPACE = "/deploy-runner"
SOURCE_DIRECTORY = f"{WORKSPACE}/source"


@dataclass(frozen=True, slots=True)
class Installation:
    """What the installed stack tells its functions about itself."""

    builder_arm64: str
    builder_x86_64: str
    deployer_arm64: str
    deployer_x86_64: str
    push_role_arn_prefix: str
    deployer_role_arn_prefix: str
    registry: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Installation":
        """Read it from a function's environment variables."""
        tasks = ("BUILDER_TASK_DEFINITION_", "APP_DEPLOYER_TASK_DEFINITION_")
        definitions = [environment[f"{task}{cpu}"] for task in tasks for cpu in ("ARM64", "X86_64")]
        others = ("PUSH_ROLE_ARN_PREFIX", "DEPLOYER_ROLE_ARN_PREFIX", "REGISTRY_PREFIX")
        return cls(*definitions, *(environment[name] for name in others))


@dataclass(frozen=True, slots=True)
class Execution:
    """The execution that carries the deployment; its name is the deployment's id."""

    arn: str
    name: str
    started_at: str


def image_tag(app: App, sha: str) -> str:
    """Return the identity of an image: the SHA and 12 hex digits of its build settings and architecture.

    Changed build arguments are a new image, though the commit is the same.
    """
    settings = {
        "architecture": app.architecture,
        "build_args": dict(app.build_args),
        "context": app.context,
        "dockerfile": app.dockerfile,
        "submodules": app.submodules,
    }
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{sha}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def clone_command(app: App, sha: str) -> list[str]:
    """Return the arguments of the clone container: the one repository at the exact SHA into the shared volume."""
    command = ["--repository", app.repository.name, "--repository-id", str(app.repository.id)]
    command += ["--sha", sha, "--directory", SOURCE_DIRECTORY]
    return [*command, "--submodules"] if app.submodules else command


def kaniko_command(app: App, sha: str, repository_uri: str) -> list[str]:
    """Return the arguments of Kaniko's executor; its flags: github.com/osscontainertools/kaniko, README.md.

    The tag that FindImage asks for is pushed last, so it stands for a push that is complete. Where tags are immutable a
    second build of a commit finds the SHA's tag taken, which is no error, and there is no `latest`.
    """
    tags = [sha, image_tag(app, sha)] if app.immutable_tags else [sha, "latest", image_tag(app, sha)]
    context = SOURCE_DIRECTORY if app.context in (".", "./") else f"{SOURCE_DIRECTORY}/{app.context}"
    return [
        f"--context=dir://{context}",
        f"--dockerfile={SOURCE_DIRECTORY}/{app.dockerfile}",
        *(f"--destination={repository_uri}:{tag}" for tag in tags),
        *(f"--build-arg={key}={value}" for key, value in app.build_args),
        *(["--push-ignore-immutable-tag-errors=true"] if app.immutable_tags else []),
        "--cache=true",
        f"--cache-repo={repository_uri}/cache",
        "--compressed-caching=false",  # layers are not held in memory
        "--push-retry=3",
        "--image-download-retry=3",
        f"--label=org.opencontainers.image.revision={sha}",
    ]


def runner_environment(deployment_id: str, app: App, environment: Environment, sha: str) -> list[dict[str, str]]:
    """Return the environment that every runner task gets, in the form of ECS's container overrides."""
    values = {
        "APP_NAME": app.name,
        "GIT_REF": sha,
        "ENVIRONMENT": environment.name,
        "ECR_REPOSITORY": app.image_repository,
        "ECS_CLUSTER": environment.cluster,
        "ECS_SERVICE": ",".join(service.name for service in environment.services),
        "DEPLOYMENT_ID": deployment_id,
    }
    return [{"Name": name, "Value": value} for name, value in values.items()]


def deploy_command(app: App, environment: Environment, sha: str, repository_uri: str) -> list[str]:
    """Return the arguments of app-deployer's own container: the image, and the containers that shall run it."""
    containers = [name for service in environment.services for name in service.containers]
    image = f"--image={repository_uri}:{image_tag(app, sha)}"
    return [image, *(f"--container={name}" for name in containers)]


def _app_deployer(app: App, environment: Environment, sha: str, uri: str, installation: Installation) -> dict[str, Any]:
    """Return the parameters of the state RunAppDeployer. Raises TargetMisconfigured for a target that is elsewhere."""
    definitions = {"ARM64": installation.deployer_arm64, "X86_64": installation.deployer_x86_64}
    _, _, _, region, account, *_ = definitions[app.architecture].split(":")
    if (environment.target.account, environment.target.region) != (account, region):
        rule = f"An {APP_DEPLOYER} must deploy to the account and region that it runs in, {account} and {region}"
        value = f"{environment.target.account} {environment.target.region}"
        raise TargetMisconfigured(rule, value, f"Let docker-builder build {app.name}: remove `runner` from apps.yaml")
    return {
        "task_definition": definitions[app.architecture],
        "task_role": f"{installation.deployer_role_arn_prefix}{app.name_in(environment.name)}",
        "deploy_command": deploy_command(app, environment, sha, uri),
    }


def _release(environment: Environment, action: str, region: str) -> dict[str, Any] | None:
    """Return the parameters of the state RunRelease. Raises TargetMisconfigured for a target in another region.

    What is put back runs none: an older version's migrations need not know what a newer one's have done.
    """
    if not environment.release_command or action not in ("deploy", "promote"):
        return None
    if environment.target.region != region:
        # A state's Credentials reach other accounts, not other regions:
        # docs.aws.amazon.com/step-functions/latest/dg/concepts-access-cross-acct-resources.html
        rule = f"A release_command must run in the region that the deploy runner is in, {region}"
        raise TargetMisconfigured(rule, environment.target.region, "Remove `release_command` there from apps.yaml")
    first = environment.services[0]
    command = list(environment.release_command)
    return {"service": first.name, "container": first.containers[0], "command": command}


def _locks(app: App, environment: Environment, image: str, digest: str | None) -> dict[str, list[str]]:
    """Return the names of the locks that a build and the service change take; what has a digest is not built."""
    unit = [f"unit/{environment.unit}"] if environment.unit else []
    return {
        "build": [f"image/{app.image_repository}:{image}"] if digest is None else [],
        "deploy": [f"app/{app.name}/{environment.name}", *unit],
    }


def build_deployment(
    request: Request, accepted: Accepted, execution: Execution, installation: Installation
) -> dict[str, Any]:
    """Return the deployment variable of the state machine (its keys are the contract between the states)."""
    app, environment, sha, origin = accepted.app, accepted.environment, accepted.sha, accepted.origin
    uri = f"{installation.registry}/{app.image_repository}"
    tag = image_tag(app, sha)
    builders = {"ARM64": installation.builder_arm64, "X86_64": installation.builder_x86_64}
    source = request.source
    return {
        "id": execution.name,
        "execution_arn": execution.arn,
        "started_at": execution.started_at,
        "app": app.name,
        "environment": environment.name,
        "action": request.action,
        "runner": app.runner,
        "ref": request.ref or sha,
        "sha": sha,
        "digest": accepted.digest,
        "origin": origin and {"deployment": origin.deployment, "started_at": origin.started_at},
        "exact": {service.name: origin.revisions[service.name] for service in environment.services}
        if origin and request.exact
        else None,
        "from": request.promote_from,
        "emergency": accepted.emergency,
        "locks": _locks(app, environment, tag, accepted.digest),
        "queue": environment.queue,
        "repository": app.repository.name,
        "repository_id": app.repository.id,
        "source": source and {"repository": source.repository, "run_id": source.run_id, "run_url": source.run_url},
        "requested_by": request.requested_by,
        "image": {"repository_name": app.image_repository, "repository_uri": uri, "tag": tag},
        "build": {
            "task_definition": builders[app.architecture],
            "task_role": f"{installation.push_role_arn_prefix}{app.name}",
            "clone_command": clone_command(app, sha),
            "kaniko_command": kaniko_command(app, sha, uri),
            "environment": runner_environment(execution.name, app, environment, sha),
        },
        "app_deployer": _app_deployer(app, environment, sha, uri, installation)
        if app.runner == APP_DEPLOYER and request.action == "deploy"
        else None,
        "target": {
            "account": environment.target.account,
            "region": environment.target.region,
            "role_arn": environment.target.role_arn,
            "cluster": environment.cluster,
            "services": [{"name": s.name, "containers": list(s.containers)} for s in environment.services],
            "task_definition_base": environment.task_definition_base,
        },
        "release": _release(environment, request.action, installation.builder_arm64.split(":")[3]),
        "schedules": [
            {"group": s.group, "name": s.name, "containers": list(s.containers)} for s in environment.scheduled_tasks
        ],
        "timeouts": asdict(environment.timeouts),
    }
