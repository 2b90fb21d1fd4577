"""Faults of local AWS: what goes wrong, where, and how often. Parts of local AWS ask whether one strikes, and obey it.

Each kind below is a part that asks; a fault of a kind matches some of what that part does, and has one effect on it.
"""

import fnmatch
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deploy_runner.domain.errors import DeployRunnerError

LONGEST_SECONDS = 3600.0


class FaultInvalid(DeployRunnerError):
    """What should be a fault is none."""

    exit_code = 2


@dataclass(frozen=True)
class Setting:
    """A value of an effect: what it is called in help texts, what it says, and what of it may be taken."""

    metavar: str
    says: str
    check: Callable[[Any], Any]  # returns the value as it is kept. Raises ValueError, whose text is the rule
    default: Any = None


@dataclass(frozen=True)
class Effect:
    """What a fault does. `value` is given with the effect itself, as in `--delay 2`; `more` has options of its own."""

    says: str
    value: Setting | None = None
    more: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A part of local AWS that faults can strike: what it may be asked to match, and the effects that it knows."""

    says: str
    match: Mapping[str, str]  # what a glob, regardless of case, is held against -> what it is
    first: tuple[str, ...]  # of those, what a command line takes without naming it
    effects: Mapping[str, Effect]
    example: str


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("seconds are a number")
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError("seconds are a number") from None
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"seconds are from 0 to {LONGEST_SECONDS:.0f}")
    return seconds


def _status(value: Any) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 400 <= int(text) <= 599:
        raise ValueError("the status of an error is from 400 to 599")
    return int(text)


def _limit_status(value: Any) -> int:
    if str(value) not in ("403", "429"):
        raise ValueError("GitHub limits with the status 403 or 429")
    return int(value)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text is needed")
    return value


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"it is one of {', '.join(names)}")
        return str(value)

    return check


# How a function's end is called: by the function's own answer, as the Invoke API gives it, and Step Functions passes on
# (docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html; Runtime.OutOfMemory is what newer
# runtimes say of what was Runtime.ExitError with "signal: killed").
DEATHS = ("Sandbox.Timedout", "Lambda.Unknown", "Runtime.ExitError", "Runtime.OutOfMemory")
# And how Step Functions calls it when Lambda itself does not answer as it should.
REFUSALS = (
    "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
)  # fmt: skip

_DELAY = Setting("SECONDS", "how long", _seconds)
_GROUP = {
    "cluster": "the cluster's name",
    "family": "the family of the task definition",
    "group": "the task's group, as in service:NAME",
    "service": "the service's name",
}
_CONNECTION = {
    "delay": Effect("answer later", _DELAY),
    "close": Effect("close the connection without an answer; nothing is done"),
    "hang": Effect("do not answer at all, until the client gives up; nothing is done"),
    "lose_answer": Effect("do what is asked, then close the connection without an answer"),
}

KINDS: dict[str, Kind] = {
    "api": Kind(
        "calls of AWS's API, also those of Step Functions, functions and tasks",
        {
            "service": "the service, as botocore calls it: ecs, stepfunctions",
            "operation": "the operation: UpdateService",
            "role": "the name of the role that calls; people have none",
            "about": "a value of the request, such as the name of a function, service or family",
        },
        ("service", "operation"),
        {
            "throttle": Effect("refuse with the service's own throttling error"),
            "error": Effect(
                "refuse with this error code",
                Setting("CODE", "the error's code", _word),
                {
                    "message": Setting("TEXT", "what the error says", _word, "local AWS was told to fail this call"),
                    "status": Setting("STATUS", "its HTTP status", _status, 400),
                },
            ),
            **_CONNECTION,
            "stale": Effect("answer reads of ECS's services and rollouts as they were so long ago", _DELAY),
            "empty": Effect("leave the lists of the answer empty"),
        },
        "api ecs UpdateService --throttle --times 3",
    ),
    "events": Kind(
        "events on their way from AWS's services, and from PutEvents, to the targets of their rules",
        {
            "source": "the event's source: aws.ecs",
            "type": "its detail-type: ECS Deployment State Change",
            "name": "its detail's eventName: SERVICE_DEPLOYMENT_COMPLETED",
        },
        (),
        {
            "lose": Effect("never deliver it"),
            "double": Effect("deliver it twice"),
            "delay": Effect("deliver it later", _DELAY),
            "reorder": Effect(
                "hold it for a random while, so that later ones overtake it",
                Setting("SECONDS", "the longest while", _seconds, 1.0),
            ),
        },
        "events --source aws.ecs --double",
    ),
    "capacity": Kind(
        "Fargate's capacity for tasks of RunTask and of services",
        _GROUP,
        (),
        {"refuse": Effect("have none: RunTask answers with a failure, a service cannot place its task")},
        "capacity --service cineos --refuse --for 60",
    ),
    "task": Kind(
        "tasks of ECS",
        _GROUP,
        (),
        {
            "slow_start": Effect(
                "take so much longer to start",
                _DELAY,
                {"up_to": Setting("SECONDS", "take a random time from SECONDS to this", _seconds)},
            ),
            "restart_after": Effect("let a service wait so long before it replaces a task that failed", _DELAY),
            "kill_after": Effect(
                "kill its essential containers (SIGKILL) so long after it runs",
                Setting("SECONDS", "how long", _seconds),
            ),
            "interrupt_after": Effect("take it back, as Fargate Spot does, so long after it runs", _DELAY),
        },
        "task --family cineos --kill-after 2",
    ),
    "lambda": Kind(
        "invocations of functions",
        {"function": "the function's name"},
        ("function",),
        {
            "kill": Effect(
                "kill its process midway, at the latest before it answers; the invocation ends with this error: "
                + ", ".join(DEATHS),
                Setting("ERROR", "how the end is called", _one_of(DEATHS)),
                {"after": Setting("SECONDS", "so long after it began", _seconds, 0.2)},
            ),
            "lose_answer": Effect(
                "kill its process after its work, before it answers; the invocation ends with one of these errors",
                Setting("ERROR", "how the end is called", _one_of(DEATHS)),
            ),
            "refuse": Effect(
                "do not run it; Step Functions sees this error of the Invoke API: " + ", ".join(REFUSALS),
                Setting("ERROR", "how it is called", _one_of(REFUSALS)),
            ),
        },
        "lambda '*deploy-service' --kill Sandbox.Timedout --times 1",
    ),
    "github": Kind(
        "calls of GitHub's API and of git over HTTP",
        {"method": "GET, POST, …", "path": "the path, without /api/v3: /repos/*/deployments"},
        ("method", "path"),
        {
            "rate_limit": Effect(
                "refuse: the hourly limit is used up for so many seconds",
                Setting("SECONDS", "until it starts anew", _seconds, 60.0),
                {"limit_status": Setting("STATUS", "403 or 429", _limit_status, 403)},
            ),
            "secondary_limit": Effect(
                "refuse: too much at once, with Retry-After",
                Setting("SECONDS", "what Retry-After says", _seconds, 1.0),
                {"limit_status": Setting("STATUS", "403 or 429", _limit_status, 403)},
            ),
            "status": Effect("answer with this error", Setting("STATUS", "502, 503, …", _status)),
            **_CONNECTION,
        },
        "github --path '*/deployments' --status 502 --times 2",
    ),
}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong: `kind` and `effect` by KINDS, for what all of `match` fits.

    It ends after `times` strikes, or `lasts` seconds after it was added, or never. It strikes with `probability`; the
    same `seed` gives the same strikes.
    """

    kind: str
    effect: str
    match: Mapping[str, str] = field(default_factory=dict)
    value: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = None
    lasts: float | None = None
    probability: float = 1.0
    seed: int = 0

    @property
    def seconds(self) -> float:
        """Its value, where that is a time."""
        return float(self.value)

    def fits(self, facts: Mapping[str, str | tuple[str, ...]]) -> bool:
        """Tell whether each of its globs matches the fact of that name, or one of several."""
        for name, glob in self.match.items():
            found = facts.get(name, ())
            values = (found,) if isinstance(found, str) else found
            if not any(fnmatch.fnmatchcase(value.lower(), glob.lower()) for value in values):
                return False
        return True

    def to_json(self) -> dict[str, Any]:
        """Return what `parse` takes."""
        whole: dict[str, Any] = {"kind": self.kind, "effect": self.effect, **self.match}
        whole |= {} if self.value is None else {"value": self.value}
        whole |= self.more
        own = {"times": self.times, "for": self.lasts}
        whole |= {name: value for name, value in own.items() if value is not None}
        whole |= {"probability": self.probability} if self.probability < 1 else {}
        return whole | ({"seed": self.seed} if self.seed else {})

    def __str__(self) -> str:
        """For a person: as the command line takes it."""
        flag = f"--{self.effect.replace('_', '-')}"
        words = [self.kind, *(f"--{name} {glob}" for name, glob in self.match.items()), flag]
        words += [] if self.value is None else [f"{self.value:g}" if isinstance(self.value, float) else str(self.value)]
        words += [f"--{name.replace('_', '-')} {value}" for name, value in self.more.items()]
        return " ".join(words)


