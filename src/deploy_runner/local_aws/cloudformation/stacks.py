"""Stacks: what CloudFormation creates, changes and deletes, in which order, and what it says of it.

moto's own engine has no events per resource, no rollback, no replacement, no retention and runs inside the request
(getmoto/moto#2031, #4580). Order and words are those of "Understand CloudFormation stack creation events", "Stack
failure options" and "Update behaviors of stack resources" in AWS's guide; only that one resource follows another.
"""

import copy
import datetime
import json
import random
import re
import string
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.cloudformation.exceptions import AlreadyExistsException, CloudFormationError
from moto.core.exceptions import AWSError, ServiceException
from werkzeug.exceptions import HTTPException

from deploy_runner.local_aws.cloudformation import template as templates
from deploy_runner.local_aws.cloudformation.template import Values, invalid
from deploy_runner.local_aws.iam.accounts import administrator_of
from deploy_runner.local_aws.machine import Machine

STACK_TYPE = "AWS::CloudFormation::Stack"
NO_CHANGES = "The submitted information didn't contain changes. Submit different information to create a change set."
STABILISE_SECONDS = 300
PATIENCE_SECONDS = 2.0


class InsufficientCapabilities(CloudFormationError):  # type: ignore[misc]
    """The caller has not acknowledged what the template does."""

    code = "InsufficientCapabilitiesException"


class ChangeSetNotFound(CloudFormationError):  # type: ignore[misc]
    """There is no such change set."""

    code = "ChangeSetNotFound"


class InvalidChangeSetStatus(CloudFormationError):  # type: ignore[misc]
    """The change set cannot be executed now."""

    code = "InvalidChangeSetStatus"


class TransformFailed(Exception):
    """What is wrong came out of a transform, so that CreateChangeSet itself succeeds."""


@dataclass
class Resource:
    """One resource of a stack."""

    stack: "Stack"
    logical_id: str
    type: str
    kind: "Kind"
    properties: dict[str, Any] = field(default_factory=dict)
    physical_id: str = ""
    model: Any = None  # whatever its kind keeps
    status: str = ""
    reason: str | None = None
    changed: datetime.datetime | None = None
    deletion_policy: str = "Delete"
    replace_policy: str = "Delete"

    def aws(self, service: str) -> Any:
        """A client of this local AWS."""
        return self.stack.engine.client(service)

    def name(self, longest: int = 255, lower: bool = False) -> str:
        """A physical name as CloudFormation makes it: stack, logical id and 12 random letters."""
        suffix = "".join(random.choices(string.ascii_letters + string.digits, k=12))  # noqa: S311 - not a secret
        room = longest - len(suffix) - 2
        stack = self.stack.name[: max(room - len(self.logical_id), room // 2)]
        name = f"{stack}-{self.logical_id[: room - len(stack)]}-{suffix}"
        return name.lower() if lower else name


class Kind(Protocol):
    """How resources of one type are handled."""

    def create(self, resource: Resource) -> None:
        """Make it from `resource.properties`, and set `physical_id`, the value of its Ref."""

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        """Change it from the properties `old` to `resource.properties`."""

    def delete(self, resource: Resource) -> None:
        """Remove it."""

    def attribute(self, resource: Resource, name: str) -> Any:
        """The value of Fn::GetAtt; KeyError or NotImplementedError where there is none."""


@dataclass
class Prepared:
    """A template that was checked, with the parameters' values."""

    body: str
    original: dict[str, Any]
    template: dict[str, Any]
    given: dict[str, str]
    parameters: dict[str, Any]


@dataclass
class ChangeSet:
    """What a stack would become."""

    id: str
    name: str
    stack: "Stack"
    kind: str
    given: dict[str, str]
    tags: dict[str, str]
    capabilities: list[str]
    description: str | None
    prepared: Prepared | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    status: str = "CREATE_COMPLETE"
    reason: str | None = None
    execution_status: str = "AVAILABLE"
    on_failure: str = "ROLLBACK"
    created: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))


