"""Every way through `deploy-app`, run by the interpreter that local AWS uses."""

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fake_aws
import pytest
from fake_aws import FakeAws, FunctionError, ServiceError

from tests.waiting import finished, until

pytestmark = pytest.mark.xdist_group("statemachine")

SHA = "4e6d1f6c2c8f0f0d8a54e0e9d2a1c6b7f3e2d1c0"
TAG = f"{SHA}-0123456789ab"
DIGEST = f"sha256:{'d' * 64}"
DEPLOYMENT: dict[str, Any] = {
    "id": "cineos-dev-1", "app": "cineos", "environment": "dev", "action": "deploy", "sha": SHA,
    "image": {"repository_name": "cineos", "repository_uri": "registry/cineos", "tag": TAG},
    "build": {
        "task_definition": "arn:aws:ecs:us-east-1:123456789012:task-definition/docker-builder-arm64:3",
        "task_role": "arn:aws:iam::123456789012:role/deploy-runner/push/cineos",
        "clone_command": ["--repository", "lightwave-media/cineos", "--sha", SHA],
        "kaniko_command": ["--context=dir:///deploy-runner/source", "--build-arg=GREETING=it's \"fine\"\nreally"],
        "environment": [{"Name": "APP_NAME", "Value": "cineos"}, {"Name": "GIT_REF", "Value": SHA}],
    },
    "target": {"cluster": "dev", "services": [{"name": "cineos", "containers": ["app"]}], "role_arn": fake_aws.ROLE},
    "timeouts": {"build": 20, "rollout": 20, "queue": 20, "release": 20}, "runner": "docker-builder", "digest": None,
    "locks": {"build": [f"image/cineos:{TAG}"], "deploy": ["app/cineos/dev"]},
}  # fmt: skip
DEPLOYER: dict[str, Any] = DEPLOYMENT | {
    "runner": "app-deployer",
    "app_deployer": {
        "task_definition": "arn:aws:ecs:us-east-1:123456789012:task-definition/app-deployer-arm64:3",
        "task_role": "arn:aws:iam::123456789012:role/deploy-runner/deployer/deployer-cineos-dev",
        "deploy_command": [f"--image=registry/cineos:{TAG}", "--container=app"],
    },
}
REVISION = {"service": "cineos", "service_arn": "arn:service", "task_definition": "arn:td:42"}
RELEASED = "arn:aws:ecs:us-east-1:123456789012:task-definition/cineos:42"
START = ["ValidateRequest", "ReportQueued", "IsThereSomethingToBuild"]
FIND = ["AcquireBuild", "FindImage", "IsTheImageBuilt"]
BUILD = ["BuildImage", "ReadDigest", "IsTheImageThere"]
CHANGE = ["AcquireLock", "HowIsItDeployed", "RegisterRevisions", "IsThereARelease", "DeployServices"]
END = ["Finish", "ReportOutcome", "WhatIsTheVerdict"]
A_BUILD_AND_DEPLOY = [*START, *FIND, *BUILD, *CHANGE, "WaitForStable", *END, "Deployed"]
IN_ONE_TASK = [
    *START, *FIND, *CHANGE[:2], "RunAppDeployer", "FindRollouts", "WaitForStable", *END, "Deployed"
]  # fmt: skip
TAKEN_BACK = ["RollBack", "IsThereAnythingToWaitFor", "ReportRollback", "WaitForRollback", *END, "NotDeployed"]


@dataclass
class Execution:
    """How an execution ended, and the way that it took."""

    status: str
    error: str
    cause: str
    output: Any
    states: list[str]
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def machine_arn(started_aws: FakeAws) -> str:
    client = started_aws.client("stepfunctions")
    created = client.create_state_machine(
        name="deploy-app", definition=json.dumps(fake_aws.definition()), roleArn=fake_aws.ROLE
    )
    return str(created["stateMachineArn"])


