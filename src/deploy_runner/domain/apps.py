"""The allowlist: apps.yaml read into frozen dataclasses, or refused with every problem at once.

Each problem names its line, its place, the rule, the value and the remedy. apps.schema.json says the same to editors; a
test holds the two together.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from deploy_runner.domain.errors import AllowlistInvalid, one_line, show

MAX_BYTES = 1_000_000  # 200 apps in 3 environments take about a tenth
MAX_DEPTH = 12
MAX_PROBLEMS_SHOWN = 100

APP = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"  # also the name of its push role and, by default, of its image repository
NAME_LENGTH = 59  # a role's name has at most 64, and the push role is called push-<app>
ENVIRONMENT = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
ACCOUNT = r"[0-9]{12}"
REGION = r"[a-z]{2,3}(-[a-z]+)+-[0-9]"
ROLE = r"[A-Za-z0-9+=,.@_/-]{1,128}"
# The limits of ECS: docs.aws.amazon.com/AmazonECS/latest/APIReference/API_CreateService.html
ECS_NAME = r"[A-Za-z0-9_-]{1,255}"
# docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html
IMAGE_REPOSITORY = r"([a-z0-9]+([._-][a-z0-9]+)*/)*[a-z0-9]+([._-][a-z0-9]+)*"
PATH = r"[A-Za-z0-9._][A-Za-z0-9._/-]*"
# A task's overrides have at most 8,192 characters of JSON; half of them is for what else they hold:
# docs.aws.amazon.com/AmazonECS/latest/APIReference/API_TaskOverride.html
MAX_BUILD_ARGUMENTS = 4_096
MAX_SERVICES = 2_000  # they are told to runner tasks, in the same overrides
MAX_RELEASE_COMMAND = 4_096  # likewise: half of the overrides
# A deployment stands in a state, which has at most 256 KiB, and a task definition has at most 10 containers:
# docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
# docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html
MAX_ENTRIES = 20
# The state machine ends after six hours, which leave ten minutes for all that is not waited for: deploy_app.asl.yaml.
MAX_SECONDS = 21_000
MAX_CONTAINERS = 10
# docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html, with its group before it
SCHEDULE = r"([0-9A-Za-z_.-]{1,64}/)?[0-9A-Za-z_.-]{1,64}"
DEFAULT_GROUP = "default"
# One spelling for each folder, as a unit's lock is called after its path: no part is empty, `.` or `..`.
UNIT = r"(?!(.*/)?\.{1,2}(/|$))[A-Za-z0-9._][A-Za-z0-9._-]*(/[A-Za-z0-9._][A-Za-z0-9._-]*)*"
BUILD_ARGUMENT = r"[A-Za-z_][A-Za-z0-9_]{0,99}"
GLOB = r"[A-Za-z0-9._/*@+=#%-]{1,200}"
LOGIN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,38}(\[bot\])?"
PRINTABLE = r"[^\x00-\x1f\x7f]+"
ARCHITECTURES = ("ARM64", "X86_64")
DOCKER_BUILDER, APP_DEPLOYER = RUNNERS = ("docker-builder", "app-deployer")
# A role's name has at most 64, and that of an app-deployer is deployer-<app>-<environment>.
MAX_DEPLOYER_NAME = 55
# Beside the push roles of 200 apps, in a template of at most 1 MB: tests/templates/test_limits.py renders them.
MAX_DEPLOYER_ROLES = 50
BASES = ("service", "family")
QUEUES = ("latest", "all")


@dataclass(frozen=True, slots=True)
class Repository:
    """A GitHub repository: names can be taken over by someone else, the numeric id cannot."""

    name: str
    id: int


@dataclass(frozen=True, slots=True)
class Target:
    """An account and region, with the role that may change the services of an environment there."""

    account: str
    region: str
    role: str

    @property
    def partition(self) -> str:
        """Return the AWS partition of the region."""
        return (
            "aws-cn" if self.region.startswith("cn-") else "aws-us-gov" if self.region.startswith("us-gov-") else "aws"
        )

    @property
    def role_arn(self) -> str:
        """Return the ARN of the target's role; `role` is its path and name."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.role.strip('/')}"


