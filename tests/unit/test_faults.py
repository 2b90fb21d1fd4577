"""What describes a fault, as JSON and on a command line, is taken whole or refused with the reason."""

import json
import threading
from typing import Any

import pytest

from deploy_runner.cli.main import main
from deploy_runner.local_aws.faults import KINDS, PROFILES, Fault, FaultInvalid, Faults, parse, profile


def test_a_fault_survives_the_way_to_json_and_back() -> None:
    for kind, about in KINDS.items():
        for effect, known in about.effects.items():
            given: dict[str, Any] = {
                "kind": kind,
                "effect": effect,
                "times": 2,
                "for": 3.0,
                **dict.fromkeys(about.match, "x*"),
            }
            if known.value and known.value.default is None:
                given["value"] = {"SECONDS": 1.5, "STATUS": 502, "CODE": "Odd"}.get(known.value.metavar)
                if known.value.metavar == "ERROR":
                    given["value"] = "Lambda.ServiceException" if effect == "refuse" else "Lambda.Unknown"
            given |= {"probability": 0.5, "seed": 3}
            fault = parse(json.loads(json.dumps(given)))
            assert parse(json.loads(json.dumps(fault.to_json()))) == fault
            assert str(fault).startswith(f"{kind} --")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["JSON object"]),
        ({}, ["kind", "api, events, capacity, task, lambda, github"]),
        ({"kind": "weather"}, ["'weather'", "Name one of api"]),
        ({"kind": "api"}, ["effect", "throttle"]),
        ({"kind": "api", "effect": "lose"}, ["'lose'", "throttle, error"]),
        ({"kind": "api", "effect": "throttle", "servce": "ecs"}, ["'servce'", "service, operation"]),
        ({"kind": "api", "effect": "throttle", "value": 3}, ["'value'"]),
        ({"kind": "api", "effect": "throttle", "service": ""}, ["service", "text"]),
        ({"kind": "api", "effect": "delay"}, ["needs a value", "SECONDS"]),
        ({"kind": "api", "effect": "delay", "value": "soon"}, ["number", "'soon'"]),
        ({"kind": "api", "effect": "delay", "value": True}, ["number"]),
        ({"kind": "api", "effect": "delay", "value": -1}, ["from 0 to"]),
        ({"kind": "api", "effect": "delay", "value": "nan"}, ["from 0 to"]),
        ({"kind": "api", "effect": "error", "value": "X", "status": 200}, ["from 400 to 599", "200"]),
        ({"kind": "api", "effect": "throttle", "times": 0}, ["times", "from 1"]),
        ({"kind": "api", "effect": "throttle", "times": 1.5}, ["times"]),
        ({"kind": "api", "effect": "throttle", "for": "long"}, ["for", "number"]),
        ({"kind": "api", "effect": "throttle", "probability": 0}, ["probability", "above 0"]),
        ({"kind": "api", "effect": "throttle", "seed": "x"}, ["seed"]),
        ({"kind": "lambda", "effect": "kill", "value": "Boom"}, ["Sandbox.Timedout", "'Boom'"]),
        ({"kind": "github", "effect": "rate_limit", "limit_status": 500}, ["403 or 429"]),
    ],
)  # fmt: skip
def test_what_is_no_fault_is_refused_with_rule_value_and_remedy(given: Any, words: list[str]) -> None:
    with pytest.raises(FaultInvalid) as refused:
        parse(given)
    assert not [word for word in words if word not in str(refused.value)], str(refused.value)
    assert refused.value.remedy


def test_a_glob_is_held_against_each_value_regardless_of_case() -> None:
    fault = Fault("api", "throttle", {"operation": "update*", "about": "web"})
    assert fault.fits({"operation": "UpdateService", "about": ("dev", "Web")})
    assert not fault.fits({"operation": "UpdateService", "about": ("dev", "website")})
    assert not fault.fits({"operation": "UpdateService"})