@pytest.fixture
def run(aws: FakeAws, machine_arn: str) -> Callable[..., Execution]:
    """Run a deployment to its end. All goes well unless a test says otherwise."""
    sfn = aws.client("stepfunctions")

    def finish(payload: dict[str, Any]) -> dict[str, Any]:
        failure = payload["failure"]
        if failure is None:
            return {"verdict": "SUCCEEDED", "error": "", "cause": "", "state": "", "tell": True}
        told = {"error": failure["error"], "cause": f"told: {failure['cause']}", "state": failure["state"]}
        return {"verdict": "FAILED", "tell": True, **told}

    def deploy(payload: dict[str, Any]) -> dict[str, Any]:
        return {
            "register": {"revisions": [REVISION], "release": None},
            "update": {"rollouts": [REVISION]},
            "find": {"rollouts": [REVISION], "digest": DIGEST},
            "roll_back": {"rollouts": [REVISION], "rollback": None, "problem": ""},
        }[payload["step"]]

    def build(request: dict[str, Any]) -> dict[str, Any]:
        aws.images[f"cineos:{TAG}"] = DIGEST
        return {"containers": [{"name": "clone", "exitCode": 0}, {"name": "kaniko", "exitCode": 0}]}

    def watch(payload: dict[str, Any]) -> None:
        restored = {"restored": True, "serves": "revision 41 serves again"}
        output = restored if payload.get("rollback") else {"verdict": "SUCCEEDED"}
        sfn.send_task_success(taskToken=payload["task_token"], output=json.dumps(output))

    def acquire(payload: dict[str, Any]) -> None:
        sfn.send_task_success(taskToken=payload["task_token"], output="{}")

    aws.functions |= {
        "ValidateRequest": lambda payload: DEPLOYMENT, "ReportStatus": lambda payload: None, "AcquireLock": acquire,
        "DeployService": deploy, "WatchRollout": watch, "FinishDeployment": finish,
    }  # fmt: skip
    aws.run_task = build

    def execute(*request: object) -> Execution:
        name, text = str(uuid.uuid4()), json.dumps(request[0] if request else {"app": "cineos"})
        arn = sfn.start_execution(stateMachineArn=machine_arn, name=name, input=text)["executionArn"]
        said = finished(sfn, arn)
        events = sfn.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        states = [e["stateEnteredEventDetails"]["name"] for e in events if e["type"].endswith("StateEntered")]
        assert len(states) <= (20 if said["status"] == "SUCCEEDED" else 24)
        output = json.loads(said.get("output", "null"))
        return Execution(said["status"], said.get("error", ""), said.get("cause", ""), output, states, events)

    return execute


def changed(**parts: object) -> Callable[[Any], dict[str, Any]]:
    """A validation that accepts with these parts of the deployment changed."""
    return lambda payload: {**DEPLOYMENT, **parts}


def fails(kind: str, message: str, after: Callable[[Any], Any] | None = None, step: str = "") -> Callable[[Any], Any]:
    """A function that fails, if a step is given in that step alone."""

    def function(payload: Any) -> Any:
        if after is not None and payload["step"] != step:
            return after(payload)
        raise FunctionError(kind, message)

    return function


