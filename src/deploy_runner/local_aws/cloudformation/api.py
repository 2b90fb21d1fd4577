"""CloudFormation's API, in place of moto's handlers for stacks and change sets."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from moto.cloudformation.exceptions import AlreadyExistsException, ValidationError
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult, EmptyResult

from deploy_runner.local_aws.cloudformation import template as templates
from deploy_runner.local_aws.cloudformation.stacks import (
    NO_CHANGES,
    ChangeSet,
    Engine,
    InvalidChangeSetStatus,
    Prepared,
    Resource,
    Stack,
    TransformFailed,
)
from deploy_runner.local_aws.cloudformation.template import invalid

EVENTS_PER_PAGE = 100
HIDDEN = "****"


class Api:
    """The operations on stacks; `request` is moto's response object, which parses parameters."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # --- Change sets ---
    def create_change_set(self, request: Any) -> ActionResult:
        ask = request._get_param
        kind, name = ask("ChangeSetType") or "UPDATE", ask("ChangeSetName")
        if not re.fullmatch(r"[a-zA-Z][-a-zA-Z0-9]{0,127}", name):
            raise invalid(
                f"1 validation error detected: Value '{name}' at 'changeSetName' failed to satisfy constraint: "
                "Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*"
            )
        engine = self.engine
        existing = [s for s in engine.stacks.values() if ask("StackName") in (s.name, s.id) and not s.deleted]
        stack: Stack | None = existing[0] if existing else None
        if kind == "CREATE" and stack and stack.status != "REVIEW_IN_PROGRESS":
            raise AlreadyExistsException(
                f"Stack [{stack.name}] already exists and cannot be created again with the changeSet [{name}]."
            )
        if kind == "UPDATE":
            if stack is None:
                raise invalid(f"Stack [{ask('StackName')}] does not exist")
            _must_be_updatable(stack)
        if stack and any(c.name == name for c in engine.open_change_sets(stack)):
            raise AlreadyExistsException(f"ChangeSet {name} already exists")
        fresh = stack is None
        if stack is None:
            stack = engine.new_stack(ask("StackName"))
        try:
            body = self._body(request, stack)
            tags = _tags(ask("Tags")) if ask("Tags") is not None or kind == "CREATE" else stack.tags
            change_set = ChangeSet(
                id=stack.id.split(":stack/")[0] + f":changeSet/{name}/" + stack.id.rpartition("/")[2],
                name=name, stack=stack, kind=kind, tags=tags,
                given=_given(ask("Parameters"), stack.prepared), capabilities=ask("Capabilities") or [],
                description=ask("Description"), on_failure=ask("OnStackFailure") or "ROLLBACK",
            )  # fmt: skip
            change_set.id += f"-{len(engine.change_sets)}"
            engine.create_change_set(change_set, body)
        except Exception:
            if fresh:
                del engine.stacks[stack.id]
            raise
        if fresh:
            stack.event("REVIEW_IN_PROGRESS", "User Initiated")
            stack.role_arn, stack.notification_arns = ask("RoleARN"), ask("NotificationARNs") or []
        engine.change_sets[change_set.id] = change_set
        return ActionResult({"Id": change_set.id, "StackId": stack.id})

    def describe_change_set(self, request: Any) -> ActionResult:
        change_set = self._change_set(request)
        declared = (change_set.prepared.template.get("Parameters") if change_set.prepared else None) or {}
        return ActionResult(
            _without_none(
                {
                    **self._summary(change_set),
                    "Parameters": _shown(change_set.prepared, declared),
                    "Capabilities": change_set.capabilities,
                    "Tags": _listed(change_set.tags),
                    "NotificationARNs": change_set.stack.notification_arns,
                    "Changes": [{"Type": "Resource", "ResourceChange": change} for change in change_set.changes],
                }
            )
        )

    def list_change_sets(self, request: Any) -> ActionResult:
        stack = self.engine.find(request._get_param("StackName"))
        found = [c for c in self.engine.change_sets.values() if c.stack is stack]
        return ActionResult({"Summaries": [_without_none(self._summary(c)) for c in found]})

    @staticmethod
    def _summary(change_set: ChangeSet) -> dict[str, Any]:
        return {
            "ChangeSetName": change_set.name, "ChangeSetId": change_set.id, "StackId": change_set.stack.id,
            "StackName": change_set.stack.name, "Description": change_set.description,
            "CreationTime": change_set.created, "ExecutionStatus": change_set.execution_status,
            "Status": change_set.status, "StatusReason": change_set.reason, "IncludeNestedStacks": False,
            "OnStackFailure": change_set.on_failure,
        }  # fmt: skip

    def delete_change_set(self, request: Any) -> EmptyResult:
        change_set = self._change_set(request)
        del self.engine.change_sets[change_set.id]
        return EmptyResult()

    def execute_change_set(self, request: Any) -> EmptyResult:
        change_set = self._change_set(request)
        if change_set.execution_status != "AVAILABLE":
            raise InvalidChangeSetStatus(
                f"ChangeSet [{change_set.id}] cannot be executed in its current status of [{change_set.status}]"
            )
        stack, prepared = change_set.stack, change_set.prepared
        assert prepared
        stack.disable_rollback = bool(request._get_bool_param("DisableRollback"))
        change_set.execution_status = "EXECUTE_IN_PROGRESS"
        for other in list(self.engine.change_sets.values()):
            if other.stack is stack and other is not change_set:
                del self.engine.change_sets[other.id]  # they are about a stack that is no more
        self._begin(
            stack,
            prepared,
            change_set.tags,
            change_set.capabilities,
            change_set.kind == "UPDATE",
            change_set.on_failure,
        )
        change_set.execution_status = "EXECUTE_COMPLETE"
        return EmptyResult()

    def _change_set(self, request: Any) -> ChangeSet:
        return self.engine.change_set(request._get_param("ChangeSetName"), request._get_param("StackName"))

    # --- Stacks ---
    def create_stack(self, request: Any) -> ActionResult:
        ask = request._get_param
        stack = self.engine.new_stack(ask("StackName"))
        try:
            body = self._body(request, stack)
            capabilities = ask("Capabilities") or []
            prepared = self._prepare(body, _given(ask("Parameters"), None), capabilities, stack)
        except Exception:
            del self.engine.stacks[stack.id]
            raise
        stack.role_arn, stack.notification_arns = ask("RoleARN"), ask("NotificationARNs") or []
        stack.termination_protection = bool(request._get_bool_param("EnableTerminationProtection"))
        on_failure = "DO_NOTHING" if request._get_bool_param("DisableRollback") else ask("OnFailure") or "ROLLBACK"
        self._begin(stack, prepared, _tags(ask("Tags")), capabilities, False, on_failure)
        return ActionResult({"StackId": stack.id})

    def update_stack(self, request: Any) -> ActionResult:
        ask = request._get_param
        stack = self.engine.find(ask("StackName"))
        _must_be_updatable(stack)
        capabilities = ask("Capabilities") or []
        body = self._body(request, stack)
        prepared = self._prepare(body, _given(ask("Parameters"), stack.prepared), capabilities, stack)
        tags = _tags(ask("Tags")) if ask("Tags") is not None else stack.tags
        if not self.engine.changes(stack, prepared, tags) and not self.engine.otherwise_changed(stack, prepared, tags):
            raise invalid("No updates are to be performed.")
        stack.disable_rollback = bool(request._get_bool_param("DisableRollback"))
        self._begin(stack, prepared, tags, capabilities, True, "ROLLBACK")
        return ActionResult({"StackId": stack.id})

    def _prepare(self, body: str, given: dict[str, str], capabilities: list[str], stack: Stack) -> Prepared:
        try:
            return self.engine.prepare(body, given, capabilities, expand_needs_capability=True, known=stack)
        except TransformFailed as error:
            raise invalid(str(error)) from error

    def _begin(
        self,
        stack: Stack,
        prepared: Prepared,
        tags: dict[str, str],
        capabilities: list[str],
        update: bool,
        on_failure: str,
    ) -> None:
        stack.tags, stack.capabilities = tags, capabilities
        if update:
            stack.updated = self.engine.now()
        stack.event("UPDATE_IN_PROGRESS" if update else "CREATE_IN_PROGRESS", "User Initiated")
        self.engine.run(lambda: stack.deploy(prepared, update, on_failure))

    def delete_stack(self, request: Any) -> EmptyResult:
        try:
            stack = self.engine.find(request._get_param("StackName"))
        except ValidationError:
            return EmptyResult()  # deleting what is not there is no error
        if stack.deleted:
            return EmptyResult()
        if stack.termination_protection:
            raise invalid(f"Stack [{stack.id}] cannot be deleted while TerminationProtection is enabled")
        if stack.parent is None and stack.status.endswith("IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
            raise invalid(f"Stack [{stack.name}] cannot be deleted while in status {stack.status}")
        retain = request._get_param("RetainResources") or []
        for change_set in [c for c in self.engine.change_sets.values() if c.stack is stack]:
            del self.engine.change_sets[change_set.id]
        stack.status = "DELETE_IN_PROGRESS"
        self.engine.run(lambda: stack.delete(retain))
        return EmptyResult()

    def describe_stacks(self, request: Any) -> ActionResult:
        name = request._get_param("StackName")
        stacks = [self.engine.find(name)] if name else [s for s in self.engine.stacks.values() if not s.deleted]
        return ActionResult({"Stacks": [self._stack(stack) for stack in stacks]})

    @staticmethod
    def _stack(stack: Stack) -> dict[str, Any]:
        prepared = stack.prepared
        declared = (prepared.template.get("Parameters") if prepared else None) or {}
        return _without_none(
            {
                "StackId": stack.id,
                "StackName": stack.name,
                "StackStatus": stack.status,
                "StackStatusReason": stack.reason,
                "CreationTime": stack.created,
                "LastUpdatedTime": stack.updated,
                "DeletionTime": stack.deleted,
                "Description": prepared.template.get("Description") if prepared else None,
                "Parameters": _shown(prepared, declared),
                "Outputs": stack.outputs,
                "Tags": _listed(stack.tags),
                "Capabilities": stack.capabilities,
                "NotificationARNs": stack.notification_arns,
                "RoleARN": stack.role_arn,
                "DisableRollback": stack.disable_rollback,
                "EnableTerminationProtection": stack.termination_protection,
                "ParentId": stack.parent.id if stack.parent else None,
                "RootId": stack.root.id if stack.parent else None,
                "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
                "RollbackConfiguration": {},
            }
        )

    def list_stacks(self, request: Any) -> ActionResult:
        wanted = request._get_param("StackStatusFilter") or []
        stacks = [s for s in reversed(list(self.engine.stacks.values())) if not wanted or s.status in wanted]
        kept = (
            "StackId", "StackName", "StackStatus", "StackStatusReason", "CreationTime", "LastUpdatedTime",
            "DeletionTime", "ParentId", "RootId", "DriftInformation",
        )  # fmt: skip
        summaries = [{k: v for k, v in self._stack(stack).items() if k in kept} for stack in stacks]
        return ActionResult({"StackSummaries": summaries})

    def describe_stack_events(self, request: Any) -> ActionResult:
        stack = self.engine.find(request._get_param("StackName"))
        start = int(request._get_param("NextToken") or 0)
        # Tokens count from the first event, so that events which come meanwhile do not shift the pages.
        total = start or len(stack.events)
        page = stack.events[max(total - EVENTS_PER_PAGE, 0) : total][::-1]
        left = total - len(page)
        return ActionResult({"StackEvents": page} | ({"NextToken": str(left)} if left else {}))

    # --- Resources ---
    def _resource(self, resource: Resource) -> dict[str, Any]:
        stack = resource.stack
        return _without_none(
            {
                "StackId": stack.id,
                "StackName": stack.name,
                "LogicalResourceId": resource.logical_id,
                "PhysicalResourceId": resource.physical_id,
                "ResourceType": resource.type,
                "ResourceStatus": resource.status,
                "ResourceStatusReason": resource.reason,
                "Timestamp": resource.changed,
                "LastUpdatedTimestamp": resource.changed,
                "DriftInformation": {"StackResourceDriftStatus": "NOT_CHECKED"},
            }
        )

    def describe_stack_resource(self, request: Any) -> ActionResult:
        stack, name = self.engine.find(request._get_param("StackName")), request._get_param("LogicalResourceId")
        if name not in stack.resources:
            raise invalid(f"Resource {name} does not exist for stack {stack.name}")
        return ActionResult({"StackResourceDetail": self._resource(stack.resources[name])})

    def describe_stack_resources(self, request: Any) -> ActionResult:
        name, physical = request._get_param("StackName"), request._get_param("PhysicalResourceId")
        logical = request._get_param("LogicalResourceId")
        if name:
            found = list(self.engine.find(name).resources.values())
        else:
            stacks = [
                s for s in self.engine.stacks.values() if any(r.physical_id == physical for r in s.resources.values())
            ]
            if not stacks:
                raise invalid(f"Stack for {physical} does not exist")
            found = list(stacks[0].resources.values())
        return ActionResult({"StackResources": [self._resource(r) for r in found if logical in (None, r.logical_id)]})

    def list_stack_resources(self, request: Any) -> ActionResult:
        stack = self.engine.find(request._get_param("StackName"))
        return ActionResult({"StackResourceSummaries": [self._resource(r) for r in stack.resources.values()]})

    # --- Templates ---
    def get_template(self, request: Any) -> ActionResult:
        stack, stage = (
            self.engine.find(request._get_param("StackName")),
            request._get_param("TemplateStage") or "Original",
        )
        prepared = stack.prepared
        if name := request._get_param("ChangeSetName"):
            prepared = self.engine.change_set(name, stack.name).prepared
        if prepared is None:
            waiting = [c.prepared for c in self.engine.change_sets.values() if c.stack is stack and c.prepared]
            prepared = waiting[-1] if waiting else None
        if prepared is None:
            raise invalid(f"Template for stack {stack.name} does not exist")
        body = prepared.body if stage == "Original" else json.dumps(prepared.template, default=str)
        # `sam delete` knows S3's URLs only as AWS has them (samcli/lib/utils/s3.py); ours mean the same object.
        machine = self.engine.machine
        body = body.replace(f"{machine.endpoint}/", f"https://s3.{machine.region}.amazonaws.com/")
        return ActionResult({"TemplateBody": body, "StagesAvailable": ["Original", "Processed"]})

    def get_template_summary(self, request: Any) -> ActionResult:
        ask = request._get_param
        if name := ask("StackName"):
            prepared = self.engine.find(name).prepared
            if prepared is None:
                raise invalid(f"Stack with id {name} does not exist")
            template, processed = prepared.original, prepared.template
        else:
            template = processed = templates.read(self.engine.body(ask("TemplateBody"), ask("TemplateURL")))
        return ActionResult(self._template_summary(template, processed))

    @staticmethod
    def _template_summary(template: dict[str, Any], processed: dict[str, Any]) -> dict[str, Any]:
        needed = templates.capabilities_needed(processed, template)
        parameters = []
        for name, spec in (template.get("Parameters") or {}).items():
            allowed = [str(value) for value in spec.get("AllowedValues", [])]
            parameter = {
                "ParameterKey": name, "ParameterType": spec.get("Type", "String"),
                "NoEcho": str(spec.get("NoEcho", False)).lower() == "true", "Description": spec.get("Description"),
                "DefaultValue": str(spec["Default"]) if "Default" in spec else None,
                "ParameterConstraints": {"AllowedValues": allowed} if allowed else {},
            }  # fmt: skip
            parameters.append(_without_none(parameter))
        return _without_none(
            {
                "Parameters": parameters,
                "Description": template.get("Description"),
                "ResourceTypes": sorted({resource["Type"] for resource in template["Resources"].values()}),
                "Version": str(template.get("AWSTemplateFormatVersion") or "2010-09-09"),
                "DeclaredTransforms": templates.transforms_of(template),
                "Capabilities": needed or None,
                "CapabilitiesReason": "The following resource(s) require capabilities: ["
                + ", ".join(
                    sorted({r["Type"] for r in processed["Resources"].values() if r["Type"].startswith("AWS::IAM::")})
                )
                + "]"
                if needed
                else None,
                "Metadata": json.dumps(template["Metadata"], default=str) if "Metadata" in template else None,
            }
        )

    def validate_template(self, request: Any) -> ActionResult:
        template = templates.read(
            self.engine.body(request._get_param("TemplateBody"), request._get_param("TemplateURL"))
        )
        summary = self._template_summary(template, template)
        kept = ("ParameterKey", "DefaultValue", "NoEcho", "Description")
        parameters = [{k: v for k, v in parameter.items() if k in kept} for parameter in summary["Parameters"]]
        wanted = ("Description", "Capabilities", "CapabilitiesReason", "DeclaredTransforms")
        return ActionResult({"Parameters": parameters} | {k: v for k, v in summary.items() if k in wanted})

    def _body(self, request: Any, stack: Stack) -> str:
        if request._get_bool_param("UsePreviousTemplate"):
            if stack.prepared is None:
                raise invalid(f"Stack {stack.name} has no template that could be used again")
            return stack.prepared.body
        return self.engine.body(request._get_param("TemplateBody"), request._get_param("TemplateURL"))

    # --- The rest ---
    def list_exports(self, request: Any) -> ActionResult:
        found = self.engine.exports().items()
        return ActionResult({"Exports": [{"ExportingStackId": s.id, "Name": n, "Value": v} for n, (s, v) in found]})

    def list_imports(self, request: Any) -> ActionResult:
        name = request._get_param("ExportName")
        if not (found := self.engine.importers(name)):
            raise invalid(f"Export '{name}' is not imported by any stack.")
        return ActionResult({"Imports": found})

    def update_termination_protection(self, request: Any) -> ActionResult:
        stack = self.engine.find(request._get_param("StackName"))
        stack.termination_protection = bool(request._get_bool_param("EnableTerminationProtection"))
        return ActionResult({"StackId": stack.id})

    def get_stack_policy(self, request: Any) -> ActionResult:
        policy = self.engine.find(request._get_param("StackName")).policy
        return ActionResult({"StackPolicyBody": policy} if policy else {})

    def set_stack_policy(self, request: Any) -> EmptyResult:
        self.engine.find(request._get_param("StackName")).policy = request._get_param("StackPolicyBody")
        return EmptyResult()


OPERATIONS = [name for name in vars(Api) if not name.startswith("_")]


def install(engines: Mapping[str, Engine]) -> None:
    """Put our handlers in the place of moto's; each account has its own stacks."""
    apis = {account: Api(engine) for account, engine in engines.items()}

    def handler(name: str) -> Callable[[Any], ActionResult]:
        def answer(request: Any) -> ActionResult:
            operation: Callable[[Any], ActionResult] = getattr(apis[request.current_account], name)
            return operation(request)

        return answer

    for name in OPERATIONS:
        setattr(CloudFormationResponse, name, handler(name))
    CloudFormationResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER = {
        path: transformer
        for path, transformer in CloudFormationResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER.items()
        if "StackSet" in path
    }


def _must_be_updatable(stack: Stack) -> None:
    if stack.status.endswith("_IN_PROGRESS") or stack.status in (
        "ROLLBACK_COMPLETE",
        "ROLLBACK_FAILED",
        "CREATE_FAILED",
        "DELETE_FAILED",
    ):
        raise invalid(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")


def _given(parameters: list[dict[str, Any]] | None, previous: Prepared | None) -> dict[str, str]:
    given: dict[str, str] = {}
    for parameter in parameters or []:
        name = parameter["ParameterKey"]
        if str(parameter.get("UsePreviousValue", False)).lower() != "true":
            given[name] = str(parameter.get("ParameterValue", ""))
        elif previous is None or name not in previous.parameters:
            raise invalid(
                f"Invalid input for parameter key {name}. Cannot specify usePreviousValue as true for a parameter key "
                "not in the previous template"
            )
        else:
            value = previous.parameters[name]
            given[name] = previous.given.get(name, ",".join(value) if isinstance(value, list) else str(value))
    return given


def _shown(prepared: Prepared | None, declared: dict[str, Any]) -> list[dict[str, Any]]:
    shown = []
    for name, value in (prepared.parameters if prepared else {}).items():
        secret = str(declared.get(name, {}).get("NoEcho", "")).lower() == "true"
        text = ",".join(value) if isinstance(value, list) else str(value)
        shown.append({"ParameterKey": name, "ParameterValue": HIDDEN if secret else text})
    return shown


def _tags(tags: list[dict[str, str]] | None) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags or []}


def _listed(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


__all__ = ["NO_CHANGES", "Api", "install"]