@dataclass(frozen=True, slots=True)
class Refs:
    """Globs of the branches and tags that may be deployed: `*` stops at a slash, `**` does not."""

    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a build, a rollout, waiting for others and a release command may take."""

    build: int = 1800
    rollout: int = 1200
    queue: int = 3600
    release: int = 900

    @property
    def longest(self) -> int:
        """Return how long a deployment may take: it waits for a build and for its turn, and a rollout may be undone."""
        return 2 * self.queue + self.build + self.release + 2 * self.rollout


@dataclass(frozen=True, slots=True)
class Service:
    """An ECS service, and its containers that run the app's image."""

    name: str
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of EventBridge Scheduler that runs a task, and its containers that run the app's image."""

    group: str
    name: str
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and under which rules an app runs in one environment."""

    name: str
    target: Target
    cluster: str
    services: tuple[Service, ...]
    refs: Refs
    checks: tuple[str, ...] = ()
    requesters: tuple[str, ...] | None = None
    freeze: str | None = None
    emergency: tuple[str, ...] = ()
    queue: str = "latest"
    timeouts: Timeouts = Timeouts()
    task_definition_base: str = "service"
    release_command: tuple[str, ...] = ()
    scheduled_tasks: tuple[Schedule, ...] = ()
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class App:
    """An app: one repository, one image, one or more services in each of its environments."""

    name: str
    repository: Repository
    environments: Mapping[str, Environment]
    image_repository: str
    dockerfile: str = "Dockerfile"
    context: str = "."
    build_args: tuple[tuple[str, str], ...] = ()
    architecture: str = "ARM64"
    immutable_tags: bool = False
    submodules: bool = False
    runner: str = DOCKER_BUILDER

    def name_in(self, environment: str) -> str:
        """Return what an app-deployer's role and its task definition family are called after."""
        return f"{self.name}-{environment}"


@dataclass(frozen=True, slots=True)
class Allowlist:
    """All of apps.yaml."""

    version: int
    targets: Mapping[str, Target]
    apps: Mapping[str, App]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in apps.yaml."""

    line: int
    place: str
    rule: str
    value: str
    remedy: str

    def __str__(self) -> str:
        value = f", but is {self.value}" if self.value else ""
        end = "" if self.remedy.endswith("?") else "."
        return f"line {self.line}: {self.place or 'the file'}: {self.rule}{value}. {self.remedy}{end}"


def load_file(path: Path) -> Allowlist:
    """Read and check an allowlist file. Raises AllowlistInvalid with every problem."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AllowlistInvalid(
            f"{path} cannot be read: {error.strerror}. Name the file, or cd to its folder."
        ) from None
    return load(content, path.name)


def load(content: bytes | str, name: str = "apps.yaml") -> Allowlist:
    """Read and check an allowlist. Raises AllowlistInvalid, whose message has a line for every problem."""
    problems: list[Problem] = []
    allowlist = None
    node = _compose(content, problems)
    if node is not None:
        allowlist = _allowlist(_Value(node, "", problems))
    if problems or allowlist is None:
        ordered = sorted(set(problems), key=lambda p: (p.line, p.place, p.rule))
        lines = [str(problem) for problem in ordered[:MAX_PROBLEMS_SHOWN]]
        if len(ordered) > MAX_PROBLEMS_SHOWN:
            lines.append(f"… and {len(ordered) - MAX_PROBLEMS_SHOWN} more.")
        count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
        raise AllowlistInvalid("\n".join([f"{name} has {count}:", *(f"  {line}" for line in lines)]))
    return allowlist


