"""What is asked of ECS in a target: registering and updating, each of which may be tried again, and reading a rollout.

Nothing here sets a service's desired count, or anything else of a service but its task definition.
"""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from deploy_runner.aws.clients import aws_errors, code_of
from deploy_runner.aws.logs import last_lines
from deploy_runner.domain.errors import AwsUnavailable, NothingDeployed, RolloutReplaced, TargetMisconfigured
from deploy_runner.domain.redact import redacted
from deploy_runner.domain.rollout import (
    Deployment,
    Observed,
    Rollout,
    ServiceDeployment,
    StoppedTask,
    is_visible,
    stopped_task,
)
from deploy_runner.domain.task_definition import (
    BASE_TAG,
    ENVIRONMENT_TAG,
    PREVIOUS_TAG,
    Tags,
    check_app_deployer,
    is_of,
    is_ours,
    new_revision,
    our_tags,
    tag_of,
)

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_logs import CloudWatchLogsClient

# The state machine ends within six hours, so a rollout of ours is never older; the seventh allows for clocks.
OLDEST_ROLLOUT = timedelta(hours=7)
MAX_NEWEST_READ = 10  # of one family, in search of what was registered a moment ago
MAX_REVISIONS_READ = 100  # of one family, in search of one that we did not register
MAX_STOPPED_READ = 100  # DescribeTasks takes no more
READ_AGAIN_AFTER = (0.5, 1.0, 2.0, 3.0)  # seconds: a reading may be as old as that
MAX_EVENTS = 20  # of a service, for a report; ECS has the newest hundred

Described = tuple[dict[str, Any], Tags]


# --- services ---------------------------------------------------------------------------------------------------------


def describe_service(ecs: "ECSClient", cluster: str, name: str) -> dict[str, Any]:
    """Return an active service that ECS itself deploys. Raises TargetMisconfigured for any other."""
    place = f"{cluster}/{name}"
    remedy = "Correct `cluster` and `services` in apps.yaml, or create the service with Terraform"
    # One that does not exist has no tag either, so IAM refuses it before ECS could say that it is missing.
    rule = f"The service {place} must exist, with the tag deploy-runner:environment that lets the target's role read it"
    with aws_errors(rule, remedy):
        found = ecs.describe_services(cluster=cluster, services=[name])
    service = next((cast(dict[str, Any], s) for s in found["services"]), None)
    if service is None or service.get("status") != "ACTIVE":
        raise TargetMisconfigured(f"The service {place} must exist and be ACTIVE", _status(service), remedy)
    # CODE_DEPLOY and EXTERNAL are deployed by others; UpdateService refuses a task definition for them.
    controller = service.get("deploymentController", {}).get("type", "ECS")
    if controller != "ECS":
        rule = f"The service {place} must have the deployment controller ECS"
        raise TargetMisconfigured(rule, controller, "Create it anew with deploymentController ECS, or leave it out")
    return service


def _status(service: Mapping[str, Any] | None) -> str:
    return str(service.get("status")) if service else "MISSING"


def check_services(ecs: "ECSClient", deployment: Mapping[str, Any]) -> None:
    """Refuse a target with a service that is missing, or that its runner, or ECS itself, may not deploy."""
    target = deployment["target"]
    for service in target["services"]:
        found = describe_service(ecs, target["cluster"], service["name"])
        if deployment["app_deployer"]:
            definition, _ = describe_definition(ecs, str(found["taskDefinition"]))
            check_app_deployer(definition, deployment["app"], deployment["environment"])


# --- register ---------------------------------------------------------------------------------------------------------


def register_revision(
    ecs: "ECSClient", deployment: Mapping[str, Any], service: Mapping[str, Any], digest: str
) -> Rollout:
    """Register the revision of one service for this deployment, unless that was done already; return its rollout.

    `service` is an entry of the deployment's target: name and containers. Where the deployment names the very revisions
    that it goes back to, there is nothing to register.
    """
    target, name = deployment["target"], str(service["name"])
    found = describe_service(ecs, target["cluster"], name)
    current = str(found["taskDefinition"])
    if deployment.get("exact"):
        return _exact(ecs, deployment, found)
    registered = _registered(ecs, deployment, name, current)
    if registered:
        return _rollout(target, found, *registered, digest)
    family_only = target["task_definition_base"] == "family"
    base, base_tags = _base(ecs, deployment, current)
    ours = _register(ecs, deployment, service, digest, base, base_tags, current, family_only=family_only)
    return Rollout(name, str(found["serviceArn"]), str(target["cluster"]), ours, current, digest=digest)


