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
    from deploy_runner.domain.apps import AppsFileInvalid, load_apps

    try:
        apps = load_apps(arguments.file.read_text())
    except FileNotFoundError:
        print(f"deploy-runner: there is no {arguments.file}; name the file, or cd to its folder", file=sys.stderr)
        return 2
    except AppsFileInvalid as invalid:
        for problem in invalid.problems:
            print(f"{arguments.file}: {problem}", file=sys.stderr)
        return 2
    print(f"{arguments.file}: {len(apps.apps)} apps, no problem")
    return 0