def parse(given: Any) -> Fault:
    """Return the fault that a JSON object describes. Raises FaultInvalid: nothing is guessed, nothing passed over.

    Its keys: kind, effect, value and other settings of the effect, what to match by name, times, for (seconds),
    probability, seed.
    """
    if not isinstance(given, Mapping):
        raise FaultInvalid("A fault is a JSON object", given, f'As in {{"kind": "api", {_EXAMPLE}}}')
    rest = dict(given)
    kind = _known("A fault's kind must be known", rest.pop("kind", None), KINDS)
    effect_name = rest.pop("effect", None)
    effect = _known(f"The effect of a fault of kind {given['kind']} must be known", effect_name, kind.effects)
    value = None
    if effect.value:
        value = _checked(effect_name, effect.value, rest.pop("value", effect.value.default))
    more = {}
    for name, setting in effect.more.items():
        wanted = rest.pop(name, setting.default)
        if wanted is not None:
            more[name] = _checked(name, setting, wanted)
    match = {name: _checked(name, Setting("", "", _word), rest.pop(name)) for name in kind.match if name in rest}
    times, lasts = rest.pop("times", None), rest.pop("for", None)
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise FaultInvalid("`times` is a whole number from 1", times, "Leave it out for a fault that does not end")
    lasts = None if lasts is None else _checked("for", _DELAY, lasts)
    probability, seed = rest.pop("probability", 1.0), rest.pop("seed", 0)
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 < probability <= 1:
        raise FaultInvalid("`probability` is above 0 and at most 1", probability, "Leave it out for always")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise FaultInvalid("`seed` is a whole number", seed, "Leave it out for 0")
    if rest:
        known = [*kind.match, *(["value"] if effect.value else []), *effect.more]
        rule = f"The effect {effect_name} of kind {given['kind']} takes {', '.join(known)}, and those of every fault"
        raise FaultInvalid(rule, next(iter(rest)), "Take it away, or correct its name")
    return Fault(given["kind"], effect_name, match, value, more, times, lasts, float(probability), seed)


