"""The last words of a container, from CloudWatch Logs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

LINES = 20


def last_line(logs: "CloudWatchLogsClient", group: str, stream: str) -> str:
    """Return the last line with text in a log stream; empty where there is none, or where it cannot be read.

    A reason without its log line is still a reason, so no error leaves this function.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=LINES, startFromHead=False)
    except (BotoCoreError, ClientError):
        return ""
    messages = (str(event.get("message", "")) for event in reversed(events["events"]))
    return next((message.strip() for message in messages if message.strip()), "")
