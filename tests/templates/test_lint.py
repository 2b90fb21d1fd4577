"""cfn-lint finds nothing, in the templates as they are and as CloudFormation gets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs

from .stacks import ROOT, Stack

RENDERED = sorted((ROOT / "templates" / "rendered").glob("*.yaml"))


def problems(body: str) -> list[str]:
    matches = lint(body, config=ManualArgs(regions=["us-east-1"]))
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

    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::CloudFormation::Stack":  # as `sam package` does
            resource["Properties"]["TemplateURL"] = "https://s3.us-east-1.amazonaws.com/artifacts/nested.yaml"

    # A function's DeletionPolicy would be its versions' too, and these must stay: template.yaml says so at Globals.
    for resource in template["Resources"].values():
        if resource["Type"] in ("AWS::Lambda::Function", "AWS::Lambda::Alias"):
            assert resource.pop("UpdateReplacePolicy") == "Retain"
            assert "DeletionPolicy" not in resource

    # In JSONata TimeoutSeconds may be an expression: docs.aws.amazon.com/step-functions/latest/dg/state-task.html.
    # cfn-lint 1.58 wants a number; once it knows better, this fails and these can go.
    names = ("build", "build", "queue", "queue", "release", "rollout", "rollout")
    assert sorted(problems(json.dumps(template))) == [
        f"E3601 line 1: '{{% $deployment.timeouts.{name} %}}' is not of type 'number'" for name in names
    ]
