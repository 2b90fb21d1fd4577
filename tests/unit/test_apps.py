"""apps.yaml: what the loader takes and refuses, and that the schema for editors says the same."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy_runner.domain.apps import MAX_DEPLOYER_ROLES, MAX_SECONDS, load, load_file
from deploy_runner.domain.errors import AllowlistInvalid

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "apps.schema.json").read_text())
GOOD: dict[str, Any] = {
    "version": 1,
    "environments": {
        "dev": {"account": "123456789012", "region": "us-east-1", "cluster": "dev", "refs": {"branches": ["**"]}},
    },
    "apps": {
        "cineos": {
            "repository": {"name": "lightwave-media/cineos", "id": 1001},
            "environments": {"dev": {"services": {"cineos": ["app"]}}},
        }
    },
}
APP, ENV, IN_APP = ("apps", "cineos"), ("environments", "dev"), ("apps", "cineos", "environments", "dev")


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The good file with one value set, or with one key removed where the value is `...`."""
    file = copy.deepcopy(GOOD)
    place = file
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return file


def loads(file: Any) -> bool:
    try:
        load(yaml.safe_dump(file))
    except AllowlistInvalid:
        return False
    return True


def test_the_schema_is_a_schema_and_takes_the_file_that_we_ship() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(yaml.safe_load((ROOT / "apps.yaml").read_text()), SCHEMA)
    assert set(load_file(ROOT / "apps.yaml").apps) == {"cineos", "photographos", "createos", "lightwave-backend"}
    assert (ROOT / "apps.yaml").read_text().startswith("# yaml-language-server: $schema=apps.schema.json")


