"""What holds for every input: the domain is total, and its verdicts cannot be talked into success."""

import copy
import fnmatch
import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deploy_runner.domain.allow import first_match
from deploy_runner.domain.apps import load
from deploy_runner.domain.errors import AllowlistInvalid, RequestMalformed, one_line, show
from deploy_runner.domain.events import hint
from deploy_runner.domain.outcome import VERDICTS, outcome_of
from deploy_runner.domain.redact import redacted
from deploy_runner.domain.request import ACTIONS, parse_request
from deploy_runner.domain.rollout import (
    MAX_REASON,
    Deployment,
    Failed,
    Observed,
    Pending,
    Rollout,
    ServiceDeployment,
    StoppedTask,
    Succeeded,
    combine,
    reason,
    stopped_task,
    verdict,
)
from deploy_runner.domain.task_definition import OUTPUT_ONLY, new_revision

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
texts = st.text() | st.sampled_from(
    ["main", "v1.0", "a/../b", "-x", "\x1b[2J", "refs/heads/main", "x" * 300, "@{", "a\n"]
)


def is_plain(line: str) -> bool:
    return line.isprintable() and "\n" not in line


# --- requests ---------------------------------------------------------------------------------------------------------


requests = st.fixed_dictionaries(
    {"app": texts | json_values, "environment": texts | json_values},
    optional={
        "ref": texts | json_values, "action": texts | st.sampled_from(ACTIONS), "source": json_values,
        "requested_by": json_values, "shell": json_values, "deployment": texts | json_values, "exact": json_values,
        "from": texts, "emergency": json_values,
    },
)  # fmt: skip


@given(json_values | requests)
def test_any_json_is_a_request_or_malformed(value: Any) -> None:
    refusal, request = "", None
    try:
        request = parse_request(value)
    except RequestMalformed as malformed:
        refusal = str(malformed)
    assert is_plain(refusal)
    assert len(refusal) < 2000
    if request is None:
        return
    assert (request.ref is not None) == (request.action in ("deploy", "build"))
    assert (request.promote_from is not None) == (request.action == "promote")
    assert request.action == "rollback" or not (request.deployment or request.exact)
    for text in (request.app, request.environment, request.ref, request.deployment, request.promote_from):
        if text is not None:
            assert is_plain(text)
            assert 0 < len(text) <= 200
    assert not (request.ref or "").startswith("-")
    assert ".." not in (request.ref or "")
    assert request.exact in (True, False)
    assert request.emergency in (True, False)


@given(st.text() | st.integers() | json_values)
def test_whatever_is_shown_is_one_short_line(value: Any) -> None:
    assert is_plain(show(value))
    assert len(show(value)) < 100


@given(st.text(), st.integers(1, 300))
def test_one_line_is_one_line_within_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert is_plain(line)
    assert len(line) <= limit


# --- apps.yaml and globs ----------------------------------------------------------------------------------------------


@given(json_values | st.binary() | st.text())
def test_any_file_is_an_allowlist_or_refused_with_its_problems(value: Any) -> None:
    content = value if isinstance(value, str | bytes) else json.dumps(value)
    told = "problem"
    try:
        load(content)
    except AllowlistInvalid as invalid:
        told = str(invalid)
    assert "problem" in told
    assert all(is_plain(line) for line in told.splitlines())


names = st.text(st.sampled_from("ab/.*+-v1"), min_size=1, max_size=8)


@given(names)
def test_a_name_without_stars_matches_only_itself(name: str) -> None:
    glob = name.replace("*", "")
    assert (first_match([glob], name) is not None) == (glob == name)
    assert first_match(["**"], name) == "**"


@given(names, names)
def test_one_star_never_crosses_a_slash_and_matches_no_more_than_two(glob: str, name: str) -> None:
    single = glob.replace("**", "*").replace("**", "*").replace("**", "*")
    if first_match([single], name):
        assert name.count("/") == single.count("/")
        assert first_match([single.replace("*", "**")], name)
        assert fnmatch.fnmatchcase(name, single)


