"""What IAM policies say of a request: pure functions over documents, after the IAM User Guide.

Pages: "Policy evaluation logic", "IAM JSON policy elements: Condition operators", "... Resource", "... Principal",
"IAM policy elements: Variables and tags", "Single-valued vs. multivalued context keys". What is not understood is
an error, never an Allow.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

type Value = str | Sequence[str] | None
type Document = Mapping[str, Any]


class PolicyNotUnderstood(Exception):
    """A policy has what is not evaluated here; the request is refused, and the text says what it is."""


class Decision(Enum):
    """What policies of one kind say."""

    ALLOW = "allow"
    DENY = "explicit deny"
    NOTHING = "implicit deny"


@dataclass(frozen=True)
class Principal:
    """Who asks. A role's session has its own ARN and its role's; a service of AWS and an identity provider a name."""

    arn: str = ""
    role_arn: str = ""
    service: str = ""
    federated: str = ""

    @property
    def account(self) -> str:
        """The account of a role's session."""
        return self.role_arn.split(":")[4] if self.role_arn else ""


@dataclass(frozen=True)
class Asked:
    """One action on one resource. A key of `context` with the value None is known to be absent."""

    action: str
    resource: str
    context: Mapping[str, Value] = field(default_factory=dict)

    def value(self, key: str) -> Value:
        """Return the value of a condition key. Raises PolicyNotUnderstood where nothing is known of it."""
        name = key.lower()
        known = _lowered(self.context)
        if name in known:
            return known[name]
        prefix, slash, _ = name.partition("/")
        if slash and f"{prefix}/" in known:  # all tags of that kind are known, and this is none of them
            return None
        raise PolicyNotUnderstood(f"local AWS does not know the condition key {key} of {self.action}")


def _lowered(context: Mapping[str, Value]) -> dict[str, Value]:
    return {key.lower(): value for key, value in context.items()}


@dataclass(frozen=True)
class Match:
    """A statement that covers a request. `grants` are its pairs of action and resource that do, as it writes them."""

    statement: str
    effect: Decision
    grants: tuple[tuple[str, str], ...]


def identity_says(documents: Iterable[Document], asked: Asked) -> Decision:
    """Return what identity-based policies (or a permissions boundary, or a session policy) say."""
    return strongest(match.effect for document in documents for match in matches(document, asked))


def matches(document: Document, asked: Asked) -> list[Match]:
    """Return the statements of an identity-based policy that cover a request."""
    found = []
    for name, statement in named_statements(document):
        actions, resources = _actions(statement, asked), _resources(document, statement, asked)
        if actions and resources and _holds(document, statement, asked):
            pairs = tuple((action, resource) for action in actions for resource in resources)
            found.append(Match(name, _effect(statement), pairs))
    return found


def resource_says(document: Document, asked: Asked, principal: Principal) -> tuple[Decision, bool]:
    """Return what a resource's policy says, and whether it names the principal itself rather than its whole account.

    Where an account is named, the principal's own policies must allow the action too: "AWS JSON policy elements:
    Principal", on account principals.
    """
    found = []
    itself = False
    for statement in statements(document):
        named = _named(statement, principal)
        if not named or not _actions(statement, asked) or not _holds(document, statement, asked):
            continue
        if statement.keys() & {"Resource", "NotResource"} and not _resources(document, statement, asked):
            continue  # a trust policy and a repository's are of one resource, and name none
        effect = _effect(statement)
        found.append(effect)
        itself = itself or (effect is Decision.ALLOW and named == "itself")
    return strongest(found), itself


def statements(document: Document) -> list[Mapping[str, Any]]:
    """Return a document's statements; one alone need not be in a list."""
    return list(listed(document.get("Statement")))


def named_statements(document: Document) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a document's statements by their Sid, or else by their number from 1."""
    return [(str(each.get("Sid") or f"#{n}"), each) for n, each in enumerate(statements(document), 1)]


@lru_cache(maxsize=512)
def parsed(text: str) -> dict[str, Any]:
    """Return a policy document of its JSON text."""
    document = json.loads(text)
    return dict(document)


def strongest(found: Iterable[Decision]) -> Decision:
    """Return what statements say together: a Deny is stronger than any Allow, and silence is no Allow."""
    all_found = set(found)
    if Decision.DENY in all_found:
        return Decision.DENY
    return Decision.ALLOW if Decision.ALLOW in all_found else Decision.NOTHING


