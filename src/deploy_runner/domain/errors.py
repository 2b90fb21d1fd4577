"""What can go wrong, one class per thing; a class name is the error name in the state machine.

A message is one line: the rule, the value that broke it, the remedy. Values may be hostile, so they are shown escaped
and cut. This module runs on Python 3.11 too: the runner tasks share it.
"""

import reprlib

SHOWN_CHARACTERS = 80
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = SHOWN_CHARACTERS
_short.maxdict = _short.maxlist = _short.maxtuple = 3


def show(value: object) -> str:
    """Return any value as one short printable line: quoted, control characters escaped, at most about 80 characters."""
    try:
        # repr escapes all that is not printable: control characters, bidirectional marks, lone surrogates.
        shown = repr(value[: SHOWN_CHARACTERS + 1]) if isinstance(value, str) else _short.repr(value)
    except Exception:  # a value whose repr fails is still to be named
        shown = f"<{type(value).__name__}>"
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return shown if len(shown) <= SHOWN_CHARACTERS + 2 else shown[:SHOWN_CHARACTERS] + "…"


def one_line(text: str, limit: int = 200) -> str:
    """Return text as one printable line of at most `limit` characters, for causes, descriptions and log lines."""
    # Only what can count is looked at, so that a huge text costs nothing.
    words = "".join(c if c.isprintable() else " " for c in text[: limit * 20]).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


class DeployRunnerError(Exception):
    """Something went wrong, and a person can do something about it."""

    def __init__(self, rule: str, value: object = None, remedy: str = "") -> None:
        self.rule = rule.rstrip(". ")
        self.value = value
        self.remedy = remedy.rstrip(". ")
        message = self.rule
        if value is not None:
            message += f": {show(value)}"
        super().__init__(f"{message}. {self.remedy}." if self.remedy else f"{message}.")


class AllowlistInvalid(DeployRunnerError):
    """apps.yaml has problems; all of them are in the message, one a line."""

    def __init__(self, message: str) -> None:
        super().__init__("apps.yaml is not valid")
        self.args = (message,)


class RequestRejected(DeployRunnerError):
    """The request was refused before anything ran. Never reported to the repository that it names."""


class RequestMalformed(RequestRejected):
    """The execution input is not a request."""


class AppNotAllowed(RequestRejected):
    """The app is not in apps.yaml, or its repository is not the one that it names."""


class EnvironmentNotAllowed(RequestRejected):
    """The app is not deployed to this environment."""


class EnvironmentFrozen(RequestRejected):
    """Deployments to this environment are stopped for now."""


class RefNotFound(RequestRejected):
    """The repository has no such branch, tag or commit."""


class RefNotAllowed(RequestRejected):
    """This branch, tag or commit may not be deployed there."""


class ChecksNotGreen(RequestRejected):
    """A check that must be green on the commit is missing, pending or failed."""


class RequesterNotAllowed(RequestRejected):
    """Whoever started the workflow run may not deploy there."""


class NothingToGoBackTo(RequestRejected):
    """There is no deployment that succeeded and could be put back."""


class NotPromotable(RequestRejected):
    """What runs in the other environment is not one image that was deployed there with success."""


class Unavailable(DeployRunnerError):
    """Something we depend on does not answer right now; the state machine tries again."""


class AwsUnavailable(Unavailable):
    """AWS throttles, answers 5xx or not in time."""


class TargetMisconfigured(DeployRunnerError):
    """The target lacks something, or does not let us: a role, a cluster, a service, a container."""


class LockLost(DeployRunnerError):
    """Something was to be changed for a deployment that is over, or that never had the right to."""


class QueueFull(DeployRunnerError):
    """Too many deployments wait already."""


class Superseded(DeployRunnerError):
    """A newer deployment to the same place came before this one could change anything."""


class NothingDeployed(DeployRunnerError):
    """A task that was to deploy ended well, and left no revision of this deployment."""


class RolloutError(DeployRunnerError):
    """The rollout of this deployment did not end in success."""


class RolloutFailed(RolloutError):
    """The new tasks do not stay up."""


class RolloutRolledBack(RolloutError):
    """ECS went back, or is going back, to the revision that served before."""


class RolloutStopped(RolloutError):
    """Someone stopped the rollout."""


class RolloutReplaced(RolloutError):
    """Another revision was deployed to the service while ours was on its way."""


def all_errors() -> dict[str, type[DeployRunnerError]]:
    """Return every error class by the name that the state machine sees."""
    found: dict[str, type[DeployRunnerError]] = {}
    todo: list[type[DeployRunnerError]] = [DeployRunnerError]
    while todo:
        error = todo.pop()
        found[error.__name__] = error
        todo.extend(error.__subclasses__())
    return found
