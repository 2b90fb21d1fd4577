"""Lambda that runs the deployed artifact: a process for each concurrent invocation, with AWS's own runtime client.

moto without Docker only echoes the payload (`LambdaSimpleBackend`, getmoto/moto#8131), and its published versions share
their code with `$LATEST`. The Runtime API is as in "Using the Lambda runtime API for custom runtimes".
"""

import base64
import contextlib
import copy
import hashlib
import importlib.util
import io
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from moto.awslambda.exceptions import InvalidParameterValueException
from moto.awslambda.models import LambdaFunction, LambdaStorage
from moto.awslambda.responses import LambdaResponse
from moto.awslambda.utils import get_backend
from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.core.exceptions import JsonRESTError
from moto.iam.models import iam_backends
from moto.logs import logs_backends

from deploy_runner.local_aws.faults import Fault
from deploy_runner.local_aws.iam.authority import (
    NEVER_RENEWED_SECONDS,
    CannotAssume,
    assume_as_service,
    lets_service,
    refusal,
    trusts_service,
)
from deploy_runner.local_aws.machine import Machine

# AWS waits 1 and then 2 minutes before it tries an asynchronous event again ("How Lambda handles errors and retries
# with asynchronous invocation"). Nobody wants to watch that on a laptop.
ASYNC_RETRY_SECONDS = (1.0, 2.0)
INIT_SECONDS = 10.0  # "Lambda execution environment lifecycle", init phase
PROCESSES_PER_VERSION = 10
LONGEST_RESPONSE = 6_291_556
LONGEST_REQUEST = {"RequestResponse": 6_291_456, "Event": 1_048_576}

# What the managed Python runtime brings besides the standard library.
RUNTIME_PACKAGES = (
    "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six",
    "awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py",
)  # fmt: skip
LAMBDA = "lambda.amazonaws.com"
NOT_ASSUMED = "The role defined for the function cannot be assumed by Lambda."
# The artifact comes first, then the runtime's own packages; nothing else of this machine can be imported.
BOOTSTRAP = """\
import runpy, sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
sys.argv = ["awslambdaric", sys.argv[3]]
runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
"""


@dataclass
class Result:
    """What one invocation gave. `error` is the value of the header X-Amz-Function-Error, None for success."""

    payload: bytes
    error: str | None = None
    log: str = ""

    @classmethod
    def failed(cls, error_type: str, message: str) -> "Result":
        return cls(json.dumps({"errorType": error_type, "errorMessage": message}).encode(), "Unhandled")


