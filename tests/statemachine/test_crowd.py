"""200 requests at once for 20 apps: never two rollouts in one app and environment, none lost, each with a verdict."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from world import DIGEST, World

from deploy_runner.aws.deployments import _values
from tests.unit.conftest import ENVIRONMENT

REQUESTS, APPS = 200, 20


def test_a_crowd(world: World) -> None:
    # GIVEN 20 apps, every third of which wants all of its requests in order, and every fourth of which fails
    def accepted(request: dict[str, Any]) -> dict[str, Any]:
        app, number = request["app"], int(request["app"].removeprefix("app"))
        target = world.deployment["target"] | {"services": [{"name": app, "containers": ["app"]}]}
        locks = {"build": [f"image/{app}:1"], "deploy": [f"app/{app}/dev"]}
        image = {"repository_name": app, "repository_uri": f"registry/{app}", "tag": "1"}
        mode = {
            "queue": "all" if number % 3 == 0 else "latest",
            "timeouts": dict.fromkeys(world.deployment["timeouts"], 120),
        }
        return world.deployment | {"app": app, "target": target, "locks": locks, "image": image} | mode

    world.accepted = accepted
    for number in range(APPS):
        app = f"app{number}"
        world.ecs.add(app)
        world.ecs.behaviour[app] = "breaker" if number % 4 == 0 else "good"
        world.aws.images[f"{app}:1"] = DIGEST

    # WHEN all are asked for at once
    def ask(number: int) -> str:
        machine = world.machines["deploy-app"]
        request = f'{{"app": "app{number % APPS}"}}'
        started = world.sfn.start_execution(stateMachineArn=machine, name=f"crowd-{number}", input=request)
        return str(started["executionArn"])

    with ThreadPoolExecutor(16) as pool:
        arns = list(pool.map(ask, range(REQUESTS)))
    for arn in arns:
        world.finish(arn)
    world.sweep()

    # THEN each has its verdict, and no app had two rollouts at once
    verdicts = Counter[str]()
    scanned = world.table._dynamodb.scan(TableName=ENVIRONMENT["DEPLOYMENTS_TABLE"])["Items"]
    records = [_values(item) for item in scanned if item["sk"]["S"].startswith("DEPLOYMENT#")]
    verdicts.update(record.get("verdict", "none") for record in records)
    print(dict(verdicts))
    assert len(records) == REQUESTS
    causes = Counter(f"{record.get('error')}: {record.get('cause')}" for record in records)
    assert set(verdicts) <= {"SUCCEEDED", "ROLLED_BACK", "SUPERSEDED"}, causes.most_common(5)
    assert world.ecs.together == 1
    assert world.locks() == []
    assert list(world.table.unfinished()) == []
    for number in range(APPS):
        of_app = [record for record in records if record["app"] == f"app{number}"]
        expected = {"ROLLED_BACK"} if number % 4 == 0 else {"SUCCEEDED"}
        if number % 3:
            expected = {*expected, "SUPERSEDED"}
            newest = max(of_app, key=lambda record: (record["started_at"], record["id"]))
            assert newest["verdict"] != "SUPERSEDED"
        assert {record["verdict"] for record in of_app} <= expected
