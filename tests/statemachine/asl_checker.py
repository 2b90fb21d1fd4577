"""Finds what neither `asl-validator` nor `CreateStateMachine` finds in a JSONata state machine.

`check(definition)` returns one line for each problem. It follows every way through the machine, so a variable that is
read before it is assigned on one of them is found before an execution fails with States.QueryEvaluationError.
Sources: Step Functions Developer Guide, "Passing data between states with variables", "Handling errors in Step
Functions workflows", "Transforming data with JSONata".
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml
from jsonata import Jsonata
from jsonata.jexception import JException
from jsonata.parser import Parser

AWS_FUNCTIONS = {"partition", "range", "hash", "random", "uuid", "parse"}
TERMINAL = ("Succeed", "Fail")
# What `$states` has beside input and context, and in which fields.
RESULT_FIELDS = ("Assign", "Output")


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is there twice: of two states with one name YAML silently keeps the last."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    pairs = [(loader.construct_object(key, deep=True), value) for key, value in node.value]
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"line {node.start_mark.line + 1}: the key {key!r} is there twice")
    return {key: loader.construct_object(value, deep=True) for key, value in pairs}


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> dict[str, Any]:
    """A definition from YAML or JSON. Raises ValueError on a key that is there twice."""
    loaded: dict[str, Any] = yaml.load(text, _StrictLoader)  # noqa: S506 (a SafeLoader)
    return loaded


@dataclass(frozen=True)
class Expression:
    """One JSONata expression: where it stands, and what it reads."""

    where: str
    text: str
    reads: frozenset[str] = frozenset()
    states_fields: frozenset[str] = frozenset()
    error: str = ""


@dataclass
class _Way:
    """A way out of a state: where it leads, and what is assigned on it."""

    to: str
    assigned: set[str] = field(default_factory=set)


def expressions(value: Any, where: str = "") -> Iterator[Expression]:
    """Every JSONata expression in a part of a definition."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from expressions(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from expressions(item, f"{where}[{index}]")
    elif isinstance(value, str) and ("{%" in value or "%}" in value):
        if not (value.startswith("{%") and value.endswith("%}")):
            yield Expression(where, value, error="an expression must be the whole string, or it is taken as plain text")
        else:
            yield _parsed(where, value[2:-2].strip())


@cache
def _parsed(where: str, text: str) -> Expression:
    try:
        tree = Parser().parse(text)
    except JException as error:
        return Expression(where, text, error=f"is not JSONata: {error}")
    reads: set[str] = set()
    bound: set[str] = set()
    fields: set[str] = set()
    seen: set[int] = set()

    def walk(node: Any, parent_type: str = "") -> None:
        if isinstance(node, list | tuple):
            for item in node:
                walk(item, parent_type)
            return
        if not isinstance(node, Parser.Symbol) or id(node) in seen:
            return
        seen.add(id(node))
        if node.type == "variable" and node.value not in ("", "$"):
            reads.add(node.value)
        if node.type == "bind":
            bound.add(node.lhs.value)
        if node.type == "lambda":
            bound.update(argument.value for argument in node.arguments)
        for name in ("focus", "index"):  # x@$item, x#$position
            if isinstance(getattr(node, name, None), str):
                bound.add(getattr(node, name))
        steps = getattr(node, "steps", None)
        if node.type == "path" and steps[0].type == "variable" and steps[0].value == "states" and len(steps) > 1:
            fields.add(".".join(str(step.value) for step in steps[1:4]))
        for name, item in vars(node).items():
            if not name.startswith("_outer"):
                walk(item)

    walk(tree)
    known = set(Jsonata.static_frame.bindings) | AWS_FUNCTIONS | {"states"}
    error = "uses $eval, which Step Functions does not have; use $parse" if "eval" in reads - bound else ""
    return Expression(where, text, frozenset(reads - bound - known), frozenset(fields), error)