class QuietServer(ThreadingHTTPServer):
    """A killed process resets its connection, which is nothing to tell."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


class Worker:
    """One execution environment: a process, and the Runtime API that it asks for events."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path) -> None:
        self.events: queue.Queue[tuple[str, bytes, dict[str, str]] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.server = QuietServer(("127.0.0.1", 0), self._runtime_api())
        threading.Thread(target=self.server.serve_forever, args=(0.05,), name="lambda-runtime-api", daemon=True).start()
        address = f"127.0.0.1:{self.server.server_address[1]}"
        self.process = subprocess.Popen(
            command, env=env | {"AWS_LAMBDA_RUNTIME_API": address}, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        self._output, self._reading = b"", threading.Lock()
        threading.Thread(target=self._watch, name="lambda-output", daemon=True).start()
        self.warm = False

    def _runtime_api(self) -> type[BaseHTTPRequestHandler]:
        worker = self

        class RuntimeApi(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                worker.answers.put(("ready", b""))
                event = worker.events.get()
                if event is None:
                    self.close_connection = True
                    return
                request_id, body, headers = event
                # The runtime client dies of a segmentation fault where the trace id or the content type is missing.
                self.answer(
                    200,
                    {"Lambda-Runtime-Aws-Request-Id": request_id, "Content-Type": "application/json"} | headers,
                    body,
                )

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline().strip() or b"0", 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kind = "response" if self.path.endswith("/response") else "error"
                if self.path.endswith("/init/error"):
                    kind = "init_error"
                worker.answers.put((kind, body))
                self.answer(202, {"Content-Type": "application/json"}, b'{"status":"OK"}')

        return RuntimeApi

    def _watch(self) -> None:
        assert self.process.stdout
        while self.process.poll() is None:
            select.select([self.process.stdout], [], [], 1)
            self._drain()
            time.sleep(0.005)
        self._drain()
        self.answers.put(("exit", b""))

    def _drain(self) -> None:
        assert self.process.stdout
        with self._reading, contextlib.suppress(BlockingIOError, ValueError):
            while chunk := os.read(self.process.stdout.fileno(), 65536):
                self._output += chunk

    def take_output(self) -> list[str]:
        """Return and forget the lines that the process wrote so far."""
        self._drain()
        with self._reading:
            text, self._output = self._output.decode(errors="replace"), b""
        return text.splitlines()

    def wait_ready(self) -> Result | None:
        """Return None when the process asked for an event, else why it never will."""
        try:
            kind, body = self.answers.get(timeout=INIT_SECONDS)
        except queue.Empty:
            return Result.failed("Sandbox.Timedout", f"Error: Init timed out after {INIT_SECONDS:.2f} seconds")
        if kind == "ready":
            return None
        return Result(body, "Unhandled") if kind == "init_error" else self._exited("")

    def _exited(self, request_id: str) -> Result:
        code = self.process.wait(5)
        how = f"signal: {signal.strsignal(-code) or -code}".lower() if code < 0 else f"exit status {code}"
        if code == 0:
            return Result.failed(
                "Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited without providing a reason"
            )
        return Result.failed("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {how}")

    def run(self, request_id: str, event: bytes, headers: dict[str, str], timeout: float) -> Result:
        """Hand the ready process an event and return its answer; a late or dead process is not usable again."""
        self.events.put((request_id, event, headers))
        try:
            kind, body = self.answers.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            return Result.failed(
                "Sandbox.Timedout", f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds"
            )
        if kind == "exit":
            return self._exited(request_id)
        if kind == "response" and len(body) > LONGEST_RESPONSE:
            message = f"Response payload size exceeded maximum allowed payload size ({LONGEST_RESPONSE} bytes)."
            return Result.failed("Function.ResponseSizeTooLarge", message)
        return Result(body, None if kind == "response" else "Unhandled")

    def run_doomed(
        self, request_id: str, event: bytes, headers: dict[str, str], timeout: float, fault: Fault
    ) -> Result:
        """Hand the process an event, kill it midway, or when it answers, and return what Lambda says of such a death.

        What a function leaves half done, or does but cannot tell, is done again by who invokes it again.
        """
        self.events.put((request_id, event, headers))
        with contextlib.suppress(queue.Empty):
            self.answers.get(timeout=min(fault.more.get("after", timeout), timeout))
        self.stop()
        late = f"Task timed out after {timeout:.2f} seconds"
        if fault.value == "Lambda.Unknown":  # Step Functions' name for an answer without a type, as of older runtimes
            return Result(json.dumps({"errorMessage": f"{_now()} {request_id} {late}"}).encode(), "Unhandled")
        how = late if fault.value == "Sandbox.Timedout" else "Runtime exited with error: signal: killed"
        return Result.failed(fault.value, f"RequestId: {request_id} Error: {how}")

    @property
    def usable(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)
        self.events.put(None)
        threading.Thread(target=self.server.shutdown, daemon=True).start()
        self.server.socket.close()


class Pool:
    """The execution environments of one version of a function, kept warm."""

    def __init__(self, runtime: "Runtime", function: Any) -> None:
        self.runtime, self.function = runtime, function
        self.idle: list[Worker] = []
        self.workers: set[Worker] = set()
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(PROCESSES_PER_VERSION)
        self.group = function.logging_config["LogGroup"]
        self.stopped = False

    def invoke(self, event: bytes, arn: str, request_id: str) -> Result:
        with self.slots:
            worker = self._warm_worker()
            started = time.monotonic()
            if worker is None:
                worker = self.runtime.start_worker(self.function)
                with self.lock:
                    self.workers.add(worker)
                    if self.stopped:  # meanwhile: nobody else would end it
                        self._forget(worker)
            result = None if worker.warm else worker.wait_ready()
            init = time.monotonic() - started
            cold, worker.warm = not worker.warm, True
            begun = time.monotonic()
            if result is None:
                timeout = float(self.function.timeout)
                headers = {
                    "Lambda-Runtime-Trace-Id": _trace_id(),
                    "Lambda-Runtime-Invoked-Function-Arn": arn,
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + timeout) * 1000)),
                }
                name = self.function.function_name
                doom = next(self.runtime.machine.faults.strike("lambda", "kill", "lose_answer", function=name), None)
                if doom:
                    result = worker.run_doomed(request_id, event, headers, timeout, doom[0])
                else:
                    result = worker.run(request_id, event, headers, timeout)
                reusable = worker.usable
            else:
                reusable = False
            duration = time.monotonic() - begun
            self._log(worker, request_id, result, duration, init if cold else None)
            with self.lock:
                if reusable and not self.stopped:
                    self.idle.append(worker)
                else:
                    self._forget(worker)
            return result

    def _warm_worker(self) -> Worker | None:
        """One that ran before and asks for more; what died meanwhile is forgotten."""
        while True:
            with self.lock:
                worker = self.idle.pop() if self.idle else None
            if worker is None or worker.wait_ready() is None:
                return worker
            with self.lock:
                self._forget(worker)

    def _log(self, worker: Worker, request_id: str, result: Result, duration: float, init: float | None) -> None:
        version, memory, milliseconds = str(self.function.version), self.function.memory_size, duration * 1000
        billed = int(milliseconds) + 1
        died = ""
        if result.error:
            told = json.loads(result.payload)
            if str(told.get("errorType", "")).startswith(("Sandbox.", "Runtime.ExitError", "Runtime.OutOfMemory")):
                died = told["errorMessage"].partition("Error: ")[2] or told["errorMessage"]
            elif "errorType" not in told:
                died = str(told.get("errorMessage", "")).partition(f"{request_id} ")[2]
        printed = worker.take_output()
        if self.function.logging_config["LogFormat"] == "JSON":
            # "Lambda Telemetry API Event schema reference"
            metrics = {"durationMs": round(milliseconds, 3), "billedDurationMs": billed, "memorySizeMB": memory}
            metrics |= {"maxMemoryUsedMB": memory} | ({"initDurationMs": round(init * 1000, 3)} if init else {})
            status = "timeout" if "timed out" in died else "failure" if died else "error" if result.error else "success"
            lines = [
                _platform("start", {"requestId": request_id, "version": version}),
                *printed,
                _platform("report", {"requestId": request_id, "metrics": metrics, "status": status}),
            ]
        else:
            report = (
                f"REPORT RequestId: {request_id}\tDuration: {milliseconds:.2f} ms\tBilled Duration: {billed} ms\t"
                f"Memory Size: {memory} MB\tMax Memory Used: {memory} MB"
            )
            lines = [f"START RequestId: {request_id} Version: {version}", *printed]
            lines += [f"{_now()} {request_id} {died}"] if died else []
            lines += [
                f"END RequestId: {request_id}",
                report + (f"\tInit Duration: {init * 1000:.2f} ms" if init else ""),
            ]
        result.log = "\n".join(lines) + "\n"
        logs = logs_backends[self.function.account_id][self.function.region]
        stream = f"{datetime.now(UTC):%Y/%m/%d}/[{self.function.version}]{id(worker):032x}"
        now = int(time.time() * 1000)
        if not self._may_log(stream):
            return
        with self.runtime.logging:
            logs.ensure_log_group(self.group)
            with contextlib.suppress(Exception):  # it is there already
                logs.create_log_stream(self.group, stream)
            logs.put_log_events(self.group, stream, [{"timestamp": now, "message": line} for line in lines if line])

    def _may_log(self, stream: str) -> bool:
        """Whether the function's role may write its log; a function whose role may not runs without one."""
        function = self.function
        arn = f"arn:aws:logs:{function.region}:{function.account_id}:log-group:{self.group}:log-stream:{stream}"
        return not any(
            refusal(self.runtime.machine, function.role, function.function_name, f"logs:{action}", arn)
            for action in ("CreateLogStream", "PutLogEvents")
        )

    def _forget(self, worker: Worker) -> None:
        self.workers.discard(worker)
        worker.stop()

    def stop(self) -> None:
        """End every process."""
        with self.lock:
            self.stopped = True
            for worker in list(self.workers):
                self._forget(worker)
            self.idle.clear()