ALLOWED: list[tuple[tuple[str, ...], Any]] = [
    ((*APP, "architecture"), "X86_64"),
    ((*APP, "build_args"), {"NODE_ENV": "production", "E": ""}),
    ((*APP, "context"), "."),
    ((*APP, "dockerfile"), "docker/Dockerfile.prod"),
    ((*APP, "image_repository"), "team/cineos_web"),
    ((*APP, "immutable_tags"), True),
    ((*APP, "submodules"), False),
    ((*APP, "runner"), "docker-builder"),
    ((*APP, "runner"), "app-deployer"),
    ((*APP, "repository", "name"), "Light-Wave/a.b_c"),
    ((*ENV, "role"), "some/path/role"),
    ((*ENV, "checks"), ["CI / tests", "lint"]),
    ((*ENV, "requesters"), ["octocat", "dependabot[bot]"]),
    ((*ENV, "freeze"), "holidays"),
    ((*ENV, "emergency"), ["octocat", "dependabot[bot]"]),
    ((*ENV, "queue"), "all"),
    ((*ENV, "timeouts"), {"build": 60, "rollout": 3600, "queue": 3600, "release": 60}),
    ((*ENV, "task_definition_base"), "family"),
    ((*ENV, "refs"), {"tags": ["v*"]}),
    ((*IN_APP, "services"), {"Web_1": ["app", "worker"], "s" * 255: ["app"]}),
    ((*IN_APP, "cluster"), "other"),
    ((*IN_APP, "checks"), []),
    ((*IN_APP, "emergency"), ["octocat"]),
    ((*IN_APP, "queue"), "latest"),
    ((*IN_APP, "release_command"), ["sh", "-c", "a {% $x %} | b", "-c"]),
    ((*IN_APP, "scheduled_tasks"), {"nightly": ["app"], "g_1.x/n-1": ["app", "cron"]}),
    ((*IN_APP, "unit"), "live/dev/.hidden/_global"),
]
REFUSED: list[tuple[tuple[str, ...], Any]] = [
    (("version",), 2),
    (("version",), "1"),
    (("version",), ...),
    (("environments",), {}),
    (("apps",), {}),
    (("apps",), []),
    (("extra",), 1),
    ((*ENV, "account"), 123456789012),
    ((*ENV, "account"), "12345"),
    ((*ENV, "region"), "moon"),
    ((*ENV, "regoin"), "us-east-1"),
    ((*ENV, "role"), "arn:aws:iam::1:role/x"),
    ((*ENV, "cluster"), "a cluster"),
    ((*ENV, "cluster"), None),
    ((*ENV, "refs"), {}),
    ((*ENV, "refs"), {"branches": []}),
    ((*ENV, "refs"), {"branches": "main"}),
    ((*ENV, "refs"), {"branches": ["a b"]}),
    ((*ENV, "refs"), {"branches": ["main", "main"]}),
    ((*ENV, "checks"), [""]),
    ((*ENV, "checks"), ["x" * 201]),
    ((*ENV, "requesters"), []),
    ((*ENV, "requesters"), ["-octocat"]),
    ((*ENV, "freeze"), True),
    ((*ENV, "freeze"), ""),
    ((*ENV, "timeouts"), {"build": 59}),
    ((*ENV, "timeouts"), {"rollout": 3601}),
    ((*ENV, "timeouts"), {"rollout": "600"}),
    ((*ENV, "timeouts"), {"test": 600}),
    ((*ENV, "timeouts"), {"queue": 7201}),
    ((*ENV, "timeouts"), {"release": 59}),
    ((*ENV, "emergency"), []),
    ((*ENV, "emergency"), "octocat"),
    ((*ENV, "queue"), "newest"),
    ((*ENV, "release_command"), ["migrate"]),
    ((*ENV, "scheduled_tasks"), {"nightly": ["app"]}),
    ((*ENV, "unit"), "live/dev"),
    ((*ENV, "task_definition_base"), "newest"),
    ((*APP, "repository"), ...),
    ((*APP, "repository"), "lightwave-media/cineos"),
    ((*APP, "repository", "name"), "cineos"),
    ((*APP, "repository", "name"), "a/b.git"),
    ((*APP, "repository", "name"), "a/.."),
    ((*APP, "repository", "id"), ...),
    ((*APP, "repository", "id"), 0),
    ((*APP, "repository", "id"), "1001"),
    ((*APP, "repository", "id"), True),
    ((*APP, "environments"), {}),
    ((*APP, "image_repository"), "Cineos"),
    ((*APP, "image_repository"), "cineos:latest"),
    ((*APP, "image_repository"), "photographos/cache"),
    ((*APP, "image_repository"), "deploy-runner/clone"),
    ((*APP, "image_repository"), "c" * 251),
    ((*APP, "dockerfile"), "../Dockerfile"),
    ((*APP, "dockerfile"), "/etc/passwd"),
    ((*APP, "dockerfile"), "docker/.."),
    ((*APP, "context"), "--option"),
    ((*APP, "build_args"), {"A-B": "1"}),
    ((*APP, "build_args"), {"A": 1}),
    ((*APP, "build_args"), {"A": "two\nlines"}),
    ((*APP, "build_args"), ["A=1"]),
    ((*APP, "architecture"), "arm64"),
    ((*APP, "immutable_tags"), "yes"),
    ((*APP, "runner"), "appdeployer"),
    ((*IN_APP, "services"), ...),
    ((*IN_APP, "services"), {}),
    ((*IN_APP, "services"), {"cineos": []}),
    ((*IN_APP, "services"), {"cineos": "app"}),
    ((*IN_APP, "services"), {"a b": ["app"]}),
    ((*IN_APP, "services"), {"s" * 256: ["app"]}),
    ((*IN_APP, "services"), {"cineos": [f"c{number}" for number in range(11)]}),
    ((*IN_APP, "services"), {f"s{number}": ["app"] for number in range(21)}),
    ((*IN_APP, "release_command"), []),
    ((*IN_APP, "release_command"), "python manage.py migrate"),
    ((*IN_APP, "release_command"), ["two\nlines"]),
    ((*IN_APP, "release_command"), ["x" * 1001]),
    ((*IN_APP, "release_command"), [1]),
    ((*IN_APP, "scheduled_tasks"), {}),
    ((*IN_APP, "scheduled_tasks"), ["nightly"]),
    ((*IN_APP, "scheduled_tasks"), {"nightly": []}),
    ((*IN_APP, "scheduled_tasks"), {"a/b/c": ["app"]}),
    ((*IN_APP, "scheduled_tasks"), {"s" * 65: ["app"]}),
    ((*IN_APP, "scheduled_tasks"), {f"s{number}": ["app"] for number in range(21)}),
    ((*IN_APP, "unit"), "/live/dev"),
    ((*IN_APP, "unit"), "live/../dev"),
    ((*IN_APP, "unit"), "live/./dev"),
    ((*IN_APP, "unit"), ".."),
    ((*IN_APP, "unit"), "live//dev"),
    ((*IN_APP, "unit"), "live/dev/"),
    ((*IN_APP, "unit"), "-live"),
    ((*IN_APP, "account"), "123456789012"),
    ((*IN_APP, "role"), "x"),
]


def name(case: tuple[tuple[str, ...], Any]) -> str:
    return f"{'.'.join(case[0][-2:])}={str(case[1])[:20]}"


