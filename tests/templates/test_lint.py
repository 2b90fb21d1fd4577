"""cfn-lint finds nothing, in the templates as they are and as CloudFormation gets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs

from .stacks import ROOT, Stack

RENDERED = sorted((ROOT / "templates" / "rendered").glob("*.yaml"))


def problems(body: str, ignore: tuple[str, ...] = ()) -> list[str]:
    matches = lint(body, regions=["us-east-1"], config=ManualArgs(regions=["us-east-1"], ignore_checks=list(ignore)))
    return [f"{match.rule.id} line {match.linenumber}: {match.message}" for match in matches]


@pytest.mark.parametrize(
    "path", [ROOT / "template.yaml", ROOT / "examples" / "app-service.yaml", *RENDERED], ids=lambda path: path.stem
)
def test_a_template_is_clean(path: Path) -> None:
    assert problems(path.read_text()) == []


def test_the_transformed_template_is_clean(main: Stack) -> None:
    template: dict[str, Any] = json.loads(json.dumps(main.template))
    # so that the definition is looked at as well
    machine = template["Resources"]["DeployApp"]["Properties"]
    del machine["DefinitionS3Location"]
    machine["Definition"] = json.loads((ROOT / "templates" / "rendered" / "deploy_app.asl.json").read_text())

    # W1028: SAM leaves the conditions of template.yaml in place where its If is decided. W3045 is not among them.
    assert problems(json.dumps(template)) == []