# The C parser is several times faster, which a cold start feels; the Python one says the same.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _compose(content: bytes | str, problems: list[Problem]) -> yaml.Node | None:
    """Return the YAML's node tree, or None after noting why not. Anchors are refused: they can blow up a small file."""
    if len(content) > MAX_BYTES:
        problems.append(Problem(1, "", f"must be at most {MAX_BYTES} bytes", f"{len(content)}", "Split the allowlist"))
        return None
    try:
        depth = 0
        documents = 0
        for event in yaml.parse(content, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
            anchor = getattr(event, "anchor", None)
            if anchor:
                rule, value = "must have no YAML anchors or aliases", show(anchor)
                problems.append(Problem(line, "", rule, value, "Write it out, or say it once under `environments`"))
                return None
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                problems.append(
                    Problem(line, "", f"must be nested at most {MAX_DEPTH} deep", "", "Compare apps.schema.json")
                )
                return None
        if documents != 1:
            found = "empty" if not documents else f"{documents} documents"
            problems.append(Problem(1, "", "must be one YAML document", found, "Start with `version: 1`"))
            return None
        return yaml.compose(content, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        problems.append(
            Problem(
                mark.line + 1 if mark else 1,
                "",
                f"must be YAML in UTF-8 ({one_line(str(what))})",
                "",
                "Correct the syntax",
            )
        )
        return None


class _Value:
    """One node with its place, which notes problems instead of raising, so that all are found."""

    def __init__(self, node: yaml.Node, place: str, problems: list[Problem]) -> None:
        self.node, self.place, self.problems = node, place, problems

    def problem(self, rule: str, remedy: str, value: str | None = None) -> None:
        line = self.node.start_mark.line + 1
        self.problems.append(Problem(line, self.place, rule, self.shown() if value is None else value, remedy))

    def shown(self) -> str:
        if isinstance(self.node, yaml.ScalarNode):
            return show(self.node.value) if self.kind == "str" else show(self.node.value)[1:-1] or "empty"
        return "a list" if self.kind == "seq" else "a mapping"

    @property
    def kind(self) -> str:
        return str(self.node.tag).rpartition(":")[2]

    def at(self, node: yaml.Node, key: str) -> "_Value":
        return _Value(node, f"{self.place}.{key}" if self.place else key, self.problems)

    def text(self, pattern: str, rule: str, remedy: str, limit: int = 256) -> str:
        value = self.node.value
        if self.kind == "str" and len(value) <= limit and re.fullmatch(pattern, value):
            return str(value)
        quote = self.kind in ("int", "float", "bool", "null", "timestamp") and re.fullmatch(pattern, str(value))
        self.problem(f"must be {rule}", "Put it in quotes" if quote else remedy)
        return ""

    def one_of(self, values: tuple[str, ...]) -> str:
        if self.kind == "str" and self.node.value in values:
            return str(self.node.value)
        self.problem(
            f"must be {' or '.join(values)}", _did_you_mean(str(self.node.value), values) or f"Write {values[0]}"
        )
        return values[0]

    def number(self, low: int, high: int, what: str, remedy: str = "Write plain digits, without quotes") -> int:
        if self.kind == "int" and re.fullmatch(r"0|-?[1-9][0-9]{0,18}", self.node.value):
            value = int(self.node.value)
            if low <= value <= high:
                return value
            remedy = (
                f"Write {low}" if low == high else f"Write {low} or more" if value < low else f"Write {high} or less"
            )
        self.problem(f"must be {low}" if low == high else f"must be {what}, {low} to {high}", remedy)
        return low

    def boolean(self) -> bool:
        if self.kind == "bool" and self.node.value in ("true", "false"):
            return bool(self.node.value == "true")
        self.problem("must be true or false", "Write true or false, without quotes")
        return False

    def texts(
        self, pattern: str, rule: str, remedy: str, at_least: int = 0, limit: int = 256, *, unique: bool = True
    ) -> tuple[str, ...]:
        if self.kind != "seq":
            plain = self.kind == "str" and re.fullmatch(r"[A-Za-z][\w/ -]{0,60}", self.node.value)
            example = ", ".join(self.node.value.split()) if plain else "main"
            self.problem("must be a list", f"Write it in brackets, as in [{example}]")
            return ()
        items = [
            self.at(node, str(index)).text(pattern, rule, remedy, limit) for index, node in enumerate(self.node.value)
        ]
        for index, item in enumerate(items):
            if unique and item and item in items[:index]:
                self.at(self.node.value[index], str(index)).problem("must not be listed twice", "Remove one")
        if len(items) < at_least:
            self.problem(f"must list at least {at_least}", "Add one, or leave the key out", "an empty list")
        return tuple(items)

    def mapping(
        self, key_pattern: str | None = None, key_rule: str = "", at_least: int = 0, limit: int = NAME_LENGTH
    ) -> "dict[str, _Value]":
        if self.kind != "map":
            self.problem("must be a mapping", "Write `key: value` lines below it")
            return {}
        found: dict[str, _Value] = {}
        for key_node, value_node in self.node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            place = self.at(key_node, key if re.fullmatch(r"[\w-]{1,80}", key) else show(key_node.value))
            if not key.isprintable() or not str(key_node.tag).endswith(":str"):
                place.problem("a key must be text", "Put it in quotes if it is meant", show(key_node.value))
            elif key in found:
                place.problem("must not be given twice", "Remove one of the two", f"also on line {found[key].line}")
            elif key_pattern is not None and not (len(key) <= limit and re.fullmatch(key_pattern, key)):
                place.problem(f"must be named by {key_rule}", "Rename it", show(key))
                if re.fullmatch(r"[\w-]{1,80}", key):
                    found[key] = self.at(value_node, key)  # so that what is below it is checked too
            else:
                found[key] = self.at(value_node, key)
        if self.node.value == [] and at_least:
            self.problem(f"must have at least {at_least} entry", "Add one", "empty")
        return found

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def record(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> "_Record":
        is_map = self.kind == "map"
        given = self.mapping()
        known = (*required, *optional)
        for key, value in given.items():
            if key not in known:
                remedy = _did_you_mean(key, known) or f"Remove it. Known here: {', '.join(known)}"
                value.problem("is not a known key", remedy, "")
        for key in required:
            if is_map and key not in given:
                self.problem(f"must have the key {key}", f"Add `{key}:`; apps.schema.json describes it", "")
        return _Record({key: value for key, value in given.items() if key in known})


class _Record:
    """A mapping with known keys."""

    def __init__(self, values: dict[str, _Value]) -> None:
        self.values = values

    def read[T](self, key: str, reader: Callable[[_Value], T], default: T) -> T:
        return reader(self.values[key]) if key in self.values else default

    def entries(self, key: str, pattern: str) -> dict[str, _Value]:
        return self.values[key].mapping(pattern, _NAME_RULE, 1) if key in self.values else {}


def _did_you_mean(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word[:80], known, 1, 0.6)
    return f"Did you mean `{close[0]}`?" if close else ""


_SHARED = (
    "cluster",
    "refs",
    "checks",
    "requesters",
    "freeze",
    "emergency",
    "queue",
    "timeouts",
    "task_definition_base",
)
_OF_ONE_APP = ("release_command", "scheduled_tasks", "unit")


def _allowlist(root: _Value) -> Allowlist:
    record = root.record(("version", "environments", "apps"))
    record.read("version", lambda v: v.number(1, 1, "a version"), 1)
    environments = record.entries("environments", ENVIRONMENT)
    shared: dict[str, _Record] = {}
    targets: dict[str, Target] = {}
    for name, value in environments.items():
        shared[name] = value.record(("account", "region"), ("role", *_SHARED))
        targets[name] = _target(name, shared[name])
        _settings(shared[name])  # so that what every app overrides is checked too
    apps: dict[str, App] = {}
    for name, value in record.entries("apps", APP).items():
        apps[name] = _app(name, value, shared, targets)
    if "apps" in record.values:
        _check_together(record.values["apps"], apps)
    return Allowlist(1, MappingProxyType(targets), MappingProxyType(apps))


_NAME_RULE = f"lower-case letters, digits and single hyphens, at most {NAME_LENGTH}"


def _target(environment: str, record: _Record) -> Target:
    role = f"deploy-runner/deploy-target-{environment}"
    remedy = "Write the account's number in quotes"
    return Target(
        record.read("account", lambda v: v.text(ACCOUNT, "the 12 digits of an AWS account", remedy), ""),
        record.read("region", lambda v: v.text(REGION, "an AWS region", "Write it as in us-east-1"), ""),
        record.read("role", lambda v: v.text(ROLE, "the path and name of an IAM role", f"As in {role}"), role),
    )


def _settings(record: _Record) -> dict[str, Any]:
    """Return those of the settings that an environment or an app in it gives."""
    readers: dict[str, Callable[[_Value], Any]] = {
        "cluster": lambda v: v.text(ECS_NAME, "the name of an ECS cluster", "Write its name, not its ARN"),
        "refs": _refs,
        "checks": lambda v: v.texts(
            PRINTABLE, "the name of a check", "As GitHub shows it, at most 200 characters", limit=200
        ),
        "requesters": lambda v: v.texts(LOGIN, "a GitHub login", "As in octocat or dependabot[bot]", at_least=1),
        "freeze": lambda v: v.text(PRINTABLE, "a reason for people, at most 200 characters", "Say why", 200),
        "emergency": lambda v: v.texts(LOGIN, "a GitHub login", "As in octocat or dependabot[bot]", at_least=1),
        "queue": lambda v: v.one_of(QUEUES),
        "timeouts": _timeouts,
        "task_definition_base": lambda v: v.one_of(BASES),
        "release_command": _release_command,
        "scheduled_tasks": _scheduled_tasks,
        "unit": lambda v: v.text(
            UNIT, "the folder of a Terragrunt unit in infrastructure-live", "As in live/dev/cineos, without `..`", 200
        ),
    }
    return {key: readers[key](value) for key, value in record.values.items() if key in readers}


def _refs(value: _Value) -> Refs:
    record = value.record((), ("branches", "tags"))
    remedy = "As in main, release/* or v*"
    refs = Refs(
        record.read("branches", lambda v: v.texts(GLOB, "a glob of branch names", remedy, at_least=1), ()),
        record.read("tags", lambda v: v.texts(GLOB, "a glob of tag names", remedy, at_least=1), ()),
    )
    if value.kind == "map" and not value.node.value:
        value.problem("must name branches or tags", "Add `branches: [main]`", "")
    return refs


def _timeouts(value: _Value) -> Timeouts:
    record = value.record((), ("build", "rollout", "queue", "release"))
    timeouts = Timeouts(
        record.read("build", lambda v: v.number(60, 3000, "seconds"), Timeouts().build),
        record.read("rollout", lambda v: v.number(60, 3600, "seconds"), Timeouts().rollout),
        record.read("queue", lambda v: v.number(60, 7200, "seconds"), Timeouts().queue),
        record.read("release", lambda v: v.number(60, 3600, "seconds"), Timeouts().release),
    )
    if timeouts.longest > MAX_SECONDS:
        rule = f"must be at most {MAX_SECONDS} s together, with queue and rollout counted twice"
        value.problem(rule, "Lower one: a deployment has six hours", str(timeouts.longest))
    return timeouts


def _release_command(value: _Value) -> tuple[str, ...]:
    remedy = "Write each argument as one line of text, at most 1000 characters"
    command = value.texts(PRINTABLE, "an argument", remedy, at_least=1, limit=1000, unique=False)
    characters = len(json.dumps(command))
    if characters > MAX_RELEASE_COMMAND:
        rule = f"must have at most {MAX_RELEASE_COMMAND} characters in all, as JSON"
        value.problem(rule, "Write what is long into a file of the image", str(characters))
    return command


def _scheduled_tasks(value: _Value) -> tuple[Schedule, ...]:
    rule = "a schedule or GROUP/SCHEDULE, each of at most 64 letters, digits, dots, hyphens and underscores"
    schedules: dict[str, Schedule] = {}
    given = value.mapping(SCHEDULE, rule, 1, 129)
    _check_count(value, len(given), "schedules")
    for key, containers in given.items():
        group, _, name = f"{'' if '/' in key else DEFAULT_GROUP + '/'}{key}".partition("/")
        if f"{group}/{name}" in schedules:
            containers.problem("must not be given twice", f"A schedule without a group is in {DEFAULT_GROUP}", "")
        schedules[f"{group}/{name}"] = Schedule(group, name, _containers(containers))
    return tuple(schedules.values())


def _containers(value: _Value) -> tuple[str, ...]:
    remedy = "Write the names of the containers that run the image, as in [app]"
    names = value.texts(ECS_NAME, "the name of a container", remedy, at_least=1)
    if len(names) > MAX_CONTAINERS:
        rule = f"must name at most {MAX_CONTAINERS} containers, as a task definition has no more"
        value.problem(rule, "Remove some", str(len(names)))
    return names


def _check_count(value: _Value, count: int, what: str) -> None:
    if count > MAX_ENTRIES:
        value.problem(f"must name at most {MAX_ENTRIES} {what}", "Make two apps of it", str(count))


def _app(name: str, value: _Value, shared: Mapping[str, _Record], targets: Mapping[str, Target]) -> App:
    optional = (
        "image_repository",
        "dockerfile",
        "context",
        "build_args",
        "architecture",
        "immutable_tags",
        "submodules",
    )
    record = value.record(("repository", "environments"), (*optional, "runner"))
    environments: dict[str, Environment] = {}
    for env, env_value in record.entries("environments", ENVIRONMENT).items():
        if env in targets:
            environments[env] = _environment(env, env_value, shared[env], targets[env])
        else:
            remedy = _did_you_mean(env, tuple(targets)) or "Add it there with its account and region"
            env_value.problem("must be listed under the file's `environments`", remedy, "")
    app = App(
        name,
        record.read("repository", _repository, Repository("", 0)),
        MappingProxyType(environments),
        record.read("image_repository", _image_repository, name),
        record.read("dockerfile", _path, "Dockerfile"),
        record.read("context", _path, "."),
        record.read("build_args", _build_args, ()),
        record.read("architecture", lambda v: v.one_of(ARCHITECTURES), "ARM64"),
        record.read("immutable_tags", _Value.boolean, False),
        record.read("submodules", _Value.boolean, False),
        record.read("runner", lambda v: v.one_of(RUNNERS), DOCKER_BUILDER),
    )
    if app.runner == APP_DEPLOYER:
        _check_app_deployer(record.values["runner"], app)
    return app


def _check_app_deployer(value: _Value, app: App) -> None:
    """Hold an app to what an app-deployer can be granted: its role names one service, one family, one account."""
    remedy = f"Let {DOCKER_BUILDER} build it"
    for environment in app.environments.values():
        if len(environment.services) > 1:
            rule = f"an {APP_DEPLOYER} must have one service in {environment.name}"
            value.problem(rule, remedy, str(len(environment.services)))
        if environment.task_definition_base != "service":
            rule = f"an {APP_DEPLOYER} must have the task_definition_base service in {environment.name}"
            value.problem(rule, remedy, environment.task_definition_base)
        # Its task updates the service itself, so nothing can come between the revision and that.
        for key in ("release_command", "scheduled_tasks"):
            if getattr(environment, key):
                value.problem(f"an {APP_DEPLOYER} must have no {key} in {environment.name}", remedy, "")
        name = app.name_in(environment.name)
        if len(name) > MAX_DEPLOYER_NAME:
            rule = f"an {APP_DEPLOYER} must have at most {MAX_DEPLOYER_NAME} characters in APP-ENVIRONMENT"
            value.problem(rule, f"Shorten a name, or: {remedy}", show(name))
    places = {(place.target.account, place.target.region) for place in app.environments.values()}
    if len(places) > 1:
        rule = f"an {APP_DEPLOYER} must have all its environments in one account and region"
        value.problem(rule, remedy, ", ".join(sorted(f"{account} {region}" for account, region in places)))


def _repository(value: _Value) -> Repository:
    record = value.record(("name", "id"))
    name = record.read("name", lambda v: v.text(REPOSITORY, "a GitHub repository", "Write it as OWNER/NAME"), "")
    if name.endswith((".git", "/.", "/..")):
        record.values["name"].problem("must be a GitHub repository", "Write it as OWNER/NAME, without .git")
    return Repository(name, record.read("id", lambda v: v.number(1, 10**15, "the repository's numeric id"), 0))


def _image_repository(value: _Value) -> str:
    name = value.text(IMAGE_REPOSITORY, "the name of an ECR repository", "Lower case, without registry and tag", 250)
    if name.endswith("/cache") or name.startswith("deploy-runner/"):
        rule = "must not be one that another app's builds, or the deploy runner's own images, are in"
        value.problem(rule, "NAME/cache holds the layers of NAME, deploy-runner/ our images: choose another name")
    return name


def _path(value: _Value) -> str:
    remedy = "Write it as in docker/Dockerfile, with letters, digits, dots, hyphens and underscores"
    path = value.text(PATH, "a path inside the repository", remedy, 200)
    if ".." in path.split("/"):
        value.problem("must be a path inside the repository", "Remove `..`")
    return path


def _build_args(value: _Value) -> tuple[tuple[str, str], ...]:
    rule = "letters, digits and underscores, not starting with a digit"
    remedy = (
        "Write one line of text in quotes, at most 1000 characters; never a secret, it stands in the image's history"
    )
    given = value.mapping(BUILD_ARGUMENT, rule, limit=100)
    arguments = tuple((key, given[key].text(r"[^\x00-\x1f\x7f]*", "text", remedy, 1000)) for key in sorted(given))
    characters = len(json.dumps([f"--build-arg={key}={text}" for key, text in arguments]))
    if characters > MAX_BUILD_ARGUMENTS:
        rule = f"must have at most {MAX_BUILD_ARGUMENTS} characters in all, as JSON"
        value.problem(rule, "Write what is long into a file of the repository", str(characters))
    return arguments


def _environment(name: str, value: _Value, shared: _Record, target: Target) -> Environment:
    record = value.record(("services",), (*_SHARED, *_OF_ONE_APP))
    silent = _Record(
        {k: _Value(v.node, v.place, []) for k, v in shared.values.items()}
    )  # its problems are noted already
    settings = {**_settings(silent), **_settings(record)}
    if silent.values.get("freeze"):
        settings["freeze"] = _settings(silent)["freeze"]  # a frozen environment is frozen for all its apps
    for key, remedy in (("cluster", "the ECS cluster"), ("refs", "the branches or tags that may be deployed")):
        if key not in settings and value.kind == "map":
            value.problem(f"must have the key {key}", f"Add {remedy} here, or for all apps at environments.{name}", "")
    services: tuple[Service, ...] = record.read("services", _services, ())
    return Environment(
        name=name,
        target=target,
        services=services,
        **{"cluster": "", "refs": Refs(), **settings},
    )


def _services(value: _Value) -> tuple[Service, ...]:
    given = value.mapping(ECS_NAME, "letters, digits, hyphens and underscores, at most 255", 1, 255)
    _check_count(value, len(given), "services")
    characters = len(",".join(given))
    if characters > MAX_SERVICES:
        rule = f"must name services with at most {MAX_SERVICES} characters in all"
        value.problem(rule, "Make two apps of it, or give them shorter names", str(characters))
    return tuple(Service(name, _containers(containers)) for name, containers in given.items())


def _check_together(value: _Value, apps: Mapping[str, App]) -> None:
    """Check what no app can see alone.

    A service, a schedule and an image repository have one app, a repository's name has one id.
    """
    services: dict[tuple[Target, str, str], str] = {}
    schedules: dict[tuple[str, str, str, str], str] = {}
    images: dict[str, str] = {}
    names: dict[int, str] = {}
    ids: dict[str, int] = {}
    joined: dict[str, App] = {}
    roles = 0
    places = value.mapping()
    for app in apps.values():
        place = places[app.name]
        roles += len(app.environments) if app.runner == APP_DEPLOYER else 0
        if app.runner == APP_DEPLOYER and roles > MAX_DEPLOYER_ROLES:
            rule = f"must not need more than {MAX_DEPLOYER_ROLES} roles with the {APP_DEPLOYER}s before it"
            place.problem(rule, "Each of its environments needs one: let docker-builder build this app", show(roles))
        other = images.setdefault(app.image_repository, app.name)
        if app.image_repository and other != app.name:
            rule = f"must not push to the image repository of {other}"
            place.problem(rule, "Give each app an image_repository of its own", show(app.image_repository))
        if app.repository.id and app.repository.name:
            name, number = app.repository.name, app.repository.id
            if names.setdefault(number, name).lower() != name.lower():
                place.problem(
                    f"repository id {number} must have one name", f"It is {names[number]} elsewhere", show(name)
                )
            if ids.setdefault(name.lower(), number) != number:
                place.problem(
                    f"repository {name} must have one id", f"It is {ids[name.lower()]} elsewhere", show(number)
                )
        for environment in app.environments.values():
            name = app.name_in(environment.name)
            namesake = joined.setdefault(name, app)
            if namesake is not app and APP_DEPLOYER in (app.runner, namesake.runner):
                rule = f"must not be called {name} together with its environment, as {namesake.name} is"
                place.problem(rule, f"An {APP_DEPLOYER} may change what is called so: rename one", "")
            for service in environment.services:
                key = (environment.target, environment.cluster, service.name)
                owner = services.setdefault(key, app.name)
                if owner != app.name:
                    where = f"{environment.cluster}/{service.name}"
                    place.problem(
                        f"must not deploy to the service of {owner}", "Name the app's own service", show(where)
                    )
            for schedule in environment.scheduled_tasks:
                target = environment.target
                owner = schedules.setdefault((target.account, target.region, schedule.group, schedule.name), app.name)
                if owner != app.name:
                    where = f"{schedule.group}/{schedule.name}"
                    place.problem(f"must not deploy to the schedule of {owner}", "Name the app's own", show(where))
