"""GitHub's published description of its API, and a WSGI layer that holds every call to it.

npm's @octokit/openapi has the description; OpenAPI 3.0's schemas are JSON Schema of draft 4 with `nullable`.
"""

import datetime
import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jsonschema import Draft4Validator, FormatChecker
from jsonschema.validators import extend
from referencing import Registry
from referencing.jsonschema import DRAFT4

DESCRIPTION = Path(__file__).parents[2] / "node_modules/@octokit/openapi/generated/api.github.com.json"
URI = "urn:github"
# Named by docs.github.com's prose ("Pagination", "per_page"), but not in each operation's description.
ALWAYS = {"page", "per_page"}
formats = FormatChecker(formats=())


@formats.checks("date-time", ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.datetime.fromisoformat(value))


@formats.checks("uri", ValueError)
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme) or value == ""


def _unless_null(keyword: str) -> Callable[..., Iterator[Any]]:
    def check(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if instance is not None or not schema.get("nullable"):
            yield from Draft4Validator.VALIDATORS[keyword](validator, rule, instance, schema) or ()

    return check


_Validator = extend(Draft4Validator, {word: _unless_null(word) for word in ("type", "enum", "allOf", "anyOf", "oneOf")})


@functools.cache
def description() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DESCRIPTION.read_text())
    return loaded


@functools.cache
def _registry() -> Any:
    return Registry().with_resource(URI, DRAFT4.create_resource(description()))


@functools.cache
def _operations() -> list[tuple[re.Pattern[str], str]]:
    """Return every path as a pattern, the one with the most literal text first."""
    paths = sorted(description()["paths"], key=lambda path: len(re.sub(r"\{[^}]*\}", "", path)), reverse=True)
    slashes = r"(ref|branch|basehead)"
    found = []
    for path in paths:
        pattern = re.sub(rf"\\\{{{slashes}\\\}}", "(.+)", re.escape(path))
        found.append((re.compile(re.sub(r"\\\{[^}]*\\\}", "([^/]+)", pattern)), path))
    return found


def operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """Return the path template and the description of what a call does."""
    for pattern, template in _operations():
        if pattern.fullmatch(path) and method.lower() in description()["paths"][template]:
            return template, description()["paths"][template][method.lower()]
    return None


def problems(pointer: str, value: object) -> list[str]:
    """Return how a value breaks the schema at a JSON pointer."""
    validator = _Validator({"$ref": f"{URI}#{pointer}"}, registry=_registry(), format_checker=formats)
    return [
        f"{'/'.join(map(str, error.absolute_path)) or 'it'}: {error.message[:200]}"
        for error in validator.iter_errors(value)
    ]


def _pointer(*parts: str) -> str:
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)


@dataclass
class HeldToDescription:
    """A WSGI application whose every call is held to the description; what breaks it is in `broken`."""

    app: Callable[..., Iterable[bytes]]
    prefix: str = "/api/v3"
    broken: list[str] = field(default_factory=list)
    done: set[tuple[str, str, int]] = field(default_factory=set)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if not path.startswith(f"{self.prefix}/") or path.startswith(f"{self.prefix}/_local/"):
            return self.app(environ, start_response)
        sent = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(sent)
        said: list[int] = []

        def note(status: str, *arguments: Any) -> Any:
            said.append(int(status.split()[0]))
            return start_response(status, *arguments)

        body = b"".join(self.app(environ, note))
        self._check(environ["REQUEST_METHOD"], path.removeprefix(self.prefix), environ, sent, said[-1], body)
        return [body]

    def _check(self, method: str, path: str, environ: dict[str, Any], sent: bytes, status: int, body: bytes) -> None:
        found = operation(method, path)
        what = f"{method} {path} -> {status}"
        if found is None:
            # It leaves /repositories/ID out, to which GitHub redirects the old name of a renamed repository.
            if path.startswith("/repositories/") and status == 200:
                self.broken += problems("/components/schemas/full-repository", json.loads(body))
            elif status != 404:
                self.broken.append(f"{what}: there is no such operation")
            return
        template, described = found
        self.done.add((method, template, status))
        place = _pointer("paths", template, method.lower())
        if status < 400:
            self._check_request(what, place, template, described, environ, sent)
        answer = described["responses"].get(str(status))
        if answer is None:
            if status not in (400, 401, 403, 404):  # what the documentation says of every operation
                self.broken.append(f"{what}: no such answer is described")
            pointer = "/components/schemas/basic-error"
        else:
            pointer = answer["$ref"][1:] if "$ref" in answer else place + _pointer("responses", str(status))
            target = _at(pointer)
            if "content" not in target:
                self.broken += [f"{what}: it has a body"] if body and status < 400 else []
                return
            pointer += _pointer("content", "application/json", "schema")
        self.broken += [f"{what}: {problem}" for problem in problems(pointer, json.loads(body))]

    def _check_request(
        self, what: str, place: str, template: str, described: dict[str, Any], environ: dict[str, Any], sent: bytes
    ) -> None:
        shared = description()["paths"][template].get("parameters", [])
        parameters = [_at(p["$ref"][1:]) if "$ref" in p else p for p in [*shared, *described.get("parameters", [])]]
        known = {p["name"] for p in parameters if p["in"] == "query"} | ALWAYS
        for name in parse_qs(environ.get("QUERY_STRING", "")):
            if name not in known:
                self.broken.append(f"{what}: the query has no {name}")
        if "requestBody" in described:
            pointer = place + _pointer("requestBody", "content", "application/json", "schema")
            value = json.loads(sent) if sent else {}
            value.pop("id", None) if template == "/orgs/{org}/repos" else None  # ours alone
            self.broken += [f"{what}: sent {problem}" for problem in problems(pointer, value)]
            unknown = set(value) - set(_at(pointer).get("properties", value))
            self.broken += [f"{what}: sent {', '.join(sorted(unknown))}, which is not described"] if unknown else []


def _at(pointer: str) -> dict[str, Any]:
    node: Any = description()
    for part in pointer.split("/")[1:]:
        node = node[part.replace("~1", "/").replace("~0", "~")]
    found: dict[str, Any] = node
    return found
