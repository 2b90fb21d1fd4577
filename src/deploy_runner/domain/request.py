"""The execution input, parsed strictly: it is hostile until this module has accepted it."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploy_runner.domain.errors import RequestMalformed, show

ACTIONS = ("deploy", "build", "rollback", "promote")
MAX_NAME = 64
MAX_REF = 200
MAX_ID = 80
MAX_REQUESTED_BY = 100
MAX_RUN_URL = 300
MAX_PROBLEMS = 5

_KEYS = (
    *("app", "environment", "ref", "action", "source", "requested_by"),
    *("deployment", "exact", "from", "emergency"),
)
# What a key is for. With any other action it would say something that is not done, so it is refused by its name.
_ONLY_FOR = {
    "ref": ("deploy", "build"),
    "deployment": ("rollback",),
    "exact": ("rollback",),
    "from": ("promote",),
    "emergency": ("deploy", "rollback", "promote"),
}
_NEEDED = ("ref", "from")  # with those actions
_SOURCE_KEYS = ("repository", "run_id", "run_url")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_EXECUTION_NAME = re.compile(rf"[0-9A-Za-z_-]{{1,{MAX_ID}}}")
# What git check-ref-format refuses anywhere in a name, and blanks: git-scm.com/docs/git-check-ref-format
_NOT_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
SHA = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Source:
    """The workflow run that asks, as the request claims it."""

    repository: str
    run_id: int
    run_url: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose form is right. Whether it is allowed is decided elsewhere.

    `ref` is None where something is deployed that ran before, or runs elsewhere. `deployment` names what to go back to,
    `exact` asks for its very task definitions, and `promote_from` is the request's `from`.
    """

    app: str
    environment: str
    ref: str | None
    action: str = "deploy"
    source: Source | None = None
    requested_by: str | None = None
    deployment: str | None = None
    exact: bool = False
    promote_from: str | None = None
    emergency: bool = False


def parse_request(given: object) -> Request:
    """Return the request in an execution input, which may be any JSON. Raises RequestMalformed with what is wrong."""
    problems: list[str] = []
    if not isinstance(given, Mapping):
        rule = "The execution input must be a JSON object"
        raise RequestMalformed(rule, given, 'Send as in {"app": "cineos", "environment": "dev", "ref": "main"}')
    _check_keys(given, ("app", "environment"), _KEYS, "", problems)
    action = given.get("action", "deploy")
    if isinstance(action, str) and action in ACTIONS:
        _check_action(given, action, problems)
    else:
        problems.append(f"action must be {_either(ACTIONS)}: {show(action)}")
        action = ""
    request = Request(
        app=_text(given, "app", MAX_NAME, problems),
        environment=_text(given, "environment", MAX_NAME, problems),
        ref=_text(given, "ref", MAX_REF, problems, why_not_a_ref) if "ref" in given else None,
        action=action,
        source=_source(given["source"], problems) if given.get("source") is not None else None,
        requested_by=_text(given, "requested_by", MAX_REQUESTED_BY, problems)
        if given.get("requested_by") not in (None, "")
        else None,
        deployment=_text(given, "deployment", MAX_ID, problems, _why_not_an_id) if "deployment" in given else None,
        exact=_boolean(given, "exact", problems),
        promote_from=_text(given, "from", MAX_NAME, problems) if "from" in given else None,
        emergency=_boolean(given, "emergency", problems),
    )
    if request.promote_from and request.promote_from == request.environment:
        problems.append(f"from must be another environment than environment: {show(request.promote_from)}")
    if problems:
        more = f" (and {len(problems) - MAX_PROBLEMS} more)" if len(problems) > MAX_PROBLEMS else ""
        rule = "The request is malformed: " + "; ".join(problems[:MAX_PROBLEMS]) + more
        raise RequestMalformed(rule, remedy="Correct the execution input; the README shows its form under `A request`")
    return request


def _check_action(given: Mapping[object, object], action: str, problems: list[str]) -> None:
    for key, actions in _ONLY_FOR.items():
        if key in given and action not in actions:
            problems.append(f"{key} must not be given with the action {action}, only with {_either(actions)}")
        elif key in _NEEDED and key not in given and action in actions:
            problems.append(f"{key} is missing, which the action {action} needs")


