"""Our evaluation of JSONata is that of the reference implementation, for what the state machines say and more."""

import itertools
import json
from typing import Any

import asl_checker
import fake_aws
import pytest

from deploy_runner.local_aws.stepfunctions.jsonata import JSONataError, evaluate

CAUSES = [
    "", "plain", 'a "quoted" one', "two\nlines\ttab", "it's {% $failure %}", "\\u0022 \\", "x" * 1500, "ünïcödé 🚀",
    json.dumps({"errorMessage": 'no "x"', "errorType": "E"}), None,
]  # fmt: skip
IMAGES: list[Any] = [
    [],
    [{"ImageId": {"ImageDigest": "sha256:1", "ImageTag": "t"}}],
    [{"ImageId": {"ImageTag": "t"}}],
    [{"ImageId": {"ImageDigest": "sha256:1"}}, {"ImageId": {"ImageDigest": "sha256:2"}}],
    None,
]
PAYLOADS: list[Any] = [
    None, {}, {"revisions": [], "rollouts": []}, {"revisions": [{"service": "a"}], "rollouts": [{"service": "a"}]},
    {"revisions": [{"a": [1]}, {"a": [[2], None]}], "rollouts": None, "github_deployment_id": 5},
    {"github_deployment_id": None}, [1, [2, [3]]], "text", 0, False,
]  # fmt: skip
DEPLOYMENT = {
    "id": "cineos-1", "action": "build",
    "image": {"repository_name": "cineos", "tag": "a-b"},
    "build": {
        "task_definition": "arn", "task_role": "role", "clone_command": ["--sha", 'a"b'], "kaniko_command": ["one"],
        "environment": [{"Name": "APP_NAME", "Value": "it's\n\"x\""}],
    },
    "timeouts": {"build": 1800, "rollout": 1.0},
}  # fmt: skip


def bindings() -> list[dict[str, Any]]:
    """Variables as they may stand when an expression is evaluated; each set has another of each kind."""
    context = {
        "Execution": {"Id": "arn", "Name": "n", "StartTime": "2026-01-01T00:00:00.000Z"}, "Task": {"Token": "AAAA="},
    }  # fmt: skip
    sets = []
    for cause, images, payload in itertools.zip_longest(CAUSES, IMAGES, PAYLOADS):
        sets.append(
            {
                "deployment": None if cause is None else DEPLOYMENT | {"action": "deploy" if cause else "build"},
                "githubDeployment": None if cause else 77,
                "digest": None if not images else "sha256:1",
                "revisions": payload, "rollouts": [payload],
                "failure": cause and {"state": "S", "error": "E", "cause": cause},
                "outcome": {"verdict": "SUCCEEDED" if cause else "FAILED", "error": "E", "cause": cause},
                "states": {
                    "input": payload, "context": context,
                    "result": {"Images": images, "Payload": payload},
                    "errorOutput": {"Error": "E", "Cause": cause},
                },
            }
        )  # fmt: skip
    return [*sets, {}]


def ours(case: dict[str, Any]) -> Any:
    try:
        return {"value": evaluate(case["expression"], case["bindings"])}
    except JSONataError as error:
        return {"undefined": True} if str(error).endswith(("(undefined).", "result type.")) else {"error": str(error)}


def differences(cases: list[dict[str, Any]]) -> list[str]:
    """Cases in which the two give another value, or one of them none; the wording of errors is each one's own."""
    told = []
    for case, reference in zip(cases, fake_aws.node("evaluate.mjs", cases), strict=True):
        mine = ours(case)
        same = mine.keys() == reference.keys() and ("error" in mine or mine == reference)
        # 1 == True in Python, not in JSON.
        if not same or ("value" in mine and json.dumps(mine["value"]) != json.dumps(reference["value"])):
            told.append(
                f"{case['expression']}: {mine}, reference {reference}, with {json.dumps(case['bindings'])[:400]}"
            )
    return told


@pytest.mark.parametrize("name", sorted(p.name.split(".")[0] for p in (fake_aws.ROOT / "statemachines").glob("*.yaml")))
def test_each_expression_of_our_machines_is_evaluated_as_by_the_reference(name: str) -> None:
    found = {e.text for s in fake_aws.definition(name)["States"].values() for e in asl_checker.expressions(s)}
    assert len(found) > 20

    assert differences([{"expression": e, "bindings": b} for e in sorted(found) for b in bindings()]) == []


MORE = [
    "$x", "$x = null", "$x != null", "$x.a", "$x.a.b", "$x[0]", "$x[-1]", "$x[a=1]", "[$x]", "[$x, $x]", "{'a': $x}",
    "$exists($x)", "$exists($x.a)", "$boolean($x)", "$not($x)", "$type($x)", "$string($x)", "$count($x)", "$x & 'a'",
    "$x and true", "$x in [1, null, 'a']", "$append($x, [1])", "$merge([{'a': 1}, {'b': $x}])",
    "$keys({'a': $x, 'b': 1})", "($a := $x; $a = null ? 'none' : 'some')", "$x ~> $string",
    "$map([1, 2], function($v) { $v * 2 })", "$filter([1, null, 2], function($v) { $v = null })",
    "$reduce([1, 2, 3], function($a, $b) { $a + $b })", "$lookup({'a': null}, 'a')", "$sort([3, 1, 2])",
    "$distinct([1, 1, null, null])", "$sum([1, 2.5])", "[1..3]", "[[1]]", "[]", "{}", "null", "'a' = 'a'",
    "$split('a', ',')", "$split('a,b', ',')", "$join(['a', 'b'], '-')", "$substring('h\u00e4llo', 1, 3)",
    "$substringBefore('a:b', ':')", "$contains('abc', /b/)", "$replace('aXb', /X/, '\"')", "$uppercase('\u00df')",
    "$length('\U0001f680')", "1/3", "1e3", "7.0", "0.1 + 0.2", "$number('12')", "$string(1.5e10)", "$round(2.5)",
    "$string({'a': [1, null]})", "$formatNumber(1234.5, '#,##0.00')",
]  # fmt: skip

# Where jsonata-python 0.7.1 is otherwise than the reference: a state machine must not rely on these.
KNOWN_DIFFERENCES = [
    """$count($x): {'value': 0}, reference {'value': 1}, with {"x": null}""",
    """$x in [1, null, 'a']: {'value': True}, reference {'value': False}, with {"x": true}""",
]


def test_expressions_that_machines_may_use_one_day_are_evaluated_as_by_the_reference() -> None:
    objects: list[Any] = [{}, {"a": 1}, {"a": None}, {"a": [{"b": 2}]}]
    values = [None, 0, 1, "", "a", "1", True, [], [1], [None], [[1], [2]], *objects]
    cases = [{"expression": e, "bindings": {"x": v}} for e in MORE for v in values]
    cases += [{"expression": e, "bindings": {}} for e in MORE]

    assert differences(cases) == KNOWN_DIFFERENCES


def test_an_error_without_a_cause_is_caught_all_the_same() -> None:
    """AWS gives a time-out's error without a cause; an expression that gives nothing would fail the execution."""
    caught = [catch for state in fake_aws.definition()["States"].values() for catch in state.get("Catch", [])]
    found = {e.text for catch in caught for e in asl_checker.expressions(catch) if "errorOutput.Cause" in e.text}
    assert found

    for expression in found:
        assert evaluate(expression, {"states": {"errorOutput": {"Error": "States.Timeout"}}}) == ""
        assert evaluate(expression, {"states": {"errorOutput": {"Error": "E", "Cause": "why"}}}) == "why"
