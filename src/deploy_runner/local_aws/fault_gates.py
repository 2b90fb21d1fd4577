"""The gates before AWS's API and GitHub's, where faults of these strike: WSGI applications before the real ones."""

import contextlib
import json
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Request, Response

from deploy_runner.local_aws.faults import LONGEST_SECONDS, Fault, Faults
from deploy_runner.local_aws.iam.authority import TokenInvalid, session_of
from deploy_runner.local_aws.iam.enforce import (
    MODELS,
    call_of,
    error_answer,
    operation_name,
    protocol_of,
    signature,
    whole_request,
)
from deploy_runner.local_aws.machine import Machine

type Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# How a service says that it is asked too often, where it is not as the others of its protocol: "Common Errors" in each
# API reference, and botocore/data/_retry.json, by which clients know that they may try again.
_THROTTLES = {
    "lambda": ("TooManyRequestsException", 429, "Rate Exceeded."),
    "s3": ("SlowDown", 503, "Please reduce your request rate."),
    "dynamodb": (
        "ProvisionedThroughputExceededException", 400,
        "The level of configured provisioned throughput for the table was exceeded. Consider increasing your "
        "provisioning level with the UpdateTable API.",
    ),
    "ec2": ("RequestLimitExceeded", 503, "Request limit exceeded."),
    "sqs": ("RequestThrottled", 403, "Request is throttled."),
    "events": ("ThrottlingException", 400, "Rate exceeded"),
    "scheduler": ("ThrottlingException", 429, "Rate exceeded"),
}  # fmt: skip
_JSON_THROTTLE = ("ThrottlingException", 400, "Rate exceeded")
_QUERY_THROTTLE = ("Throttling", 400, "Rate exceeded")

# What the Invoke API answers, so that Step Functions names it so: see `_Optimised` in stepfunctions/tasks.py.
_REFUSALS = {
    "Lambda.ServiceException": ("ServiceException", 500, "The AWS Lambda service encountered an internal error."),
    "Lambda.AWSLambdaException": ("InternalFailure", 500, "The request processing has failed."),
    "Lambda.TooManyRequestsException": ("TooManyRequestsException", 429, "Rate Exceeded."),
}


class _Struck(Exception):
    """The request is answered otherwise; None: its connection is closed without an answer."""

    def __init__(self, response: Response | None) -> None:
        super().__init__()
        self.response = response


class ApiGate:
    """Before AWS."""

    def __init__(self, machine: Machine, aws: Wsgi) -> None:
        self._machine, self._aws = machine, aws
        self._past = Past(machine, aws)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        faults = self._machine.faults
        access_key, token, region, service = signature(environ)
        if not service or not (faults.has("api") or faults.has("lambda", "refuse")):
            return self._aws(environ, start_response)
        request = whole_request(environ)
        operation, about = _asked(request, service, region)
        names = (service, MODELS.get(service, service))
        facts: dict[str, str | tuple[str, ...]] = {
            "service": names,
            "operation": operation,
            "about": about,
            "role": _role(access_key, token),
        }
        if service == "ecs" and faults.has("api", "stale"):
            self._past.keep(now=operation.startswith(("Create", "Update", "Delete", "Stop")))
        change = []
        try:
            if service == "lambda" and operation in ("Invoke", "InvokeAsync"):
                for fault, _ in faults.strike("lambda", "refuse", function=about):
                    _refuse_invocation(request, fault)
            for fault, _ in faults.strike("api", **facts):
                if fault.effect == "throttle":
                    raise _Struck(throttled(request, service))
                if fault.effect == "error":
                    raise _Struck(
                        error_answer(request, service, fault.more["message"], fault.value, fault.more["status"])
                    )
                if fault.effect in ("stale", "empty"):
                    change.append(fault)
                else:
                    _disturb(fault, self._aws, environ)
        except _Struck as struck:
            return _end(struck, environ, start_response)
        if not change:
            return self._aws(environ, start_response)
        body, status, headers = run_wsgi_app(self._aws, environ, buffered=True)
        whole = b"".join(body)
        if status.startswith("200"):
            for fault in change:
                whole = _emptied(whole) if fault.effect == "empty" else self._past.instead(operation, whole, fault)
            headers["Content-Length"] = str(len(whole))
        return Response(whole, status, headers)(environ, start_response)  # type: ignore[no-any-return]


def throttled(request: Request, service: str) -> Response:
    """Return a service's answer to who asks too often."""
    default = _JSON_THROTTLE if "json" in protocol_of(request, service) else _QUERY_THROTTLE
    code, status, message = _THROTTLES.get(service, default)
    if service == "dynamodb" and not re.search("Item|Query|Scan|Statement", operation_name(request)):
        code, status, message = default  # of tables themselves: "Error handling with DynamoDB"
    return error_answer(request, service, message, code, status)


