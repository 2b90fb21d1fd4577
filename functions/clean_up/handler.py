"""Ends what an execution left behind that ended without its own end: stopped, out of time, or broken.

Catch does not run then. EventBridge's event of its end comes here, perhaps twice, late, or not at all; then the sweeper
sends it. A lock is handed over only once the tasks are stopped and no rollout of the deployment is in progress; what is
not so far yet is for the next time. Every step may be done again.
"""

import os
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from deploy_runner.aws.clients import client, code_of, in_target
from deploy_runner.aws.deployments import Deployments, Unfinished
from deploy_runner.aws.rollback import roll_back
from deploy_runner.aws.tasks import stop_tasks_of
from deploy_runner.domain.outcome import SUCCEEDED, outcome_of_execution
from functions.observability import count, follow, logger, metrics
from functions.table import deployments, send_answers, start

WRITER = "clean_up"
LOOKS_AGAIN_AFTER = 1.0  # seconds
NEEDS_MILLISECONDS = 20_000  # for one more look: an API call may take as long as its time-outs


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> None:
    """Take {execution_arn}, or "Step Functions Execution Status Change"."""
    arn = str(event.get("execution_arn") or event["detail"]["executionArn"])
    deployment_id = arn.rpartition(":")[2]
    follow(deployment_id)
    table = deployments()
    unfinished = table.find(deployment_id)
    if unfinished is None:
        return
    ended = _end_of(arn)
    if ended["status"] == "RUNNING":
        return
    if unfinished.outcome is None:
        unfinished = _end(table, unfinished, ended)
    while unfinished and not unfinished.released:
        if _is_settled(unfinished):
            send_answers(table.release(unfinished))
            count("LocksTakenOver")
            return
        if context.get_remaining_time_in_millis() < NEEDS_MILLISECONDS:
            logger.warning("not settled yet")
            return
        time.sleep(LOOKS_AGAIN_AFTER)
        unfinished = table.find(deployment_id)


def _end_of(execution_arn: str) -> dict[str, Any]:
    try:
        return dict(client("stepfunctions").describe_execution(executionArn=execution_arn))
    except Exception as error:
        if code_of(error) != "ExecutionDoesNotExist":  # 90 days after its end, or with its state machine
            raise
        return {"status": "FAILED", "error": "ExecutionDoesNotExist", "cause": "The execution is not there any more."}


def _end(table: Deployments, unfinished: Unfinished, ended: dict[str, Any]) -> Unfinished:
    """Write the verdict unless there is one: from here on nothing more is begun for this deployment. Tell of it."""
    status, error, cause, output = (str(ended.get(key) or "") for key in ("status", "error", "cause", "output"))
    outcome = outcome_of_execution(status, error, cause, output, _last_state(unfinished.execution_arn))
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    facts: dict[str, Any] = {"ended_at": now}
    if unfinished.revisions:
        digests = [each.get("digest") for each in unfinished.revisions]
        digest = unfinished.deployment.get("digest") or next(filter(None, digests), None)
        facts |= {"revisions": unfinished.revisions} | ({"digest": digest} if digest else {})
    stands, ours, _ = table.end(unfinished, outcome, WRITER, facts, releases=False)
    logger.info("ended", extra=asdict(stands) | {"by_us": ours})
    if ours:
        count(f"Deployments{stands.verdict.title().replace('_', '')}")
        execution = {"arn": unfinished.execution_arn, "started_at": unfinished.started_at}
        start("REPORT_STATUS_FUNCTION", {"step": "outcome", "deployment": unfinished.deployment,
                                         "outcome": asdict(stands), "execution": execution})  # fmt: skip
    return replace(unfinished, outcome=stands, ended_at=time.time())


def _last_state(execution_arn: str) -> str:
    """Return the state that an execution was in. The verdict does not wait for a history that cannot be read."""
    try:
        newest = client("stepfunctions").get_execution_history(
            executionArn=execution_arn, reverseOrder=True, maxResults=100
        )["events"]
    except Exception:
        logger.exception("the history could not be read")
        return ""
    # What only ends the execution is not where it went wrong.
    entered = (event["stateEnteredEventDetails"]["name"] for event in newest if event["type"] == "TaskStateEntered")
    return str(next(entered, ""))


def _is_settled(unfinished: Unfinished) -> bool:
    """Tell whether nothing of the deployment runs or rolls out any more; bring it about where it does."""
    deployment, outcome = unfinished.deployment, unfinished.outcome
    why = f"The deployment {unfinished.id} is over"
    target = deployment["target"]
    if stop_tasks_of(client("ecs"), os.environ["RUNNER_CLUSTER"], unfinished.id, why):
        return False
    if unfinished.changing_until > time.time():
        return False
    begun = unfinished.revisions is not None or bool(deployment["app_deployer"])
    if deployment["action"] == "build" or not begun:  # nothing was touched in the target, which need not be there
        return True
    clients = in_target(target, unfinished.id)
    if deployment["release"] and stop_tasks_of(clients.ecs, target["cluster"], unfinished.id, why):
        return False
    if outcome and outcome.verdict == SUCCEEDED:
        return True
    if roll_back(clients, deployment, unfinished.revisions).is_over:
        return True
    # What ran before may not come up again by itself either. Then only another deployment helps, which needs the lock.
    given_up = time.time() > unfinished.ended_at + float(deployment["timeouts"]["rollout"])
    if given_up:
        count("WaysBackGivenUp")
        logger.error("the way back has no end; the next deployment may go on")
    return given_up
