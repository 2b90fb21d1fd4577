"""EventBridge that delivers, beside whoever emits: to functions, topics, queues and state machines, with dead letters.

moto has no Lambda, SNS or Step Functions target and delivers inside PutEvents (getmoto/moto#4163); its patterns do not
look into lists of objects. Rules are those of "Amazon EventBridge event patterns" and "... input transformation".
"""

import copy
import json
import logging
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
from jsonpath_ng.ext.parser import parse as json_path
from moto.awslambda.utils import get_backend
from moto.core.exceptions import JsonRESTError
from moto.events.models import UNDEFINED, EventPattern, EventsBackend, Rule, events_backends
from moto.events.responses import EventsHandler
from moto.logs.models import logs_backends
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends

from deploy_runner.local_aws.awslambda import may_invoke, resolve, send
from deploy_runner.local_aws.faults import Faults
from deploy_runner.local_aws.iam.authority import CannotAssume, assume_as_service, lets_service, refusal
from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.timetable import Dues, timetable

log = logging.getLogger(__name__)


class NotDelivered(Exception):
    """Why a target did not get its event: an error code of EventBridge, and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Forwarded(dict[str, Any]):
    """An event that came from another bus."""


def emit(
    account_id: str, region: str, source: str, detail_type: str, resources: list[str], detail: dict[str, Any]
) -> None:
    """Send an event of an AWS service to the default bus; returns before it is delivered."""
    event = {
        "version": "0", "id": str(uuid.uuid4()), "detail-type": detail_type, "source": source, "account": account_id,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "region": region, "resources": resources,
        "detail": detail,
    }  # fmt: skip
    for rule in list(events_backends[account_id][region].describe_event_bus("default").rules.values()):
        rule.send_to_targets(copy.deepcopy(event))


def matches(pattern: Any, event: Any) -> bool:
    """Whether an event has what a pattern asks for; in a list, one item has to."""
    if isinstance(pattern, list):
        filters = EventPattern(None, {})
        return bool(filters._does_item_match_filters(event, pattern))
    if isinstance(event, list):
        return any(matches(pattern, item) for item in event)
    found = event if isinstance(event, dict) else {}
    return all(
        any(matches(one, event) for one in wanted) if name == "$or" else matches(wanted, found.get(name, UNDEFINED))
        for name, wanted in pattern.items()
    )


def given_to(target: dict[str, Any], event: dict[str, Any], rule_arn: str) -> str:
    """The JSON text that a target gets of an event."""
    if "Input" in target:
        return str(target["Input"])
    if "InputPath" in target:
        found = json_path(target["InputPath"]).find(event)
        return json.dumps(found[0].value if found else None)
    transformer = target.get("InputTransformer")
    if not transformer:
        return json.dumps(event)
    values: dict[str, Any] = {
        "aws.events.rule-arn": rule_arn, "aws.events.rule-name": rule_arn.rpartition("/")[2],
        "aws.events.event.ingestion-time": event["time"], "aws.events.event": event, "aws.events.event.json": event,
    }  # fmt: skip
    for name, path in (transformer.get("InputPathsMap") or {}).items():
        found = json_path(path).find(event)
        values[name] = found[0].value if found else None

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            return found[0]
        quoted = len(re.findall(r'(?<!\\)"', template[: found.start()])) % 2
        held = values[found[1]]
        if not quoted:
            return json.dumps(held)
        text = held if isinstance(held, str) else "" if held is None else json.dumps(held)
        return json.dumps(text)[1:-1]

    template = transformer["InputTemplate"]
    text = re.sub(r"<([\w.-]+)>", value, template)
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return json.dumps(text)


def _deliver(machine: Machine, rule: Any, target: dict[str, Any], event: dict[str, Any]) -> None:
    arn = target["Arn"]
    service, region, account = arn.split(":")[2:5]
    text = given_to(target, event, rule.arn)
    if service == "lambda":
        name, qualifier = resolve(arn)
        backend = get_backend(account, region)
        try:
            function = backend.get_function(name, qualifier)
        except JsonRESTError as error:
            raise NotDelivered("RESOURCE_NOT_FOUND", str(error.message)) from error
        if not may_invoke(function, qualifier, "events.amazonaws.com", rule.arn):
            message = (
                f"The policy of {arn} does not let events.amazonaws.com invoke it for {rule.arn}. Add a permission"
            )
            raise NotDelivered("NO_PERMISSIONS", message)
        backend.invoke_later(function, text.encode(), qualifier, str(uuid.uuid4()))
    elif service == "sns":
        topic = sns_backends[account][region].topics.get(arn)
        if topic is None:
            raise NotDelivered("RESOURCE_NOT_FOUND", f"Topic {arn} does not exist")
        _must_allow("sns:Publish", arn, rule)
        send(account, arn, text)
    elif service == "sqs":
        queue = sqs_backends[account][region].queues.get(arn.rpartition(":")[2])
        if queue is None:
            raise NotDelivered("RESOURCE_NOT_FOUND", f"Queue {arn} does not exist")
        _must_allow("sqs:SendMessage", arn, rule)
        send(account, arn, text)
    elif service == "states":
        session = boto3.Session(**_credentials(machine, rule, target), region_name=region)
        client = session.client("stepfunctions", endpoint_url=machine.endpoint)
        try:
            client.start_execution(stateMachineArn=arn, input=text)
        except client.exceptions.ClientError as error:
            if "AccessDenied" in error.response["Error"]["Code"]:
                raise NotDelivered("NO_PERMISSIONS", error.response["Error"]["Message"]) from error
            raise
    elif service == "events" and ":event-bus/" in arn:
        _forward(machine, rule, target, event)
    elif service == "logs":
        if account != rule.account_id and machine.enforces_iam:
            raise NotDelivered("NO_PERMISSIONS", f"{arn} is of another account than {rule.arn}")
        # moto's own cannot read a time that is text, as events have it.
        group, stream = arn.split(":log-group:")[1].removesuffix(":*"), str(uuid.uuid4())
        logs = logs_backends[account][region]
        logs.create_log_stream(group, stream)
        written = {"timestamp": int(datetime.now(UTC).timestamp() * 1000), "message": text}
        logs.put_log_events(group, stream, [written])
    else:
        raise NotDelivered("SDK_CLIENT_ERROR", f"Local AWS delivers no events to {arn}")


def _forward(machine: Machine, rule: Any, target: dict[str, Any], event: dict[str, Any]) -> None:
    """Give an event to the rules of another bus, as it is: it keeps the account and the region that it comes from.

    One that came from elsewhere goes no further, and to another account a role has to be named that may, while the
    bus lets it: docs.aws.amazon.com/eventbridge/latest/userguide/eb-cross-account.html, eb-event-bus-permissions.html
    """
    arn = target["Arn"]
    region, account = arn.split(":")[3:5]
    name = arn.partition(":event-bus/")[2]
    own = (rule.account_id, rule.region_name)
    if isinstance(event, Forwarded):
        log.info("event %s has come from another bus, and goes no further", event["id"])
        return
    bus = events_backends[account][region].event_buses.get(name)
    if bus is None:
        raise NotDelivered("RESOURCE_NOT_FOUND", f"Event bus {arn} does not exist")
    if (account, region) != own and machine.enforces_iam:
        role = _assumed(machine, rule, target)
        context: dict[str, Any] = {
            "events:source": [event["source"]], "events:detail-type": [event["detail-type"]],
            "events:eventBusInvocation": "true",
        }  # fmt: skip
        if said := refusal(machine, role.role_arn, role.session_name, "events:PutEvents", arn, context):
            raise NotDelivered("NO_PERMISSIONS", said)
    for other in list(bus.rules.values()):
        other.send_to_targets(Forwarded(copy.deepcopy(event)))


def _credentials(machine: Machine, rule: Any, target: dict[str, Any]) -> dict[str, Any]:
    """Return credentials of the role that a target names, without which EventBridge may not start an execution."""
    if not machine.enforces_iam:
        return {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    role = _assumed(machine, rule, target)
    return {
        "aws_access_key_id": role.access_key_id, "aws_secret_access_key": role.secret_access_key,
        "aws_session_token": role.session_token,
    }  # fmt: skip


def _assumed(machine: Machine, rule: Any, target: dict[str, Any]) -> Any:
    """Return a session of the role that a target names. Raises NotDelivered."""
    try:
        return assume_as_service(
            machine, target.get("RoleArn") or "", "events.amazonaws.com", rule.arn, "EventBridge", 900
        )
    except CannotAssume as error:
        raise NotDelivered("NO_PERMISSIONS", str(error)) from error


def _must_allow(action: str, arn: str, rule: Any) -> None:
    """Raise NotDelivered unless a topic's or queue's policy lets EventBridge in for a rule."""
    if not lets_service(action, arn, "events.amazonaws.com", rule.arn):
        raise NotDelivered("NO_PERMISSIONS", f"The policy of {arn} does not let events.amazonaws.com do {action}")


@dataclass
class Deliveries:
    """When each event is delivered, by the faults that strike it; every rule and target sees the same of an event."""

    faults: Faults
    _known: OrderedDict[str, tuple[float, ...]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, event: dict[str, Any]) -> tuple[float, ...]:
        """Return the pauses, in seconds, after which the event is delivered: one is usual, none loses it."""
        with self._lock:
            if event["id"] not in self._known:
                self._known[event["id"]] = self._decided(event)
                if len(self._known) > 10_000:
                    self._known.popitem(last=False)
            return self._known[event["id"]]

    def _decided(self, event: dict[str, Any]) -> tuple[float, ...]:
        detail = event["detail"] if isinstance(event["detail"], dict) else {}
        facts = {"source": event["source"], "type": event["detail-type"], "name": str(detail.get("eventName", ""))}
        pauses = [0.0]
        for fault, dice in self.faults.strike("events", **facts):
            if fault.effect == "lose":
                return ()
            if fault.effect == "double":
                pauses += pauses
            elif fault.effect == "delay":
                pauses = [pause + fault.seconds for pause in pauses]
            else:
                pauses = [pause + dice.uniform(0, fault.seconds) for pause in pauses]
        return tuple(pauses)


def _deliver_or_bury(
    machine: Machine, rule: Any, target: dict[str, Any], event: dict[str, Any], pause: float = 0.0
) -> None:
    time.sleep(pause)
    try:
        _deliver(machine, rule, target, event)
    except Exception as error:
        # A missing permission or target is not tried again ("How EventBridge retries delivering events").
        code = error.code if isinstance(error, NotDelivered) else "SDK_CLIENT_ERROR"
        log.warning(
            "event %s (%s) did not reach %s: %s: %s", event["id"], event["detail-type"], target["Arn"], code, error
        )
        letters = (target.get("DeadLetterConfig") or {}).get("Arn")
        if letters:
            facts = {
                "RULE_ARN": rule.arn, "TARGET_ARN": target["Arn"], "ERROR_CODE": code,
                "ERROR_MESSAGE": str(error)[:1000],
                "RETRY_ATTEMPTS": "0", "EXHAUSTED_RETRY_CONDITION": "NonRetryable",
            }  # fmt: skip
            try:
                _must_allow("sqs:SendMessage", letters, rule)
                send(rule.account_id, letters, json.dumps(event), facts)
            except Exception:
                log.exception("the dead letter queue %s does not take the event either", letters)


class Clockwork:
    """Sends the events of rules with a schedule: a rate's first one period after the rule was there. moto sends none.

    docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-rule-schedule.html
    """

    def __init__(self, send: Callable[[Any, dict[str, Any]], None]) -> None:
        self._send, self._dues = send, Dues()

    def tick(self, now: float) -> None:
        """Send what is due at a time, in seconds since 1970."""
        moment = datetime.fromtimestamp(now, UTC)
        rules = {rule.arn: rule for rule in _rules() if rule.scheduled_expression and rule.state != "DISABLED"}
        self._dues.keep(rules)
        for arn, rule in rules.items():
            try:
                due = self._dues.is_due(arn, timetable(rule.scheduled_expression), moment)
            except ValueError as error:
                log.warning("the rule %s is never due: %s", arn, error)
                continue
            if due:
                self._send(rule, _scheduled(rule, moment))


def _rules() -> list[Any]:
    backends = [backend for regions in list(events_backends.values()) for backend in list(regions.values())]
    buses = [bus for backend in backends for bus in list(backend.event_buses.values())]
    return [rule for bus in buses for rule in list(bus.rules.values())]


def _scheduled(rule: Any, moment: datetime) -> dict[str, Any]:
    return {
        "version": "0", "id": str(uuid.uuid4()), "detail-type": "Scheduled Event", "source": "aws.events",
        "account": rule.account_id, "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "region": rule.region_name,
        "resources": [rule.arn], "detail": {},
    }  # fmt: skip


def install(machine: Machine) -> None:
    """Deliver to every kind of target that the product uses."""
    plain_put_events = EventsBackend.put_events
    deliveries = Deliveries(machine.faults)

    def send_to_targets(rule: Any, original_event: dict[str, Any], transform_input: bool = True) -> None:
        if rule.state == "DISABLED" or not rule.event_pattern.get_pattern():
            return
        kind = type(original_event)
        event = kind((key, value) for key, value in original_event.items() if key != "ingestion-time")
        if not isinstance(event["time"], str):
            event["time"] = datetime.fromtimestamp(float(event["time"]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if matches(rule.event_pattern.get_pattern(), event):
            start_deliveries(rule, event)

    def start_deliveries(rule: Any, event: dict[str, Any]) -> None:
        for pause in deliveries.of(event):
            for target in list(rule.targets):
                arguments = (machine, rule, target, event, pause)
                threading.Thread(target=_deliver_or_bury, args=arguments, name="event", daemon=True).start()

    def put_events(backend: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Only AWS's services may say that they are AWS's services."""
        answers: list[dict[str, Any]] = plain_put_events(backend, [e for e in events if not _forged(e)])
        refused = {"ErrorCode": "NotAuthorizedForSourceException", "ErrorMessage": "Not authorized for the source."}
        return [dict(refused) if _forged(event) else answers.pop(0) for event in events]

    plain_list_rules = EventsHandler.list_rules

    def list_rules(request: Any) -> tuple[str, Any]:
        """A rule says in DescribeRule, and not in ListRules, who created it (API_Rule)."""
        body, headers = plain_list_rules(request)
        listed = json.loads(body)
        for rule in listed["Rules"]:
            rule.pop("CreatedBy", None)
        return json.dumps(listed), headers

    machine.each_second("scheduled rules", Clockwork(start_deliveries).tick)
    Rule.send_to_targets = send_to_targets
    EventsBackend.put_events = put_events
    EventsHandler.list_rules = list_rules


def _forged(event: dict[str, Any]) -> bool:
    return str(event.get("Source", "")).startswith("aws.")