def _refuse_invocation(request: Request, fault: Fault) -> None:
    if fault.value not in _REFUSALS:  # Lambda.SdkClientException: the SDK gets no answer
        raise _Struck(None)
    code, status, message = _REFUSALS[fault.value]
    raise _Struck(error_answer(request, "lambda", message, code, status))


def _asked(request: Request, service: str, region: str) -> tuple[str, tuple[str, ...]]:
    """Return the operation, and the texts among its parameters: whole, and ARNs by their parts, too."""
    try:
        call = call_of(request, service, "", region)
    except Exception:  # what cannot be read is still known by its name
        return operation_name(request), ()
    return call.operation, tuple(_texts(call.parameters))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if value.startswith("arn:"):
            yield from re.split("[:/]", value)[5:]
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _role(access_key: str, token: str) -> str:
    try:
        session = session_of(access_key, token)
    except TokenInvalid:
        return ""
    return session.role_arn.rpartition("/")[2] if session else ""


def _disturb(fault: Fault, application: Wsgi, environ: dict[str, Any]) -> None:
    """Have an effect on the connection. Raises _Struck unless the request is only late."""
    if fault.effect == "delay":
        time.sleep(fault.seconds)
        return
    if fault.effect == "hang":
        _until_gone(environ.get("werkzeug.socket"))
    elif fault.effect == "lose_answer":
        run_wsgi_app(application, environ, buffered=True)
    raise _Struck(None)


def _until_gone(client: socket.socket | None) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while client is not None and time.monotonic() < deadline:
        readable, _, _ = select.select([client], [], [], 1.0)
        try:
            if readable and not client.recv(1, socket.MSG_PEEK):
                return
        except OSError:
            return
        time.sleep(0.05)


