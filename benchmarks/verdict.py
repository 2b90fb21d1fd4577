"""How soon a verdict is there: ours, by ECS's events, beside `aws ecs wait services-stable`, which is what CI jobs use.

Both watch the same rollouts on the same local AWS, in one run. Prints seconds and ratios. Run it with `make bench`.
"""

import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy_runner.cli.walkthrough import Execution, Walkthrough

ROOT = Path(__file__).parents[1]
APP, REPOSITORY, ENVIRONMENT = "cineos", "lightwave-media/cineos", "dev"
GIVE_UP_SECONDS = 90  # on the waiter where it would go on for ten minutes


def main() -> None:
    """Deploy a good version and a crashing one, and time both watchers on each."""
    table = Table(title="Seconds until there is a verdict", title_justify="left")
    headings = (
        "rollout", "ECS knew", "deploy runner", "after ECS", "after a task died", "aws ecs wait", "ratio", "and it said"
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("rollout", "and it said") else "right")
    with (
        tempfile.TemporaryDirectory(prefix="deploy-runner-bench-") as folder,
        Walkthrough(ROOT, Path(folder), port=4626) as walk,
    ):
        began = time.monotonic()
        walk.start()
        up = time.monotonic() - began
        walk.build_stack()
        walk.deploy_stack()
        walk.push_runner_images()
        walk.create_service(APP, ENVIRONMENT)
        clone = walk.create_repository(REPOSITORY, 1001)
        began = time.monotonic()
        deploy(walk, clone, "1", crash=False)
        first = time.monotonic() - began
        for name, crash in (("a good version", False), ("one that crashes at its start", True)):
            ours, ecs, died, theirs, said = race(walk, clone, name, crash=crash)
            gave_up = theirs >= GIVE_UP_SECONDS
            table.add_row(
                name, f"{ecs:.1f}", f"{ours:.1f}", f"{ours - ecs:.2f}", f"{died:.1f}" if crash else "–",
                f"> {theirs:.0f}, gave up" if gave_up else f"{theirs:.1f}",
                f"{'> ' if gave_up else ''}{theirs / ours:.1f}", said,
            )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    console.print(f"local up: {up:.1f} s; the first app built and deployed: {first:.1f} s; together {up + first:.1f} s")


def deploy(walk: Walkthrough, clone: Path, version: str, *, crash: bool) -> Execution:
    """Push a version and deploy it."""
    walk.write_sample_app(clone, version, crash=crash)
    sha = walk.push(clone, f"Version {version}")
    walk.report_check(REPOSITORY, sha, "tests", "success")
    return walk.deploy({"app": APP, "environment": ENVIRONMENT, "ref": sha})


def race(walk: Walkthrough, clone: Path, version: str, *, crash: bool) -> tuple[float, float, float, float, str]:
    """Return seconds, and the waiter's word.

    From UpdateService to our verdict, and to ECS's; from the first of its tasks that died to our verdict, after which
    what ran before runs again; from UpdateService to the end of the waiter.
    """
    walk.write_sample_app(clone, version, crash=crash)
    sha = walk.push(clone, version)
    walk.report_check(REPOSITORY, sha, "tests", "success")
    arn = walk.start_execution({"app": APP, "environment": ENVIRONMENT, "ref": sha})
    waiter: subprocess.Popen[bytes] | None = None
    updated = 0.0
    execution = None
    for execution in walk.follow(arn, interval=0.05):
        if waiter is None and any(phase.name == "WaitForStable" for phase in execution.phases):
            updated = time.monotonic()
            waiter = subprocess.Popen(
                ["aws", "ecs", "wait", "services-stable", "--cluster", ENVIRONMENT, "--services", APP], env=walk.env
            )
    ours = time.monotonic() - updated
    assert waiter, "the deployment ended before it waited for a rollout"
    assert execution
    assert (execution.status == "SUCCEEDED") is not crash, execution.cause
    history = walk.client("ecs").list_service_deployments(cluster=ENVIRONMENT, service=APP)["serviceDeployments"]
    newest = max(history, key=lambda each: each["createdAt"])
    ended = newest.get("finishedAt") or newest.get("updatedAt") or newest["createdAt"]
    ecs = (ended - newest["createdAt"]).total_seconds()
    described = walk.client("stepfunctions").describe_execution(executionArn=arn)
    stopped = walk.client("ecs").list_tasks(cluster=ENVIRONMENT, serviceName=APP, desiredStatus="STOPPED")["taskArns"]
    tasks = walk.client("ecs").describe_tasks(cluster=ENVIRONMENT, tasks=stopped)["tasks"] if stopped else []
    dead = [task["stoppedAt"] for task in tasks if task["createdAt"] >= newest["createdAt"] and "stoppedAt" in task]
    died = (described["stopDate"] - min(dead)).total_seconds() if dead else 0.0
    try:
        waiter.wait(max(0.1, GIVE_UP_SECONDS - ours))
    except subprocess.TimeoutExpired:
        waiter.terminate()
        waiter.wait()
    return ours, ecs, died, time.monotonic() - updated, "stable" if waiter.returncode == 0 else "nothing"


if __name__ == "__main__":
    main()
