"""What each request needs: the actions, their resources and condition keys, as AWS's services ask IAM for them.

Source: the Service Authorization Reference, the page of each service; a test holds the rows to that data. What it does
not say has its own source beside it. A request that has no row is refused: nothing is allowed that nobody looked at.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from moto.dynamodb.models import dynamodb_backends
from moto.ecr.models import ecr_backends
from moto.ecs.models import ecs_backends
from moto.iam.models import iam_backends
from moto.secretsmanager.models import secretsmanager_backends

from deploy_runner.local_aws.iam.evaluate import Asked, Value
from deploy_runner.local_aws.iam.resources import owner_of

ECS_TASKS = "ecs-tasks.amazonaws.com"


@dataclass(frozen=True)
class Call:
    """A request by its API's names."""

    service: str  # as in its signature, which is IAM's prefix too
    operation: str
    parameters: Mapping[str, Any]
    account: str
    region: str
    partition: str = "aws"

    def arn(self, resource: str, service: str = "") -> str:
        """Return the ARN of a resource of this account and region."""
        where = "" if service == "iam" else self.region
        return f"arn:{self.partition}:{service or self.service}:{where}:{self.account}:{resource}"

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter as text."""
        return str(self.parameters.get(name) or default)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts."""
        return [str(one) for one in self.parameters.get(name) or []]


type Row = Callable[[Call], Iterator[Asked]]
type Context = dict[str, Value]
ROWS: dict[str, Row] = {}


def _row(service: str, *operations: str) -> Callable[[Row], Row]:
    def add(row: Row) -> Row:
        ROWS.update({f"{service}:{operation}": row for operation in operations})
        return row

    return add


def needs(call: Call) -> list[Asked] | None:
    """Return what a request needs, None where the table has no row for it."""
    row = ROWS.get(f"{call.service}:{call.operation}")
    if row is None:
        return None

    def where(asked: Asked) -> Context:
        return {"aws:RequestedRegion": call.region, "aws:ResourceAccount": owner_of(asked.resource) or call.account}

    return [Asked(asked.action, asked.resource, {**where(asked), **asked.context}) for asked in row(call)]


def _not_elsewhere(call: Call, account: str, what: str) -> None:
    """Raise ValueError for another account's: moto would take the caller's own of the same name."""
    if account.isdigit() and account != call.account:
        raise ValueError(f"local AWS reaches no {what} of another account directly")


def _same(call: Call, resource: str = "*", context: Mapping[str, Value] | None = None) -> Asked:
    """Return the action of the operation's own name."""
    return Asked(f"{call.service}:{call.operation}", resource, context or {})


def _tags(kind: str, tags: list[dict[str, str]] | Mapping[str, str] | None) -> Context:
    """Return tags as condition keys; tags of a resource or of a request, of which none other is there."""
    if isinstance(tags, Mapping):
        pairs = dict(tags)
    else:
        pairs = {str(t.get("key", t.get("Key"))): str(t.get("value", t.get("Value", ""))) for t in tags or []}
    found: Context = {f"aws:{kind}Tag/": None, **{f"aws:{kind}Tag/{key}": value for key, value in pairs.items()}}
    return found | ({"aws:TagKeys": list(pairs) or None} if kind == "Request" else {})


def _of_resource(prefix: str, tags: list[dict[str, str]] | Mapping[str, str] | None) -> Context:
    """Return a resource's tags by both of their keys, aws:ResourceTag and the service's own."""
    found = _tags("Resource", tags)
    return found | {key.replace("aws:", f"{prefix}:", 1): value for key, value in found.items()}


def _pass_role(call: Call, role: str, service: str) -> Asked:
    """iam:PassRole, which is no request of its own: IAM User Guide, "Grant a user permissions to pass a role"."""
    arn = role if role.startswith("arn:") else call.arn(f"role/{role}", "iam")
    return Asked("iam:PassRole", arn, _role_tags(arn) | {"iam:PassedToService": service})