def check(definition: dict[str, Any], assigned: frozenset[str] = frozenset(), prefix: str = "") -> list[str]:
    """Return the problems of a state machine; `assigned` are the variables of what is around it."""
    states: dict[str, Any] = definition["States"]
    start = definition["StartAt"]
    problems = [] if prefix or "TimeoutSeconds" in definition else ["the state machine has no TimeoutSeconds"]
    if start not in states:
        return [*problems, f"{prefix}StartAt names {start}, which is no state"]
    ways = {name: list(_ways(state)) for name, state in states.items()}
    for name, state in states.items():
        problems += [f"{prefix}{name}: {problem}" for problem in _problems_of(state)]
        problems += [
            f"{prefix}{name}: leads to {way.to}, which is no state" for way in ways[name] if way.to not in states
        ]
    before = _assigned_before(start, ways, assigned)
    problems += [f"{prefix}{name}: cannot be reached" for name in states if name not in before]
    for name, known in before.items():
        for expression in _own_expressions(states[name]):
            problems += [
                f"{prefix}{name}.{expression.where}: ${variable} is not assigned on every way that leads here"
                for variable in sorted(expression.reads - known)
            ]
        for index, inner in enumerate(_inner_machines(states[name])):
            problems += check(inner, frozenset(known), f"{prefix}{name}[{index}].")
    return problems


def _assigned_before(start: str, ways: dict[str, list[_Way]], assigned: frozenset[str]) -> dict[str, set[str]]:
    """For each state that can be reached, the variables that are assigned whichever way it was reached."""
    before = {start: set(assigned)}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for way in ways[name]:
            if way.to not in ways:
                continue
            after = before[name] | way.assigned
            if way.to not in before:
                before[way.to] = after
            elif before[way.to] <= after:
                continue
            else:
                before[way.to] &= after
            waiting.append(way.to)
    return before


def _ways(state: dict[str, Any]) -> Iterator[_Way]:
    if state["Type"] == "Choice":
        for rule in state.get("Choices", []):
            yield _Way(rule.get("Next", ""), set(rule.get("Assign", {})))
        if "Default" in state:
            yield _Way(state["Default"], set(state.get("Assign", {})))
        return
    for catcher in state.get("Catch", []):
        yield _Way(catcher.get("Next", ""), set(catcher.get("Assign", {})))
    if "Next" in state:
        yield _Way(state["Next"], set(state.get("Assign", {})))


def _inner_machines(state: dict[str, Any]) -> list[dict[str, Any]]:
    inner = list(state.get("Branches", []))
    return [*inner, state["ItemProcessor"]] if "ItemProcessor" in state else inner


def _own_expressions(state: dict[str, Any]) -> list[Expression]:
    return list(expressions({k: v for k, v in state.items() if k not in ("Branches", "ItemProcessor", "Comment")}))


def _problems_of(state: dict[str, Any]) -> Iterator[str]:
    kind = state["Type"]
    leaves = ("Next" in state) + bool(state.get("End"))
    if kind == "Choice" and "Default" not in state:
        yield "has no Default, so it fails where no rule fits"
    if kind not in ("Choice", *TERMINAL) and leaves != 1:
        yield "needs either Next or End"
    if kind == "Task" and "TimeoutSeconds" not in state:
        yield "has no TimeoutSeconds, so it may hang until the machine times out, which no Catch sees"
    if kind in ("Task", "Parallel", "Map"):
        catchers = state.get("Catch", [])
        if not catchers:
            yield "has no Catch, so its failure goes unreported"
        elif catchers[-1]["ErrorEquals"] != ["States.ALL"]:
            yield "has no last Catch of States.ALL, so some of its failures go unreported"
    for field_name in ("Retry", "Catch"):
        rules = state.get(field_name, [])
        for index, rule in enumerate(rules):
            names = rule["ErrorEquals"]
            if "States.ALL" in names and len(names) > 1:
                yield f"{field_name}[{index}]: States.ALL must stand alone"
            if "States.ALL" in names and index < len(rules) - 1:
                yield f"{field_name}[{index}]: States.ALL must be last, what follows it is never looked at"
    for expression in _own_expressions(state):
        if expression.error:
            yield f"{expression.where}: {expression.error}"
        yield from _misread_states(expression, state)


def _misread_states(expression: Expression, state: dict[str, Any]) -> Iterator[str]:
    """`$states.result` is there where a result is, `errorOutput` in a Catch, and a token where one is waited for."""
    top = expression.where.split(".")[0].split("[")[0]
    for read in sorted(expression.states_fields):
        name = read.split(".")[0]
        allowed = {
            "input": True,
            "context": True,
            "result": top in RESULT_FIELDS and state["Type"] in ("Task", "Parallel", "Map"),
            "errorOutput": top == "Catch",
        }.get(name, False)
        if not allowed:
            yield f"{expression.where}: there is no $states.{name} here"
        if read.startswith("context.Task") and not str(state.get("Resource", "")).endswith(".waitForTaskToken"):
            yield f"{expression.where}: a task token is there only with .waitForTaskToken"
