"""What is checked in under templates/rendered/ is what the programs render, and render.py says where it is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from templates import grants_doc, render
from templates.config import read_config

from .stacks import ROOT


def test_the_rendered_files_are_current() -> None:
    files = render.render(read_config())
    assert render.stale(files) == []
    assert grants_doc.DOCUMENT.read_text() == grants_doc.build(read_config(), files)


def test_what_is_stale_missing_or_left_over_is_named(tmp_path: Path) -> None:
    files = {"network.yaml": "new", "app_roles.yaml": "same"}
    (tmp_path / "network.yaml").write_text("old")
    (tmp_path / "left_over.yaml").write_text("")

    assert render.stale(files, tmp_path) == ["app_roles.yaml", "left_over.yaml", "network.yaml"]


def test_check_ends_with_1_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "RENDERED", tmp_path)
    monkeypatch.setattr(render.stale, "__defaults__", (tmp_path,))
    monkeypatch.setattr(sys, "argv", ["render", "--check"])

    assert render.main() == 1

    assert "templates/rendered/network.yaml is not what" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "templates.render", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_definition_that_goes_to_aws_is_json() -> None:
    # CloudFormation would take `*RetryLambda` for the string "RetryLambda"
    source = yaml.safe_load((ROOT / "statemachines" / "deploy_app.asl.yaml").read_text())
    rendered = (ROOT / "templates" / "rendered" / "deploy_app.asl.json").read_text()

    assert json.loads(rendered) == source