def _role_tags(arn: str) -> Context:
    account = arn.split(":")[4] if arn.count(":") >= 5 else ""
    role = next((one for one in list(iam_backends[account]["aws"].roles.values()) if one.arn == arn), None)
    return _of_resource("iam", role and role.tags)


# --- STS --------------------------------------------------------------------------------------------------------------


@_row("sts", "GetCallerIdentity")
def _nothing(_: Call) -> Iterator[Asked]:
    """Needs no permission: API_GetCallerIdentity."""
    yield from ()


@_row("sts", "AssumeRole")
def _assume_role(call: Call) -> Iterator[Asked]:
    role = call.text("RoleArn")
    context: Context = {
        "sts:RoleSessionName": call.text("RoleSessionName"), "sts:ExternalId": call.text("ExternalId") or None,
        "sts:SourceIdentity": call.text("SourceIdentity") or None, "sts:TransitiveTagKeys": None,
        **_role_tags(role), **_tags("Request", call.parameters.get("Tags")),
    }  # fmt: skip
    yield Asked("sts:AssumeRole", role, context)
    if call.parameters.get("Tags"):
        context = _role_tags(role) | _tags("Request", call.parameters["Tags"])
        context["sts:TransitiveTagKeys"] = call.texts("TransitiveTagKeys") or None
        yield Asked("sts:TagSession", role, context)
    if call.parameters.get("SourceIdentity"):
        context = _role_tags(role) | {"sts:SourceIdentity": call.text("SourceIdentity")}
        yield Asked("sts:SetSourceIdentity", role, context)


# --- ECS --------------------------------------------------------------------------------------------------------------


def _cluster(call: Call) -> tuple[str, Context]:
    """Return the name of a request's cluster, and the condition key of its ARN."""
    name = call.text("cluster", "default").rpartition("/")[2]
    return name, {"ecs:cluster": call.arn(f"cluster/{name}")}


def _service(call: Call, cluster: str, name: str) -> tuple[str, Context]:
    """Return a service's ARN and the keys of its tags."""
    name = name.rpartition("/")[2]
    service = ecs_backends[call.account][call.region].services.get(f"{cluster}:{name}")
    return call.arn(f"service/{cluster}/{name}"), _of_resource("ecs", service.tags if service else None)


def _task(call: Call, cluster: str, task: str) -> tuple[str, Context]:
    arn = call.arn(f"task/{cluster}/{task.rpartition('/')[2]}")  # ECS goes by the end of an ARN and the cluster
    known = ecs_backends[call.account][call.region].tasks.get(cluster, {}).get(arn)
    return arn, _of_resource("ecs", known.tags if known else None)


def _definition(call: Call, name: str) -> tuple[str, Any]:
    """Return the ARN that IAM sees of a task definition, and moto's record of it.

    A family without its revision is no more than that to IAM either: RunTask is then refused by a policy for FAMILY:*.
    """
    arn = call.arn(f"task-definition/{name.rpartition('/')[2]}")  # ECS goes by the end of an ARN
    family, _, revision = arn.rpartition("/")[2].partition(":")
    known = ecs_backends[call.account][call.region].task_definitions.get(family, {})
    return arn, known.get(int(revision) if revision.isdigit() else max(known, default=0))


def _tag_on_creation(call: Call, resource: str) -> Iterator[Asked]:
    """Amazon ECS Developer Guide, "Grant permission to tag resources on creation".

    Tags that ECS sets or propagates count as well (cn-terraform/terraform-aws-ecs-fargate-scheduled-task#42).
    """
    given = call.parameters
    if given.get("tags") or given.get("enableECSManagedTags") or given.get("propagateTags", "NONE") != "NONE":
        context: Context = {"ecs:CreateAction": call.operation, "aws:ResourceTag/": None}
        context |= _tags("Request", given.get("tags"))
        yield Asked("ecs:TagResource", resource, context)