@pytest.mark.parametrize("case", ALLOWED, ids=name)
def test_loader_and_schema_take_the_same(case: tuple[tuple[str, ...], Any]) -> None:
    file = changed(*case)
    jsonschema.validate(file, SCHEMA)
    load(yaml.safe_dump(file))


@pytest.mark.parametrize("case", REFUSED, ids=name)
def test_loader_and_schema_refuse_the_same(case: tuple[tuple[str, ...], Any]) -> None:
    file = changed(*case)
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(file)
    assert not loads(file)


def test_every_key_that_the_loader_knows_is_described_to_editors() -> None:
    """GIVEN a typo at each place THEN the loader lists what it knows there, and the schema has the same keys."""
    places = [(("x",), ()), ((*ENV, "x"), ("environments", "*")), ((*APP, "x"), ("apps", "*"))]
    places += [((*IN_APP, "x"), ("apps", "*", "environments", "*"))]
    for path, where in places:
        with pytest.raises(AllowlistInvalid) as raised:
            load(yaml.safe_dump(changed(path, 1)))
        known = set(str(raised.value).split("Known here: ")[1].rstrip(".\n").split(", "))
        schema = SCHEMA
        for step in where:
            schema = schema["additionalProperties"] if step == "*" else schema["properties"][step]
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        assert set(schema["properties"]) == known
        assert all("description" in {**p, **SCHEMA["$defs"].get(p.get("$ref", "").rpartition("/")[2], {})}
                   for p in schema["properties"].values())  # fmt: skip


def test_every_problem_is_named_at_once_with_its_line() -> None:
    text = "version: 1\nenvironments:\n  dev:\n    account: 12\n    region: mars\napps:\n  Cine: {}\n"
    with pytest.raises(AllowlistInvalid) as raised:
        load(text)
    said = str(raised.value)
    assert all(part in said for part in ("line 4", "account", "line 5", "region", "line 7", "Cine"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x 1\nb: *x\n", "anchors"),
        ("[" * 50 + "]" * 50, "nested"),
        ("version: 1\n---\nversion: 1\n", "one YAML document"),
        ("version: 1\nversion: 1\n", "given twice"),
        ("a: [", "must be YAML"),
        (b"\xff\xfe\x00", "must be YAML"),
        ("", "one YAML document"),
        ("x" * 1_000_001, "at most"),
    ],
)
def test_a_file_that_is_no_allowlist_is_refused_with_its_rule(text: str | bytes, told: str) -> None:
    with pytest.raises(AllowlistInvalid, match=told):
        load(text)


def test_what_no_app_sees_alone_is_refused() -> None:
    file = changed(("apps", "thief"), copy.deepcopy(GOOD["apps"]["cineos"]))
    file["apps"]["thief"]["image_repository"] = "cineos"
    with pytest.raises(AllowlistInvalid) as raised:
        load(yaml.safe_dump(file))
    assert "must not push to the image repository of cineos" in str(raised.value)
    assert "must not deploy to the service of cineos" in str(raised.value)


def test_build_arguments_that_no_task_would_take_are_refused() -> None:
    """ECS takes 8,192 characters of overrides in all, however many arguments they are."""
    assert loads(changed((*APP, "build_args"), {f"A{number}": "v" * 1000 for number in range(3)}))
    with pytest.raises(AllowlistInvalid, match="at most 4096 characters in all"):
        load(yaml.safe_dump(changed((*APP, "build_args"), {f"A{number}": "v" * 1000 for number in range(5)})))


def test_a_frozen_environment_is_frozen_for_every_app() -> None:
    file = changed((*ENV, "freeze"), "holidays")
    file["apps"]["cineos"]["environments"]["dev"]["freeze"] = "ours"
    assert load(yaml.safe_dump(file)).apps["cineos"].environments["dev"].freeze == "holidays"


def test_more_services_than_a_task_could_be_told_of_are_refused() -> None:
    few, many = ({f"{'s' * 200}{number}": ["app"] for number in range(count)} for count in (9, 10))
    assert loads(changed((*IN_APP, "services"), few))
    with pytest.raises(AllowlistInvalid, match="at most 2000 characters in all"):
        load(yaml.safe_dump(changed((*IN_APP, "services"), many)))


def test_a_release_command_that_no_task_would_take_is_refused() -> None:
    assert loads(changed((*IN_APP, "release_command"), ["x" * 1000] * 4))
    with pytest.raises(AllowlistInvalid, match="at most 4096 characters in all"):
        load(yaml.safe_dump(changed((*IN_APP, "release_command"), ["x" * 1000] * 5)))