class Runtime:
    """Every function's execution environments on this machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pools: dict[tuple[str, str], tuple[str, Pool]] = {}  # by the ARN of the function, and the version
        self.lock, self.logging, self.unpacking = threading.Lock(), threading.Lock(), threading.Lock()
        self.stopping = threading.Event()
        self.folder = machine.state_dir / "lambda"
        self._packages = self._link_runtime_packages()

    def _link_runtime_packages(self) -> Path:
        packages = self.folder / "runtime"
        packages.mkdir(parents=True, exist_ok=True)
        for name in RUNTIME_PACKAGES:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                continue
            source = Path(spec.origin)
            source = source.parent if source.name == "__init__.py" else source
            link = packages / source.name
            if not link.is_symlink():
                link.symlink_to(source)
        return packages

    def unpacked(self, function: Any) -> Path:
        """The folder with the function's artifact, unpacked once for all that have the same code."""
        folder: Path = self.folder / "code" / hashlib.sha256(function.code_bytes).hexdigest()[:16]
        with self.unpacking:
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                with zipfile.ZipFile(io.BytesIO(function.code_bytes)) as archive:
                    archive.extractall(partial)
                partial.rename(folder)
        return folder

    def start_worker(self, function: Any) -> Worker:
        """Start a process of this version of the function."""
        folder = self.unpacked(function)
        arn = _latest(function).function_arn
        try:
            role = assume_as_service(
                self.machine, function.role, LAMBDA, arn, function.function_name, NEVER_RENEWED_SECONDS
            )
        except CannotAssume as error:
            raise _error(403, "AccessDeniedException", NOT_ASSUMED) from error
        config = function.logging_config
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "LAMBDA_TASK_ROOT": str(folder),
            "LAMBDA_RUNTIME_DIR": str(self._packages),
            "_HANDLER": function.handler,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.run_time}",
            "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
            "AWS_LAMBDA_FUNCTION_VERSION": str(function.version),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": config["LogGroup"],
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{datetime.now(UTC):%Y/%m/%d}/[{function.version}]{uuid.uuid4().hex}",
            "AWS_LAMBDA_LOG_FORMAT": config["LogFormat"],
            "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region,
            "AWS_ACCESS_KEY_ID": role.access_key_id,
            "AWS_SECRET_ACCESS_KEY": role.secret_access_key,
            "AWS_SESSION_TOKEN": role.session_token,
            "AWS_ENDPOINT_URL": self.machine.endpoint,
            # No daemon listens here; the X-Ray SDK and Powertools' tracer must not wait for one.
            "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        }
        if level := config.get("ApplicationLogLevel"):
            env["AWS_LAMBDA_LOG_LEVEL"] = level
        command = [sys.executable, "-I", "-S", "-c", BOOTSTRAP, str(folder), str(self._packages), function.handler]
        return Worker(command, {**env, **{k: str(v) for k, v in (function.environment_vars or {}).items()}}, folder)

    def pool(self, function: Any) -> Pool:
        """The pool of this version; processes of code or settings that are no longer current are ended."""
        key, state = (_base_arn(function), str(function.version)), _fingerprint(function)
        with self.lock:
            if self.stopping.is_set():
                raise _error(503, "ServiceException", "Local AWS is going down.")
            known = self.pools.get(key)
            if known and known[0] == state:
                return known[1]
            # A copy: `$LATEST` changes in place, and this pool is about what it is now.
            pool = Pool(self, copy.copy(function))
            self.pools[key] = (state, pool)
        if known:
            known[1].stop()
        return pool

    def forget(self, arn: str) -> None:
        """End the processes of a function that was deleted."""
        self._end(lambda of: of == arn)

    def stop(self) -> None:
        """End every process, and start no more."""
        with self.lock:
            self.stopping.set()
        self._end(lambda _: True)

    def _end(self, which: Callable[[str], bool]) -> None:
        with self.lock:
            gone = [self.pools.pop(key) for key in list(self.pools) if which(key[0])]
        for _, pool in gone:
            pool.stop()

    def invoke(self, function: Any, event: bytes, qualifier: str | None, request_id: str) -> Result:
        """Run one event and wait for the result."""
        wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
        if function.run_time != wanted:
            message = (
                f"Local AWS runs {wanted} and the function's runtime is {function.run_time}. Set Runtime: {wanted}"
            )
            return Result.failed("Runtime.Unknown", message)
        base = _base_arn(function)
        return self.pool(function).invoke(event, f"{base}:{qualifier}" if qualifier else base, request_id)

    def invoke_later(self, function: Any, event: bytes, qualifier: str | None, request_id: str) -> None:
        """Queue one event: tried three times unless the function says otherwise, then it goes where failures go."""
        threading.Thread(
            target=self._until_handled, args=(function, event, qualifier, request_id), name="lambda-event", daemon=True
        ).start()

    def _until_handled(self, function: Any, event: bytes, qualifier: str | None, request_id: str) -> None:
        config = _latest(function).invoke_configs.get(qualifier or "$LATEST", {})
        tries = 1 + int(config.get("MaximumRetryAttempts", 2))
        for attempt in range(1, tries + 1):
            # An alias is followed anew at every try, as AWS does.
            with contextlib.suppress(Exception):
                function = get_backend(function.account_id, function.region).get_function(
                    function.function_name, qualifier
                )
            try:
                result = self.invoke(function, event, qualifier, request_id)
            except JsonRESTError as error:
                result = Result.failed(error.error_type, str(error.message))
            if result.error is None or self.stopping.is_set():
                break
            if attempt < tries and self.stopping.wait(ASYNC_RETRY_SECONDS[attempt - 1]):
                return
        destinations = config.get("DestinationConfig") or {}
        target = (destinations.get("OnFailure" if result.error else "OnSuccess") or {}).get("Destination")
        if target:
            context: dict[str, Any] = {"statusCode": 200, "executedVersion": str(function.version)}
            record = {
                "version": "1.0",
                "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
                "requestContext": {
                    "requestId": request_id,
                    "functionArn": f"{_latest(function).function_arn}:{qualifier or '$LATEST'}",
                    "condition": "RetriesExhausted" if result.error else "Success",
                    "approximateInvokeCount": attempt,
                },
                "requestPayload": json.loads(event),
                "responseContext": context | ({"functionError": result.error} if result.error else {}),
                "responsePayload": json.loads(result.payload or b"null"),
            }
            send(function.account_id, target, json.dumps(record))
        queue_arn = (function.dead_letter_config or {}).get("TargetArn")
        if result.error and queue_arn:
            told = json.loads(result.payload)
            attributes = {
                "RequestID": request_id,
                "ErrorCode": "200",
                "ErrorMessage": str(told.get("errorMessage"))[:1000],
            }
            send(function.account_id, queue_arn, event.decode(), attributes)