@_row("ecs", "RunTask")
def _run_task(call: Call) -> Iterator[Asked]:
    cluster, context = _cluster(call)
    arn, definition = _definition(call, call.text("taskDefinition"))
    context |= _tags("Request", call.parameters.get("tags")) | _of_resource("ecs", definition and definition.tags)
    context["ecs:enable-execute-command"] = str(bool(call.parameters.get("enableExecuteCommand"))).lower()
    yield Asked("ecs:RunTask", arn, context)
    # "a task role, or a task role override ... iam:PassRole permissions for each": Developer Guide, "Amazon ECS
    # EventBridge IAM Role". Whether the one that is overridden is asked for as well is not said; it is here.
    overrides = call.parameters.get("overrides") or {}
    passed = [overrides.get("taskRoleArn"), overrides.get("executionRoleArn")]
    passed += [getattr(definition, name, None) for name in ("task_role_arn", "execution_role_arn")]
    for role in sorted({str(role) for role in passed if role}):
        yield _pass_role(call, role, ECS_TASKS)
    yield from _tag_on_creation(call, call.arn(f"task/{cluster}/*"))


@_row("ecs", "StopTask", "DescribeTasks")
def _tasks(call: Call) -> Iterator[Asked]:
    cluster, context = _cluster(call)
    for task in call.texts("tasks") or [call.text("task")]:
        arn, tags = _task(call, cluster, task)
        yield _same(call, arn, context | tags)


@_row("ecs", "ListTasks")
def _list_tasks(call: Call) -> Iterator[Asked]:
    # The resource is a container instance's where one is named, else none (cdklabs/construct-hub#1207).
    cluster, context = _cluster(call)
    instance = call.text("containerInstance").rpartition("/")[2]
    resource = call.arn(f"container-instance/{cluster}/{instance}") if instance else "*"
    yield Asked("ecs:ListTasks", resource, context | {"aws:ResourceTag/": None})


@_row("ecs", "ListServices")
def _list_services(call: Call) -> Iterator[Asked]:
    yield Asked("ecs:ListServices", "*", _cluster(call)[1])


@_row("ecs", "DescribeClusters")
def _clusters(call: Call) -> Iterator[Asked]:
    known = ecs_backends[call.account][call.region].clusters
    for name in (name.rpartition("/")[2] for name in call.texts("clusters") or ["default"]):
        cluster = known.get(name)
        yield Asked("ecs:DescribeClusters", call.arn(f"cluster/{name}"), _of_resource("ecs", cluster and cluster.tags))


@_row("ecs", "DescribeServices", "ListServiceDeployments", "UpdateService")
def _services(call: Call) -> Iterator[Asked]:
    cluster, context = _cluster(call)
    if call.operation == "UpdateService":
        context["ecs:task-definition"] = _definition(call, call.text("taskDefinition"))[0]
        if not call.parameters.get("taskDefinition"):
            context["ecs:task-definition"] = None
        command = call.parameters.get("enableExecuteCommand")
        context["ecs:enable-execute-command"] = None if command is None else str(command).lower()
    for name in call.texts("services") or [call.text("service")]:
        arn, tags = _service(call, cluster, name)
        yield _same(call, arn, context | tags)


@_row("ecs", "DescribeServiceDeployments", "StopServiceDeployment", "DescribeServiceRevisions")
def _rollouts(call: Call) -> Iterator[Asked]:
    """The service and what is of it are both asked for."""
    arns = call.texts("serviceDeploymentArns") + call.texts("serviceRevisionArns")
    for arn in arns or [call.text("serviceDeploymentArn")]:
        _, cluster, service, *_ = [*arn.split("/"), "", ""]
        owner, tags = _service(call, cluster, service)
        context: Context = {"ecs:cluster": call.arn(f"cluster/{cluster}")}
        yield _same(call, owner, context | tags)
        yield _same(call, arn, context | {"ecs:service": owner, "aws:ResourceTag/": None})


