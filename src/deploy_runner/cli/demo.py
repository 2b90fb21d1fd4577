"""`deploy-runner local demo`: a commit is built, deployed and served on this machine, step by step, for a person."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from deploy_runner.cli.visitors import Visitors
from deploy_runner.cli.walkthrough import Execution, StepFailed, Walkthrough
from deploy_runner.domain.phases import cost

APP, REPOSITORY_ID, ENVIRONMENT = "cineos", 1001, "dev"
REPOSITORY = f"lightwave-media/{APP}"
# apps.yaml lets app-deployer build and deploy this one in one task.
OTHER_APP, OTHER_REPOSITORY_ID = "photographos", 1002
OTHER_REPOSITORY = f"lightwave-media/{OTHER_APP}"
RUNNERS = {"BuildImage": "docker-builder", "RunAppDeployer": "app-deployer"}


def run(arguments: argparse.Namespace) -> int:
    """Run the demo. Returns 0 only if every deployment ended as it should."""
    checkout = Path.cwd()
    if not (checkout / "template.yaml").is_file():
        raise StepFailed(
            rule="the demo runs in a checkout of the deploy runner",
            value=f"no template.yaml in {checkout}",
            remedy="cd to the checkout, then `make demo`",
        )
    folder = Path(tempfile.mkdtemp(prefix="deploy-runner-demo-"))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.soft_wrap = True
        console.width = 132  # a pipe has none of its own, and a table should not be squeezed into 80
    try:
        with Walkthrough(checkout, folder, arguments.port) as walk:
            return Demo(walk, console).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Demo:
    """What is shown, in order. A deployment that ends otherwise than the story says is a failure of the demo."""

    def __init__(self, walk: Walkthrough, console: Console) -> None:
        self.walk, self.console = walk, console
        self.began = time.monotonic()
        self.shown: list[tuple[str, Execution]] = []
        self.wrong: list[str] = []

    def run(self) -> int:
        """Tell the whole story; returns the exit code."""
        walk, console = self.walk, self.console
        console.print("[bold]The deploy runner, on this machine[/bold]\n")
        with self.step("AWS comes up: deploy-runner local up"):
            walk.start()
            _ = walk.env  # asked for once, before two threads want it
        with ThreadPoolExecutor(1) as beside:
            services = beside.submit(self.create_services)
            with self.step("the stack is built: sam build"):
                walk.build_stack()
            with self.step("the stack is deployed: sam deploy --config-env local"):
                walk.deploy_stack()
            with self.step("the runners' images are built and pushed: deploy-runner images --platform native"):
                walk.push_runner_images()
            with self.step(f"and beside it the services {APP} and {OTHER_APP}: aws cloudformation create-stack"):
                services.result()
        clone = walk.create_repository(REPOSITORY, REPOSITORY_ID)
        other_clone = walk.create_repository(OTHER_REPOSITORY, OTHER_REPOSITORY_ID)
        console.print(f"\n  AWS at {walk.endpoint}, GitHub at {walk.github}\n")

        first = self.commit(clone, "1")
        other = self.commit(other_clone, "1 of the other app", repository=OTHER_REPOSITORY)
        started = self.start("main", OTHER_APP, ENVIRONMENT)  # beside the first
        self.deploy("version 1", "main", "SUCCEEDED")
        self.expect_page("version 1", first)
        self.deploy("another app, in one task", "main", "SUCCEEDED", app=OTHER_APP, arn=started)
        self.expect_page("version 1 of the other app", other, app=OTHER_APP)
        second = self.commit(clone, "2")
        with self.visitors("while version 2 replaced version 1"):
            self.deploy("version 2", "main", "SUCCEEDED")
        self.expect_page("version 2", second)
        self.commit(clone, "3", crash=True)
        with self.visitors("while version 3 failed"):
            self.deploy("version 3, which crashes", "main", "RolloutRolledBack")
        self.expect_page("version 2", second)

        console.print("[bold]What is not allowed is refused before anything runs[/bold]\n")
        tasks = walk.count_tasks()
        self.deploy("an app not in apps.yaml", "main", "AppNotAllowed", app="billing")
        walk.push(clone, "An experiment", branch="experiment")
        self.deploy("a branch not allowed", "experiment", "RefNotAllowed", environment="prod")
        red = walk.push(clone, "A commit whose tests fail")
        walk.report_check(REPOSITORY, red, "tests", "failure")
        self.deploy("a commit with red checks", red, "ChecksNotGreen")
        if walk.count_tasks() != tasks:
            self.wrong.append("a refused request started a task")

        console.print(self.table())
        for problem in self.wrong:
            console.print(f"[red]✗ {escape(problem)}[/red]")
        if not self.wrong:
            seconds = time.monotonic() - self.began
            console.print(f"[green]✓[/green] all as it should be, in {seconds:.0f} s. AWS goes down again;")
            console.print("  for one that stays: README, Use it on one machine")
        return 1 if self.wrong else 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One line for a step, with its seconds; a spinner for a person meanwhile."""
        began = time.monotonic()
        with self.spinner(lambda: title):
            yield
        self.console.print(f"  [green]✓[/green] {escape(title)}  [dim]{time.monotonic() - began:.1f} s[/dim]")

    @contextmanager
    def spinner(self, text: Callable[[], str]) -> Iterator[Callable[[], None]]:
        """A progress display with elapsed time where a person watches; nothing where the output is piped."""
        if not self.console.is_terminal:
            yield lambda: None
            return
        began = time.monotonic()
        with Status(text(), console=self.console) as status:
            yield lambda: status.update(f"{escape(text())}  [dim]{time.monotonic() - began:.0f} s[/dim]")

    def create_services(self) -> None:
        """Make the services of both apps, one after the other: the first one's stack has their cluster."""
        for app in (APP, OTHER_APP):
            self.walk.create_service(app, ENVIRONMENT)

    def commit(self, clone: Path, version: str, *, crash: bool = False, repository: str = REPOSITORY) -> str:
        """Push a version of the sample app whose checks are green."""
        self.walk.write_sample_app(clone, version, crash=crash)
        sha = self.walk.push(clone, f"Version {version}")
        self.walk.report_check(repository, sha, "tests", "success")
        return sha

    @contextmanager
    def visitors(self, when: str) -> Iterator[None]:
        """Have a client ask all the time, and say how many of its requests were answered: all must be."""
        with Visitors(self.walk.service_url(ENVIRONMENT, APP)) as visitors:
            yield
        mark = "[green]✓[/green]" if visitors.answered and not visitors.failed else "[red]✗[/red]"
        self.console.print(f"  {mark} {when}: {escape(str(visitors))}\n")
        if visitors.failed or not visitors.answered:
            self.wrong.append(f"{when}, a client must get every page: {visitors}")

    def start(self, ref: str, app: str, environment: str) -> str:
        """Ask for a deployment with the AWS CLI; returns its execution's ARN."""
        return self.walk.start_execution({"app": app, "environment": environment, "ref": ref})

    def deploy(
        self, title: str, ref: str, expected: str, *, app: str = APP, environment: str = ENVIRONMENT, arn: str = ""
    ) -> None:
        """Ask for a deployment, show its phases as they pass, and hold its verdict to the story.

        `arn` is the execution's where it was asked for before.
        """
        self.console.print(f"[bold]{title}[/bold]: {app} to {environment} at {ref[:12]}")
        arn = arn or self.start(ref, app, environment)
        running = "starting"
        with self.spinner(lambda: f"  {running}") as tick:
            done = 0
            for execution in self.walk.follow(arn):
                ended = [phase for phase in execution.phases if phase.seconds is not None]
                for phase in ended[done:]:
                    self.console.print(f"  {phase.name:<18} [dim]{phase.seconds:5.1f} s[/dim]")
                done = len(ended)
                running = next((p.name for p in execution.phases if p.seconds is None), running)
                tick()
        self.shown.append((title, execution))
        if execution.status == "SUCCEEDED":
            self.console.print(f"  [green]{execution.verdict}[/green] in {execution.seconds:.1f} s")
        else:
            cause = escape(execution.cause)
            self.console.print(f"  [red]{execution.verdict}[/red] in {execution.seconds:.1f} s: {cause}")
        if execution.verdict != expected:
            self.wrong.append(f"{title}: {execution.verdict} instead of {expected}: {execution.cause}")
        self.console.print()

    def expect_page(self, version: str, sha: str, *, app: str = APP) -> None:
        """Fetch the app's page and hold it to the version that should be served."""
        url = self.walk.service_url(ENVIRONMENT, app)
        page = self.walk.page(url)
        self.console.print(f"  {url} answers: [cyan]{escape(page)}[/cyan]\n")
        if version not in page:
            self.wrong.append(f"{url} should serve {version} ({sha[:12]}), and says: {page}")

    def table(self) -> Table:
        """Each deployment with its runner, verdict, seconds per phase, transitions and estimated cost in AWS."""
        table = Table(title="Deployments", title_justify="left")
        widest = None
        if self.console.width < 100:  # no lines between columns: in 80 only the titles are folded
            table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
            table.pad_edge = table.show_edge = False
            widest = max(10, self.console.width - 67)
        for heading, width in (("deployment", widest), ("runner", None), ("verdict", None)):
            table.add_column(heading, overflow="fold", max_width=width)
        # The phases stand above too: a narrow terminal does without them here, so that nothing is cut.
        groups = {
            "validate s": ("ValidateRequest",),
            "build s": tuple(RUNNERS),
            "deploy s": ("RegisterRevisions", "DeployServices", "FindRollouts"),
            "wait s": ("WaitForStable",),
        }
        if self.console.width < 120:
            groups = {}
        for heading in (*groups, "total s", "transitions", "cost $"):
            table.add_column(heading, justify="right", no_wrap=True)
        for title, execution in self.shown:
            seconds = []
            for group in groups.values():
                spent = [p.seconds or 0 for p in execution.phases if p.name in group]
                seconds.append(f"{sum(spent):.1f}" if spent else "–")
            runner = next((RUNNERS[p.name] for p in execution.phases if p.name in RUNNERS), "–")
            spent_dollars = cost(execution.phases, execution.transitions)
            table.add_row(
                title, runner, execution.verdict, *seconds, f"{execution.seconds:.1f}",
                str(execution.transitions), f"{spent_dollars:.4f}",
            )  # fmt: skip
        return table
