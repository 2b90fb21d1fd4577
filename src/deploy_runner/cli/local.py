"""`deploy-runner local`: AWS on one machine."""

import argparse
import contextlib
import faulthandler
import fnmatch
import json
import os
import queue
import shlex
import signal
import sys
import urllib.error
import urllib.request
from typing import Any

from deploy_runner.cli import fault
from deploy_runner.domain.errors import DeployRunnerError

DEFAULT_PORT = 4566
LONGEST_END_SECONDS = 60  # of taking everything down, which takes 2 and, with a container engine that hangs, 20


class NotRunning(DeployRunnerError):
    """No local AWS answers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `deploy-runner local` takes."""
    verbs = parser.add_subparsers(dest="local_verb", metavar="VERB", required=True)

    def verb(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    def with_port(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        help_text = "AWS; GitHub is one above, the registry two (default: %(default)s)"
        sub.add_argument("--port", type=_port, default=DEFAULT_PORT, help=help_text)
        return sub

    with_port(verb("up", up, "start AWS, GitHub and a registry in the foreground; Ctrl-C takes all down"))
    exports = with_port(verb("env", env, 'print the exports for a shell: eval "$(deploy-runner local env)"'))
    exports.add_argument("--format", choices=("shell", "json"), default="shell", help="default: %(default)s")
    urls = with_port(verb("services", services, "print the loopback URL of each ECS service"))
    roles = with_port(verb("iam", iam, "print what each role is granted, what of it was used, and what was refused"))
    roles.add_argument("--role", metavar="NAME", help="only this role (a pattern, as in push-*)")
    for sub in (urls, roles):
        sub.add_argument("--format", choices=("table", "json"), default="table", help="default: %(default)s")
    with_port(verb("demo", demo, "deploy a sample app four ways, from nothing"))
    faults = verb("fault", None, "let calls, events, tasks, functions or GitHub fail, to see what happens then")
    faults.set_defaults(ask=_ask)
    fault.add_arguments(faults, with_port)
    verb("images", images, "make the base images ahead of time (`up` does it where needed)")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1024 <= int(text) <= 65533):
        raise argparse.ArgumentTypeError(f"a port is a number from 1024 to 65533, and not {text!r}")
    return int(text)


def up(arguments: argparse.Namespace) -> int:
    """Run local AWS until SIGINT or SIGTERM."""
    # Not an Event: a second signal may come while the first is taken, and its lock would be waited for by its holder.
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.put(number))
    from deploy_runner.local_aws.base_images import cache_dir
    from deploy_runner.local_aws.server import start

    port = arguments.port
    machine = start(port, cache_dir() / f"local-{port}")
    try:
        if asked.empty():
            flag = "" if port == DEFAULT_PORT else f" --port {port}"
            print(
                f"AWS on this machine is up.\n\n"
                f"  AWS         {machine.endpoint}  (account {machine.account_id}, {machine.region})\n"
                f"  GitHub      {machine.github_url}  (git, and the API at /api/v3)\n"
                f"  registry    {machine.registry}  (what ECR hands out)\n"
                f"  containers  {machine.engine.version}, network {machine.engine.network}\n"
                f"  its files   {machine.state_dir}\n\n"
                f'  eval "$(deploy-runner local env{flag})"     in another shell, then sam, aws and boto3 talk to it\n'
                f"  deploy-runner local services{flag}          where each service answers\n\n"
                f"Ctrl-C takes everything down.",
                flush=True,
            )
        asked.get()
        print("Taking everything down.", flush=True)
    finally:
        # Rather be gone, with a word on what hung, than there for ever: the next start removes what is left.
        with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):  # without a stderr to say it on
            faulthandler.dump_traceback_later(LONGEST_END_SECONDS, exit=True)
        machine.stop()
    return 0


def env(arguments: argparse.Namespace) -> int:
    """Print what points sam, aws, git and boto3 at the running local AWS."""
    try:
        exports = _ask(arguments.port, "env")
    except NotRunning:
        if arguments.format == "shell":
            print("false")  # so that `eval "$(deploy-runner local env)" && ...` does not go on, perhaps to real AWS
        raise
    if arguments.format == "json":
        print(json.dumps(exports, indent=2))
    else:
        print("unset AWS_SESSION_TOKEN AWS_PROFILE")  # of a shell that was in another account
        for name, value in exports.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


def services(arguments: argparse.Namespace) -> int:
    """Print where each ECS service answers on loopback."""
    found = _ask(arguments.port, "services")
    if arguments.format == "json":
        print(json.dumps(found, indent=2))
    elif not found:
        print("There is no service with a port yet. See examples/app-service.yaml.")
    else:
        width = max(len(f"{s['cluster']}/{s['service']}") for s in found)
        for service in found:
            print(f"{service['cluster'] + '/' + service['service']:<{width}}  {service['url']}")
    return 0


def iam(arguments: argparse.Namespace) -> int:
    """Print what each role is granted, what of it was used, and what was refused."""
    found = _ask(arguments.port, "iam")
    if arguments.role:
        found = [role for role in found if fnmatch.fnmatchcase(role["role"], arguments.role)]
    if arguments.format == "json":
        print(json.dumps(found, indent=2))
    elif not found:
        print(f"No role matches {arguments.role!r}." if arguments.role else "There is no role yet.")
    else:
        from rich.console import Console

        from deploy_runner.cli.iam import WIDE, show

        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = WIDE  # for grep and files, which have no width of their own
        show(found, console)
    return 0


def images(arguments: argparse.Namespace) -> int:
    """Make the base images, unless they are there or Docker pulls them."""
    from deploy_runner.local_aws.base_images import base_images_dir, base_images_made
    from deploy_runner.local_aws.engine import docker_answers

    if not docker_answers():
        if not base_images_made():
            print("making the base images from Debian's packages (once, about half a minute)", file=sys.stderr)
        base_images_dir()
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from deploy_runner.cli import demo as module

    return module.run(arguments)


def _ask(port: int, page: str, method: str = "GET", body: Any = None) -> Any:
    """Return what a page of ours says. Raises NotRunning."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/_local/{page}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
            return json.loads(response.read())
    except (urllib.error.URLError, OSError, ValueError) as error:
        flag = "" if port == DEFAULT_PORT else f" --port {port}"
        remedy = f"Start it in another shell: deploy-runner local up{flag}"
        raise NotRunning("Local AWS must be running", f"nothing of ours on port {port}", remedy) from error