def register_scheduled(
    ecs: "ECSClient", deployment: Mapping[str, Any], schedule: Mapping[str, Any], current: str, digest: str
) -> Rollout:
    """Register the revision of a scheduled task, as for a service; `current` is the ARN of what the schedule runs."""
    name = f"{schedule['group']}/{schedule['name']}"
    base = describe_definition(ecs, current)
    if is_of(base[1], str(deployment["id"]), name):  # the schedule runs it already
        number = tag_of(base[1], PREVIOUS_TAG)
        return Rollout("", "", "", current, f"{current.rpartition(':')[0]}:{number}", schedule=name)
    registered = _registered(ecs, deployment, name, current)
    if registered:
        return Rollout("", "", "", str(registered[0]["taskDefinitionArn"]), current, schedule=name)
    ours = _register(ecs, deployment, {**schedule, "name": name}, digest, *base, current, family_only=False)
    return Rollout("", "", "", ours, current, schedule=name)


def _register(
    ecs: "ECSClient",
    deployment: Mapping[str, Any],
    of: Mapping[str, Any],
    digest: str,
    base: dict[str, Any],
    base_tags: Tags,
    current: str,
    *,
    family_only: bool,
) -> str:
    """Register a copy of `base` with the image in the containers of a service or schedule. Return its ARN."""
    tags = our_tags(deployment, str(of["name"]), base["taskDefinitionArn"] if family_only else None)
    image = f"{deployment['image']['repository_uri']}@{digest}"
    revision = new_revision(base, base_tags, of["containers"], image, tags | {PREVIOUS_TAG: str(_number(current))})
    remedy = "Let the target's role register and tag task definitions, and pass the roles of this one"
    with aws_errors(f"The target must take a new revision of {base.get('family')}", remedy):
        return str(ecs.register_task_definition(**revision)["taskDefinition"]["taskDefinitionArn"])


def _exact(ecs: "ECSClient", deployment: Mapping[str, Any], service: Mapping[str, Any]) -> Rollout:
    """Return the rollout of a revision that ran before. Raises TargetMisconfigured where it is not there any more."""
    name = str(service["serviceName"])
    wanted = deployment["exact"].get(name)
    rule = f"The deployment {deployment['origin']['deployment']} must have left an ACTIVE revision for {name}"
    remedy = "Roll back without `exact`: its image, on today's task definition"
    if wanted is None:
        raise TargetMisconfigured(rule, None, remedy)
    definition, _ = describe_definition(ecs, wanted)
    if definition.get("status") != "ACTIVE":  # ECS takes no other: API_UpdateService.html
        raise TargetMisconfigured(rule, f"{wanted} is {definition.get('status')}", remedy)
    # What was rolled out earlier under the same revision is not this rollout.
    since = datetime.fromisoformat(deployment["started_at"]).timestamp()
    current = str(service["taskDefinition"])
    cluster = str(deployment["target"]["cluster"])
    return Rollout(name, str(service["serviceArn"]), cluster, wanted, current, since=since)


