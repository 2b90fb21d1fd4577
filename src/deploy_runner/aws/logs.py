"""The last words of a container, from CloudWatch Logs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

LINES = 30


def last_lines(logs: "CloudWatchLogsClient", group: str, stream: str) -> list[str]:
    """Return the last lines with text in a log stream; none where there are none, or they cannot be read.

    A reason without its log is still a reason, so no error leaves this function.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=LINES, startFromHead=False)
    except (BotoCoreError, ClientError):
        return []
    messages = (str(event.get("message", "")).strip() for event in events["events"])
    return [message for message in messages if message]


def last_line(logs: "CloudWatchLogsClient", group: str, stream: str) -> str:
    """Return the last of them, or an empty text."""
    return next(reversed(last_lines(logs, group, stream)), "")