@_row("ecs", "RegisterTaskDefinition")
def _register(call: Call) -> Iterator[Asked]:
    arn = call.arn(f"task-definition/{call.text('family')}:*")
    privileged = any(c.get("privileged") for c in call.parameters.get("containerDefinitions") or [])
    context: Context = {
        "aws:ResourceTag/": None, "ecs:privileged": str(privileged).lower(),
        "ecs:compute-compatibility": call.texts("requiresCompatibilities") or None,
        "ecs:task-cpu": call.text("cpu") or None, "ecs:task-memory": call.text("memory") or None,
    }  # fmt: skip
    yield Asked("ecs:RegisterTaskDefinition", arn, context | _tags("Request", call.parameters.get("tags")))
    for name in ("taskRoleArn", "executionRoleArn"):
        if call.parameters.get(name):
            yield _pass_role(call, call.text(name), ECS_TASKS)
    yield from _tag_on_creation(call, arn)


@_row("ecs", "TagResource")
def _tag(call: Call) -> Iterator[Asked]:
    # Only what creates something has the key: "Grant permission to tag resources on creation".
    context: Context = {"ecs:CreateAction": None, "aws:ResourceTag/": None}
    yield _same(call, call.text("resourceArn"), context | _tags("Request", call.parameters.get("tags")))


@_row("ecs", "DescribeTaskDefinition", "ListTaskDefinitions", "ListTaskDefinitionFamilies", "ListClusters")
@_row("ecr", "GetAuthorizationToken")
@_row("states", "SendTaskSuccess", "SendTaskFailure", "SendTaskHeartbeat")
@_row("xray", "PutTraceSegments", "PutTelemetryRecords", "GetSamplingRules", "GetSamplingTargets")
@_row("logs", "DescribeLogGroups", "DescribeResourcePolicies")
def _without_resource(call: Call) -> Iterator[Asked]:
    yield _same(call)


# --- ECR --------------------------------------------------------------------------------------------------------------


@_row(
    "ecr", "BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload", "DescribeImages",
    "GetDownloadUrlForLayer", "InitiateLayerUpload", "ListImages", "PutImage", "UploadLayerPart",
)  # fmt: skip
def _repository(call: Call) -> Iterator[Asked]:
    yield image_need(call, call.operation, call.text("repositoryName"))


def image_need(call: Call, operation: str, repository: str) -> Asked:
    """Return an action on a repository; the registry's own requests, which IAM sees by these names, need it as well."""
    arn = Call("ecr", operation, {}, call.account, call.region, call.partition).arn(f"repository/{repository}")
    tags = _of_resource("ecr", ecr_backends[call.account][call.region].tagger.get_tag_dict_for_resource(arn))
    return Asked(f"ecr:{operation}", arn, tags)


# --- Step Functions ---------------------------------------------------------------------------------------------------


@_row("states", "StartExecution", "StartSyncExecution", "DescribeStateMachine", "ListExecutions")
def _machine(call: Call) -> Iterator[Asked]:
    """The ARN is without alias or version, which are a condition key: Developer Guide, "Authorization ... versions and
    aliases"."""
    arn = call.text("stateMachineArn")
    plain = ":".join(arn.split(":")[:7])
    qualifier = arn.removeprefix(plain).removeprefix(":")
    yield _same(call, plain, {"states:StateMachineQualifier": [qualifier] if qualifier else None})


@_row("states", "DescribeExecution", "GetExecutionHistory", "StopExecution", "DescribeStateMachineForExecution")
def _execution(call: Call) -> Iterator[Asked]:
    yield _same(call, call.text("executionArn"))


@_row("states", "CreateStateMachine", "UpdateStateMachine")
def _make_machine(call: Call) -> Iterator[Asked]:
    arn = call.text("stateMachineArn") or call.arn(f"stateMachine:{call.text('name')}")
    keys = {} if call.operation == "UpdateStateMachine" else _tags("Request", call.parameters.get("tags"))
    yield _same(call, arn, keys)
    if call.parameters.get("publish"):
        yield Asked("states:PublishStateMachineVersion", arn)
    if call.parameters.get("roleArn"):
        yield _pass_role(call, call.text("roleArn"), "states.amazonaws.com")


