"""What a person sees of `deploy-runner` besides local AWS: help, and what is wrong in apps.yaml."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy_runner.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert not [verb for verb in VERBS if verb not in said]


def test_help_loads_nothing_that_is_heavy() -> None:
    """`deploy-runner --help` answers at once because no verb's module, and no AWS library, is imported for it."""
    program = (
        "import sys\n"
        "from deploy_runner.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = ('boto3', 'moto', 'rich', 'yaml', 'docker', 'deploy_runner.cli.local')\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["dance"], ["local"], ["local", "dance"], ["validate", "--x"]])
def test_what_it_does_not_know_is_a_wrong_request(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: deploy-runner" in capsys.readouterr().err


def test_our_own_apps_file_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(ROOT / "apps.yaml")]) == 0
    assert "4 apps" in capsys.readouterr().out


def test_every_problem_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "apps.yaml"
    text = (ROOT / "apps.yaml").read_text()
    text = text.replace("id: 1001", "id: many").replace("cluster: staging", "clutser: staging")
    file.write_text(text.replace('account: "123456789012"', 'account: "12"', 1))

    assert main(["validate", str(file)]) == 2

    said = "".join(capsys.readouterr())
    assert all(word in said for word in ("many", "clutser", "'12'"))
    assert "Traceback" not in said


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