def send(account_id: str, target: str, body: str, attributes: dict[str, str] | None = None) -> None:
    """Send `body` to the SQS queue or SNS topic `target`, an ARN, with string attributes."""
    service, region, name = target.split(":")[2], target.split(":")[3], target.split(":")[5]
    typed = {key: {"DataType": "String", "StringValue": value} for key, value in (attributes or {}).items()}
    if service == "sqs":
        from moto.sqs.models import sqs_backends

        sqs_backends[account_id][region].send_message(queue_name=name, message_body=body, message_attributes=typed)
    elif service == "sns":
        from moto.sns.models import sns_backends

        sns_backends[account_id][region].publish(message=body, arn=target, message_attributes=typed)
    else:
        raise NotImplementedError(f"Local AWS sends to SQS queues and SNS topics, not to {target}")


def _platform(what: str, record: dict[str, Any]) -> str:
    return json.dumps({"time": _now(), "type": f"platform.{what}", "record": record})


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def _trace_id() -> str:
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Parent={uuid.uuid4().hex[:16]};Sampled=0"


def _latest(function: Any) -> Any:
    return get_backend(function.account_id, function.region).get_function(function.function_name)


def _base_arn(function: Any) -> str:
    """Return the ARN without a version."""
    return f"{function.function_arn.partition(':function:')[0]}:function:{function.function_name}"