# --- Lambda -----------------------------------------------------------------------------------------------------------


@_row("lambda", "Invoke")
def _invoke(call: Call) -> Iterator[Asked]:
    name = re.sub(r"^(arn:[^:]+:lambda:[^:]+:)?(\d{12}:)?(function:)?", "", call.text("FunctionName"))
    qualifier = call.text("Qualifier")
    arn = call.arn(f"function:{name}" + (f":{qualifier}" if qualifier and ":" not in name else ""))
    context: Context = {"lambda:EventSourceToken": None, "lambda:InvokedViaFunctionUrl": None}
    yield Asked("lambda:InvokeFunction", arn, context | {"aws:ResourceTag/": None})


@_row("lambda", "CreateFunction")
def _make_function(call: Call) -> Iterator[Asked]:
    arn = call.arn(f"function:{call.text('FunctionName')}")
    yield _same(call, arn, _tags("Request", call.parameters.get("Tags")))
    yield _pass_role(call, call.text("Role"), "lambda.amazonaws.com")


# --- CloudWatch and its Logs ------------------------------------------------------------------------------------------


def log_group_arn(call: Call, group: str) -> str:
    """Return what IAM sees of a log group: prowler-cloud/prowler#37 quotes such an ARN, which ends in `log-stream:`.

    Hence a policy must have `:*` after the group: Logs User Guide, "CloudWatch Logs resources and operations".
    """
    return call.arn(f"log-group:{group}:log-stream:")


@_row("logs", "CreateLogStream", "PutLogEvents", "GetLogEvents")
def _stream(call: Call) -> Iterator[Asked]:
    group = call.text("logGroupName") or _group_name(call)
    yield _same(call, call.arn(f"log-group:{group}:log-stream:{call.text('logStreamName')}"))


@_row("logs", "FilterLogEvents", "DescribeLogStreams", "CreateLogGroup", "StartQuery")
def _group(call: Call) -> Iterator[Asked]:
    groups = call.texts("logGroupNames") or [call.text("logGroupName") or _group_name(call)]
    tags = _tags("Request", call.parameters.get("tags")) if call.operation == "CreateLogGroup" else {}
    for group in groups:
        yield _same(call, log_group_arn(call, group), tags)


def _group_name(call: Call) -> str:
    """Return the name of a group that is given by its name or ARN."""
    return call.text("logGroupIdentifier").rpartition(":log-group:")[2].removesuffix(":*")


@_row("monitoring", "PutMetricData")
def _metrics(call: Call) -> Iterator[Asked]:
    yield Asked("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": call.text("Namespace")})


# --- EventBridge ------------------------------------------------------------------------------------------------------


@_row("events", "PutEvents")
def _put_events(call: Call) -> Iterator[Asked]:
    """One entry that is not allowed and the whole request is refused."""
    for entry in call.parameters.get("Entries") or []:
        bus = str(entry.get("EventBusName") or "default")
        arn = bus if bus.startswith("arn:") else call.arn(f"event-bus/{bus}")
        context: Context = {
            "events:source": [entry["Source"]] if entry.get("Source") else None,
            "events:detail-type": [entry["DetailType"]] if entry.get("DetailType") else None,
            "events:eventBusInvocation": "false",
        }  # fmt: skip
        _not_elsewhere(call, arn.split(":")[4], "event bus")
        yield Asked("events:PutEvents", arn, context)


