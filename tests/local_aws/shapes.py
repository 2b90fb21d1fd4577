"""Holds every answer of local AWS to botocore's model of its operation, as the tests that call it go by.

botocore drops what it does not know and turns what it can into the type that it wants, so a test that reads its result
does not see a wrong answer. Here the raw answer is read: JSON, or XML, which is brought into the same form first.
"""

import importlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StringShape, StructureShape
from moto.core.base_backend import BaseBackend
from moto.core.request import Request
from moto.core.responses import BaseResponse
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from werkzeug.exceptions import HTTPException

type Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

VIOLATIONS: list[str] = []
CALLED: set[tuple[str, str]] = set()

# The services that are ours in part at least, by the names in their requests' signatures and in botocore.
SERVICES = {
    "cloudformation": "cloudformation", "dynamodb": "dynamodb", "ecr": "ecr", "ecs": "ecs",
    "elasticloadbalancing": "elbv2", "events": "events", "iam": "iam", "lambda": "lambda", "logs": "logs",
    "scheduler": "scheduler", "states": "stepfunctions", "sts": "sts",
}  # fmt: skip

# "Common Errors" in the API Reference of each service; the names that end in Exception are those of JSON's services.
# UnknownOperationException, SerializationException: smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html
COMMON_ERRORS = {
    "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature",
    "InternalFailure", "InternalServerError", "InvalidAction", "InvalidClientTokenId", "InvalidParameterCombination",
    "InvalidParameterValue", "InvalidQueryParameter", "MalformedQueryString", "MissingAction",
    "MissingAuthenticationToken", "MissingParameter", "NotAuthorized", "OptInRequired", "RequestExpired",
    "SerializationException", "ServiceUnavailable", "Throttling", "ThrottlingException", "UnknownOperationException",
    "UnrecognizedClientException", "ValidationError", "ValidationException",
}  # fmt: skip

# Values that AWS sends and its model has not, by the enumeration's name. A stack's own events have the stack's status:
# `sam deploy` goes by REVIEW_IN_PROGRESS there (github.com/floci-io/floci/issues/1429), which the model does not know.
# The text of API_ServiceDeployment, lifecycleStage, names a stage that its model has for hooks alone.
BESIDE_THE_MODEL = {
    "ResourceStatus": ("cloudformation", "StackStatus"),
    "ServiceDeploymentLifecycleStage": ("ecs", "DeploymentLifecycleHookStage"),
}  # fmt: skip