def _fingerprint(function: Any) -> str:
    """What makes a version another version: its code and its settings."""
    config = function.get_configuration()
    for name in ("FunctionArn", "LastModified", "LastUpdateStatus", "Version", "Description"):
        config.pop(name, None)
    return json.dumps(config, sort_keys=True, default=str)


def may_invoke(function: Any, qualifier: str | None, service: str, source_arn: str) -> bool:
    """Whether the function's resource policy lets a service of AWS invoke it in the name of `source_arn`."""
    base = _latest(function).function_arn
    resource = f"{base}:{qualifier}" if qualifier else base
    return lets_service("lambda:InvokeFunction", resource, service, source_arn)


def resolve(arn_or_name: str, qualifier: str | None = None) -> tuple[str, str | None]:
    """Split the forms of a function's name (name, name:qualifier, whole and partial ARN) into name and qualifier."""
    text = arn_or_name.rpartition(":function:")[2] if ":function:" in arn_or_name else arn_or_name
    name, _, own = text.partition(":")
    return name, own or qualifier or None


def install(machine: Machine) -> None:
    """Run functions on this machine, and correct what moto makes of versions and asynchronous settings."""
    runtime = Runtime(machine)
    machine.on_stop("Lambda functions", runtime.stop)
    _patch_functions()
    _patch_versions(runtime)
    _patch_event_invoke_configs()

    def invoke(response: Any) -> tuple[int, dict[str, Any], bytes | str]:
        query = parse_qs(urlsplit(response.uri).query)
        named = unquote(response.path.rsplit("/", 2)[-2])
        name, qualifier = resolve(named, query.get("Qualifier", [None])[0])
        function = response.backend.get_function(name, qualifier)
        kind = response.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        body = response.body.encode() if isinstance(response.body, str) else response.body
        request_id = str(uuid.uuid4())
        headers: dict[str, Any] = {"Content-Type": "application/json", "x-amzn-RequestId": request_id}
        if kind == "DryRun":
            return 204, headers | {"status": 204}, ""
        event = body or b"{}"
        if len(event) > LONGEST_REQUEST[kind]:
            limit = f"{len(event)} byte payload is too large for the {kind} invocation type"
            message = f"{limit} (limit {LONGEST_REQUEST[kind]} bytes)"
            raise _error(413, "RequestTooLargeException", message)
        try:
            json.loads(event)
        except ValueError as cause:
            raise _error(
                400, "InvalidRequestContentException", f"Could not parse request body into json: {cause}"
            ) from cause
        if function.reserved_concurrency is not None and int(function.reserved_concurrency) == 0:
            raise _error(429, "TooManyRequestsException", "Rate Exceeded.")
        if kind == "Event":
            runtime.invoke_later(function, event, qualifier, request_id)
            return 202, headers | {"status": 202}, ""
        result = runtime.invoke(function, event, qualifier, request_id)
        headers["X-Amz-Executed-Version"] = str(function.version)
        if result.error:
            headers["X-Amz-Function-Error"] = result.error
        if response.headers.get("X-Amz-Log-Type") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(result.log.encode()[-4096:]).decode()
        return 200, headers, result.payload

    def invoke_backend(
        backend: Any, function_name: str, qualifier: str | None, body: Any, headers: Any, response_headers: Any
    ) -> bytes:
        """How moto's own services (SNS, SQS, Logs, DynamoDB streams) invoke."""
        name, qualifier = resolve(function_name, qualifier)
        result = runtime.invoke(backend.get_function(name, qualifier), _bytes(body), qualifier, str(uuid.uuid4()))
        if result.error:
            response_headers["x-amz-function-error"] = result.error
        return result.payload

    def invoke_function(function: Any, body: Any, request_headers: Any, response_headers: Any) -> bytes:
        """SNS, Logs and the like invoke asynchronously, so the publisher never waits."""
        qualifier = None if function.version == "$LATEST" else str(function.version)
        runtime.invoke_later(function, _bytes(body), qualifier, str(uuid.uuid4()))
        return b""

    LambdaResponse.invoke = invoke
    LambdaSimpleBackend.invoke = invoke_backend
    LambdaFunction.invoke = invoke_function
    LambdaSimpleBackend.invoke_later = lambda backend, function, event, qualifier, request_id: runtime.invoke_later(
        function, event, qualifier, request_id
    )


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else body or b"{}"