def _either(words: tuple[str, ...]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def check_execution_name(name: object) -> str:
    """Return the execution's name, the deployment's id: it goes into tags and groups, so it must be plain."""
    if isinstance(name, str) and _EXECUTION_NAME.fullmatch(name):
        return name
    rule = "The execution's name must be 1 to 80 letters, digits, hyphens and underscores"
    raise RequestMalformed(rule, name, "Start the execution under another name, or leave the name out")


def _why_not_an_id(value: str) -> str | None:
    return None if _EXECUTION_NAME.fullmatch(value) else "must be the id of a deployment, its execution's name"


def why_not_a_ref(ref: str) -> str | None:
    """Return the rule that a ref breaks, or None: git check-ref-format's, and none that reads as an option."""
    if ref.startswith("-"):
        return "must not start with a hyphen"
    found = _NOT_IN_REF.search(ref)
    if found:
        return f"must not contain {show(found.group())}"
    if not ref.isprintable():
        return "must be printable"
    if ref.startswith("/") or ref.endswith(("/", ".")) or ref == "@":
        return "must be a branch, a tag or a full SHA, without a slash or a dot at its ends"
    if any(part.startswith(".") or part.endswith(".lock") for part in ref.split("/")):
        return "must have no part that starts with a dot or ends with .lock"
    return None


def _check_keys(
    given: Mapping[object, object], required: tuple[str, ...], known: tuple[str, ...], place: str, problems: list[str]
) -> None:
    problems.extend(f"{place}{key} is missing" for key in required if key not in given)
    for key in given:
        if key not in known:
            # A huge input may have ten thousands of them; only the first are shown.
            close = difflib.get_close_matches(str(key)[:80], known, 1) if len(problems) < MAX_PROBLEMS else []
            hint = f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"
            problems.append(f"{place}{show(key)} is not a known key{hint}")


def _text(
    given: Mapping[object, object],
    key: str,
    limit: int,
    problems: list[str],
    rule: Callable[[str], str | None] = lambda _: None,
    place: str = "",
) -> str:
    if key not in given:
        return ""
    value = given[key]
    if not isinstance(value, str):
        broken: str | None = "must be text"
    elif not value:
        broken = "must not be empty"
    elif len(value) > limit:
        broken = f"must be at most {limit} characters"
    elif not value.isprintable() and rule(value) is None:
        broken = "must have no control characters"
    else:
        broken = rule(value)
    if broken:
        problems.append(f"{place}{key} {broken}: {show(value)}")
    return value if isinstance(value, str) else ""


def _boolean(given: Mapping[object, object], key: str, problems: list[str]) -> bool:
    value = given.get(key, False)
    if isinstance(value, bool):
        return value
    problems.append(f"{key} must be true or false, without quotes: {show(value)}")
    return False


def _source(given: object, problems: list[str]) -> Source | None:
    if not isinstance(given, Mapping):
        problems.append(f"source must be an object with {', '.join(_SOURCE_KEYS)}: {show(given)}")
        return None
    _check_keys(given, _SOURCE_KEYS, _SOURCE_KEYS, "source.", problems)
    repository = _text(given, "repository", 140, problems, _why_not_a_repository, "source.")
    run_url = _text(given, "run_url", MAX_RUN_URL, problems, _why_not_a_url, "source.")
    run_id = given.get("run_id", 1)
    # A workflow's ${{ github.run_id }} is text, its JSON form a number: both are meant.
    if isinstance(run_id, bool) or not re.fullmatch(
        r"[1-9][0-9]{0,18}", run_id if isinstance(run_id, str) else _digits(run_id)
    ):
        problems.append(f"source.run_id must be the number of a workflow run: {show(run_id)}")
        return None
    return Source(repository, int(run_id), run_url)


def _digits(value: object) -> str:
    return str(value) if isinstance(value, int) and 0 < value < 10**19 else ""


def _why_not_a_repository(value: str) -> str | None:
    return None if _REPOSITORY.fullmatch(value) else "must be OWNER/NAME"


def _why_not_a_url(value: str) -> str | None:
    return None if re.fullmatch(r"https?://[!-~]+", value) else "must be a URL"
