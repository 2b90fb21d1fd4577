"""The new revision is its base but for the image, whatever fields ECS has: botocore's shapes say which."""

import copy
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import validate_parameters

from deploy_runner.domain.errors import TargetMisconfigured
from deploy_runner.domain.task_definition import OUTPUT_ONLY, is_of, is_ours, new_revision, our_tags

ECS = botocore.session.get_session().get_service_model("ecs")
INPUT: Any = ECS.operation_model("RegisterTaskDefinition").input_shape
OUTPUT: Any = ECS.operation_model("DescribeTaskDefinition").output_shape.members["taskDefinition"]
DEPLOYMENT = {"id": "d-1", "app": "cineos", "environment": "dev", "sha": "a" * 40}
TAGS = our_tags(DEPLOYMENT, "cineos", None)


def maximal(shape: Shape, name: str = "x") -> Any:
    """A value with every member of a shape, two items in each list."""
    if isinstance(shape, StructureShape):
        return {key: maximal(member, key) for key, member in shape.members.items()}
    if isinstance(shape, ListShape):
        return [maximal(shape.member, f"{name}-{number}") for number in (1, 2)]
    if isinstance(shape, MapShape):
        return {f"key-{name}": maximal(shape.value, name)}
    by_type: dict[str, Any] = {"boolean": True, "integer": 7, "long": 7, "double": 1.5, "float": 1.5}
    by_type |= {"timestamp": datetime(2026, 1, 1, tzinfo=UTC)}
    return by_type.get(shape.type_name, shape.enum[0] if getattr(shape, "enum", None) else f"{name}-value")


def described() -> dict[str, Any]:
    """What DescribeTaskDefinition gives of a definition that uses every field."""
    base = maximal(OUTPUT)
    for definition, name in zip(base["containerDefinitions"], ("app", "sidecar"), strict=True):
        definition["name"] = name
    return base


def test_every_field_of_the_base_is_kept_and_only_the_image_changes() -> None:
    base = described()
    untouched = copy.deepcopy(base)

    revision = new_revision(base, [], ["app"], "registry/cineos@sha256:1", TAGS)

    validate_parameters(revision, INPUT)
    assert set(revision) == set(INPUT.members)
    assert base == untouched
    expected = {key: value for key, value in untouched.items() if key in INPUT.members}
    assert expected["containerDefinitions"][0].pop("image") != "registry/cineos@sha256:1"
    assert revision["containerDefinitions"][0].pop("image") == "registry/cineos@sha256:1"
    del revision["tags"]
    assert revision == expected


def test_the_fields_that_cannot_be_registered_are_botocores() -> None:
    assert set(OUTPUT.members) - set(INPUT.members) == OUTPUT_ONLY
    assert set(INPUT.members) - set(OUTPUT.members) == {"tags"}


def test_tags_of_the_owners_stay_and_ours_are_replaced() -> None:
    old = [
        {"key": "team", "value": "web"},
        {"key": "deploy-runner:sha", "value": "old"},
        {"key": "deploy-runner:base", "value": "older"},
        {"key": "aws:cloudformation:stack-name", "value": "theirs"},
    ]
    tags = {tag["key"]: tag["value"] for tag in new_revision(described(), old, ["app"], "i", TAGS)["tags"]}
    assert tags == {"team": "web", **TAGS}
    assert tags["deploy-runner:sha"] == "a" * 40


def test_ours_are_told_from_others_by_deployment_and_service() -> None:
    tags = [{"key": key, "value": value} for key, value in TAGS.items()]
    assert is_ours(tags)
    assert is_of(tags, "d-1", "cineos")
    assert not is_of(tags, "d-2", "cineos")
    assert not is_of(tags, "d-1", "worker")
    assert not is_ours([{"key": "deploy-runner:deployment", "value": "d-1"}])


def test_a_container_that_is_not_there_and_too_many_tags_are_refused() -> None:
    with pytest.raises(TargetMisconfigured, match=r"'web'.*app, sidecar"):
        new_revision(described(), [], ["app", "web"], "i", TAGS)
    many = [{"key": f"k{number}", "value": "v"} for number in range(45)]
    with pytest.raises(TargetMisconfigured, match="at most 50 tags"):
        new_revision(described(), many, ["app"], "i", TAGS)