@_row("events", "PutRule", "PutTargets", "DescribeRule")
def _rule(call: Call) -> Iterator[Asked]:
    bus = call.text("EventBusName", "default").rpartition("/")[2]
    name = call.text("Name") or call.text("Rule")
    context: Context = {"events:creatorAccount": call.account, "events:ManagedBy": None}
    targets = call.parameters.get("Targets") or []
    if call.operation == "PutTargets":
        context["events:TargetArn"] = [str(target.get("Arn")) for target in targets]
    elif call.operation == "PutRule":
        context |= _tags("Request", call.parameters.get("Tags"))
    else:
        del context["events:ManagedBy"]
    yield Asked(
        f"events:{call.operation}", call.arn(f"rule/{name}" if bus == "default" else f"rule/{bus}/{name}"), context
    )
    for role in sorted({str(target["RoleArn"]) for target in targets if target.get("RoleArn")}):
        yield _pass_role(call, role, "events.amazonaws.com")


# --- EventBridge Scheduler --------------------------------------------------------------------------------------------


@_row("scheduler", "GetSchedule", "CreateSchedule", "UpdateSchedule", "DeleteSchedule")
def _schedule(call: Call) -> Iterator[Asked]:
    """iam:PassRole with this iam:PassedToService: the managed policy AmazonEventBridgeSchedulerFullAccess."""
    group, name = call.text("GroupName", "default"), call.text("Name")
    yield _same(call, call.arn(f"schedule/{group}/{name}"), {"aws:ResourceTag/": None})
    if role := (call.parameters.get("Target") or {}).get("RoleArn"):
        yield _pass_role(call, role, "scheduler.amazonaws.com")


@_row("scheduler", "GetScheduleGroup", "CreateScheduleGroup")
def _schedule_group(call: Call) -> Iterator[Asked]:
    context = _tags("Request", call.parameters.get("Tags")) if call.operation == "CreateScheduleGroup" else {}
    yield _same(call, call.arn(f"schedule-group/{call.text('Name')}"), {"aws:ResourceTag/": None} | context)


@_row("scheduler", "ListSchedules", "ListScheduleGroups")
def _list_schedules(call: Call) -> Iterator[Asked]:
    yield _same(call)


# --- what apps use ----------------------------------------------------------------------------------------------------


@_row("secretsmanager", "GetSecretValue", "DescribeSecret", "PutSecretValue")
def _secret(call: Call) -> Iterator[Asked]:
    """The ARN has its six random characters, whatever the request names; of a secret that does not exist, the name."""
    wanted = call.text("SecretId")
    arn, tags = wanted if wanted.startswith("arn:") else call.arn(f"secret:{wanted}"), None
    for secret in list(secretsmanager_backends[call.account][call.region].secrets.values()):
        # An ARN without its random end names the secret too.
        if wanted == secret.name or wanted == secret.arn or (arn == wanted and wanted == secret.arn[:-7]):
            arn, tags = secret.arn, secret.tags
    context = _of_resource("secretsmanager", tags) | {"secretsmanager:SecretId": arn}
    if call.operation == "GetSecretValue":
        context |= {
            "secretsmanager:VersionId": call.text("VersionId") or None,
            "secretsmanager:VersionStage": call.text("VersionStage", "AWSCURRENT"),
        }
    yield _same(call, arn, context)


@_row("ssm", "GetParameter", "GetParameters", "GetParametersByPath")
def _parameters(call: Call) -> Iterator[Asked]:
    for name in call.texts("Names") or [call.text("Name") or call.text("Path")]:
        arn = name if name.startswith("arn:") else call.arn(f"parameter/{name.strip('/')}")
        yield _same(call, arn, {"aws:ResourceTag/": None})


@_row("dynamodb", "GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan", "DescribeTable")
def _table(call: Call) -> Iterator[Asked]:
    arn = _table_arn(call, call.text("TableName"))
    index = call.text("IndexName")
    yield _same(call, f"{arn}/index/{index}" if index else arn, _leading_keys(call, arn))


@_row("dynamodb", "BatchGetItem", "BatchWriteItem")
def _tables(call: Call) -> Iterator[Asked]:
    for name in call.parameters.get("RequestItems") or {}:
        yield _same(call, _table_arn(call, name))


