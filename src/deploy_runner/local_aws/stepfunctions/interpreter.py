"""What moto's interpreter of the Amazon States Language lacks or does otherwise than AWS. Each patch has one reason.

Every patch is a function `_patch_...` that says what AWS does and where that is documented; tests hold that moto 5.2.5
without the patch still does otherwise, so that they fail once the patch is not needed any more.
"""

import copy
import datetime
import functools
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from moto.stepfunctions.parser.api import EvaluationFailedEventDetails, HistoryEventType
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent, FailureEventException
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.common.string import string_expression
from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import EvalTimeoutError
from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.component.state import state as state_module
from moto.stepfunctions.parser.asl.component.state.exec.execute_state import ExecutionState
from moto.stepfunctions.parser.asl.component.state.fail import state_fail
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext, EventManager
from moto.stepfunctions.parser.asl.eval.variable_store import VariableStore
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker

from deploy_runner.local_aws.stepfunctions.jsonata import JSONataError, evaluate

# Tests of retries need not wait as long as AWS does: every delay between two attempts is multiplied by this.
retry_delay_scale = 1.0
MAX_STATE_BYTES = 262_144

_ended_lock = threading.Lock()
_installed = False


def install() -> None:
    """Patch moto's interpreter, once for the process."""
    global _installed
    if _installed:
        return
    _installed = True
    # The history tells every failure; moto's log would print whole payloads besides.
    logging.getLogger("moto.stepfunctions.parser").setLevel(logging.CRITICAL)
    _patch_json()
    _patch_jsonata()
    _patch_end_of_waits()
    _patch_attempts()
    _patch_program()
    _patch_parse()
    _patch_retry()
    _patch_error_matching()
    _patch_fail()
    _patch_size_limit()
    _patch_assigned_variables()


def ended(env: Environment) -> threading.Event:
    """Return the event that is set as soon as this environment (an execution, or one attempt of a task) has ended."""
    with _ended_lock:
        event: threading.Event = env.__dict__.setdefault("_deploy_runner_ended", threading.Event())
    return event


def failure(
    env: Environment, error: str, cause: str, details: EventDetails, event_type: HistoryEventType
) -> FailureEventException:
    """Build the exception by which a state fails with `error`."""
    try:
        name: ErrorName = StatesErrorName.from_name(error)
    except ValueError:
        name = ErrorName(error_name=error)
    return FailureEventException(FailureEvent(env=env, error_name=name, event_type=event_type, event_details=details))


def replace_everywhere(name: str, function: Callable[..., Any]) -> None:
    """Replace a function of moto's interpreter in each of its modules that imported it by name."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("moto.stepfunctions.parser") and hasattr(module, name):
            vars(module)[name] = function


def compact_json(value: Any) -> str:
    """Return JSON as AWS writes it: no blanks, no escapes that UTF-8 does not need, times in ISO 8601."""

    def text(item: Any) -> str:
        return item.isoformat() if isinstance(item, datetime.date) else str(item)

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=text)


def _patch_json() -> None:
    """The history has compact JSON in UTF-8; moto's has blanks and escapes."""

    def to_json_str(obj: Any, separators: tuple[str, str] | None = None) -> str:
        return compact_json(obj)

    replace_everywhere("to_json_str", to_json_str)


def _patch_jsonata() -> None:
    """moto parses JSONata and never evaluates it (getmoto/moto#10105); variables would go in as unescaped text."""

    def evaluate_in(self: Any, env: Environment) -> None:
        bindings = {**env.variable_store._outer_scope, **env.variable_store._inner_scope}
        states = env.states._states_data
        # Only what a state has: without errorOutput, reading it is undefined, not null.
        bindings["states"] = {
            key: value for key, value in states.items() if key in ("input", "context") or value is not None
        }
        try:
            env.stack.append(evaluate(self.expression.strip(), bindings))
        except JSONataError as error:
            name = StatesErrorNameType.StatesQueryEvaluationError.to_name()
            details = EvaluationFailedEventDetails(error=name, cause=str(error), state=env.next_state_name or "")
            if env.next_field_name:
                details["location"] = env.next_field_name
            raise failure(
                env,
                name,
                str(error),
                EventDetails(evaluationFailedEventDetails=details),
                HistoryEventType.EvaluationFailed,
            ) from error

    string_expression.StringJSONata._eval_body = evaluate_in
    string_expression.StringVariableSample._eval_body = evaluate_in

    # A Choice, Pass or Fail state whose expression fails says so in the history, as tasks do already.
    original = state_module.CommonStateField._eval_body

    def eval_body(self: Any, env: Environment) -> None:
        try:
            original(self, env)
        except FailureEventException as exception:
            event = exception.failure_event
            history = env.event_manager._history_event_list
            if event.event_type == HistoryEventType.EvaluationFailed and history[-1]["type"] != event.event_type:
                env.event_manager.add_event(env.event_history_context, event.event_type, event.event_details)
            raise

    state_module.CommonStateField._eval_body = eval_body


def _patch_end_of_waits() -> None:
    """StopExecution and the machine's TimeoutSeconds end an execution at once, whatever it waits for.

    The first end counts. moto waits until the running task is over, which for a token can be hours, and an error that
    the stop itself brings about makes FAILED of ABORTED.
    """

    def waking(original: Callable[..., None]) -> Callable[..., None]:
        def end(self: Environment, *args: Any, **kwargs: Any) -> None:
            with self._state_mutex:
                if self._program_state is None or self.is_running():
                    original(self, *args, **kwargs)
            ended(self).set()

        return end

    for name in ("set_stop", "set_timed_out", "set_error", "set_ended"):
        setattr(Environment, name, waking(getattr(Environment, name)))


