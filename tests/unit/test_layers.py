"""Imports point one way: what goes to AWS does not know that local AWS exists, and the domain knows no AWS library."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ROOT / "src" / "deploy_runner"

# A part, and what it may import of ours. `functions`, `runners` and `cli` sit on top.
MAY_IMPORT = {
    "src/deploy_runner/domain": {"domain"},
    "src/deploy_runner/github": {"domain", "github"},
    "src/deploy_runner/aws": {"domain", "aws"},
    "functions": {"domain", "github", "aws"},
    "runners": {"domain", "github", "aws"},
    "templates": {"domain"},
    "src/deploy_runner/local_aws": {"domain", "local_aws"},
    "src/deploy_runner/cli": {"domain", "github", "aws", "cli", "local_aws"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_is_below_it(part: str) -> None:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            if name.startswith("deploy_runner."):
                assert name.split(".")[1] in MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {name}"


def test_the_domain_imports_no_library_but_yaml() -> None:
    for path in sorted((OURS / "domain").glob("*.py")):
        for name in imports(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | {"deploy_runner", "yaml"}, f"{path.name} imports {name}"


def test_nothing_that_goes_to_aws_names_local_aws() -> None:
    product = [ROOT / "template.yaml", ROOT / "apps.yaml", *(ROOT / "statemachines").glob("*.yaml")]
    ours = [f"src/deploy_runner/{name}" for name in ("domain", "aws", "github")]
    for part in ("functions", "templates", "runners", "examples", *ours):
        product += [p for p in (ROOT / part).rglob("*") if p.is_file() and p.suffix in (".py", ".yaml", ".json", "")]
    for path in product:
        text = path.read_text(errors="replace")
        for word in ("local_aws", "127.0.0.1", "localhost", "4566", "moto"):
            assert word not in text, f"{path.relative_to(ROOT)} names {word}"
