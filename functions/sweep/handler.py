"""Looks every minute at what is not finished, and has what was missed done: by the functions that would have done it.

A lost event of a rollout, an execution that ended without its clean-up, an answer that was not sent, a report that
GitHub did not take.
"""

import time
from dataclasses import asdict
from typing import Any

from deploy_runner.aws.clients import client, code_of
from deploy_runner.aws.deployments import Unfinished
from functions.observability import count, follow, logger, metrics
from functions.table import deployments, send_answers, start

OVERDUE = 20.0  # seconds after which an answer is not on its way any more
REPORT_OVERDUE = 180.0  # and a report: while GitHub is slow, its function may take almost two minutes


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: Any) -> None:
    """Take anything: the schedule says nothing. One deployment that cannot be looked at does not hold up the others."""
    errors = []
    for unfinished in deployments().unfinished():
        try:
            _heal(unfinished)
        except Exception as error:
            logger.exception("could not look at it")
            errors.append(error)
    if errors:
        raise errors[0]  # so that it is seen


def _heal(unfinished: Unfinished) -> None:
    follow(unfinished.id)
    if unfinished.released and unfinished.reported:  # and then its function was killed
        deployments().close(unfinished.id)
        return
    now = time.time()
    if unfinished.answer and unfinished.answer_since < now - OVERDUE:
        _healed("answer")
        send_answers([unfinished.answer])
    if unfinished.outcome and unfinished.ended_at < now - REPORT_OVERDUE and not unfinished.reported:
        _healed("report")
        outcome = asdict(unfinished.outcome)
        execution = {"arn": unfinished.execution_arn, "started_at": unfinished.started_at}
        start("REPORT_STATUS_FUNCTION", {"step": "outcome", "deployment": unfinished.deployment,
                                         "outcome": outcome, "execution": execution})  # fmt: skip
    if not _is_running(unfinished.execution_arn):
        if not unfinished.released:
            _healed("end")
            start("CLEAN_UP_FUNCTION", {"execution_arn": unfinished.execution_arn})
    elif unfinished.revisions and not unfinished.outcome:
        services = sorted({each["service_arn"] for each in unfinished.revisions if each.get("service_arn")})
        start("WATCH_ROLLOUT_FUNCTION", {"services": services})


def _healed(what: str) -> None:
    logger.warning("missed", extra={"what": what})
    count(f"Missed{what.title()}s")


def _is_running(execution_arn: str) -> bool:
    try:
        return bool(client("stepfunctions").describe_execution(executionArn=execution_arn)["status"] == "RUNNING")
    except Exception as error:
        if code_of(error) == "ExecutionDoesNotExist":  # 90 days after its end
            return False
        raise
