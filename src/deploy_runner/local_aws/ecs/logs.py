"""The awslogs driver: a container's lines become events of CloudWatch Logs, as they are written."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.logs.models import logs_backends

_MAX_EVENT_BYTES = 256 * 1024  # the driver cuts longer lines: CloudWatch Logs quotas


class LogGroupMissing(Exception):
    """The task cannot start: its log group does not exist, and the driver may not create it."""


class LogRefused(Exception):
    """The task cannot start: its execution role may not create the stream."""


class LogStream:
    """Where one container's output goes; without the awslogs driver, nowhere."""

    def __init__(
        self, account: str, region: str, configuration: dict[str, Any], container: str, task_id: str,
        why_not: Callable[[str, str], str] = lambda action, resource: "",
    ) -> None:  # fmt: skip
        """Make the stream `prefix/container/task-id`. Raises LogGroupMissing, LogRefused.

        `why_not` says why the execution role may not do an action on a resource. What it may not write is lost.
        """
        self.group = self.stream = ""
        self._partial: dict[int, bytes] = {}  # what has no line end yet, by the file descriptor that it was written to
        if configuration.get("logDriver") != "awslogs":
            return
        options = configuration.get("options") or {}
        region = options.get("awslogs-region", region)
        self._backend = logs_backends[account][region]
        self.group = options.get("awslogs-group", "")
        prefix = options.get("awslogs-stream-prefix")
        self.stream = f"{prefix}/{container}/{task_id}" if prefix else task_id
        arn = f"arn:aws:logs:{region}:{account}:log-group:{self.group}:log-stream:"
        if self.group not in self._backend.groups:
            if str(options.get("awslogs-create-group")).lower() != "true":
                raise LogGroupMissing(self.group)
            if said := why_not("logs:CreateLogGroup", arn):
                raise LogRefused(said)
            self._backend.create_log_group(self.group, {})
        if said := why_not("logs:CreateLogStream", f"{arn}{self.stream}"):
            raise LogRefused(said)
        self._backend.ensure_log_stream(self.group, self.stream)
        if why_not("logs:PutLogEvents", f"{arn}{self.stream}"):
            self.stream = ""

    def write(self, chunk: bytes, descriptor: int = 1) -> None:
        """Take output as it comes; whole lines become events, and those of stdout and stderr do not mix."""
        *lines, self._partial[descriptor] = (self._partial.get(descriptor, b"") + chunk).split(b"\n")
        self._put(lines)

    def line(self, text: str) -> None:
        """Write one line."""
        self.write(text.encode() + b"\n")

    def close(self) -> None:
        """Write what has no line end yet."""
        self._put(self._partial.values())
        self._partial = {}

    def _put(self, lines: Iterable[bytes]) -> None:
        if not self.stream:
            return
        stamp = int(time.time() * 1000)
        events = []
        for line in lines:
            text = line[:_MAX_EVENT_BYTES].decode(errors="replace").rstrip("\r")
            if text.strip():
                events.append({"timestamp": stamp, "message": text})
        group = self._backend.groups.get(self.group)
        if events and group is not None and self.stream in group.streams:
            group.put_log_events(self.stream, events)