def release_arguments(ecs: "ECSClient", deployment: Mapping[str, Any], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return the arguments of RunTask for the app's release command: the new revision where its service runs.

    In the names that Step Functions takes: docs.aws.amazon.com/step-functions/latest/dg/connect-ecs.html
    """
    release, target = deployment["release"], deployment["target"]
    rollout = next(each for each in rollouts if each.service == release["service"])
    service = describe_service(ecs, target["cluster"], rollout.service)
    override = {"Name": release["container"], "Command": release["command"]}
    arguments: dict[str, Any] = {
        "Cluster": target["cluster"],
        "TaskDefinition": rollout.task_definition,
        "Group": deployment["id"],
        "Overrides": {"ContainerOverrides": [override]},
        "EnableECSManagedTags": True,
        # By it the target's role may run and stop it.
        "Tags": [{"Key": ENVIRONMENT_TAG, "Value": deployment["environment"]}],
    }
    network = service.get("networkConfiguration", {}).get("awsvpcConfiguration")
    if network:
        pascal = {f"{key[0].upper()}{key[1:]}": value for key, value in network.items()}
        arguments["NetworkConfiguration"] = {"AwsvpcConfiguration": pascal}
    providers = service.get("capacityProviderStrategy")
    if providers:
        arguments["CapacityProviderStrategy"] = [
            {f"{key[0].upper()}{key[1:]}": value for key, value in each.items()} for each in providers
        ]
    else:
        arguments["LaunchType"] = service.get("launchType", "FARGATE")
    if service.get("platformVersion"):
        arguments["PlatformVersion"] = service["platformVersion"]
    return arguments


def find_rollout(
    ecs: "ECSClient", deployment: Mapping[str, Any], service: Mapping[str, Any], *, started: bool = False
) -> Rollout:
    """Return the rollout of the revision that an app-deployer registered for this deployment.

    With `started`, ECS must know the rollout already. Raises NothingDeployed where there is none, or one that runs
    another image than the app's by digest.
    """
    target = deployment["target"]
    found = describe_service(ecs, target["cluster"], service["name"])
    # The service may run a newer one by now: that another deployment replaced ours is for the verdict to say.
    registered = _registered(ecs, deployment, str(service["name"]), str(found["taskDefinition"]), also_older=True)
    remedy = "Look at the log of app-deployer, and deploy again"
    place = f"{target['cluster']}/{service['name']}"
    if registered is None:
        raise NothingDeployed(f"app-deployer must leave a revision of this deployment at {place}", None, remedy)
    images = {c.get("name"): c.get("image") for c in registered[0].get("containerDefinitions", [])}
    for container in service["containers"]:
        if not str(images.get(container)).startswith(f"{deployment['image']['repository_uri']}@sha256:"):
            rule = f"The container {container} of {place} must run the app's image by digest"
            raise NothingDeployed(rule, images.get(container), remedy)
    digest = str(images[service["containers"][0]]).partition("@")[2]
    rollout = _rollout(target, found, *registered, digest)
    if started and not is_visible(rollout, observe(ecs, rollout)):
        raise NothingDeployed(f"app-deployer must have updated {place}", rollout.task_definition, remedy)
    return rollout


def _rollout(
    target: Mapping[str, Any], service: Mapping[str, Any], definition: dict[str, Any], tags: Tags, digest: str = ""
) -> Rollout:
    """Return the rollout of a revision of ours that is registered already."""
    ours = str(definition["taskDefinitionArn"])
    number = tag_of(tags, PREVIOUS_TAG)
    previous = f"{ours.rpartition(':')[0]}:{number}" if number else None
    name, cluster = str(service["serviceName"]), str(target["cluster"])
    return Rollout(name, str(service["serviceArn"]), cluster, ours, previous, digest=digest)


def _registered(
    ecs: "ECSClient", deployment: Mapping[str, Any], service: str, current: str, *, also_older: bool = False
) -> Described | None:
    """Return the revision that a first try of this deployment registered: it is newer than what the service runs.

    With `also_older`, some revisions before that are looked at too.
    """
    for arn in itertools.islice(_newest_first(ecs, _family(current)), MAX_NEWEST_READ):
        described = describe_definition(ecs, arn)
        if is_of(described[1], str(deployment["id"]), service):
            return described
        if arn == current and not also_older:
            break
    return None


def _base(ecs: "ECSClient", deployment: Mapping[str, Any], current: str) -> Described:
    """Return what is copied: the service's revision or, for `family`, the newest that someone else registered."""
    if deployment["target"]["task_definition_base"] != "family":
        return describe_definition(ecs, current)
    base = None
    for count, arn in enumerate(_newest_first(ecs, _family(current))):
        # Ours names the newest foreign revision of its time. Only one that was registered at the same moment can lie
        # between the two, so it is looked for nearby alone.
        if base and (count >= MAX_NEWEST_READ or _number(arn) <= _number(base)):
            return describe_definition(ecs, base)
        definition, tags = describe_definition(ecs, arn)
        if not is_ours(tags):
            return definition, tags
        base = base or tag_of(tags, BASE_TAG)
        if count >= MAX_REVISIONS_READ:
            break
    if base:
        return describe_definition(ecs, base)
    rule = f"Among the newest {MAX_REVISIONS_READ} revisions of {_family(current)} one must be by its owners"
    raise TargetMisconfigured(rule, None, "Register the family's task definition with Terraform")


def _newest_first(ecs: "ECSClient", family: str) -> Iterator[str]:
    token: dict[str, Any] = {}
    while True:
        with aws_errors(f"The revisions of {family} must be readable", "See that the target's role may list them"):
            page = ecs.list_task_definitions(familyPrefix=family, sort="DESC", maxResults=20, **token)
        yield from (arn for arn in page["taskDefinitionArns"] if _family(arn) == family)
        if not page.get("nextToken"):
            return
        token = {"nextToken": page["nextToken"]}


def describe_definition(ecs: "ECSClient", arn: str) -> Described:
    """Return a task definition and its tags, which come beside it."""
    remedy = "Update the service with Terraform to a revision that exists"
    with aws_errors(f"The task definition {arn} must be readable", remedy):
        found = ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])
    return cast(dict[str, Any], found["taskDefinition"]), cast(Tags, found.get("tags", []))


