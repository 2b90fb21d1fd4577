"""Takes back what a deployment began, and nothing else. May be done twice, late, and after someone else's changes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import TargetClients, aws_errors, code_of
from deploy_runner.aws.ecs import describe_definition, find_rollout, observe
from deploy_runner.aws.schedules import point_back
from deploy_runner.domain.errors import DeployRunnerError, NothingDeployed, TargetMisconfigured
from deploy_runner.domain.rollback import Over, PutBack, Step, Stop, combine, next_step
from deploy_runner.domain.rollout import Rollout, is_visible, version

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient

# What is read right after an update may be old by seconds; so may what is read after one of ours.
LOOKS_AGAIN_AFTER = (0.3, 0.7, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, slots=True)
class WayBack:
    """What became of taking a deployment back: the rollouts that are to be waited for, or the end of the services.

    `problem` says what else could not be taken back.
    """

    rollouts: tuple[Rollout, ...]
    end: Over | None
    problem: str = ""

    @property
    def is_over(self) -> bool:
        """Tell whether nothing of the deployment rolls out any more, and nothing goes back."""
        return self.end is not None


def roll_back(
    clients: TargetClients,
    deployment: Mapping[str, Any],
    revisions: Sequence[Mapping[str, Any]] | None,
    sleep: Callable[[float], None] = time.sleep,
) -> WayBack:
    """Take back every service and schedule of a deployment, or see how far that is.

    `revisions` are its rollouts; with None those that an app-deployer left are looked for. Raises AwsUnavailable and
    TargetMisconfigured.
    """
    rollouts = [Rollout(**each) for each in revisions] if revisions is not None else _left(clients.ecs, deployment)
    services = [rollout for rollout in rollouts if rollout.service]
    steps = _take_back(clients.ecs, services, sleep)  # first, since people wait
    problems = [problem for each in rollouts if each.schedule and (problem := point_back(clients.scheduler, each))]
    return WayBack(tuple(services), combine(steps), "; ".join(problems))


def _left(ecs: "ECSClient", deployment: Mapping[str, Any]) -> list[Rollout]:
    found = []
    for service in deployment["target"]["services"]:
        try:
            found.append(find_rollout(ecs, deployment, service))
        except NothingDeployed:
            continue
    return found


def _take_back(ecs: "ECSClient", services: Sequence[Rollout], sleep: Callable[[float], None]) -> list[Step]:
    """Do what is to be done for each service, until all are on their way back or there. They share the pauses."""
    steps: dict[int, Step] = {}
    todo = set(range(len(services)))
    for pause in (*LOOKS_AGAIN_AFTER, None):
        for number in sorted(todo):
            steps[number], known = _do_next(ecs, services[number])
            if known:
                todo.remove(number)
        if not todo or pause is None:
            break
        sleep(pause)
    return [step for _, step in sorted(steps.items())]


def _do_next(ecs: "ECSClient", rollout: Rollout) -> tuple[Step, bool]:
    """Return the next step for a service, done, and whether it need not be looked at again soon."""
    seen = observe(ecs, rollout)
    step = next_step(rollout, seen)
    if isinstance(step, Stop):
        _stop(ecs, rollout, step.service_deployment)
    elif isinstance(step, PutBack):
        refused = _put_back(ecs, rollout, step.task_definition)
        return refused or step, refused is not None
    return step, not isinstance(step, Stop) and is_visible(rollout, seen)


def _stop(ecs: "ECSClient", rollout: Rollout, service_deployment: str) -> None:
    remedy = "Let the target's role stop the deployments of its services"
    try:
        with aws_errors(f"The rollout of {rollout.cluster}/{rollout.service} must be stoppable", remedy):
            ecs.stop_service_deployment(serviceDeploymentArn=service_deployment, stopType="ROLLBACK")
    except DeployRunnerError as error:
        # It ended, or was stopped, a moment ago: the next reading says how.
        # docs.aws.amazon.com/AmazonECS/latest/APIReference/API_StopServiceDeployment.html, "Errors"
        ended = ("ConflictException", "ServiceDeploymentNotFoundException", "InvalidParameterException")
        if code_of(error.__cause__ or error) not in ended:  # type: ignore[arg-type]
            raise


def _put_back(ecs: "ECSClient", rollout: Rollout, before: str) -> Over | None:
    """Update a service to the revision before ours. Return the end where that cannot be."""
    try:
        definition, _ = describe_definition(ecs, before)
        if definition.get("status") != "ACTIVE":
            why = f"{version(before)} is {definition.get('status')}, so it cannot be put back"
            return Over(False, f"{rollout.service}: {why}")
        with aws_errors(
            f"The service {rollout.service} must take the revision before", "Let the target's role update it"
        ):
            ecs.update_service(cluster=rollout.cluster, service=rollout.service, taskDefinition=before)
    except TargetMisconfigured as error:
        return Over(False, f"{rollout.service}: {version(before)} could not be put back ({error.rule})")
    return None