def _error(status: int, code: str, message: str) -> JsonRESTError:
    error = JsonRESTError(code, message)
    error.code = status
    return error


def _patch_functions() -> None:
    """Keep the settings that moto drops: logging, dead letters, and what an update says of tracing, CPU and storage."""
    plain_init, plain_update, plain_configuration = (
        LambdaFunction.__init__,
        LambdaFunction.update_configuration,
        LambdaFunction.get_configuration,
    )

    def init(self: Any, account_id: str, spec: dict[str, Any], region: str, version: Any = 1) -> None:
        plain_init(self, account_id, spec, region, version)
        self.environment_vars = dict(self.environment_vars)
        self.invoke_configs = {}
        self.last_version = 0
        self.dead_letter_config = spec.get("DeadLetterConfig")
        set_logging(self, spec.get("LoggingConfig") or {})

    def set_logging(self: Any, config: dict[str, Any]) -> None:
        self.logging_config = {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{self.function_name}"} | config
        self.logs_group_name = self.logging_config["LogGroup"]

    def update_configuration(self: Any, updates: dict[str, Any]) -> dict[str, Any]:
        plain_update(
            self, {"Environment": {"Variables": {}}} | updates if updates.get("Environment") == {} else updates
        )
        if "LoggingConfig" in updates:
            set_logging(self, updates["LoggingConfig"] or {})
        if "DeadLetterConfig" in updates:
            self.dead_letter_config = updates["DeadLetterConfig"]
        if "TracingConfig" in updates:
            self.tracing_config = updates["TracingConfig"]
        if "Architectures" in updates:
            self.architectures = updates["Architectures"]
        if "EphemeralStorage" in updates:
            self.ephemeral_storage = updates["EphemeralStorage"]["Size"]
        configuration: dict[str, Any] = self.get_configuration()
        return configuration

    def get_configuration(self: Any, on_create: bool = False) -> dict[str, Any]:
        config: dict[str, Any] = dict(plain_configuration(self, on_create))
        config["LoggingConfig"] = self.logging_config
        if self.dead_letter_config:
            config["DeadLetterConfig"] = self.dead_letter_config
        return config

    LambdaFunction.__init__ = init
    LambdaFunction.update_configuration = update_configuration
    LambdaFunction.get_configuration = get_configuration


def _patch_versions(runtime: Runtime) -> None:
    """A version is immutable, its number is never given twice, and an unchanged function gives no new one."""
    plain_put, plain_delete, plain_find = (
        LambdaStorage.put_function,
        LambdaStorage.del_function,
        LambdaStorage.get_function_by_name_or_arn_with_qualifier,
    )

    def put_function(self: Any, function: Any) -> None:
        plain_put(self, function)
        role = iam_backends[self.account_id]["aws"].get_role_by_arn(function.role)
        trusted = LAMBDA in json.dumps(role.assume_role_policy_document)
        if runtime.machine.enforces_iam:
            trusted = trusts_service(function.role, LAMBDA, function.function_arn)
        if not trusted:
            del self._functions[function.function_name]
            raise InvalidParameterValueException(NOT_ASSUMED)

    def publish_version(self: Any, name_or_arn: str, description: str = "") -> Any:
        function = self.get_function_by_name_or_arn_forbid_qualifier(name_or_arn)
        versions = self._functions[function.function_name]["versions"]
        if versions and _fingerprint(versions[-1]) == _fingerprint(function):
            return versions[-1]
        function.last_version += 1
        version = copy.copy(function)
        version.code = dict(function.code)
        version.tags = {}
        version.set_version(function.last_version)
        version.description = description or function.description
        versions.append(version)
        self._arns[version.function_arn] = version
        return version

    def del_function(self: Any, name_or_arn: str, qualifier: str | None = None) -> None:
        name, qualifier = resolve(name_or_arn, qualifier)
        if qualifier and qualifier in (a.function_version for a in self._get_function_aliases(name).values()):
            message = f"The following aliases reference the version {qualifier} of {name}. Delete or update them first"
            raise _error(409, "ResourceConflictException", message)
        plain_delete(self, name, qualifier)
        if not qualifier:
            arn = f"arn:aws:lambda:{self.region_name}:{self.account_id}:function:{name}"
            self._aliases.pop(arn, None)
            runtime.forget(arn)

    def find(self: Any, name_or_arn: str, qualifier: str | None = None) -> Any:
        """Accept `name:qualifier`, too."""
        if ":" in name_or_arn and not re.match(r"arn:", name_or_arn):
            name_or_arn, qualifier = resolve(name_or_arn, qualifier)
        return plain_find(self, name_or_arn, qualifier)

    LambdaStorage.put_function = put_function
    LambdaStorage.publish_version = publish_version
    LambdaStorage.del_function = del_function
    LambdaStorage.get_function_by_name_or_arn_with_qualifier = find


def _patch_event_invoke_configs() -> None:
    """One configuration per function and qualifier; moto has one per function and never replaces it."""

    def key(response: Any) -> tuple[Any, str]:
        name, qualifier = resolve(unquote(response.path.rstrip("/").removesuffix("/list").rsplit("/", 2)[1]))
        qualifier = parse_qs(urlsplit(response.uri).query).get("Qualifier", [qualifier])[0]
        return response.backend.get_function(name), qualifier or "$LATEST"

    def shown(function: Any, qualifier: str) -> dict[str, Any]:
        config = function.invoke_configs.get(qualifier)
        if config is None:
            message = f"The function {function.function_arn}:{qualifier} doesn't have an EventInvokeConfig"
            raise _error(404, "ResourceNotFoundException", message)
        return {**config, "FunctionArn": f"{function.function_arn}:{qualifier}", "LastModified": int(time.time())}

    def put(response: Any) -> str:
        function, qualifier = key(response)
        function.invoke_configs[qualifier] = response.json_body
        return json.dumps(shown(function, qualifier))

    def update(response: Any) -> str:
        function, qualifier = key(response)
        function.invoke_configs[qualifier] = function.invoke_configs.get(qualifier, {}) | response.json_body
        return json.dumps(shown(function, qualifier))

    def get(response: Any) -> str:
        return json.dumps(shown(*key(response)))

    def delete(response: Any) -> tuple[int, dict[str, int], str]:
        function, qualifier = key(response)
        shown(function, qualifier)
        del function.invoke_configs[qualifier]
        return 204, {"status": 204}, ""

    def list_all(response: Any) -> str:
        function, _ = key(response)
        return json.dumps({"FunctionEventInvokeConfigs": [shown(function, name) for name in function.invoke_configs]})

    LambdaResponse.put_function_event_invoke_config = put
    LambdaResponse.update_function_event_invoke_config = update
    LambdaResponse.get_function_event_invoke_config = get
    LambdaResponse.delete_function_event_invoke_config = delete
    LambdaResponse.list_function_event_invoke_configs = list_all