def _family(arn: str) -> str:
    return arn.rpartition("/")[2].partition(":")[0]


def _number(arn: str) -> int:
    found = re.search(r":([0-9]+)$", arn)
    return int(found.group(1)) if found else 0


# --- update -----------------------------------------------------------------------------------------------------------


def update_service(ecs: "ECSClient", rollout: Rollout, sleep: Callable[[float], None] = time.sleep) -> None:
    """Start the rollout, unless a first try did: whatever became of it since is not undone by a second.

    Raises RolloutReplaced where ECS works towards a third revision before it, or right after.
    """
    place = f"{rollout.cluster}/{rollout.service}"
    for pause in (*READ_AGAIN_AFTER, None):  # what was read may be old by seconds
        seen = observe(ecs, rollout)
        if is_visible(rollout, seen):
            return
        found = seen.primary and seen.primary.task_definition
        if found in (None, rollout.previous_task_definition):
            break
        if pause is None:
            rule = f"The service {place} must run what it ran when our revision was registered"
            raise RolloutReplaced(rule, found, "Someone else deployed to it meanwhile; deploy again")
        sleep(pause)
    remedy = "Let the target's role update this service; its tag must name the environment"
    with aws_errors(f"The service {place} must take the new revision", remedy):
        service = ecs.update_service(
            cluster=rollout.cluster, service=rollout.service, taskDefinition=rollout.task_definition
        )["service"]
    primary = next((d for d in service.get("deployments", []) if d.get("status") == "PRIMARY"), None)
    if primary and primary.get("taskDefinition") not in (rollout.task_definition, rollout.previous_task_definition):
        rule = f"The service {place} must work towards our revision after its update"
        raise RolloutReplaced(rule, primary.get("taskDefinition"), "Someone else changes it as well; deploy again")


# --- read -------------------------------------------------------------------------------------------------------------


def observe(ecs: "ECSClient", rollout: Rollout, now: datetime | None = None) -> Observed:
    """Return one reading of what a rollout is judged by; any part may be old or empty.

    Raises AwsUnavailable where ECS does not answer, TargetMisconfigured where the target's role may not read.
    """
    remedy = "Let the target's role describe its services and their deployments and revisions"
    with aws_errors(f"The rollout of {rollout.cluster}/{rollout.service} must be readable", remedy):
        services = ecs.describe_services(cluster=rollout.cluster, services=[rollout.service])["services"]
        listed = _list_service_deployments(ecs, rollout, (now or datetime.now(UTC)) - OLDEST_ROLLOUT)
        revisions = _revisions(ecs, [str(d.get("targetServiceRevisionArn") or "") for d in listed])
    service = cast(dict[str, Any], services[0]) if services else {}
    breaker = service.get("deploymentConfiguration", {}).get("deploymentCircuitBreaker", {})
    return Observed(
        service_status=service.get("status"),
        desired=int(service.get("desiredCount", 0)),
        deployments=tuple(_deployment(d) for d in service.get("deployments", [])),
        service_deployments=tuple(
            ServiceDeployment(
                arn=str(d.get("serviceDeploymentArn", "")),
                status=str(d.get("status", "")),
                task_definition=revisions.get(str(d.get("targetServiceRevisionArn")), (None, ()))[0],
                digests=revisions.get(str(d.get("targetServiceRevisionArn")), (None, ()))[1],
                reason=str(d.get("statusReason") or ""),
                created_at=d["createdAt"].timestamp() if d.get("createdAt") else 0.0,
            )
            for d in listed
        ),
        circuit_breaker=bool(breaker.get("enable")),
        events=tuple(
            (event["createdAt"].timestamp() if event.get("createdAt") else 0.0, str(event.get("message", "")))
            for event in service.get("events", [])[:MAX_EVENTS]
        ),
    )