def _end(struck: _Struck, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if struck.response is not None:
        return struck.response(environ, start_response)  # type: ignore[no-any-return]
    client: socket.socket | None = environ.get("werkzeug.socket")
    if client is not None:
        with contextlib.suppress(OSError):  # it left by itself
            client.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("a fault closes the connection")  # the server takes it for a client that left


def _emptied(body: bytes) -> bytes:
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    answer.pop("nextToken", None)
    return json.dumps({key: [] if isinstance(value, list) else value for key, value in answer.items()}).encode()


@dataclass
class _Sample:
    """What ECS said at one moment, by ARN."""

    time: float
    services: dict[str, Any] = field(default_factory=dict)
    rollouts: dict[str, Any] = field(default_factory=dict)  # as ListServiceDeployments has them
    described: dict[str, Any] = field(default_factory=dict)  # as DescribeServiceDeployments has them


class Past:
    """What ECS said some time ago: its reads lag behind what was changed.

    "The Amazon ECS API follows an eventual consistency model": API Reference, RunTask.
    """

    INTERVAL = 0.2

    def __init__(self, machine: Machine, aws: Wsgi) -> None:
        self._machine, self._aws = machine, aws
        self._samples: deque[_Sample] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def keep(self, *, now: bool) -> None:
        """Remember from now on what ECS says, as long as there is a fault that needs it; `now`: also at once."""
        with self._lock:
            begin = self._thread is None
            if begin:
                self._thread = threading.Thread(target=self._watch, name="stale reads", daemon=True)
        if begin or now:
            self._add()
        if begin and self._thread:
            self._thread.start()

    def _watch(self) -> None:
        while self._machine.faults.has("api", "stale"):
            time.sleep(self.INTERVAL)
            self._add()
        with self._lock:
            self._thread = None
            self._samples.clear()

    def _add(self) -> None:
        sample = _Sample(time.monotonic())
        for cluster in self._ask("ListClusters").get("clusterArns", []):
            services = self._ask("ListServices", cluster=cluster, maxResults=100).get("serviceArns", [])
            for start in range(0, len(services), 10):
                told = self._ask(
                    "DescribeServices", cluster=cluster, services=services[start : start + 10], include=["TAGS"]
                )
                sample.services |= {service["serviceArn"]: service for service in told.get("services", [])}
            for service in services:
                told = self._ask("ListServiceDeployments", cluster=cluster, service=service)
                rollouts = {rollout["serviceDeploymentArn"]: rollout for rollout in told.get("serviceDeployments", [])}
                sample.rollouts |= rollouts
                told = self._ask("DescribeServiceDeployments", serviceDeploymentArns=list(rollouts)[:20])
                for described in told.get("serviceDeployments", []):
                    sample.described[described["serviceDeploymentArn"]] = described
        with self._lock:
            self._samples.append(sample)
            while len(self._samples) > 1 and self._samples[1].time < sample.time - self._longest():
                self._samples.popleft()

    def _longest(self) -> float:
        listed = [entry["fault"] for entry in self._machine.faults.list()]
        return max((float(fault["value"]) for fault in listed if fault["effect"] == "stale"), default=0.0)

    def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Ask AWS itself, behind the gate, as a person."""
        builder = EnvironBuilder(
            method="POST", base_url=self._machine.endpoint, data=json.dumps(parameters),
            headers={
                "X-Amz-Target": f"AmazonEC2ContainerServiceV20141113.{operation}",
                "Content-Type": "application/x-amz-json-1.1",
                "Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/"
                f"{self._machine.region}/ecs/aws4_request, SignedHeaders=host, Signature=none",
            },
        )  # fmt: skip
        body, status, _ = run_wsgi_app(self._aws, builder.get_environ(), buffered=True)
        answer = b"".join(body)
        return dict(json.loads(answer)) if status.startswith("200") else {}

    def instead(self, operation: str, body: bytes, fault: Fault) -> bytes:
        """Return an answer of ECS as it was so many seconds ago; other answers as they are."""
        then = time.monotonic() - fault.seconds
        with self._lock:
            old = [sample for sample in self._samples if sample.time <= then] or list(self._samples)[:1]
        if not old:
            return body
        past, answer = old[-1], json.loads(body)
        if operation == "DescribeServices":
            _replace(answer, "services", "serviceArn", past.services, missing=True)
        elif operation == "ListServiceDeployments":
            _replace(answer, "serviceDeployments", "serviceDeploymentArn", past.rollouts)
        elif operation == "DescribeServiceDeployments":
            _replace(answer, "serviceDeployments", "serviceDeploymentArn", past.described, missing=True)
        else:
            return body
        return json.dumps(answer).encode()


def _replace(answer: dict[str, Any], key: str, arn: str, past: dict[str, Any], *, missing: bool = False) -> None:
    """Put what was in the place of what is; what was not there yet is left out, or named as missing."""
    now, answer[key] = answer.get(key, []), []
    for item in now:
        before = past.get(item[arn])
        if before is not None:
            kept = {name: value for name, value in before.items() if name != "tags" or "tags" in item}
            answer[key].append(kept)
        elif missing:
            answer.setdefault("failures", []).append({"arn": item[arn], "reason": "MISSING"})


class GitHubGate:
    """Before the local GitHub."""

    def __init__(self, faults: Faults, github: Wsgi) -> None:
        self._faults, self._github = faults, github

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "").removeprefix("/api/v3")
        try:
            for fault, _ in self._faults.strike("github", method=environ["REQUEST_METHOD"], path=path):
                if fault.effect in _GITHUB:
                    raise _Struck(_GITHUB[fault.effect](fault))
                whole_request(environ)
                _disturb(fault, self._github, environ)
        except _Struck as struck:
            return _end(struck, environ, start_response)
        return self._github(environ, start_response)


def _github_error(status: int, message: str, headers: dict[str, str]) -> Response:
    documentation = "https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"
    body = json.dumps({"message": message, "documentation_url": documentation, "status": str(status)})
    return Response(body, status, headers, mimetype="application/json")


def _rate_limit(fault: Fault) -> Response:
    # docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api, "Checking the status of your rate limit"
    headers = {
        "x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-used": "5000",
        "x-ratelimit-reset": str(int(time.time() + fault.seconds) + 1), "x-ratelimit-resource": "core",
    }  # fmt: skip
    return _github_error(fault.more["limit_status"], "API rate limit exceeded for installation ID 1.", headers)


def _secondary_limit(fault: Fault) -> Response:
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    return _github_error(fault.more["limit_status"], message, {"Retry-After": f"{fault.seconds:.0f}"})


def _status(fault: Fault) -> Response:
    status = int(fault.value)
    known = {each.value: each.phrase for each in HTTPStatus}
    if status in (502, 503, 504):  # what stands before GitHub's servers answers for them, and not in JSON
        return Response(f"<html><body><h1>{known[status]}</h1></body></html>", status, mimetype="text/html")
    return Response(json.dumps({"message": known.get(status, "Server Error")}), status, mimetype="application/json")


_GITHUB: dict[str, Callable[[Fault], Response]] = {
    "rate_limit": _rate_limit, "secondary_limit": _secondary_limit, "status": _status,
}  # fmt: skip