class Stack:
    """One stack, and its history."""

    def __init__(self, engine: "Engine", name: str, parent: "Stack | None" = None) -> None:
        self.engine, self.name, self.parent = engine, name, parent
        account, region = engine.machine.account_id, engine.machine.region
        self.id = f"arn:aws:cloudformation:{region}:{account}:stack/{name}/{uuid.uuid4()}"
        self.prepared: Prepared | None = None
        self.resources: dict[str, Resource] = {}
        self.outputs: list[dict[str, Any]] = []
        self.imports: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.tags: dict[str, str] = {}
        self.capabilities: list[str] = []
        self.notification_arns: list[str] = []
        self.role_arn: str | None = None
        self.status = "REVIEW_IN_PROGRESS"
        self.reason: str | None = None
        self.created = engine.now()
        self.updated: datetime.datetime | None = None
        self.deleted: datetime.datetime | None = None
        self.termination_protection = False
        self.disable_rollback = False
        self.policy: str | None = None

    # --- What it says ---
    def event(self, status: str, reason: str | None = None, resource: Resource | None = None) -> None:
        """Record that the stack or one of its resources came to `status`."""
        timestamp = self.engine.now()
        if resource is None:
            self.status, self.reason = status, reason
            about = (self.name, self.id, STACK_TYPE)
        else:
            resource.status, resource.reason, resource.changed = status, reason, timestamp
            about = (resource.logical_id, resource.physical_id, resource.type)
        event = {
            "StackId": self.id, "StackName": self.name, "EventId": str(uuid.uuid4()), "Timestamp": timestamp,
            "LogicalResourceId": about[0], "PhysicalResourceId": about[1], "ResourceType": about[2],
            "ResourceStatus": status,
        }  # fmt: skip
        if reason:
            event["ResourceStatusReason"] = reason
        if resource and resource.properties:
            event["ResourceProperties"] = json.dumps(self._hidden(resource.properties), default=str)
        self.events.append(event)

    def _hidden(self, value: Any) -> Any:
        """`value` without the values of NoEcho parameters."""
        assert self.prepared
        declared = self.prepared.template.get("Parameters") or {}
        secrets = [
            text for name, text in self.prepared.parameters.items()
            if isinstance(text, str) and text and str(declared.get(name, {}).get("NoEcho", "")).lower() == "true"
        ]  # fmt: skip
        text = json.dumps(value, default=str)
        for secret in secrets:
            text = text.replace(json.dumps(secret)[1:-1], "****")
        return json.loads(text)

    @property
    def root(self) -> "Stack":
        return self.parent.root if self.parent else self

    # --- Values ---
    def values(self, prepared: Prepared, reference: Callable[[str, str | None], Any] | None = None) -> Values:
        """What evaluates the functions in `prepared`."""
        machine = self.engine.machine
        pseudo = {
            "AWS::AccountId": machine.account_id, "AWS::Region": machine.region, "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com", "AWS::StackName": self.name, "AWS::StackId": self.id,
            "AWS::NotificationARNs": self.notification_arns,
        }  # fmt: skip
        return Values(
            prepared.template, prepared.parameters, pseudo, reference or self._reference, self._imported,
            self.engine.dynamic_reference, lenient=reference is not None,
        )  # fmt: skip

    def _reference(self, name: str, attribute: str | None) -> Any:
        resource = self.resources.get(name)
        if resource is None:
            raise invalid(f"Unresolved resource dependencies [{name}] in the Resources block of the template")
        if attribute is None:
            return resource.physical_id
        try:
            return resource.kind.attribute(resource, attribute)
        except (KeyError, NotImplementedError, AttributeError):
            if attribute in resource.properties:
                return resource.properties[attribute]
            short = f"Template error: resource {name} does not support attribute type {attribute} in Fn::GetAtt"
            raise invalid(short) from None

    def _imported(self, name: str) -> str:
        exporter = self.engine.exports().get(name)
        if exporter is None:
            raise invalid(f"No export named {name} found.")
        self.imports.add(name)
        value: str = exporter[1]
        return value

    # --- What it does ---
    def deploy(self, prepared: Prepared, update: bool, on_failure: str = "ROLLBACK") -> None:
        """Create or update the stack, to the end; failures are told by its status."""
        before = (self.prepared, self.outputs)
        self.prepared = prepared
        verb = "UPDATE" if update else "CREATE"
        undo: list[Callable[[], None]] = []
        cleanup: list[Resource] = []
        self.imports = set()
        failed: str | None = None
        try:
            self._apply(prepared, undo, cleanup)
            self.outputs = self._outputs(prepared)
        except Failure as failure:
            failed = f"The following resource(s) failed to {failure.verb}: [{failure.logical_id}]. "
        except CloudFormationError as error:
            failed = f"{error.message} "
        if failed is None:
            if update:
                self.event("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
                for old in cleanup:
                    self._remove(old, old.replace_policy if old.logical_id in self.resources else old.deletion_policy)
            self.event(f"{verb}_COMPLETE")
            return
        if on_failure == "DO_NOTHING" or self.disable_rollback:
            self.event(f"{verb}_FAILED", failed.strip())
            return
        rollback = "UPDATE_ROLLBACK" if update else "ROLLBACK"
        if not update and on_failure == "DELETE":
            self.event("DELETE_IN_PROGRESS", failed + "Delete requested by user.")
        else:
            self.event(f"{rollback}_IN_PROGRESS", failed + "Rollback requested by user.")
        problems = []
        for step in reversed(undo):
            try:
                step()
            except Failure as failure:
                problems.append(failure.logical_id)
        self.prepared, self.outputs = before if update else (prepared, [])
        if problems:
            verb = "delete" if not update else "update"
            self.event(f"{rollback}_FAILED", f"The following resource(s) failed to {verb}: [{', '.join(problems)}]. ")
        elif not update and on_failure == "DELETE":
            self.deleted = self.engine.now()
            self.event("DELETE_COMPLETE")
        else:
            if update:
                self.event("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS")
            self.event(f"{rollback}_COMPLETE")

    def _apply(self, prepared: Prepared, undo: list[Callable[[], None]], cleanup: list[Resource]) -> None:
        values = self.values(prepared)
        wanted = {name: spec for name, spec in prepared.template["Resources"].items() if values.included(spec)}
        for name in templates.in_order(wanted):
            spec = wanted[name]
            current = self.resources.get(name)
            if current and current.type != spec["Type"]:
                self.event(
                    "UPDATE_FAILED",
                    "Update of resource type is not permitted. "
                    f"The new template modifies resource type of the following resources: [{name}]",
                    current,
                )
                raise Failure("update", name)
            kind = self.engine.kind_of(spec["Type"])
            assert kind
            resource = current or Resource(self, name, spec["Type"], kind)
            try:
                properties = self.engine.with_stack_tags(self, spec["Type"], values(spec.get("Properties") or {}))
            except CloudFormationError as error:
                self.event("UPDATE_FAILED" if current else "CREATE_FAILED", error.message, resource)
                raise Failure("update" if current else "create", name) from error
            policies = (
                str(spec.get("DeletionPolicy", default_policy(spec["Type"]))),
                str(spec.get("UpdateReplacePolicy", "Delete")),
            )
            if current is None:
                resource.properties = properties
                resource.deletion_policy, resource.replace_policy = policies
                self._create(resource, undo)
                continue
            changed = changed_properties(current.properties, properties)
            if not changed:
                current.deletion_policy, current.replace_policy = policies
            elif changed & self.engine.create_only(current.type):
                old = copy.copy(current)
                self.event(
                    "UPDATE_IN_PROGRESS",
                    "Requested update requires the creation of a new physical resource; hence creating one.",
                    current,
                )
                fresh = Resource(self, name, current.type, current.kind, properties)
                fresh.deletion_policy, fresh.replace_policy = policies
                undo.append(lambda old=old: self.resources.__setitem__(old.logical_id, old))  # type: ignore[misc]
                self._create(fresh, undo, "UPDATE")
                cleanup.insert(0, old)
            else:
                self._update(current, properties, undo)
                current.deletion_policy, current.replace_policy = policies
        gone = [resource for name, resource in self.resources.items() if name not in wanted]
        cleanup[:0] = list(reversed(gone))
        for resource in gone:
            del self.resources[resource.logical_id]
            undo.append(lambda resource=resource: self.resources.__setitem__(resource.logical_id, resource))  # type: ignore[misc]

    def _create(self, resource: Resource, undo: list[Callable[[], None]], verb: str = "CREATE") -> None:
        if verb == "CREATE":
            self.event("CREATE_IN_PROGRESS", None, resource)

        def work() -> None:
            problem = templates.check_properties(resource.type, resource.properties, self.engine.machine.region)
            if problem:
                raise invalid(problem)
            resource.kind.create(resource)
            self.event(f"{verb}_IN_PROGRESS", "Resource creation Initiated", resource)
            self._stabilise(resource)

        def remove() -> None:
            if resource.physical_id:
                self._remove(
                    resource,
                    "Delete" if resource.deletion_policy == "RetainExceptOnCreate" else resource.deletion_policy,
                    strict=True,
                )
            if self.resources.get(resource.logical_id) is resource:
                del self.resources[resource.logical_id]

        undo.append(remove)
        self.resources[resource.logical_id] = resource
        self._guarded(work, resource, verb)
        self.event(f"{verb}_COMPLETE", None, resource)

    def _update(self, resource: Resource, properties: dict[str, Any], undo: list[Callable[[], None]]) -> None:
        old = resource.properties
        resource.properties = properties
        self.event("UPDATE_IN_PROGRESS", None, resource)

        def revert() -> None:
            newer, resource.properties = resource.properties, old
            self.event("UPDATE_IN_PROGRESS", None, resource)
            self._guarded(lambda: resource.kind.update(resource, newer), resource, "UPDATE")
            self.event("UPDATE_COMPLETE", None, resource)

        def work() -> None:
            problem = templates.check_properties(resource.type, properties, self.engine.machine.region)
            if problem:
                resource.properties = old
                raise invalid(problem)
            undo.append(revert)
            resource.kind.update(resource, old)
            self._stabilise(resource)

        self._guarded(work, resource, "UPDATE")
        self.event("UPDATE_COMPLETE", None, resource)

    def _stabilise(self, resource: Resource) -> None:
        """Wait until the resource says that it is created, as an ECS service does when it is stable."""
        ready = getattr(resource.model, "is_created", None)
        deadline = time.monotonic() + STABILISE_SECONDS
        while ready and ready() is False:  # None: a model that does not say
            if time.monotonic() > deadline or self.engine.stopping:
                raise invalid("Resource did not stabilize.")
            time.sleep(0.2)

    def _remove(self, resource: Resource, policy: str, strict: bool = False) -> bool:
        if policy in ("Retain", "RetainExceptOnCreate"):
            self.event("DELETE_SKIPPED", None, resource)
            return True
        self.event("DELETE_IN_PROGRESS", None, resource)
        try:
            self._guarded(lambda: resource.kind.delete(resource), resource, "DELETE")
        except Failure:
            if strict:
                raise
            return False
        self.event("DELETE_COMPLETE", None, resource)
        return True

    def _guarded(self, work: Callable[[], None], resource: Resource, verb: str) -> None:
        """Do `work`; whatever goes wrong becomes an event and a Failure."""
        try:
            work()
        except Failure:
            raise
        except Exception as error:
            if verb == "DELETE" and is_not_found(error):
                return
            self.event(f"{verb}_FAILED", reason_of(error), resource)
            raise Failure(verb.lower(), resource.logical_id) from error

    def _outputs(self, prepared: Prepared) -> list[dict[str, Any]]:
        values = self.values(prepared)
        outputs = []
        for name, spec in (prepared.template.get("Outputs") or {}).items():
            if not values.included(spec):
                continue
            value = values(spec["Value"])
            output = {"OutputKey": name, "OutputValue": ",".join(value) if isinstance(value, list) else str(value)}
            if "Description" in spec:
                output["Description"] = spec["Description"]
            if "Export" in spec:
                exported = values(spec["Export"]["Name"])
                owner = self.engine.exports().get(exported)
                if owner and owner[0] is not self:
                    raise invalid(f"Export with name {exported} is already exported by stack {owner[0].name}. ")
                output["ExportName"] = exported
            outputs.append(output)
        return outputs

    def delete(self, retain: list[str]) -> None:
        """Delete the stack, to the end."""
        self.event("DELETE_IN_PROGRESS", "User Initiated")
        users = [
            f"Export {name} cannot be deleted as it is in use by {', '.join(by)}"
            for output in self.outputs
            if (name := output.get("ExportName")) and (by := self.engine.importers(name))
        ]
        if users:
            self.event("DELETE_FAILED", users[0])
            return
        failed = []
        for name in reversed(self._creation_order()):
            resource = self.resources[name]
            if self._remove(resource, "Retain" if name in retain else resource.deletion_policy):
                del self.resources[name]
            else:
                failed.append(name)
        if failed:
            self.event("DELETE_FAILED", f"The following resource(s) failed to delete: [{', '.join(failed)}]. ")
            return
        self.deleted = self.engine.now()
        self.event("DELETE_COMPLETE")

    def _creation_order(self) -> list[str]:
        specs = self.prepared.template["Resources"] if self.prepared else {}
        known = [name for name in templates.in_order(specs) if name in self.resources] if specs else []
        return known + [name for name in self.resources if name not in known]


class Failure(Exception):
    """A resource could not be created, updated or deleted; the event is recorded already."""

    def __init__(self, verb: str, logical_id: str) -> None:
        super().__init__(f"{logical_id} failed to {verb}")
        self.verb, self.logical_id = verb, logical_id


def default_policy(resource_type: str) -> str:
    """What CloudFormation does with a deleted resource whose template does not say it."""
    return "Delete"


def changed_properties(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """The names of the properties that differ; 1 and "1" are the same to CloudFormation."""
    return {name for name in old.keys() | new.keys() if _plain(old.get(name)) != _plain(new.get(name))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def is_not_found(error: Exception) -> bool:
    """Whether what should be deleted is gone already."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else str(getattr(error, "code", ""))
    return bool(re.search(r"NotFound|NoSuch|DoesNotExist|NonExistent|404", code))


def reason_of(error: Exception) -> str:
    """A failure in the words of a resource handler."""
    if isinstance(error, ClientError):
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        service = error.operation_name
        text = f"{message} (Operation: {service}, Status Code: {status}, Error Code: {code})"
    elif isinstance(error, CloudFormationError):
        return str(error.message)
    elif isinstance(error, AWSError | ServiceException | HTTPException):
        code = str(getattr(error, "error_type", None) or getattr(error, "code", None) or getattr(error, "TYPE", ""))
        text = str(getattr(error, "message", None) or getattr(error, "description", None) or error)
    else:
        code, text = type(error).__name__, f"{type(error).__name__}: {error}"
    handler_code = "GeneralServiceException"
    for pattern, name in (
        ("AccessDenied|Unauthorized", "AccessDenied"), ("Exist|Duplicate|Conflict", "AlreadyExists"),
        ("NotFound|NoSuch|DoesNotExist", "NotFound"), ("Invalid|Validation|Malformed", "InvalidRequest"),
    ):  # fmt: skip
        if re.search(pattern, code) and not (name == "AlreadyExists" and "NotExist" in code):
            handler_code = name
            break
    return (
        f'Resource handler returned message: "{text}" (RequestToken: {uuid.uuid4()}, HandlerErrorCode: {handler_code})'
    )


def _may_move(name: str, attribute: str | None, touched: dict[str, bool]) -> bool:
    """Whether a reference may give another value: names and ARNs stay unless the resource is replaced."""
    stable = attribute is None or attribute.endswith("Arn")
    return touched.get(name, False) if stable else name in touched


class Engine:
    """All stacks of this local AWS."""

    def __init__(self, machine: Machine, kinds: Callable[[str], Kind | None]) -> None:
        self.machine, self.kind_of = machine, kinds
        self.stacks: dict[str, Stack] = {}
        self.change_sets: dict[str, ChangeSet] = {}
        self.lock = threading.RLock()
        self.stopping = False
        self._clients: dict[str, Any] = {}
        self._session: Any = None
        self._last = datetime.datetime.now(datetime.UTC)

    def now(self) -> datetime.datetime:
        """The time, never the same one twice: what follows events by their time must not miss any."""
        with self.lock:
            now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
            now = now.replace(microsecond=now.microsecond // 1000 * 1000)
            last = self._last.replace(tzinfo=None)
            self._last = max(now, last + datetime.timedelta(milliseconds=1))
            return self._last

    def client(self, service: str) -> Any:
        """A client of this local AWS, as its owner."""
        with self.lock:
            if service not in self._clients:
                if self._session is None:
                    keys = administrator_of(self.machine)
                    self._session = boto3.Session(*keys, region_name=self.machine.region)
                config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=120)
                endpoint = self.machine.endpoint
                self._clients[service] = self._session.client(service, endpoint_url=endpoint, config=config)
            return self._clients[service]

    # --- Finding ---
    def live_resources(self) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        """Type, physical id, properties and Metadata of every resource that there is."""
        for stack in list(self.stacks.values()):
            written = stack.prepared.template["Resources"] if stack.prepared else {}
            for name, resource in list(stack.resources.items()):
                metadata = written.get(name, {}).get("Metadata") or {}
                yield resource.type, resource.physical_id, resource.properties, metadata

    def find(self, name_or_id: str) -> Stack:
        """A stack by its name or id; deleted ones only by id."""
        for stack in reversed(list(self.stacks.values())):
            if stack.id == name_or_id or (stack.name == name_or_id and not stack.deleted):
                return stack
        raise invalid(f"Stack with id {name_or_id} does not exist")

    def change_set(self, name_or_id: str, stack_name: str | None) -> ChangeSet:
        """A change set by its id, or by its name and stack."""
        if name_or_id in self.change_sets:
            return self.change_sets[name_or_id]
        if stack_name:
            stack = self.find(stack_name)
            named = [c for c in self.change_sets.values() if c.name == name_or_id and c.stack is stack]
            if named:
                return named[-1]
        raise ChangeSetNotFound(f"ChangeSet [{name_or_id}] does not exist")

    def open_change_sets(self, stack: Stack) -> list[ChangeSet]:
        """Those that were not executed; the name of one that was is free again."""
        return [c for c in self.change_sets.values() if c.stack is stack and c.execution_status != "EXECUTE_COMPLETE"]

    def exports(self) -> dict[str, tuple[Stack, str]]:
        """Exported names, with their stack and value."""
        return {
            output["ExportName"]: (stack, output["OutputValue"])
            for stack in list(self.stacks.values())
            if not stack.deleted
            for output in stack.outputs
            if "ExportName" in output
        }

    def importers(self, name: str) -> list[str]:
        """The stacks that import an exported name."""
        return [stack.name for stack in self.stacks.values() if name in stack.imports and not stack.deleted]

    def create_only(self, resource_type: str) -> set[str]:
        """The properties whose change needs a new resource."""
        return templates.create_only(resource_type, self.machine.region)

    def with_stack_tags(self, stack: Stack, resource_type: str, properties: dict[str, Any]) -> dict[str, Any]:
        """The stack's tags are those of its resources, too."""
        schema = templates.schema_of(resource_type, self.machine.region) or {}
        declared = (schema.get("properties") or {}).get("Tags") or {}
        if not stack.tags or declared.get("type") != "array":
            return properties
        own = properties.get("Tags") or []
        named = {tag["Key"] for tag in own}
        return properties | {"Tags": own + [{"Key": k, "Value": v} for k, v in stack.tags.items() if k not in named]}

    # --- Templates ---
    def body(self, body: str | None, url: str | None) -> str:
        """The template's text, given itself or as an S3 URL."""
        if body:
            if len(body) > 51_200:
                raise invalid(
                    "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "
                    f"Member must have length less than or equal to 51200 (it has {len(body)})"
                )
            return body
        if not url:
            raise invalid("Either Template URL or Template Body must be specified.")
        parts = urlsplit(url)
        path = unquote(parts.path).lstrip("/")
        host = parts.hostname or ""
        if host.endswith(".amazonaws.com") and not host.startswith("s3"):
            bucket, key = host.split(".s3")[0], path
        else:
            bucket, _, key = path.partition("/")
        version = re.search(r"versionId=([^&]+)", parts.query)
        try:
            wanted = {"Bucket": bucket, "Key": key} | ({"VersionId": version[1]} if version else {})
            text: str = self.client("s3").get_object(**wanted)["Body"].read().decode()
        except ClientError as error:
            raise invalid(f"S3 error: {error.response['Error']['Message']}") from error
        return text

    def prepare(
        self,
        body: str,
        given: dict[str, str],
        capabilities: list[str],
        expand_needs_capability: bool,
        known: Stack | None = None,
    ) -> Prepared:
        """Check a template and its parameters. Raises CloudFormationError, and TransformFailed."""
        original = templates.read(body)
        expanded = bool(templates.transforms_of(original))
        parameters = templates.parameter_values(original, given, self.lookup)
        try:
            processed = templates.transform(original, parameters, self.machine.region)
            templates.check(processed, lambda kind: self.kind_of(kind) is not None)
        except CloudFormationError as error:
            if expanded:
                raise TransformFailed(error.message) from error
            raise
        needed = templates.capabilities_needed(processed, original)
        if not expand_needs_capability:
            needed = [name for name in needed if name != "CAPABILITY_AUTO_EXPAND"]
        if any(
            name not in capabilities and not (name == "CAPABILITY_IAM" and "CAPABILITY_NAMED_IAM" in capabilities)
            for name in needed
        ):
            raise InsufficientCapabilities(f"Requires capabilities : [{', '.join(needed)}]")
        prepared = Prepared(body, original, processed, given, parameters)
        stack = known or Stack(self, "unnamed")
        stack.values(prepared, lambda name, attribute: f"{name}.{attribute}").check_rules()
        return prepared

    def lookup(self, kind: str, name: str, value: str) -> str:
        """Resolve an SSM parameter; hold ids of VPCs, subnets and the like to what exists."""
        if kind == "AWS::SSM::Parameter::Value":
            try:
                found: str = self.client("ssm").get_parameter(Name=value, WithDecryption=False)["Parameter"]["Value"]
            except ClientError as error:
                raise invalid(f"Unable to fetch parameters [{value}] from parameter store for this account.") from error
            return found
        operations: dict[str, tuple[str, str, str]] = {
            "AWS::EC2::VPC::Id": ("ec2", "describe_vpcs", "VpcIds"),
            "AWS::EC2::Subnet::Id": ("ec2", "describe_subnets", "SubnetIds"),
            "AWS::EC2::SecurityGroup::Id": ("ec2", "describe_security_groups", "GroupIds"),
        }
        if kind in operations:
            service, operation, argument = operations[kind]
            try:
                getattr(self.client(service), operation)(**{argument: [value]})
            except ClientError as error:
                message = (
                    f"Parameter validation failed: parameter value {value} for parameter name {name} does not exist"
                )
                raise invalid(message) from error
        return value

    def dynamic_reference(self, reference: str) -> str:
        """The value of {{resolve:…}}."""
        service, _, rest = reference.partition(":")
        if service in ("ssm", "ssm-secure"):
            found: str = self.client("ssm").get_parameter(Name=rest, WithDecryption=service == "ssm-secure")[
                "Parameter"
            ]["Value"]
            return found
        if service == "secretsmanager":
            arn = re.match(r"(arn:[^:]+:[^:]+:[^:]+:[^:]+:secret:[^:]+|[^:]+)(?::SecretString(?::([^:]*))?)?", rest)
            assert arn
            secret: str = self.client("secretsmanager").get_secret_value(SecretId=arn[1])["SecretString"]
            return str(json.loads(secret)[arn[2]]) if arn[2] else secret
        raise invalid(f"Dynamic references of {service} are not supported")

    # --- Doing ---
    def run(self, work: Callable[[], None]) -> None:
        """Do `work`, and return when it is done, or beside it when it takes longer.

        SAM and the AWS CLI look again only after 5 to 30 seconds where a stack is not ready at once.
        """
        thread = threading.Thread(target=work, name="cloudformation", daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS)

    def new_stack(self, name: str, parent: Stack | None = None) -> Stack:
        """An empty stack of that name. Raises AlreadyExistsException."""
        if not re.fullmatch(r"[a-zA-Z][-a-zA-Z0-9]{0,127}", name):
            raise invalid(
                f"1 validation error detected: Value '{name}' at 'stackName' failed to satisfy constraint: "
                "Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*"
            )
        with self.lock:
            if any(stack.name == name and not stack.deleted for stack in self.stacks.values()):
                raise AlreadyExistsException(f"Stack [{name}] already exists")
            stack = Stack(self, name, parent)
            self.stacks[stack.id] = stack
            return stack

    def create_change_set(self, change_set: ChangeSet, body: str) -> None:
        """Work out what would change; nothing is changed yet."""
        stack = change_set.stack
        try:
            prepared = self.prepare(
                body, change_set.given, change_set.capabilities, expand_needs_capability=False, known=stack
            )
        except TransformFailed as error:
            change_set.status, change_set.reason, change_set.execution_status = "FAILED", str(error), "UNAVAILABLE"
            return
        change_set.prepared = prepared
        change_set.changes = self.changes(stack, prepared, change_set.tags)
        if (
            change_set.kind == "UPDATE"
            and not change_set.changes
            and not self.otherwise_changed(stack, prepared, change_set.tags)
        ):
            reason = "No updates are to be performed." if templates.transforms_of(prepared.original) else NO_CHANGES
            change_set.status, change_set.reason, change_set.execution_status = "FAILED", reason, "UNAVAILABLE"

    @staticmethod
    def otherwise_changed(stack: Stack, prepared: Prepared, tags: dict[str, str]) -> bool:
        """Whether tags or outputs change, which are changes without a resource."""
        assert stack.prepared
        old, new = stack.prepared.template, prepared.template
        same = _plain(old.get("Outputs")) == _plain(new.get("Outputs"))
        return not same or tags != stack.tags

    def changes(self, stack: Stack, prepared: Prepared, tags: dict[str, str]) -> list[dict[str, Any]]:
        """The changes to resources, as DescribeChangeSet lists them."""

        def known(name: str, attribute: str | None) -> Any:
            return f"<{name}.{attribute}>"

        def evaluated(what: Prepared) -> dict[str, tuple[dict[str, Any], Any]]:
            values = stack.values(what, known)
            specs = {n: s for n, s in what.template["Resources"].items() if values.included(s)}
            return {
                n: (s, values({k: v for k, v in s.items() if k not in ("Metadata", "Condition")}))
                for n, s in specs.items()
            }

        new = evaluated(prepared)
        old = evaluated(stack.prepared) if stack.prepared and stack.resources else {}
        changes: list[dict[str, Any]] = []
        touched: dict[str, bool] = {}  # changed resources, and whether they may be replaced
        for name in templates.in_order({n: spec for n, (spec, _) in new.items()}):
            spec, value = new[name]
            change = {"LogicalResourceId": name, "ResourceType": spec["Type"], "Scope": [], "Details": []}
            if name not in old:
                changes.append(change | {"Action": "Add"})
                touched[name] = True
                continue
            properties = changed_properties(old[name][1].get("Properties") or {}, value.get("Properties") or {})
            moved = {
                p
                for p, property_ in (spec.get("Properties") or {}).items()
                if any(_may_move(n, attribute, touched) for n, attribute in templates.references(property_))
            }
            fixed = self.create_only(spec["Type"])
            same = _plain({k: v for k, v in old[name][1].items() if k != "Properties"}) == _plain(
                {k: v for k, v in value.items() if k != "Properties"}
            )
            if not properties and not moved and same and tags == stack.tags:
                continue
            replacement = "True" if properties & fixed else "Conditional" if moved & fixed else "False"
            change |= {
                "Action": "Modify", "PhysicalResourceId": stack.resources[name].physical_id, "Replacement": replacement,
                "Scope": ["Properties"] if properties or moved else ["Tags"],
                "Details": [
                    {
                        "Target": {
                            "Attribute": "Properties", "Name": p,
                            "RequiresRecreation": "Always" if p in fixed else "Never",
                        },
                        "Evaluation": "Static" if p in properties else "Dynamic",
                        "ChangeSource": "DirectModification" if p in properties else "ResourceAttribute",
                    }
                    for p in sorted(properties | moved)
                ],
            }  # fmt: skip
            changes.append(change)
            touched[name] = replacement != "False"
        for name in old:
            if name not in new and name in stack.resources:
                resource = stack.resources[name]
                changes.append(
                    {
                        "LogicalResourceId": name,
                        "ResourceType": resource.type,
                        "Action": "Remove",
                        "Scope": [],
                        "Details": [],
                        "PhysicalResourceId": resource.physical_id,
                        "PolicyAction": "Retain" if resource.deletion_policy == "Retain" else "Delete",
                    }
                )
        return changes