_EXAMPLE = '"service": "ecs", "operation": "UpdateService", "effect": "throttle", "times": 3'


def _known[T](rule: str, name: Any, table: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in table:
        raise FaultInvalid(rule, name if name is not None else "none", f"Name one of {', '.join(table)}")
    return table[name]


def _checked(name: str, setting: Setting, value: Any) -> Any:
    if value is None:
        raise FaultInvalid(f"The effect {name} needs a value", None, f"Give {setting.metavar}: {setting.says}")
    try:
        return setting.check(value)
    except ValueError as error:
        raise FaultInvalid(f"{name}: {error}", value, "Correct it") from None


# Several faults under a name; each time is multiplied by the scale that is asked for.
PROFILES: dict[str, tuple[str, tuple[Fault, ...]]] = {
    "slow": (
        "tasks take 30 to 60 s to start, and what fails is replaced late, as on a busy day of Fargate",
        (
            Fault("task", "slow_start", value=30.0, more={"up_to": 60.0}),
            Fault("task", "restart_after", value=30.0),
        ),
    ),
    "at-least-once": (
        "each event of ECS comes twice, and not in order: EventBridge promises at least once, and no order",
        (
            Fault("events", "double", {"source": "aws.ecs"}),
            Fault("events", "reorder", {"source": "aws.ecs"}, 0.5, seed=1),
        ),
    ),
}


def profile(name: str, scale: float = 1.0) -> list[Fault]:
    """Return the faults of a profile. Raises FaultInvalid."""
    _, faults = _known("A profile must be known", name, PROFILES)
    return [
        replace(fault, value=fault.seconds * scale, more={k: v * scale for k, v in fault.more.items()})
        if fault.value is not None
        else fault
        for fault in faults
    ]


def facts_of_task(cluster: str, family: str, group: str) -> dict[str, str]:
    """Return what faults of the kinds `task` and `capacity` are held against."""
    service = group.removeprefix("service:") if group.startswith("service:") else ""
    return {"cluster": cluster, "family": family, "group": group, "service": service}


@dataclass
class _Armed:
    """A fault that was added, and what is left of it."""

    id: int
    fault: Fault
    until: float | None  # monotonic
    left: int | None
    dice: random.Random
    struck: int = 0

    @property
    def over(self) -> bool:
        return self.left == 0 or (self.until is not None and time.monotonic() > self.until)


class Faults:
    """The faults of one local AWS. Whoever does what a fault may strike asks here, and does what it is told."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()
        self._count = 0

    def add(self, *faults: Fault) -> None:
        """Let these go wrong from now on."""
        with self._lock:
            for fault in faults:
                self._count += 1
                until = None if fault.lasts is None else time.monotonic() + fault.lasts
                dice = random.Random(fault.seed)  # noqa: S311 - to be repeated, not to be secret
                self._armed.append(_Armed(self._count, fault, until, fault.times, dice))

    def clear(self) -> None:
        """Let everything go well again."""
        with self._lock:
            self._armed.clear()

    def list(self) -> list[dict[str, Any]]:
        """Return the faults that have not ended, with how often each has struck."""
        with self._lock:
            return [
                {"id": armed.id, "struck": armed.struck, "left": armed.left, "text": str(armed.fault)}
                | {"fault": armed.fault.to_json()}
                for armed in self._armed
                if not armed.over
            ]

    def strike(self, kind: str, *effects: str, **facts: str | tuple[str, ...]) -> Iterator[tuple[Fault, random.Random]]:
        """Yield each fault that strikes now, in the order in which they were added, with its source of chance.

        `facts` are what its globs are held against. A fault counts as having struck when it is yielded.
        """
        with self._lock:
            armed = [a for a in self._armed if a.fault.kind == kind and (not effects or a.fault.effect in effects)]
        for each in armed:
            with self._lock:
                if each not in self._armed or each.over or not each.fault.fits(facts):
                    continue
                if each.fault.probability < 1 and each.dice.random() >= each.fault.probability:
                    continue
                each.struck += 1
                if each.left is not None:
                    each.left -= 1
            yield each.fault, each.dice

    def struck(self, kind: str, **facts: str | tuple[str, ...]) -> bool:
        """Tell whether a fault of a kind that has one effect alone strikes now."""
        return any(True for _ in self.strike(kind, **facts))

    def has(self, kind: str, effect: str = "") -> bool:
        """Tell whether there is a fault of this kind, and of this effect if one is named, that has not ended."""
        with self._lock:
            found = [armed for armed in self._armed if armed.fault.kind == kind and not armed.over]
        return any(not effect or armed.fault.effect == effect for armed in found)