def test_a_fault_strikes_as_often_as_it_is_asked_to_and_only_what_obeys_it() -> None:
    faults = Faults()
    faults.add(Fault("api", "throttle", {"service": "ecs"}, times=2), Fault("api", "delay", value=1.0))

    struck = [[fault.effect for fault, _ in faults.strike("api", service=s)] for s in ("ecs", "s3", "ecs", "ecs")]
    assert struck == [["throttle", "delay"], ["delay"], ["throttle", "delay"], ["delay"]]
    # who stops after the first has not been struck by the second
    next(faults.strike("api", service="ecs"))
    assert [(entry["fault"]["effect"], entry["struck"]) for entry in faults.list()] == [("delay", 5)]
    faults.clear()
    assert faults.list() == []
    assert not faults.has("api")
    assert list(faults.strike("api", service="ecs")) == []


def test_two_at_once_never_share_the_last_strike() -> None:
    faults = Faults()
    faults.add(Fault("capacity", "refuse", times=50))
    counts: list[int] = []

    def ask() -> None:
        counts.append(sum(faults.struck("capacity", family="x") for _ in range(40)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 50


def test_a_profile_is_scaled() -> None:
    for name in PROFILES:
        assert [parse(fault.to_json()) for fault in profile(name)] == profile(name)
    slow = profile("slow", 0.1)[0]
    assert (slow.seconds, slow.more["up_to"]) == (3.0, 6.0)
    with pytest.raises(FaultInvalid, match="slow, at-least-once"):
        profile("fast")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command line sends."""
    found: list[Any] = []

    def ask(port: int, page: str, method: str = "GET", body: Any = None) -> Any:
        found.append((method, page, body))
        return []

    monkeypatch.setattr("deploy_runner.cli.local._ask", ask)
    return found


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("api ecs UpdateService --throttle --times 3",
         {"kind": "api", "effect": "throttle", "service": "ecs", "operation": "UpdateService", "times": 3}),
        ("api --service s3 --error X --status 500 --message a --for 2",
         {"kind": "api", "effect": "error", "service": "s3", "value": "X", "status": 500, "message": "a", "for": 2.0}),
        ("events --source aws.ecs --double", {"kind": "events", "effect": "double", "source": "aws.ecs"}),
        ("events --reorder", {"kind": "events", "effect": "reorder", "value": 1.0}),
        ("capacity --service cineos", {"kind": "capacity", "effect": "refuse", "service": "cineos"}),
        ("task --family x --kill-after 2", {"kind": "task", "effect": "kill_after", "family": "x", "value": 2.0}),
        ("lambda *watch* --kill Lambda.Unknown",
         {"kind": "lambda", "effect": "kill", "function": "*watch*", "value": "Lambda.Unknown", "after": 0.2}),
        ("github POST /x/* --status 502 --times 2",
         {"kind": "github", "effect": "status", "method": "POST", "path": "/x/*", "value": 502, "times": 2}),
    ],
)  # fmt: skip
def test_a_line_that_a_person_can_guess(line: str, fault: dict[str, Any], sent: list[Any], capsys: Any) -> None:
    assert main(["local", "fault", *line.split()]) == 0
    assert sent == [("POST", "faults", [fault])]
    assert capsys.readouterr().out.startswith(fault["kind"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_in_a_help_text_works(kind: str, sent: list[Any], capsys: Any) -> None:
    assert main(["local", "fault", *KINDS[kind].example.replace("'", "").split()]) == 0
    assert [parse(fault) for fault in sent[0][2]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("api ecs UpdateService", ["needs an effect", "--throttle"]),
        ("api ecs --throttle --close", ["not both --throttle and --close"]),
        ("api ecs --service s3 --throttle", ["service is given once", "'s3'"]),
        ("events --reorder soon", ["number", "'soon'"]),
        ("lambda --kill Boom", ["Sandbox.Timedout"]),
        ("profile fast", ["slow, at-least-once"]),
        ("profile slow --scale 0", ["scale", "0"]),
        ("weather", ["invalid choice", "weather"]),
    ],
)
def test_a_line_that_is_wrong_is_refused_and_nothing_is_sent(
    line: str, words: list[str], sent: list[Any], capsys: Any
) -> None:
    try:
        code = main(["local", "fault", *line.split()])
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr().err
    assert code == 2
    assert not [word for word in words if word not in said], said
    assert sent == []
