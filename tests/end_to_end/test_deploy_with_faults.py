"""Whatever AWS and GitHub do that they are documented to do, the verdict is the rollout's, and nobody else's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_runner.cli.walkthrough import Execution, Walkthrough
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("end_to_end")]

APP, PLACE = "createos", "staging"
REPOSITORY = f"lightwave-media/{APP}"


@pytest.fixture(scope="module")
def commits(walk: Walkthrough, createos: Path) -> dict[str, str]:
    """The app with its service, and two commits whose images are built: one that serves, one that crashes."""
    walk.create_service(APP, PLACE)
    found = {}
    # The first build finds no capacity, and is asked for too often.
    walk.fault("capacity", "--cluster", "deploy-runner", "--times", "1")
    walk.fault("api", "ecs", "RunTask", "--throttle", "--times", "1")
    for version in ("good", "bad"):
        walk.write_sample_app(createos, version, crash=version == "bad")
        found[version] = walk.push(createos, f"Version {version}")
        walk.report_check(REPOSITORY, found[version], "tests", "success")
        built = walk.deploy({"app": APP, "environment": PLACE, "ref": "main", "action": "build"})
        assert built.verdict == "SUCCEEDED", built.cause
    return found


@pytest.fixture(autouse=True)
def only_the_usual_faults_stay(walk: Walkthrough) -> Iterator[None]:
    yield
    walk.fault("clear")
    walk.fault("profile", "at-least-once")


def deploy(walk: Walkthrough, sha: str) -> Execution:
    return walk.deploy({"app": APP, "environment": PLACE, "ref": sha})


STALE = "api ecs *Service* --stale 3"


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([STALE], id="reads of ECS lag behind"),
        pytest.param(
            ["api ecs ListServiceDeployments --empty --times 4", "api ecs UpdateService --lose-answer --times 1"],
            id="ECS lists no rollouts and its answer is lost",
        ),
        pytest.param(  # more often than a client tries: the state machine tries again
            ["api ecs UpdateService --throttle --times 4", "api ecs RegisterTaskDefinition --throttle --times 4",
             "api dynamodb PutItem --throttle --times 2", "api stepfunctions SendTask* --throttle --times 2"],
            id="AWS throttles",
        ),
        pytest.param(
            ["github --path */deployments* --status 502 --times 3", "github --secondary-limit 1 --times 1",
             "github POST --path */check-runs --close --times 1"],
            id="GitHub is in trouble",
        ),
        pytest.param(
            ["events --name SERVICE_DEPLOYMENT_COMPLETED --lose", f"capacity --service {APP} --times 1",
             f"task --service {APP} --kill-after 0 --times 1"],
            id="an event is lost, a task is killed and there is no capacity",
        ),
        pytest.param(
            ["lambda *validate* --lose-answer Lambda.Unknown --times 1",
             "lambda *deploy* --lose-answer Sandbox.Timedout --times 1",
             "lambda *watch* --lose-answer Runtime.ExitError --times 1",
             "lambda *report* --lose-answer Runtime.OutOfMemory --times 1"],
            id="each function is killed when its work is done",
        ),
        pytest.param(
            ["lambda *validate* --refuse Lambda.ServiceException --times 1",
             "lambda *report* --refuse Lambda.AWSLambdaException --times 1",
             "lambda *deploy* --refuse Lambda.TooManyRequestsException --times 1",
             "lambda *watch* --refuse Lambda.SdkClientException --times 1"],
            id="Lambda does not answer as it should",
        ),
    ],
)  # fmt: skip
def test_a_good_version_is_deployed(walk: Walkthrough, commits: dict[str, str], faults: list[str]) -> None:
    for fault in faults:
        walk.fault(*fault.split())

    execution = deploy(walk, commits["good"])

    assert execution.verdict == "SUCCEEDED", execution.cause
    assert "version good" in walk.page(walk.service_url(PLACE, APP))
    assert [f["text"] for f in walk.faults() if not f["struck"] or f["left"]] == []


def test_a_bad_version_is_told_as_one_however_slowly_it_starts_and_is_read(
    walk: Walkthrough, commits: dict[str, str]
) -> None:
    """A crash loop is judged by its count, not by its time."""
    walk.fault(*STALE.split())
    walk.fault("profile", "slow", "--scale", "0.03")

    failed = deploy(walk, commits["bad"])

    assert failed.verdict == "RolloutRolledBack", failed.cause
    assert "exit 1, 3 times" in failed.cause
    assert "version good" in walk.page(walk.service_url(PLACE, APP))


def test_an_event_that_comes_at_last_ends_the_wait(walk: Walkthrough, commits: dict[str, str]) -> None:
    """Every event of the rollout is lost. What looks for such rollouts by itself is to come; any later event does."""
    walk.fault("events", "--source", "aws.ecs", "--lose")
    ecs = walk.client("ecs")

    def newest() -> dict[str, str]:
        return dict(ecs.list_service_deployments(cluster=PLACE, service=APP)["serviceDeployments"][0])

    before = newest()["serviceDeploymentArn"]
    arn = walk.start_execution({"app": APP, "environment": PLACE, "ref": commits["good"]})
    until(newest, lambda now: now["serviceDeploymentArn"] != before and now["status"] == "SUCCESSFUL", pause=0.1)

    walk.fault("clear")
    ecs.stop_task(cluster=PLACE, task=ecs.list_tasks(cluster=PLACE, serviceName=APP)["taskArns"][0])

    assert walk.finish(arn).verdict == "SUCCEEDED"
