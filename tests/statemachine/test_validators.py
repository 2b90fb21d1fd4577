"""Other people's validators accept our state machines, and would not accept a broken one."""

import copy
import json
from typing import Any

import fake_aws
import pytest
from fake_aws import FakeAws

pytestmark = pytest.mark.xdist_group("statemachine")
MACHINES = sorted(path.name.split(".")[0] for path in (fake_aws.ROOT / "statemachines").glob("*.asl.yaml"))


@pytest.mark.parametrize("name", MACHINES)
def test_asl_validator_accepts(name: str) -> None:
    assert fake_aws.node("validate.mjs", fake_aws.definition(name)) == {"isValid": True, "errors": []}


@pytest.mark.parametrize("name", MACHINES)
def test_create_state_machine_and_validate_accept(aws: FakeAws, name: str) -> None:
    client = aws.client("stepfunctions")
    text = json.dumps(fake_aws.definition(name))
    assert client.validate_state_machine_definition(definition=text)["result"] == "OK"
    created = client.create_state_machine(name=f"accepted-{name}", definition=text, roleArn=fake_aws.ROLE)
    client.delete_state_machine(stateMachineArn=created["stateMachineArn"])


def broken() -> dict[str, Any]:
    definition = copy.deepcopy(fake_aws.definition())
    definition["States"]["FindImage"]["Resourse"] = definition["States"]["FindImage"].pop("Resource")
    return definition


def test_asl_validator_finds_a_misspelt_field() -> None:
    assert not fake_aws.node("validate.mjs", broken())["isValid"]


def test_create_state_machine_finds_a_misspelt_field(aws: FakeAws) -> None:
    client = aws.client("stepfunctions")
    text = json.dumps(broken())
    assert client.validate_state_machine_definition(definition=text)["result"] == "FAIL"
    with pytest.raises(client.exceptions.InvalidDefinition):
        client.create_state_machine(name="refused", definition=text, roleArn=fake_aws.ROLE)
