"""What runs in an environment, read from ECS in its target: that is what a promotion takes to another."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.ecs import describe_definition, describe_service
from deploy_runner.domain.apps import App, Environment, Service, Target
from deploy_runner.domain.errors import NotPromotable
from deploy_runner.domain.request import SHA
from deploy_runner.domain.task_definition import DEPLOYMENT_TAG, SHA_TAG, tag_of

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient


@dataclass(frozen=True)
class Current:
    """What runs in an environment, as domain.allow.Current."""

    deployment: str
    sha: str
    digest: str


@dataclass(frozen=True)
class EcsRunning:
    """ECS's word, as domain.allow.Running. `ecs_in` gives a client that acts in a target; images are in `registry`."""

    ecs_in: Callable[[Target], "ECSClient"]
    registry: str

    def current(self, app: App, environment: Environment) -> Current:
        """Return what all services of the app run in an environment.

        Raises NotPromotable where a rollout is under way or failed, where they run something else than one image of the
        app by its digest, or where we did not deploy it; TargetMisconfigured and AwsUnavailable as reading ECS does.
        """
        ecs = self.ecs_in(environment.target)
        image = re.compile(re.escape(f"{self.registry}/{app.image_repository}") + "@(sha256:[0-9a-f]{64})")
        found = {s.name: _of_service(ecs, environment.cluster, s, image) for s in environment.services}
        if len(set(found.values())) != 1:
            rule = f"All services of {app.name} in {environment.name} must run one deployment's image"
            told = ", ".join(f"{name} runs {current.digest[:19]}" for name, current in found.items())
            raise NotPromotable(f"{rule}: {told[:400]}", None, f"Deploy to {environment.name} first")
        return next(iter(found.values()))


def _of_service(ecs: "ECSClient", cluster: str, service: Service, image: re.Pattern[str]) -> Current:
    found = describe_service(ecs, cluster, service.name)
    place = f"{cluster}/{service.name}"
    primary: Mapping[str, Any] = next((d for d in found["deployments"] if d.get("status") == "PRIMARY"), {})
    # ECS gives no state behind a Classic Load Balancer, and while it shifts traffic the old version serves too:
    # docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Deployment.html
    if primary.get("rolloutState") != "COMPLETED":
        rule = f"The rollout of {place} must be COMPLETED"
        raise NotPromotable(rule, primary.get("rolloutState") or "unknown", "Wait until it is, or deploy there again")
    definition, tags = describe_definition(ecs, str(primary["taskDefinition"]))
    images = {c.get("name"): str(c.get("image")) for c in definition.get("containerDefinitions", [])}
    digests = {name: image.fullmatch(images.get(name, "")) for name in service.containers}
    for name, digest in digests.items():
        if digest is None:
            rule = f"The container {name} of {place} must run the app's image by its digest"
            raise NotPromotable(
                rule, images.get(name, "no such container"), "Deploy there with the deploy runner first"
            )
    if len({digest.group(1) for digest in digests.values() if digest}) != 1:
        raise NotPromotable(f"All containers of {place} must run one digest", None, "Deploy there again")
    deployment, sha = tag_of(tags, DEPLOYMENT_TAG), tag_of(tags, SHA_TAG)
    if not deployment or not sha or not SHA.fullmatch(sha):
        rule = f"The task definition of {place} must be one that the deploy runner registered, with its commit in a tag"
        raise NotPromotable(rule, definition.get("taskDefinitionArn"), "Deploy there with the deploy runner first")
    return Current(deployment, sha, next(digest.group(1) for digest in digests.values() if digest))