def _patch_attempts() -> None:
    """One attempt of a task: over when it is done, late, or its execution has ended; a late one changes nothing."""

    def attempt(self: Any, env: Environment) -> None:
        self.timeout.eval(env=env)
        seconds: int = env.stack.pop()
        frame = env.open_frame()
        frame.states.reset(input_value=env.states.get_input())
        frame.stack = copy.deepcopy(env.stack)
        result: list[Any] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                self._eval_execution(frame)
                result.extend(frame.stack)
            except Exception as exception:
                failures.append(exception)
            finally:
                ended(frame).set()

        threading.Thread(target=run, name=f"attempt of {self.name}", daemon=True).start()
        over = ended(frame).wait(seconds)
        # From here on what the thread does is not looked at any more, and does not stand in the history.
        frame.event_history_context.closed = True
        result, failures = list(result), list(failures)
        frame.set_ended()
        env.close_frame(frame)
        if not env.is_running():
            return
        if failures:
            raise failures[-1]
        if not over or not result:
            raise EvalTimeoutError
        output = result.pop()
        env.stack.append(output)
        if not self._is_language_query_jsonpath():
            env.states.set_result(output)
        if self.assign_decl:
            self.assign_decl.eval(env=env)
        if self.result_selector:
            self.result_selector.eval(env=env)
        if self.result_path:
            self.result_path.eval(env)
        else:
            env.states.reset(input_value=env.stack.pop())

    ExecutionState._evaluate_with_timeout = attempt
    original = EventManager.add_event

    def add_event(self: EventManager, context: EventHistoryContext, *args: Any, **kwargs: Any) -> int:
        late = getattr(context, "closed", False)
        event_id: int = context.last_published_event_id if late else original(self, context, *args, **kwargs)
        return event_id

    EventManager.add_event = add_event


def _patch_program() -> None:
    """An execution that timed out says so in its history before DescribeExecution does; `TimedOut` has no output."""
    original = Program.eval

    def evaluate_program(self: Any, env: Environment) -> None:
        timeout = self.timeout_seconds.timeout_seconds if self.timeout_seconds else None
        over = threading.Event()
        if env.is_frame():
            original(self, env)
            return
        env.next_state_name = self.start_at.start_at_name

        def run() -> None:
            try:
                self._eval_body(env)  # not eval(), which leaves out an execution that was stopped before it began
            finally:
                over.set()

        threading.Thread(target=run, name="execution", daemon=True).start()
        if not over.wait(timeout):
            env.set_timed_out()
        over.wait(30)

    Program.eval = evaluate_program


def _patch_parse() -> None:
    """A definition is parsed once: moto does it at each start, which is most of the time of a short execution."""
    parsed = functools.lru_cache(maxsize=32)(AmazonStateLanguageParser.parse)
    one_at_a_time = threading.Lock()  # or executions that start together would each parse it

    def program(self: Any) -> Any:
        with one_at_a_time:
            made = parsed(self._evaluation_details.state_machine_details.definition)[0]
        # A copy, since the parts of a program may keep something of an execution.
        return copy.deepcopy(made)

    ExecutionWorker._get_evaluation_entrypoint = program


def _patch_retry() -> None:
    """The delay before the next attempt ends with the execution, and can be short in tests."""

    class Clock:
        """Stands in for the module `time` in moto's retrier, whose only use of it is to sleep."""

        def __init__(self) -> None:
            self.env = threading.local()

        def sleep(self, seconds: float) -> None:
            ended(self.env.value).wait(seconds * retry_delay_scale)

    clock = Clock()
    original = retrier_decl.RetrierDecl._eval_body

    def eval_body(self: Any, env: Environment) -> None:
        clock.env.value = env
        original(self, env)

    retrier_decl.time = clock
    retrier_decl.RetrierDecl._eval_body = eval_body


def _patch_error_matching() -> None:
    """`States.ALL` catches neither States.Runtime nor States.DataLimitExceeded.

    Developer Guide, "Handling errors in Step Functions workflows".
    """
    terminal = {
        StatesErrorNameType.StatesRuntime.to_name(),
        StatesErrorNameType.StatesStatesDataLimitExceeded.to_name(),
    }
    original = ErrorEqualsDecl._eval_body

    def eval_body(self: Any, env: Environment) -> None:
        if env.stack[-1] is not None and env.stack[-1].error_name in terminal:
            env.stack.append(env.stack.pop() in self.error_names)
            return
        original(self, env)

    ErrorEqualsDecl._eval_body = eval_body


def _patch_fail() -> None:
    """A Fail state may pass on a name such as States.Timeout, which our failure path does; moto refuses that."""
    state_fail.CustomErrorName = ErrorName


def _patch_size_limit() -> None:
    """The limit is 262,144 bytes of compact JSON in UTF-8; moto counts escapes and blanks, and one byte less."""

    def is_within_size_quota(value: Any) -> bool:
        text = value if isinstance(value, str) else compact_json(value)
        return len(text.encode()) <= MAX_STATE_BYTES

    replace_everywhere("is_within_size_quota", is_within_size_quota)


def _patch_assigned_variables() -> None:
    """The history shows variables as JSON; moto puts text between quotes as it is."""

    def get_assigned_variables(self: VariableStore) -> dict[str, str]:
        return {name: compact_json(self.get(name)) for name in sorted(self._declaration_tracing)}

    VariableStore.get_assigned_variables = get_assigned_variables
