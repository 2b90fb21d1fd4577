"""The state machine runs in moto's interpreter, against services that answer as a test says."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

import fake_aws
import world as worlds

from deploy_runner.local_aws import events
from deploy_runner.local_aws.stepfunctions import interpreter
from tests.property.fake_dynamodb import FakeDynamoDb


@pytest.fixture(scope="session")
def started_aws() -> Iterator[fake_aws.FakeAws]:
    """Moto's server with our Step Functions, once for all tests."""
    aws, stop = fake_aws.start()
    yield aws
    stop()


@pytest.fixture
def aws(started_aws: fake_aws.FakeAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_aws.FakeAws]:
    """It without anything from another test; retries come at once."""
    monkeypatch.setattr(interpreter, "retry_delay_scale", 0.0)
    started_aws.use()
    yield started_aws
    started_aws.reset()


# --- the real functions around it -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machines(started_aws: fake_aws.FakeAws) -> dict[str, str]:
    """The state machine, and one that has a second for it all; other modules clear moto."""
    sfn, made = started_aws.client("stepfunctions"), {}
    for name, more in (("deploy-app", {}), ("deploy-app-1s", {"TimeoutSeconds": 1})):
        created = sfn.create_state_machine(
            name=f"{name}-matrix", definition=json.dumps(fake_aws.definition() | more), roleArn=fake_aws.ROLE
        )
        made[name] = created["stateMachineArn"]
    return made


@pytest.fixture(scope="module")
def clients_of(started_aws: fake_aws.FakeAws) -> dict[str, Any]:
    """Step Functions and ECS by HTTP, where the state machine meets them too; moto's others in this process."""
    near = {name: worlds.in_process(name) for name in ("events", "sns", "logs")}
    return near | {name: started_aws.client(name) for name in ("stepfunctions", "ecs")}


@pytest.fixture
def world(
    aws: fake_aws.FakeAws, machines: dict[str, str], clients_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[worlds.World]:
    clients_of["sns"].create_topic(Name="deploy-runner-outcomes")
    made = worlds.make(aws, machines, monkeypatch, clients_of | {"dynamodb": FakeDynamoDb()})
    monkeypatch.setattr(events, "emit", lambda *given: made.tell_of_end({"detail": given[5]}))
    yield made
    made.settle()
    for method in ("_BatchGetImage",):
        aws.__dict__.pop(method, None)