@given(names)
def test_without_slashes_globs_are_those_of_a_shell(name: str) -> None:
    flat = name.replace("/", "")
    for glob in ("v*", "*1", "a*b", "*"):
        assert (first_match([glob], flat) is not None) == fnmatch.fnmatchcase(flat, glob)


# --- rollouts ---------------------------------------------------------------------------------------------------------


definitions = st.sampled_from(["td:41", "td:42", "td:43"]) | st.none()
ENDS = ["STOPPED", "SUCCESSFUL", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED"]
ON_THEIR_WAY = ["PENDING", "IN_PROGRESS", "STOP_REQUESTED", "ROLLBACK_REQUESTED", "ROLLBACK_IN_PROGRESS", "NEW"]
statuses = st.sampled_from([*ENDS, *ON_THEIR_WAY])
counts = st.integers(0, 4)
service_deployments = st.builds(ServiceDeployment, st.text(), statuses, definitions, st.text(), st.floats(0, 9))
deployments = st.builds(
    Deployment, st.sampled_from(["PRIMARY", "ACTIVE", "INACTIVE"]), definitions,
    st.sampled_from(["COMPLETED", "IN_PROGRESS", "FAILED", None]), counts, counts, counts, st.text(),
)  # fmt: skip
readings = st.builds(
    Observed, st.sampled_from(["ACTIVE", "DRAINING", "INACTIVE", None, "NEW"]), counts,
    st.lists(deployments, max_size=3).map(tuple), st.lists(service_deployments, max_size=4).map(tuple), st.booleans(),
)  # fmt: skip
ROLLOUT = Rollout("cineos", "arn:service", "dev", "td:42", "td:41")


def without_ours(seen: Observed) -> Observed:
    return replace(
        seen,
        deployments=tuple(d for d in seen.deployments if d.task_definition != "td:42"),
        service_deployments=tuple(d for d in seen.service_deployments if d.task_definition != "td:42"),
    )


@given(readings)
def test_a_verdict_is_total_and_its_reason_one_line(seen: Observed) -> None:
    found = verdict(ROLLOUT, seen)
    assert isinstance(found, Pending | Succeeded | Failed)
    if isinstance(found, Failed):
        line = reason(ROLLOUT, seen, found)
        assert is_plain(line)
        assert len(line) <= MAX_REASON


@given(readings)
def test_what_does_not_name_our_revision_is_never_success(seen: Observed) -> None:
    assert not isinstance(verdict(ROLLOUT, without_ours(seen)), Succeeded)


@given(readings)
def test_success_needs_our_newest_service_deployment_to_be_successful(seen: Observed) -> None:
    ours = [d for d in seen.service_deployments if d.task_definition == "td:42"]
    if isinstance(verdict(ROLLOUT, seen), Succeeded) and ours:
        newest = max(d.created_at for d in ours)
        assert any(d.status == "SUCCESSFUL" and d.created_at == newest for d in ours)


@given(readings, st.lists(service_deployments.filter(lambda d: d.task_definition != "td:42"), max_size=3))
def test_deployments_of_others_never_turn_a_verdict_into_success(seen: Observed, others: list[Any]) -> None:
    """Monotone: more that is not ours, seen later, changes neither a success nor makes one."""
    more = replace(seen, service_deployments=(*seen.service_deployments, *others))
    assert isinstance(verdict(ROLLOUT, more), Succeeded) == isinstance(verdict(ROLLOUT, seen), Succeeded)


@given(readings)
def test_the_order_of_a_reading_does_not_matter(seen: Observed) -> None:
    times = [d.created_at for d in seen.service_deployments]
    if len(set(times)) == len(times):
        turned = replace(seen, service_deployments=tuple(reversed(seen.service_deployments)))
        assert verdict(ROLLOUT, turned) == verdict(ROLLOUT, seen)


@given(st.lists(readings.map(lambda seen: verdict(ROLLOUT, seen)), min_size=1, max_size=4))
def test_together_success_needs_every_one(verdicts: list[Any]) -> None:
    together = combine(verdicts)
    assert isinstance(together, Succeeded) == all(isinstance(found, Succeeded) for found in verdicts)
    assert isinstance(together, Failed) == any(isinstance(found, Failed) for found in verdicts)


@given(
    readings, st.lists(st.builds(StoppedTask, st.text(), st.text(), st.integers(), st.text()), max_size=3), st.text()
)
def test_a_reason_holds_whatever_was_logged(seen: Observed, stopped: list[StoppedTask], log_line: str) -> None:
    from deploy_runner.domain.errors import RolloutFailed

    line = reason(ROLLOUT, seen, Failed(RolloutFailed, "x"), stopped, log_line)
    assert is_plain(line)
    assert len(line) <= MAX_REASON


@given(st.dictionaries(st.sampled_from(["taskArn", "containers", "stoppedReason"]), json_values))
def test_any_task_has_a_reason_for_its_stop(task: dict[str, Any]) -> None:
    if isinstance(task.get("containers"), list) or not task.get("containers"):
        assert isinstance(stopped_task(task), StoppedTask)


# --- what comes from outside ------------------------------------------------------------------------------------------


failures = st.fixed_dictionaries(
    {},
    optional={"state": json_values, "error": texts | json_values, "cause": json_values | json_values.map(json.dumps)},
)


@given(json_values | failures, st.text())
def test_any_failure_has_a_verdict_and_one_line(failure: Any, log_line: str) -> None:
    outcome = outcome_of(failure, {"build": 60}, log_line)
    assert outcome.verdict in VERDICTS
    assert is_plain(outcome.cause)
    assert is_plain(outcome.error)
    assert len(outcome.cause) <= 1000
    assert (outcome.verdict == "SUCCEEDED") == (failure is None)


@given(
    json_values
    | st.fixed_dictionaries(
        {
            "source": st.just("aws.ecs"),
            "detail-type": st.sampled_from(["ECS Task State Change", "ECS Service Action"]),
            "detail": json_values | st.dictionaries(st.sampled_from(["group", "clusterArn", "eventName"]), json_values),
            "resources": json_values,
        }
    )
)
def test_any_event_is_a_hint_or_nothing(event: Any) -> None:
    found = hint(event)
    assert found is None or ":service/" in found.service_arn


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text(), max_size=3))
def test_long_values_of_the_environment_never_stay_in_a_line(line: str, environment: dict[str, str]) -> None:
    secret = "the-secret-value-0123"
    told = redacted(f"{line}{secret}{line}", {**environment, "HIDDEN": secret})
    assert secret not in told


# --- task definitions -------------------------------------------------------------------------------------------------


containers = st.lists(
    st.dictionaries(st.text(), json_values, max_size=3), min_size=1, max_size=3
).map(lambda found: [{**c, "name": f"c{n}", "image": "old"} for n, c in enumerate(found)])  # fmt: skip


@given(containers, st.dictionaries(st.text(), json_values, max_size=4), st.integers(0, 2))
def test_a_revision_differs_from_its_base_by_the_image_alone(
    definitions: list[dict[str, Any]], rest: dict[str, Any], which: int
) -> None:
    base = {**rest, "containerDefinitions": definitions}
    before = copy.deepcopy(base)
    name = f"c{min(which, len(definitions) - 1)}"
    revision = new_revision(base, [], [name], "new", {})
    assert base == before
    assert revision.pop("tags") == []
    for definition in revision["containerDefinitions"]:
        if definition["name"] == name:
            assert definition["image"] == "new"
            definition["image"] = "old"
    assert revision == {key: value for key, value in before.items() if key not in OUTPUT_ONLY}