class Held:
    """A WSGI application before AWS's that lets everything pass, and notes what an answer has that it must not have."""

    def __init__(self, aws: Wsgi) -> None:
        self._aws = aws

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        asked = _operation(environ)
        if asked is None:
            return self._aws(environ, start_response)
        service, operation = asked
        begun: list[tuple[str, list[tuple[str, str]]]] = []

        def started(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            begun.append((status, headers))

        answer = self._aws(environ, started)
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        status, headers = begun[-1]
        CALLED.add((service, operation.name))
        found = wrong_in(operation, int(status.split()[0]), {k.lower(): v for k, v in headers}, body)
        VIOLATIONS.extend(f"{service}:{operation.name}: {each}" for each in found)
        start_response(status, headers)
        return [body]


def held(gated: Callable[[Any, Wsgi], Wsgi]) -> Callable[[Any, Wsgi], Wsgi]:
    """Return what makes of `Machine.gated` one whose answers are read."""
    return lambda machine, aws: Held(gated(machine, aws))


@cache
def model(service: str) -> ServiceModel:
    """Return botocore's own model, which moto's has additions to."""
    return botocore.session.get_session().get_service_model(service)


def implemented() -> set[tuple[str, str]]:
    """Return the operations that are ours: a method of that name in a class of moto, or in ours of it, is our code."""
    found = set()
    for service in SERVICES.values():
        for kind in ("models", "responses"):
            module = importlib.import_module(f"moto.{'awslambda' if service == 'lambda' else service}.{kind}")
            kinds = [c for c in vars(module).values() if isinstance(c, type)]
            # Not of what all services are: its subclasses are other services', whose operations have the same names.
            bases = (BaseBackend, BaseResponse)
            theirs = [c for c in kinds if issubclass(c, bases) and c not in bases]
            for each in {*theirs, *(sub for c in theirs for sub in c.__subclasses__())}:
                found |= {(service, o) for o in model(service).operation_names if _is_ours(each, xform_name(o))}
    return found


def _is_ours(kind: type, method: str) -> bool:
    return str(getattr(getattr(kind, method, None), "__module__", "")).startswith("deploy_runner.")


def _operation(environ: dict[str, Any]) -> tuple[str, OperationModel] | None:
    """Return the service and the operation that a request is for, if it is for one of ours."""
    signed = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request", environ.get("HTTP_AUTHORIZATION", ""))
    form = "x-www-form-urlencoded" in environ.get("CONTENT_TYPE", "")
    service = SERVICES.get(signed[1] if signed else "sts" if form else "")  # nobody signs AssumeRoleWithWebIdentity
    if service is None:
        return None
    body = Request(environ).get_data(cache=True, parse_form_data=False)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    request = Request({**environ, "wsgi.input": io.BytesIO(body)})
    request.get_data(cache=True, parse_form_data=True)
    try:
        operation, _ = get_service_router(get_service_model(service).service_name).match(request)
        return service, model(service).operation_model(operation.name)
    except HTTPException:
        return None


def wrong_in(operation: OperationModel, status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """Yield what is wrong in an answer; its headers' names are in small letters."""
    try:
        if status >= 300:
            yield from _wrong_in_error(operation, status, headers, body)
        elif "json" in operation.service_model.metadata["protocol"]:
            yield from _wrong_in_json(operation, headers, body)
        else:
            yield from _wrong_in_xml(operation, body)
    except (ValueError, ElementTree.ParseError) as error:
        yield f"the body cannot be read: {error!r}: {body[:200]!r}"


def _wrong_in_json(operation: OperationModel, headers: dict[str, str], body: bytes) -> Iterator[str]:
    shape = operation.output_shape
    if shape is None:
        if body not in (b"", b"{}"):
            yield f"there is no output, and here is {body[:200]!r}"
        return
    elsewhere = {name for name, member in shape.members.items() if member.serialization.get("location")}
    for name in elsewhere:
        member = shape.members[name]
        text = headers.get(str(member.serialization.get("name", "")).lower())
        if member.serialization["location"] == "header" and text is not None:
            yield from wrong(_from_text(text, member), member, name)
    payload = shape.serialization.get("payload")
    if payload is None:
        yield from wrong(json.loads(body or b"{}"), shape, "", elsewhere)
    elif shape.members[payload].type_name == "structure":
        yield from wrong(json.loads(body), shape.members[payload], payload)


def _wrong_in_xml(operation: OperationModel, body: bytes) -> Iterator[str]:
    root = ElementTree.fromstring(body)  # noqa: S314  # our own answer
    answer = [_tag(child) for child in root]
    shape = operation.output_shape
    wrapper = shape.serialization.get("resultWrapper") if shape else None
    allowed = [wrapper, "ResponseMetadata"] if wrapper else ["ResponseMetadata"]
    if _tag(root) != f"{operation.name}Response" or not set(answer) <= {*allowed, f"{operation.name}Result"}:
        yield f"the answer is <{_tag(root)}> of {answer}"
    result = next((child for child in root if _tag(child) == wrapper), None)
    if shape is not None and result is None and wrapper:
        yield f"there is no <{wrapper}>"
    elif shape is not None and result is not None:
        yield from wrong(_from_xml([result], shape), shape, "")
    if not root.findtext("{*}ResponseMetadata/{*}RequestId"):
        yield "there is no ResponseMetadata with a RequestId"


def _wrong_in_error(operation: OperationModel, status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    if "json" in operation.service_model.metadata["protocol"]:
        told = json.loads(body)
        code = str(told.get("__type") or headers.get("x-amzn-errortype", "")).rpartition("#")[2].partition(":")[0]
        message = told.get("message", told.get("Message"))
    else:
        root = ElementTree.fromstring(body)  # noqa: S314  # our own answer
        code, message = root.findtext("{*}Error/{*}Code") or "", root.findtext("{*}Error/{*}Message")
        if _tag(root) != "ErrorResponse":
            yield f"an error is an <ErrorResponse>, not a <{_tag(root)}>"
    shapes = {str(shape.metadata.get("error", {}).get("code", shape.name)): shape for shape in operation.error_shapes}
    if code not in shapes and code not in COMMON_ERRORS:
        yield f"the error {code!r} ({message}) is none of {sorted(shapes)}"
    wanted = shapes[code].metadata.get("error", {}).get("httpStatusCode") if code in shapes else None
    if wanted and wanted != status:
        yield f"the error {code} has the status {wanted}, not {status}"
    if not isinstance(message, str):
        yield f"the error {code} has no message: {body[:200]!r}"


# --- values -----------------------------------------------------------------------------------------------------------


def wrong(value: Any, shape: Shape, path: str, elsewhere: Iterable[str] = ()) -> Iterator[str]:
    """Yield what is wrong in a value of JSON; `elsewhere` are members of it that are no part of the body."""
    if getattr(shape, "is_document_type", False):
        return  # whatever JSON there is
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        members = {_name(name, member): member for name, member in shape.members.items() if name not in elsewhere}
        # Lambda sends null for what is not there; to clients it is the same (botocore/parsers.py).
        for name, item in value.items():
            if item is None and name in members:
                continue
            if name not in members:
                yield f"{path}.{name} is unknown: {item!r}"
            else:
                yield from wrong(item, members[name], f"{path}.{name}")
        for name in shape.required_members:
            if name not in elsewhere and value.get(_name(name, shape.members[name])) is None:
                yield f"{path}.{name} is required and missing"
    elif isinstance(shape, ListShape) and isinstance(value, list):
        for number, item in enumerate(value):
            yield from wrong(item, shape.member, f"{path}[{number}]")
    elif isinstance(shape, MapShape) and isinstance(value, dict):
        for key, item in value.items():
            yield from wrong(key, shape.key, f"{path}[{key!r}]'s key")
            yield from wrong(item, shape.value, f"{path}[{key!r}]")
    elif isinstance(shape, StringShape) and shape.enum:
        service, also = BESIDE_THE_MODEL.get(shape.name, ("", ""))
        if value not in shape.enum and (not also or value not in model(service).shape_for(also).enum):
            yield f"{path} is {value!r} and none of {shape.enum}"
    elif not (isinstance(value, TYPES[shape.type_name]) and isinstance(value, bool) == (shape.type_name == "boolean")):
        yield f"{path} is {value!r} and no {shape.type_name}"
    elif shape.type_name == "timestamp":
        yield from _wrong_in_time(value, shape, path)


# What JSON has for each type; a time is a number unless the model says otherwise.
TYPES: dict[str, Any] = {
    "structure": dict, "list": list, "map": dict, "string": str, "character": str, "blob": str, "boolean": bool,
    "integer": int, "long": int, "float": (int, float), "double": (int, float), "timestamp": (int, float, str),
}  # fmt: skip


def _wrong_in_time(value: Any, shape: Shape, path: str) -> Iterator[str]:
    text = shape.serialization.get("timestampFormat", "unixTimestamp") != "unixTimestamp"
    if isinstance(value, str) != text:
        yield f"{path} is {value!r}, where a time is a {'text' if text else 'number'}"
    elif isinstance(value, str) and datetime.fromisoformat(value).tzinfo is None:
        yield f"{path} is {value!r}, without its zone"


def _name(name: str, member: Shape) -> str:
    """Return the name that a member has in an answer."""
    if isinstance(member, ListShape) and member.serialization.get("flattened"):
        name = str(member.member.serialization.get("name", name))
    return str(member.serialization.get("name", name))


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _from_xml(elements: list[ElementTree.Element], shape: Shape) -> Any:
    """Return as JSON has it what stands in elements of one name; there are several only of a list that is flattened."""
    element = elements[0]
    if isinstance(shape, StructureShape):
        members = {_name(name, member): member for name, member in shape.members.items()}
        grouped: dict[str, list[ElementTree.Element]] = {}
        for child in element:
            grouped.setdefault(_tag(child), []).append(child)
        return {n: _from_xml(found, members[n]) if n in members else found[0].text for n, found in grouped.items()}
    if isinstance(shape, ListShape):
        items = elements if shape.serialization.get("flattened") else list(element)
        return [_from_xml([item], shape.member) for item in items]
    if isinstance(shape, MapShape):
        pairs = elements if shape.serialization.get("flattened") else list(element)
        return {str(pair[0].text): _from_xml([pair[1]], shape.value) for pair in pairs}
    return _from_text(element.text or "", shape)


def _from_text(text: str, shape: Shape) -> Any:
    """Return what a text stands for; the text itself, which is then wrong, where it is no such thing."""
    if shape.type_name == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if shape.type_name in ("integer", "long"):
        return int(text) if re.fullmatch(r"-?\d+", text) else text
    if shape.type_name in ("float", "double"):
        return float(text) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text) else text
    if shape.type_name == "timestamp" and "timestampFormat" not in shape.serialization:
        moment = datetime.fromisoformat(text)  # "iso8601" is what XML has where the model says nothing
        return moment.timestamp() if moment.tzinfo else text
    return text