def test_a_deployment_may_not_take_longer_than_the_state_machine() -> None:
    machine = yaml.safe_load((ROOT / "statemachines/deploy_app.asl.yaml").read_text())
    assert machine["TimeoutSeconds"] == MAX_SECONDS + 600
    assert loads(changed((*ENV, "timeouts"), {"queue": 7200}))
    with pytest.raises(AllowlistInvalid, match=r"at most 21000 s together.* but is 24300"):
        load(yaml.safe_dump(changed((*ENV, "timeouts"), {"queue": 7200, "rollout": 3600})))


def test_a_schedule_has_one_name_and_one_app() -> None:
    file = changed((*IN_APP, "scheduled_tasks"), {"nightly": ["app"], "default/nightly": ["app"]})
    with pytest.raises(AllowlistInvalid, match="A schedule without a group is in default"):
        load(yaml.safe_dump(file))
    file = changed((*IN_APP, "scheduled_tasks"), {"nightly": ["app"]})
    other = {"repository": {"name": "lightwave-media/x", "id": 8}}
    other["environments"] = {"dev": {"services": {"x": ["app"]}, "scheduled_tasks": {"default/nightly": ["app"]}}}
    file["apps"]["x"] = other
    with pytest.raises(AllowlistInvalid, match="must not deploy to the schedule of cineos"):
        load(yaml.safe_dump(file))


def app_deployer(**environments: Any) -> dict[str, Any]:
    file = changed((*APP, "runner"), "app-deployer")
    file["apps"]["cineos"]["environments"] |= environments
    return file


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ((*IN_APP, "services"), {"web": ["app"], "worker": ["app"]}, "one service in dev, but is 2"),
        ((*IN_APP, "task_definition_base"), "family", "task_definition_base service in dev"),
        ((*ENV, "task_definition_base"), "family", "task_definition_base service in dev"),
        ((*IN_APP, "release_command"), ["migrate"], "no release_command in dev"),
        ((*IN_APP, "scheduled_tasks"), {"nightly": ["app"]}, "no scheduled_tasks in dev"),
    ],
)
def test_what_an_app_deployer_cannot_do_is_refused(path: tuple[str, ...], value: Any, told: str) -> None:
    file = app_deployer()
    place = file
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(AllowlistInvalid, match=told):
        load(yaml.safe_dump(file))


def test_an_app_deployer_stays_in_one_account_and_region() -> None:
    file = app_deployer(prod={"services": {"cineos": ["app"]}})
    file["environments"]["prod"] = copy.deepcopy(GOOD["environments"]["dev"]) | {"cluster": "prod"}
    assert loads(file)
    file["environments"]["prod"]["region"] = "eu-west-1"
    with pytest.raises(AllowlistInvalid, match="one account and region"):
        load(yaml.safe_dump(file))


def test_more_app_deployers_than_fit_into_a_stack_are_refused() -> None:
    file = app_deployer()
    one = file["apps"].pop("cineos")
    for number in range(MAX_DEPLOYER_ROLES + 1):
        name = f"app-{number}"
        own = {"image_repository": name, "repository": {"name": f"lightwave-media/{name}", "id": number + 1}}
        file["apps"][name] = one | own | {"environments": {"dev": {"services": {name: ["app"]}}}}
    with pytest.raises(AllowlistInvalid, match="must not need more than 50 roles") as refused:
        load(yaml.safe_dump(file))
    assert str(refused.value).count("must not need") == 1


def test_no_two_apps_are_called_alike_together_with_their_environment_where_a_role_is_named_so() -> None:
    """`cineos` in `dev-x` and `cineos-dev` in `x` would share what the role of an app-deployer may change."""
    file = app_deployer()
    for name in ("dev-x", "x"):
        file["environments"][name] = copy.deepcopy(GOOD["environments"]["dev"]) | {"cluster": name}
    cineos = file["apps"]["cineos"]
    cineos["environments"]["dev-x"] = {"services": {"cineos": ["app"]}}
    other = {"name": "lightwave-media/x", "id": 8}
    file["apps"]["cineos-dev"] = {"repository": other, "environments": {"x": {"services": {"x": ["app"]}}}}
    with pytest.raises(AllowlistInvalid, match="must not be called cineos-dev-x together with its environment"):
        load(yaml.safe_dump(file))
    cineos["runner"] = "docker-builder"
    assert loads(file)


def test_the_name_of_an_app_deployers_role_fits() -> None:
    file = app_deployer()
    for length, fits in ((51, True), (52, False)):
        file["apps"] = {"c" * length: file["apps"].popitem()[1]}
        assert loads(file) is fits