def _list_service_deployments(ecs: "ECSClient", rollout: Rollout, after: datetime) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token: dict[str, Any] = {}
    while True:
        try:
            page = ecs.list_service_deployments(
                cluster=rollout.cluster, service=rollout.service, createdAt={"after": after}, maxResults=100, **token
            )
        except Exception as error:
            if code_of(error) == "ServiceNotFoundException":
                return found
            raise
        found += cast(list[dict[str, Any]], page["serviceDeployments"])
        if not page.get("nextToken"):
            return found
        token = {"nextToken": page["nextToken"]}


def _revisions(ecs: "ECSClient", wanted: Sequence[str]) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    """Return the task definition and the resolved image digests of each service revision, asked for by twenties."""
    arns = sorted({revision for revision in wanted if revision})
    found: dict[str, tuple[str | None, tuple[str, ...]]] = {}
    for start in range(0, len(arns), 20):
        answer = ecs.describe_service_revisions(serviceRevisionArns=arns[start : start + 20])
        for revision in answer.get("serviceRevisions", []):
            digests = (_digest(image) for image in revision.get("containerImages", []))
            arn, definition = str(revision.get("serviceRevisionArn")), revision.get("taskDefinition")
            found[arn] = (definition, tuple(digest for digest in digests if digest))
    return found


def _digest(image: Mapping[str, Any]) -> str:
    """Return what a container runs: the digest that ECS found, which it need not, else the one that the image names."""
    return str(image.get("imageDigest") or str(image.get("image", "")).partition("@")[2])


def _deployment(d: Mapping[str, Any]) -> Deployment:
    return Deployment(
        status=str(d.get("status", "")),
        task_definition=d.get("taskDefinition"),
        rollout_state=d.get("rolloutState"),
        desired=int(d.get("desiredCount", 0)),
        running=int(d.get("runningCount", 0)),
        failed=int(d.get("failedTasks", 0)),
        reason=str(d.get("rolloutStateReason") or ""),
    )


def stopped_tasks(ecs: "ECSClient", rollout: Rollout) -> list[StoppedTask]:
    """Return why tasks of the rollout's revision stopped, newest first; ECS shows them for about an hour."""
    with aws_errors("The service's stopped tasks must be readable", "Let the target's role list and describe tasks"):
        arns = ecs.list_tasks(
            cluster=rollout.cluster, serviceName=rollout.service, desiredStatus="STOPPED", maxResults=MAX_STOPPED_READ
        )["taskArns"]
        tasks = ecs.describe_tasks(cluster=rollout.cluster, tasks=arns)["tasks"] if arns else []
    never = datetime.min.replace(tzinfo=UTC)
    ours = [
        cast(dict[str, Any], task)
        for task in tasks
        if task.get("taskDefinitionArn") == rollout.task_definition
        and (not rollout.since or task.get("createdAt", never).timestamp() >= rollout.since)
    ]
    ours.sort(key=lambda task: task.get("stoppedAt") or task.get("createdAt") or never, reverse=True)
    return [stopped_task(task) for task in ours]


def last_words(
    ecs: "ECSClient", logs: "CloudWatchLogsClient", rollout: Rollout, stopped: Sequence[StoppedTask]
) -> list[str]:
    """Return the last lines that a stopped container logged, without values of its environment; none if none is found.

    What fails here costs the lines alone: the verdict stands without them.
    """
    task = next((task for task in stopped if task.container and task.exit_code is not None), None)
    return words_of(ecs, logs, rollout.task_definition, task.container or "", task.task_id) if task else []


def words_of(
    ecs: "ECSClient", logs: "CloudWatchLogsClient", task_definition: str, container: str, task_id: str
) -> list[str]:
    """Return the last lines that a container of a task logged, as `last_words` does."""
    try:
        definition, _ = describe_definition(ecs, task_definition)
    except (AwsUnavailable, TargetMisconfigured):
        return []
    named: dict[Any, dict[str, Any]] = {c.get("name"): c for c in definition.get("containerDefinitions", [])}
    defined = named.get(container, {})
    options = defined.get("logConfiguration", {}).get("options", {})
    group, prefix = options.get("awslogs-group"), options.get("awslogs-stream-prefix")
    if not group or not prefix:
        return []
    environment = {e["name"]: e["value"] for e in defined.get("environment", []) if e.get("name")}
    return [redacted(line, environment) for line in last_lines(logs, group, f"{prefix}/{container}/{task_id}")]