def listed(value: Any) -> Sequence[Any]:
    """Return an element of a policy as a list; one value alone need not be in one."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


# --- actions, resources, principals -----------------------------------------------------------------------------------


def _effect(statement: Mapping[str, Any]) -> Decision:
    return Decision.DENY if statement.get("Effect") == "Deny" else Decision.ALLOW


def _actions(statement: Mapping[str, Any], asked: Asked) -> list[str]:
    """Return the patterns of a statement that the action is one of."""
    key = "NotAction" if "NotAction" in statement else "Action"
    patterns = listed(statement.get(key))
    matched = [pattern for pattern in patterns if glob(pattern.lower()).fullmatch(asked.action.lower())]
    return _turned(key, patterns, matched)


def _resources(document: Document, statement: Mapping[str, Any], asked: Asked) -> list[str]:
    """Return the patterns of a statement that the resource is one of."""
    key = "NotResource" if "NotResource" in statement else "Resource"
    patterns, matched = listed(statement.get(key)), []
    for pattern in patterns:
        resolved = _with_variables(document, pattern, asked)
        if resolved is not None and _resource(resolved).fullmatch(asked.resource):
            matched.append(pattern)
    return _turned(key, patterns, matched)


def _turned(key: str, patterns: Sequence[str], matched: list[str]) -> list[str]:
    """Return what matched; with NotAction or NotResource, all patterns if none did."""
    if not key.startswith("Not"):
        return matched
    return [] if matched else [f"not {' or '.join(patterns)}"]


def _named(statement: Mapping[str, Any], principal: Principal) -> str:
    """Return `itself` or `account` where a statement names the principal, else nothing."""
    if "NotPrincipal" in statement:
        raise PolicyNotUnderstood("local AWS does not evaluate NotPrincipal")
    named = statement.get("Principal")
    if named == "*":
        return "itself"
    kinds = named if isinstance(named, Mapping) else {}
    if principal.service and principal.service in listed(kinds.get("Service")):
        return "itself"
    if principal.federated and principal.federated in listed(kinds.get("Federated")):
        return "itself"
    if principal.role_arn:
        by_arn = listed(kinds.get("AWS"))
        if {"*", principal.arn, principal.role_arn} & set(by_arn):
            return "itself"
        if any(re.fullmatch(rf"{principal.account}|arn:[\w-]+:iam::{principal.account}:root", one) for one in by_arn):
            return "account"
    return ""


@lru_cache(maxsize=4096)
def glob(pattern: str) -> re.Pattern[str]:
    """Return a pattern with `*` and `?` as a regular expression; `\\0` before one of them takes its meaning away."""
    return re.compile(_regex(pattern, "."), re.DOTALL)


def _regex(pattern: str, character: str) -> str:
    wild = {"*": f"{character}*", "?": character}
    return "".join(wild.get(p) or re.escape(p.removeprefix("\0")) for p in re.split(r"(\0.|[*?])", pattern))


@lru_cache(maxsize=4096)
def _resource(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the element Resource as a regular expression.

    A `*` that ends a segment of an ARN reaches over the colons after it, any other stays in its segment: "IAM JSON
    policy elements: Resource". The sixth segment, the resource, may have colons of its own.
    """
    *first, last = pattern.split(":", 5)
    parts = [_regex(part, "." if re.search(r"(?<!\0)\*$", part) else "[^:]") for part in first]
    return re.compile(":".join([*parts, _regex(last, ".")]), re.DOTALL)


def arn_matches(pattern: str, arn: str) -> bool:
    """Whether an ARN is one of a condition's: each of the six parts is matched by itself, but for `*`, which is all."""
    wanted, given = pattern.split(":", 5), arn.split(":", 5)
    if len(wanted) < 6 or len(given) < 6:
        return pattern == "*" or pattern == arn
    return all(glob(p).fullmatch(part) for p, part in zip(wanted, given, strict=True))


def _with_variables(document: Document, pattern: str, asked: Asked, *, literal: bool = False) -> str | None:
    """Return a pattern with its policy variables filled in, None where one has no value.

    What is filled in is no wildcard. `literal` is for operators that have none: there every character is its own.
    """
    if document.get("Version") != "2012-10-17" or "${" not in pattern:
        return pattern
    missing = False

    def fill(found: re.Match[str]) -> str:
        nonlocal missing
        key, _, default = (part.strip() for part in found[1].partition(","))
        if key in ("*", "?", "$"):
            value: Value = key
        else:
            value = asked.value(key)
            if value is None and default:
                value = default.strip("'\"")
        if not isinstance(value, str):
            missing = True
            return ""
        return value if literal else re.sub(r"([*?])", "\0\\1", value)

    filled = re.sub(r"\$\{([^}]+)\}", fill, pattern)
    return None if missing else filled


