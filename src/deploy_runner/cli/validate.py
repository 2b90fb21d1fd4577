"""`deploy-runner validate`: check apps.yaml, as the pipeline will read it."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `deploy-runner validate` takes."""
    parser.add_argument("file", nargs="?", default="apps.yaml", type=Path, help="default: %(default)s")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every problem, one a line; returns 2 if there is one."""
    from deploy_runner.domain.apps import load_file
    from deploy_runner.domain.errors import AllowlistInvalid

    try:
        allowlist = load_file(arguments.file)
    except AllowlistInvalid as invalid:
        print(f"deploy-runner: {invalid}", file=sys.stderr)
        return 2
    print(f"{arguments.file}: {len(allowlist.apps)} apps, no problem")
    return 0