def test_a_commit_is_built_and_deployed(aws: FakeAws, run: Callable[..., Execution]) -> None:
    done = run({"app": "cineos", "environment": "dev", "ref": "main"})

    assert (done.status, done.output["verdict"]) == ("SUCCEEDED", "SUCCEEDED")
    assert done.states == A_BUILD_AND_DEPLOY
    # The request reaches validation as it was sent, and ECS gets every argument as an item of its list.
    assert aws.called("ValidateRequest")[0]["request"] == {"app": "cineos", "environment": "dev", "ref": "main"}
    started = aws.called("ValidateRequest")[0]["execution"]
    assert started["arn"].endswith(started["name"])
    assert started["started_at"].endswith("Z")
    ran = aws.called("RunTask")[0]
    assert ran["overrides"] == {
        "taskRoleArn": DEPLOYMENT["build"]["task_role"],
        "containerOverrides": [
            {
                "name": "clone",
                "command": DEPLOYMENT["build"]["clone_command"],
                "environment": [{"name": "APP_NAME", "value": "cineos"}, {"name": "GIT_REF", "value": SHA}],
            },
            {"name": "kaniko", "command": DEPLOYMENT["build"]["kaniko_command"]},
        ],
    }
    assert ran["group"] == "cineos-dev-1"
    assert ran["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == ["subnet-a", "subnet-b"]
    # What is deployed is the digest, by the revisions that were registered.
    register, update = aws.called("DeployService")
    assert (register["step"], register["digest"]) == ("register", DIGEST)
    assert (update["step"], update["revisions"]) == ("update", [REVISION])
    assert aws.called("WatchRollout")[0]["rollouts"] == [REVISION]
    # The right to build is given up in the step that asks for the right to change the service.
    locks = [(call["wanted"], call["given_up"]) for call in aws.called("AcquireLock")]
    build, deploy = DEPLOYMENT["locks"]["build"], DEPLOYMENT["locks"]["deploy"]
    assert locks == [(build, []), (deploy, build)]
    (finished,) = aws.called("FinishDeployment")
    assert (finished["failure"], finished["rollback"], finished["digest"]) == (None, None, DIGEST)
    assert aws.called("ReportStatus")[1]["outcome"] == done.output


def test_an_image_that_exists_is_not_built(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.images[f"cineos:{TAG}"] = DIGEST

    done = run()

    assert done.status == "SUCCEEDED"
    assert done.states == [state for state in A_BUILD_AND_DEPLOY if state not in BUILD]
    assert aws.called("DeployService")[0]["digest"] == DIGEST


def test_the_action_build_ends_with_the_image(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["ValidateRequest"] = changed(action="build")

    done = run()

    assert done.status == "SUCCEEDED"
    assert f"cineos:{TAG}" in aws.images
    assert not aws.called("DeployService")


def test_a_request_that_is_rejected_starts_nothing(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["ValidateRequest"] = fails("RefNotAllowed", 'main isn\'t "allowed"\nin prod')

    done = run()

    assert (done.status, done.error) == ("FAILED", "RefNotAllowed")
    assert (
        json.loads(done.cause.removeprefix("ValidateRequest: told: "))["errorMessage"]
        == 'main isn\'t "allowed"\nin prod'
    )
    assert done.states == ["ValidateRequest", *END, "NotDeployed"]
    told = aws.called("FinishDeployment")[0]
    assert (told["deployment"], told["failure"]["state"]) == (None, "ValidateRequest")
    assert aws.called("ReportStatus")[0]["deployment"] is None
    assert not aws.called("RunTask")


def test_github_not_answering_to_the_report_changes_nothing(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["ReportStatus"] = fails("GitHubRefused", "no", aws.functions["ReportStatus"], "queued")

    done = run()

    assert (done.status, done.states) == ("SUCCEEDED", A_BUILD_AND_DEPLOY)


def test_a_build_that_fails_is_not_tried_again(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.run_task = lambda request: {
        "stoppedReason": "Essential container in task exited",
        "containers": [{"name": "clone", "exitCode": 0}, {"name": "kaniko", "exitCode": 1, "reason": 'a "reason"'}],
    }

    done = run()

    assert (done.status, done.error) == ("FAILED", "States.TaskFailed")
    task = json.loads(aws.called("FinishDeployment")[-1]["failure"]["cause"])
    assert [(c["Name"], c["ExitCode"]) for c in task["Containers"]] == [("clone", 0), ("kaniko", 1)]
    assert task["StoppedReason"] == "Essential container in task exited"
    assert len(aws.called("RunTask")) == 1
    assert not aws.called("DeployService")


def test_a_build_task_that_could_not_start_is_tried_again(aws: FakeAws, run: Callable[..., Execution]) -> None:
    answers = [
        {"failures": [{"reason": "Capacity is unavailable at this time."}], "tasks": []},
        ServiceError("ThrottlingException", "Rate exceeded"),
        aws.run_task,
    ]

    def run_task(request: dict[str, Any]) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, ServiceError):
            raise answer
        return answer(request) if callable(answer) else answer

    aws.run_task = run_task

    done = run()

    assert done.status == "SUCCEEDED"
    failed = [e["taskFailedEventDetails"]["error"] for e in done.events if e["type"] == "TaskFailed"]
    assert failed == ["AmazonECS.Unknown", "ECS.AmazonECSException"]


def test_a_build_that_did_not_push_is_named(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.run_task = lambda request: {"containers": [{"name": "kaniko", "exitCode": 0}]}

    done = run()

    assert (done.status, done.error) == ("FAILED", "ImageNotPushed")
    assert f"no image cineos:{TAG}. Look at the build's log" in done.cause


def test_a_build_that_takes_too_long_is_stopped(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["ValidateRequest"] = changed(timeouts=DEPLOYMENT["timeouts"] | {"build": 1})
    aws.run_task = lambda request: {"lastStatus": "RUNNING"}

    done = run()

    assert (done.status, done.error) == ("FAILED", "States.Timeout")
    assert aws.called("FinishDeployment")[-1]["failure"] == {
        "state": "BuildImage",
        "error": "States.Timeout",
        "cause": "",
    }
    until(lambda: aws.called("StopTask"))
    assert [call["task"] for call in aws.called("StopTask")] == list(aws.tasks)


@pytest.mark.parametrize("step", ["register", "update"])
def test_a_service_that_cannot_be_changed_fails(aws: FakeAws, run: Callable[..., Execution], step: str) -> None:
    aws.functions["DeployService"] = fails("TargetMisconfigured", "no", aws.functions["DeployService"], step)

    done = run()

    assert (done.status, done.error) == ("FAILED", "TargetMisconfigured")
    assert all(call["rollback"] for call in aws.called("WatchRollout"))


def test_a_rollout_that_fails_says_why(aws: FakeAws, run: Callable[..., Execution]) -> None:
    sfn = aws.client("stepfunctions")
    cause = "cineos: exit 1, 3 times, \"KeyError: 'DATABASE_URL'\"; cineos:41 still serves"

    def watch(payload: dict[str, Any]) -> None:
        answer = {"taskToken": payload["task_token"], "error": "RolloutRolledBack", "cause": cause}
        threading.Timer(0.1, sfn.send_task_failure, kwargs=answer).start()

    aws.functions["WatchRollout"] = watch

    done = run()

    assert (done.status, done.error, done.cause) == ("FAILED", "RolloutRolledBack", f"WaitForStable: told: {cause}")


def test_what_a_person_should_know_of_a_success_is_told(aws: FakeAws, run: Callable[..., Execution]) -> None:
    sfn, note = aws.client("stepfunctions"), "not exercised: the service's desired count is 0"

    def watch(payload: dict[str, Any]) -> None:
        answer = {"taskToken": payload["task_token"], "output": json.dumps({"verdict": "SUCCEEDED", "note": note})}
        threading.Timer(0.1, sfn.send_task_success, kwargs=answer).start()

    aws.functions["WatchRollout"] = watch

    assert run().status == "SUCCEEDED"
    assert aws.called("FinishDeployment")[-1]["note"] == note


def test_a_rollout_without_a_verdict_times_out_and_its_token_is_dead(
    aws: FakeAws, run: Callable[..., Execution]
) -> None:
    aws.functions["ValidateRequest"] = changed(timeouts=DEPLOYMENT["timeouts"] | {"rollout": 1})
    aws.functions["WatchRollout"] = lambda payload: None

    done = run()

    assert (done.status, done.error) == ("FAILED", "States.Timeout")
    assert aws.called("FinishDeployment")[-1]["failure"]["state"] == "WaitForStable"
    sfn = aws.client("stepfunctions")
    with pytest.raises(sfn.exceptions.TaskTimedOut):
        sfn.send_task_success(taskToken=aws.called("WatchRollout")[0]["task_token"], output="{}")


def test_a_report_that_fails_leaves_a_success_a_success(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["ReportStatus"] = fails("GitHubRefused", "no", aws.functions["ReportStatus"], "outcome")

    done = run()

    assert (done.status, done.output["verdict"]) == ("SUCCEEDED", "SUCCEEDED")


def test_an_end_that_cannot_be_written_hides_no_failure_and_tells_of_none(
    aws: FakeAws, run: Callable[..., Execution]
) -> None:
    """It is left to the clean-up, which comes after every execution."""
    aws.functions["FinishDeployment"] = fails("TargetMisconfigured", "no")
    aws.run_task = lambda request: {"containers": [{"name": "kaniko", "exitCode": 0}]}

    done = run()

    assert (done.status, done.error) == ("FAILED", "ImageNotPushed")
    assert done.cause.startswith("ReadDigest: The build ended with exit code 0, but the registry has no image")
    assert [call["step"] for call in aws.called("ReportStatus")] == ["queued"]


def test_an_end_that_cannot_be_written_leaves_a_success_a_success(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["FinishDeployment"] = fails("TargetMisconfigured", "no")

    assert run().status == "SUCCEEDED"


# --- the lock, the release, the way back ------------------------------------------------------------------------------


def test_a_digest_that_is_given_is_deployed_without_a_build(aws: FakeAws, run: Callable[..., Execution]) -> None:
    aws.functions["ValidateRequest"] = changed(action="promote", digest=DIGEST)

    done = run()

    assert done.states == [*START, *CHANGE, "WaitForStable", *END, "Deployed"]
    assert aws.called("DeployService")[0]["digest"] == DIGEST


def test_a_deployment_that_a_newer_one_came_before_changes_nothing(aws: FakeAws, run: Callable[..., Execution]) -> None:
    sfn, acquire = aws.client("stepfunctions"), aws.functions["AcquireLock"]

    def superseded(payload: dict[str, Any]) -> None:
        if payload["wanted"] == DEPLOYMENT["locks"]["build"]:
            return acquire(payload)  # type: ignore[no-any-return]
        token, cause = payload["task_token"], "A newer deployment came before it: cineos-dev-2"
        return sfn.send_task_failure(taskToken=token, error="Superseded", cause=cause)  # type: ignore[no-any-return]

    aws.functions["AcquireLock"] = superseded

    done = run()

    assert (done.error, done.cause) == (
        "Superseded",
        "AcquireLock: told: A newer deployment came before it: cineos-dev-2",
    )
    assert done.states == [*START, *FIND, *BUILD, "AcquireLock", *END, "NotDeployed"]
    assert not aws.called("DeployService")


def test_a_release_runs_before_any_service_changes(aws: FakeAws, run: Callable[..., Execution]) -> None:
    deploy, ran = aws.functions["DeployService"], list[dict[str, Any]]()
    release = {"Cluster": "dev", "TaskDefinition": RELEASED, "Group": "cineos-dev-1", "LaunchType": "FARGATE",
               "Overrides": {"ContainerOverrides": [{"Name": "app", "Command": ["migrate", 'it\'s "x"']}]}}  # fmt: skip
    aws.functions["DeployService"] = lambda payload: (
        deploy(payload) | ({"release": release} if payload["step"] == "register" else {})
    )
    aws.images[f"cineos:{TAG}"] = DIGEST
    aws.run_task = lambda request: ran.append(request) or {"containers": [{"name": "app", "exitCode": 0}]}  # type: ignore[func-returns-value]

    done = run()

    assert done.status == "SUCCEEDED", (done.error, done.cause)
    assert done.states[-6:-4] == ["DeployServices", "WaitForStable"]
    assert [(r["taskDefinition"], r["overrides"]["containerOverrides"][0]["command"]) for r in ran] == [
        (RELEASED, ["migrate", 'it\'s "x"'])
    ]

    aws.run_task = lambda request: {"containers": [{"name": "app", "exitCode": 1}]}
    before = len(aws.called("DeployService"))
    failed = run()
    assert failed.error == "States.TaskFailed"
    assert failed.states[-5:] == ["RunRelease", *END, "NotDeployed"]
    assert [call["step"] for call in aws.called("DeployService")[before:]] == ["register"]


def test_a_build_and_deploy_with_a_release_takes_at_most_20_transitions(
    aws: FakeAws, run: Callable[..., Execution]
) -> None:
    deploy = aws.functions["DeployService"]
    release = {"Cluster": "dev", "TaskDefinition": RELEASED, "Group": "cineos-dev-1", "LaunchType": "FARGATE"}
    aws.functions["DeployService"] = lambda payload: (
        deploy(payload) | ({"release": release} if payload["step"] == "register" else {})
    )
    build = aws.run_task
    aws.run_task = lambda request: (
        build(request) if request["taskDefinition"] != RELEASED else {"containers": [{"name": "app", "exitCode": 0}]}
    )

    done = run()

    print(f"transitions of a build and deploy: {len(A_BUILD_AND_DEPLOY)}, with a release command {len(done.states)}")
    assert done.status == "SUCCEEDED"
    assert len(A_BUILD_AND_DEPLOY) < len(done.states) <= 20


@pytest.mark.parametrize("where", ["update", "WatchRollout"])
def test_what_fails_once_services_change_is_taken_back_before_the_end(
    aws: FakeAws, run: Callable[..., Execution], where: str
) -> None:
    sfn, watch = aws.client("stepfunctions"), aws.functions["WatchRollout"]

    def rolled_back(payload: dict[str, Any]) -> None:
        if payload.get("rollback"):
            return watch(payload)  # type: ignore[no-any-return]
        return sfn.send_task_failure(taskToken=payload["task_token"], error="RolloutFailed", cause="exit 1")  # type: ignore[no-any-return]

    if where == "update":
        aws.functions["DeployService"] = fails("RolloutFailed", "exit 1", aws.functions["DeployService"], "update")
    else:
        aws.functions["WatchRollout"] = rolled_back

    done = run()

    assert done.states[-len(TAKEN_BACK) :] == TAKEN_BACK
    (finished,) = aws.called("FinishDeployment")
    assert finished["rollback"] == {"restored": True, "serves": "revision 41 serves again"}
    assert finished["failure"]["error"] == "RolloutFailed"
    assert [call["step"] for call in aws.called("ReportStatus")] == ["queued", "rollback", "outcome"]


def test_what_has_gone_back_already_is_not_waited_for(aws: FakeAws, run: Callable[..., Execution]) -> None:
    end = {"restored": True, "serves": "revision 41 still serves"}
    deploy = fails("TargetMisconfigured", "no", aws.functions["DeployService"], "update")
    aws.functions["DeployService"] = lambda payload: (
        {"rollouts": [], "rollback": end, "problem": ""} if payload["step"] == "roll_back" else deploy(payload)
    )

    done = run()

    assert done.states[-6:] == ["RollBack", "IsThereAnythingToWaitFor", *END, "NotDeployed"]
    assert aws.called("FinishDeployment")[0]["rollback"] == end


@pytest.mark.parametrize("function", ["DeployService", "WatchRollout"])
def test_a_way_back_that_fails_is_said(aws: FakeAws, run: Callable[..., Execution], function: str) -> None:
    sfn = aws.client("stepfunctions")

    def fail(payload: dict[str, Any]) -> None:
        sfn.send_task_failure(taskToken=payload["task_token"], error="RolloutFailed", cause="exit 1")

    aws.functions["WatchRollout"] = fail
    if function == "DeployService":
        aws.functions[function] = fails("TargetMisconfigured", "no", aws.functions[function], "roll_back")

    done = run()

    assert done.error == "RolloutFailed"
    rollback = aws.called("FinishDeployment")[0]["rollback"]
    error = "TargetMisconfigured" if function == "DeployService" else "RolloutFailed"
    assert (rollback["restored"], error in rollback["serves"]) == (False, True)


def test_what_is_transient_is_tried_again_with_a_token_of_its_own(aws: FakeAws, run: Callable[..., Execution]) -> None:
    first: list[str] = []
    watch = aws.functions["WatchRollout"]

    def throttled_once(payload: dict[str, Any]) -> Any:
        if not first:
            first.append(payload["task_token"])
            raise ServiceError("TooManyRequestsException", "Rate Exceeded.")
        return watch(payload)

    aws.functions["WatchRollout"] = throttled_once

    done = run()

    assert done.status == "SUCCEEDED"
    tokens = [call["task_token"] for call in aws.called("WatchRollout")]
    assert len(set(tokens)) == 2


@pytest.mark.parametrize("error", ["Lambda.Unknown", "Sandbox.Timedout", "Runtime.ExitError", "Runtime.OutOfMemory"])
def test_a_function_that_was_killed_half_way_is_tried_again(
    aws: FakeAws, run: Callable[..., Execution], error: str
) -> None:
    """GIVEN services that were updated WHEN the function dies THEN their rollouts are waited for all the same."""
    deploy, killed = aws.functions["DeployService"], list[str]()

    def dies_once(payload: dict[str, Any]) -> Any:
        if payload["step"] == "update" and not killed:
            killed.append(error)
            raise FunctionError(error, "RequestId: 1 Error: Task timed out after 110.00 seconds")
        return deploy(payload)

    aws.functions["DeployService"] = dies_once

    done = run()

    assert (done.status, killed) == ("SUCCEEDED", [error])


@pytest.mark.parametrize("text", ['"cineos"', "null", "[]", "5", '{"x": "{% $uuid() %}"}'])
def test_any_json_reaches_validation_as_it_is(aws: FakeAws, run: Callable[..., Execution], text: str) -> None:
    aws.functions["ValidateRequest"] = fails("RequestMalformed", "no")

    assert run(json.loads(text)).error == "RequestMalformed"
    assert aws.called("ValidateRequest")[0]["request"] == json.loads(text)


# --- app-deployer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def deployer(aws: FakeAws, run: Callable[..., Execution]) -> Callable[..., Execution]:
    """Run a deployment of an app that chose app-deployer."""
    aws.functions["ValidateRequest"] = lambda payload: DEPLOYER
    return run


def test_an_app_deployer_builds_and_deploys_in_one_task(aws: FakeAws, deployer: Callable[..., Execution]) -> None:
    done = deployer()

    assert (done.status, done.states) == ("SUCCEEDED", IN_ONE_TASK)
    [ran] = aws.called("RunTask")
    environment = [{"name": "APP_NAME", "value": "cineos"}, {"name": "GIT_REF", "value": SHA}]
    assert ran["taskDefinition"] == DEPLOYER["app_deployer"]["task_definition"]
    assert ran["group"] == "cineos-dev-1"
    assert ran["overrides"] == {
        "taskRoleArn": DEPLOYER["app_deployer"]["task_role"],
        "containerOverrides": [
            {"name": "deploy", "command": DEPLOYER["app_deployer"]["deploy_command"], "environment": environment},
            {"name": "clone", "command": DEPLOYMENT["build"]["clone_command"], "environment": environment},
            {"name": "kaniko", "command": DEPLOYMENT["build"]["kaniko_command"]},
        ],
    }
    # The verdict is for the rollouts that were found by a function, not for what the task says.
    assert [call["step"] for call in aws.called("DeployService")] == ["find"]
    assert aws.called("WatchRollout")[0]["rollouts"] == [REVISION]


def test_an_image_that_exists_is_deployed_without_an_app_deployer(
    aws: FakeAws, deployer: Callable[..., Execution]
) -> None:
    aws.images[f"cineos:{TAG}"] = DIGEST

    done = deployer()

    assert done.states == [state for state in A_BUILD_AND_DEPLOY if state not in BUILD]
    assert not aws.called("RunTask")


def test_the_action_build_takes_the_docker_builder(aws: FakeAws, deployer: Callable[..., Execution]) -> None:
    aws.functions["ValidateRequest"] = lambda payload: DEPLOYER | {"action": "build", "app_deployer": None}

    done = deployer()

    assert (done.status, aws.called("DeployService")) == ("SUCCEEDED", [])
    assert [call["taskDefinition"] for call in aws.called("RunTask")] == [DEPLOYMENT["build"]["task_definition"]]


def test_an_app_deployer_that_fails_is_not_tried_again(aws: FakeAws, deployer: Callable[..., Execution]) -> None:
    codes = {"deploy": 1, "clone": 0, "kaniko": 1}
    aws.run_task = lambda request: {"containers": [{"name": n, "exitCode": code} for n, code in codes.items()]}
    aws.functions["DeployService"] = fails("NothingDeployed", "no revision")

    done = deployer()

    assert (done.status, done.error) == ("FAILED", "States.TaskFailed")
    failure = aws.called("FinishDeployment")[-1]["failure"]
    assert failure["state"] == "RunAppDeployer"
    assert {c["Name"]: c["ExitCode"] for c in json.loads(failure["cause"])["Containers"]} == codes
    assert len(aws.called("RunTask")) == 1
    found, _ = aws.called("DeployService")
    assert (found["step"], found["task_failed"]) == ("find", True)
    assert not aws.called("WatchRollout")


def test_what_an_app_deployer_started_before_it_failed_has_the_verdict(
    aws: FakeAws, deployer: Callable[..., Execution]
) -> None:
    codes = {"deploy": 137, "clone": 0, "kaniko": 0}
    aws.run_task = lambda request: {"containers": [{"name": n, "exitCode": code} for n, code in codes.items()]}

    done = deployer()

    assert (done.status, done.states) == ("SUCCEEDED", IN_ONE_TASK)
    assert aws.called("FinishDeployment")[-1]["failure"] is None


def test_an_app_deployer_that_could_not_start_is_tried_again_in_the_same_group(
    aws: FakeAws, deployer: Callable[..., Execution]
) -> None:
    ended = {"containers": [{"name": name, "exitCode": 0} for name in ("deploy", "clone", "kaniko")]}
    answers: list[Any] = [{"failures": [{"reason": "Capacity is unavailable"}], "tasks": []}, ended]
    aws.run_task = lambda request: answers.pop(0)

    assert deployer().status == "SUCCEEDED"
    assert [call["group"] for call in aws.called("RunTask")] == ["cineos-dev-1"] * 2


def test_an_app_deployer_that_takes_too_long_is_stopped(aws: FakeAws, deployer: Callable[..., Execution]) -> None:
    aws.functions["ValidateRequest"] = lambda payload: DEPLOYER | {"timeouts": DEPLOYMENT["timeouts"] | {"build": 1}}
    aws.run_task = lambda request: {"lastStatus": "RUNNING"}
    aws.functions["DeployService"] = fails("NothingDeployed", "no revision")

    done = deployer()

    assert (done.status, done.error) == ("FAILED", "States.Timeout")
    assert aws.called("FinishDeployment")[-1]["failure"]["state"] == "RunAppDeployer"
    until(lambda: aws.called("StopTask"))


def test_an_app_deployer_that_left_no_rollout_fails(aws: FakeAws, deployer: Callable[..., Execution]) -> None:
    aws.functions["DeployService"] = fails("NothingDeployed", "no revision")

    done = deployer()

    assert (done.status, done.error) == ("FAILED", "NothingDeployed")
    assert not aws.called("WatchRollout")


def test_what_an_app_deployer_started_may_fail_like_any_other_rollout(
    aws: FakeAws, deployer: Callable[..., Execution]
) -> None:
    sfn, cause = aws.client("stepfunctions"), "cineos: exit 1, 3 times; revision 41 still serves"

    def watch(payload: dict[str, Any]) -> None:
        answer = {"taskToken": payload["task_token"], "error": "RolloutRolledBack", "cause": cause}
        threading.Timer(0.1, sfn.send_task_failure, kwargs=answer).start()

    aws.functions["WatchRollout"] = watch

    done = deployer()

    assert (done.status, done.error, done.cause) == ("FAILED", "RolloutRolledBack", f"WaitForStable: told: {cause}")