# --- conditions -------------------------------------------------------------------------------------------------------


def _number(text: str) -> float:
    return float(text)


def _moment(text: str) -> float:
    if re.fullmatch(r"[0-9.]+", text):
        return float(text)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _in_network(wanted: str, given: str) -> bool:
    return ipaddress.ip_address(given) in ipaddress.ip_network(wanted, strict=False)


def _compared(convert: Callable[[str], float], compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda wanted, given: compare(convert(given), convert(wanted))


_ORDER: dict[str, Callable[[float, float], bool]] = {
    "Equals": lambda given, wanted: given == wanted,
    "LessThan": lambda given, wanted: given < wanted,
    "LessThanEquals": lambda given, wanted: given <= wanted,
    "GreaterThan": lambda given, wanted: given > wanted,
    "GreaterThanEquals": lambda given, wanted: given >= wanted,
}
# Of the value in the policy and the one in the request. Those that have a negation are in _NEGATED.
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, given: wanted == given,
    "StringEqualsIgnoreCase": lambda wanted, given: wanted.lower() == given.lower(),
    "StringLike": lambda wanted, given: bool(glob(wanted).fullmatch(given)),
    "ArnEquals": arn_matches,
    "ArnLike": arn_matches,
    "Bool": lambda wanted, given: wanted.lower() == given.lower(),
    "BinaryEquals": lambda wanted, given: wanted == given,
    "IpAddress": _in_network,
    **{f"Numeric{name}": _compared(_number, compare) for name, compare in _ORDER.items()},
    **{f"Date{name}": _compared(_moment, compare) for name, compare in _ORDER.items()},
}
_NEGATED = {
    "StringNotEquals": "StringEquals", "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike", "ArnNotEquals": "ArnEquals", "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals", "DateNotEquals": "DateEquals", "NotIpAddress": "IpAddress",
}  # fmt: skip
_WITH_WILDCARDS = {"StringLike", "ArnEquals", "ArnLike"}


def _holds(document: Document, statement: Mapping[str, Any], asked: Asked) -> bool:
    """Whether every condition of a statement holds."""
    return all(
        _condition(document, operator, key, wanted, asked)
        for operator, keys in (statement.get("Condition") or {}).items()
        for key, wanted in keys.items()
    )


def _condition(document: Document, operator: str, key: str, wanted: Any, asked: Asked) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if quantifier not in ("", "ForAllValues", "ForAnyValue"):
        raise PolicyNotUnderstood(f"local AWS does not know the condition operator {operator}")
    value = asked.value(key)
    texts = [_text(each) for each in listed(wanted)]
    if name == "Null":
        return any((value is None) == (text.lower() == "true") for text in texts)
    optional = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    negated = name in _NEGATED
    base = _NEGATED.get(name, name)
    if base not in _TESTS:
        raise PolicyNotUnderstood(f"local AWS does not know the condition operator {operator}")
    given = [] if value is None else [value] if isinstance(value, str) else list(value)
    if not quantifier and not isinstance(value, str | None):
        # "Multivalued context keys require a condition set operator": Single-valued vs. multivalued context keys
        raise PolicyNotUnderstood(
            f"{key} of {asked.action} has several values: {operator} needs ForAnyValue or ForAllValues"
        )
    if value is None or (quantifier and not given):
        return quantifier == "ForAllValues" or optional or (negated and not quantifier)
    resolved = [_with_variables(document, text, asked, literal=base not in _WITH_WILDCARDS) for text in texts]
    patterns = [text for text in resolved if text is not None]
    # Several values of the policy are alternatives; negated, none of them may be.
    each = [any(_passes(base, pattern, one) for pattern in patterns) != negated for one in given]
    if quantifier == "ForAnyValue":
        return any(each)
    return all(each)


def _passes(base: str, pattern: str, given: str) -> bool:
    try:
        return _TESTS[base](pattern, given)
    except ValueError:  # not a number, a date or an address: it does not match
        return False


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
