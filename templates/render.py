"""`python -m templates.render` writes templates/rendered/ and docs/iam.md from apps.yaml and these programs."""

import argparse
import json
import sys
from pathlib import Path

import yaml
from troposphere import Template

from deploy_runner.domain.errors import AllowlistInvalid
from templates import (
    app_repositories,
    app_roles,
    deploy_target,
    ecs_deploy_runner,
    github_oidc_role,
    grants_doc,
    network,
)
from templates.config import ROOT, Config, read_config

RENDERED = ROOT / "templates" / "rendered"
DEFINITION = ROOT / "statemachines" / "deploy_app.asl.yaml"
PROGRAMS = {
    "app_repositories": app_repositories.build,
    "app_roles": app_roles.build,
    "deploy_target": deploy_target.build,
    "ecs_deploy_runner": ecs_deploy_runner.build,
    "github_oidc_role": github_oidc_role.build,
    "network": network.build,
}


def render(config: Config) -> dict[str, str]:
    """Return the content of every rendered file by its name."""
    files = {f"{name}.yaml": _yaml(name, build(config)) for name, build in PROGRAMS.items()}
    # CloudFormation's reader of YAML definitions does not know anchors; this has them written out.
    definition = yaml.safe_load(DEFINITION.read_text())
    return files | {"deploy_app.asl.json": json.dumps(definition, indent=2, ensure_ascii=False) + "\n"}


def _yaml(name: str, template: Template) -> str:
    return f"# Written by templates/{name}.py (make build).\n{template.to_yaml(clean_up=True)}"


def stale(files: dict[str, str], folder: Path = RENDERED) -> list[str]:
    """Return the names of files that differ from what is rendered, are missing, or should not be there."""
    there = {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}
    return sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))


def main() -> int:
    """Write the rendered files, or check them. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m templates.render", description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit 1 if a file is not current",
    )
    arguments = parser.parse_args()
    try:
        files = render(read_config())
    except AllowlistInvalid as error:
        print(error, file=sys.stderr)
        return 2
    differing = stale(files)
    document = grants_doc.build(read_config(), files)
    current = grants_doc.DOCUMENT.is_file() and grants_doc.DOCUMENT.read_text() == document
    if arguments.check:
        if not current:
            print("docs/iam.md is not what templates/ and template.yaml say. Run `make build`.", file=sys.stderr)
        for name in differing:
            print(f"templates/rendered/{name} is not what templates/ renders. Run `make build`.", file=sys.stderr)
        return 1 if differing or not current else 0
    RENDERED.mkdir(exist_ok=True)
    for name in differing:
        if name in files:
            (RENDERED / name).write_text(files[name])
        else:
            (RENDERED / name).unlink()
        print(f"templates/rendered/{name}")
    if not current:
        grants_doc.DOCUMENT.write_text(document)
        print("docs/iam.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
