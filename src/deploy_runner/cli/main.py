"""The command `deploy-runner`. Each verb lives in a module of its own, which is imported only when it is used."""

import argparse
import importlib
import sys
from collections.abc import Sequence

# verb -> (module with `add_arguments(parser)`, which sets `run`; one line of help)
VERBS = {
    "validate": ("deploy_runner.cli.validate", "check apps.yaml, and name every problem in it"),
    "images": ("deploy_runner.cli.images", "build the runners' images and push them to the stack's repositories"),
    "local": ("deploy_runner.cli.local", "AWS on one machine: up, env, services, fault, iam, images, demo"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `deploy-runner`.

    Takes the arguments without the program's name (default: the process's own). Returns the exit code: 0 done,
    1 the work failed, 2 the request was wrong, 3 the environment is not fit for it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="deploy-runner", description="Deploys apps to Amazon ECS from GitHub, with no AWS keys in CI."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (module, summary) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if argv[:1] == [name]:
            importlib.import_module(module).add_arguments(verb)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("deploy-runner: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # our errors are for people, others keep their traceback
        from deploy_runner.domain.errors import DeployRunnerError

        if not isinstance(error, DeployRunnerError):
            raise
        print(f"deploy-runner: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 3))


if __name__ == "__main__":
    sys.exit(main())