@_row("dynamodb", "TransactGetItems", "TransactWriteItems")
def _transaction(call: Call) -> Iterator[Asked]:
    """Each part needs its own action, and the transaction none: "Using IAM with DynamoDB transactions",
    docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
    """
    actions = {
        "Get": "GetItem", "Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem",
        "ConditionCheck": "ConditionCheckItem",
    }  # fmt: skip
    for item in call.parameters.get("TransactItems") or []:
        for kind, action in actions.items():
            if kind in item:
                part = replace(call, parameters=item[kind])
                arn = _table_arn(call, part.text("TableName"))
                context: Context = {"dynamodb:EnclosingOperation": call.operation}
                yield Asked(f"dynamodb:{action}", arn, context | _leading_keys(part, arn))


def _table_arn(call: Call, name: str) -> str:
    return name if name.startswith("arn:") else call.arn(f"table/{name}")


def _leading_keys(call: Call, arn: str) -> Context:
    """Return the partition key that a request names, where it is one value."""
    table = dynamodb_backends[call.account][call.region].tables.get(arn.rpartition("/")[2])
    item = call.parameters.get("Key") or call.parameters.get("Item")
    if table is None or not item or call.operation == "DescribeTable":
        return {}
    value = item.get(table.hash_key_attr) or {}
    return {"dynamodb:LeadingKeys": [str(one) for one in value.values()]}


@_row("sns", "Publish")
def _topic(call: Call) -> Iterator[Asked]:
    yield _same(call, call.text("TopicArn") or call.text("TargetArn"))


@_row(
    "sqs", "SendMessage", "SendMessageBatch", "ReceiveMessage", "DeleteMessage", "DeleteMessageBatch",
    "ChangeMessageVisibility", "GetQueueAttributes", "GetQueueUrl",
)  # fmt: skip
def _queue(call: Call) -> Iterator[Asked]:
    account, _, name = urlsplit(call.text("QueueUrl")).path.strip("/").rpartition("/")
    _not_elsewhere(call, account, "queue")
    name = call.text("QueueName") or name
    yield Asked(f"sqs:{call.operation.removesuffix('Batch')}", call.arn(name), {"aws:ResourceTag/": None})


_OBJECT_ACTIONS = {
    "GetObject": "GetObject", "HeadObject": "GetObject", "PutObject": "PutObject", "DeleteObject": "DeleteObject",
    "CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload", "CopyObject": "PutObject",
}  # fmt: skip


@_row("s3", *_OBJECT_ACTIONS)
def _object(call: Call) -> Iterator[Asked]:
    arn = f"arn:{call.partition}:s3:::{call.text('Bucket')}/{call.text('Key')}"
    yield Asked(f"s3:{_OBJECT_ACTIONS[call.operation]}", arn)
    if call.operation == "CopyObject":
        source = call.text("CopySource").lstrip("/").partition("?")[0]
        yield Asked("s3:GetObject", f"arn:{call.partition}:s3:::{source}")


@_row("s3", "DeleteObjects")
def _objects(call: Call) -> Iterator[Asked]:
    for item in (call.parameters.get("Delete") or {}).get("Objects") or []:
        yield Asked("s3:DeleteObject", f"arn:{call.partition}:s3:::{call.text('Bucket')}/{item['Key']}")


@_row("s3", "ListObjects", "ListObjectsV2", "HeadBucket", "GetBucketLocation")
def _bucket(call: Call) -> Iterator[Asked]:
    location = call.operation == "GetBucketLocation"
    keys: Context = {} if location else {
        "s3:prefix": call.text("Prefix"), "s3:delimiter": call.text("Delimiter") or None,
        "s3:max-keys": call.text("MaxKeys") or None,
    }  # fmt: skip
    action = "GetBucketLocation" if location else "ListBucket"
    yield Asked(f"s3:{action}", f"arn:{call.partition}:s3:::{call.text('Bucket')}", keys)
