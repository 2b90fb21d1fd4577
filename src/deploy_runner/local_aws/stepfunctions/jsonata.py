"""JSONata as AWS Step Functions evaluates it: the language, AWS's own functions, and the wording of its errors.

Sources: docs.aws.amazon.com, Step Functions Developer Guide, "Transforming data with JSONata" (version 2.0.6, `$eval`
is not there, an undefined result is an error) and "JSONata functions provided by Step Functions".
"""

import copy
import hashlib
import json
import math
import random
import re
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jsonata import Jsonata
from jsonata.jexception import JException
from jsonata.utils import Utils

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None

_HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_PARTIAL = re.compile(r"\?\s*([,)]|/\*)")  # `f(?, 1)`; what follows the `?` of a condition is an expression
_UNDEFINED = None  # jsonata-python says None for "undefined", and NULL_VALUE for JSON's null


class JSONataError(Exception):
    """An expression that AWS would answer with `States.QueryEvaluationError`; the text is the cause."""


def evaluate(expression: str, bindings: Mapping[str, Json]) -> Json:
    """Return the value of `expression`, where each key of `bindings` is a variable (without its `$`).

    Variables are handed over as values, never as text of the expression, so no quote or newline in them can change it.
    Raises JSONataError where the expression is wrong, fails, or gives nothing (undefined) or a function.
    """
    environment: dict[str, Any] = {name: _with_nulls(copy.deepcopy(value)) for name, value in bindings.items()}
    for name, function in _FUNCTIONS.items():
        environment.setdefault(name, Jsonata.JLambda(_named(name, function)))
    try:
        program = copy.copy(_parsed(expression))  # which keeps the time of its evaluation, for $now
        if _PARTIAL.search(expression):
            program.parser = Jsonata.get_parser()  # which such a function is made by, and which is for one thread
        Jsonata.CURRENT.jsonata = program  # where the library looks for it, as its constructor leaves it
        result = program.evaluate(None, environment)
    except JSONataError as error:
        raise JSONataError(
            f"The JSONata expression '{expression}' threw an error during evaluation. {error}"
        ) from error
    except (JException, ArithmeticError, ValueError, TypeError, LookupError, RecursionError) as error:
        code = f"{error.error}: " if isinstance(error, JException) else ""
        raise JSONataError(
            f"The JSONata expression '{expression}' threw an error during evaluation. {code}{error}"
        ) from error
    if result is _UNDEFINED:
        raise JSONataError(f"The JSONata expression '{expression}' returned nothing (undefined).")
    return _plain(expression, result)


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> Jsonata:
    """Return an expression, parsed once: a parser is made for each thread, which takes longer than all the rest."""
    program = Jsonata(expression)
    program.set_output_convert_nulls(False)
    return program


def _with_nulls(value: Any) -> Any:
    """Mark each null as JSON's null, which for jsonata-python is something else than undefined."""
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nulls(item) for item in value]
    return Utils.NULL_VALUE if value is None else value


def _plain(expression: str, value: Any) -> Json:
    """Turn a result into plain JSON; whole numbers become integers, as JavaScript prints them."""
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise JSONataError(f"The JSONata expression '{expression}' gave a number out of range.")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, dict):
        return {str(key): _plain(expression, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(expression, value[index]) for index in range(len(value))]
    raise JSONataError(f"The JSONata expression '{expression}' returned an unsupported result type.")


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `function` complain of wrong arguments in the words of JSONata."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (TypeError, ValueError) as error:
            raise JSONataError(f"Argument of function ${name} does not match its signature: {error}") from error

    return call


def _parse(text: Any = _UNDEFINED) -> Any:
    if text is _UNDEFINED:
        return _UNDEFINED
    if not isinstance(text, str):
        raise TypeError(f"$parse takes a string, not {type(text).__name__}")
    return _with_nulls(json.loads(text))


def _uuid() -> str:
    return str(uuid.uuid4())


def _hash(text: Any = _UNDEFINED, algorithm: Any = _UNDEFINED) -> Any:
    if text is _UNDEFINED:
        return _UNDEFINED
    if not isinstance(text, str):
        text = json.dumps(_plain("$hash", text), separators=(",", ":"), ensure_ascii=False)
    if algorithm not in _HASHES:
        raise ValueError(f"unknown algorithm {algorithm!r}, choose from {', '.join(_HASHES)}")
    return hashlib.new(_HASHES[algorithm], text.encode(), usedforsecurity=False).hexdigest()


def _partition(items: Any = _UNDEFINED, size: Any = _UNDEFINED) -> Any:
    if items is _UNDEFINED:
        return _UNDEFINED
    items = items if isinstance(items, list) else [items]
    if not isinstance(size, int | float) or isinstance(size, bool) or math.floor(size) < 1:
        raise ValueError(f"chunk size must be a positive number, not {size!r}")
    step = math.floor(size)
    return [list(items[start : start + step]) for start in range(0, len(items), step)]


def _range(first: Any, last: Any, step: Any) -> Any:
    if (
        any(not isinstance(number, int | float) or isinstance(number, bool) for number in (first, last, step))
        or not step
    ):
        raise ValueError(f"first, last and a step that is not 0 must be numbers, not {first!r}, {last!r}, {step!r}")
    count = math.floor((last - first) / step) + 1
    if count > 1_000_000:
        raise ValueError("more than 1000000 items")
    return [first + index * step for index in range(max(count, 0))]


def _random(seed: Any = _UNDEFINED) -> float:
    return random.Random(seed).random() if seed is not _UNDEFINED else random.random()  # noqa: S311 (as AWS: not for secrets)


def _no_eval(*_: Any) -> Any:
    raise JSONataError("Attempted to invoke $eval, which Step Functions does not have. Use $parse.")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "parse": _parse,
    "uuid": _uuid,
    "hash": _hash,
    "partition": _partition,
    "range": _range,
    "random": _random,
    "eval": _no_eval,
}
