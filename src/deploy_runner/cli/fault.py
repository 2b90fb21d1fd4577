"""`deploy-runner local fault`: lets something go wrong in the local AWS that runs."""

import argparse
import difflib
import fnmatch
import json
import sys
from collections.abc import Callable
from typing import Any

from deploy_runner.local_aws.faults import KINDS, PROFILES, Fault, FaultInvalid, Kind, parse, profile

_EFFECT = "effect"


def add_arguments(parser: argparse.ArgumentParser, add_port: Callable[[argparse.ArgumentParser], Any]) -> None:
    """What `deploy-runner local fault` takes: a verb for each kind of fault, and those that tell and clear."""
    parser.epilog = "as in: " + ", ".join(f"deploy-runner local fault {kind.example}" for kind in KINDS.values())
    verbs = parser.add_subparsers(dest="fault_verb", metavar="WHAT", required=True)

    def verb(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        sub.set_defaults(run=run)
        add_port(sub)
        return sub

    listing = verb("list", show, "print the faults that have not ended, and how often each has struck")
    listing.add_argument("--format", choices=("table", "json"), default="table", help="default: %(default)s")
    verb("clear", clear, "end every fault")
    for name, kind in KINDS.items():
        sub = verb(name, add, f"a fault of {kind.says}")
        sub.epilog = f"as in: deploy-runner local fault {kind.example}"
        _add_kind(sub, kind)
    sub = verb("profile", add_profile, "several faults under a name")
    told = "; ".join(f"{name}: {says}" for name, (says, _) in PROFILES.items())
    sub.add_argument("profile", metavar="NAME", help=told)
    sub.add_argument("--scale", type=float, default=1.0, help="what its times are multiplied by (default: %(default)s)")


def _add_kind(parser: argparse.ArgumentParser, kind: Kind) -> None:
    what = parser.add_argument_group("what it strikes", "globs, regardless of case; all of them must match")
    for name, says in kind.match.items():
        if name in kind.first:
            what.add_argument(f"given_{name}", nargs="?", metavar=name.upper(), help=says)
        what.add_argument(f"--{name}", metavar="GLOB", help=argparse.SUPPRESS if name in kind.first else says)
    effects = parser.add_argument_group("what it does, one of")
    for name, effect in kind.effects.items():
        flag, action = f"--{name.replace('_', '-')}", _chosen(name)
        if effect.value is None:
            effects.add_argument(flag, dest=_EFFECT, action=action, nargs=0, help=effect.says)
        else:
            default = effect.value.default
            says = effect.says if default is None else f"{effect.says} (default: {default:g})"
            number = None if default is None else "?"
            effects.add_argument(
                flag, dest=_EFFECT, action=action, nargs=number, metavar=effect.value.metavar, help=says
            )
    for name, (effects_of_it, setting) in _settings(kind).items():
        default = "" if setting.default is None else f" (default: {setting.default})"
        says = f"with {effects_of_it}: {setting.says}{default}"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"more_{name}", metavar=setting.metavar, help=says)
    ends = parser.add_argument_group("when it ends", "both may be left out: it lasts until `fault clear`")
    ends.add_argument("--times", type=int, metavar="COUNT", help="after so many strikes")
    ends.add_argument("--for", dest="lasts", metavar="SECONDS", help="so long after now")
    chance = parser.add_argument_group("chance")
    chance.add_argument("--probability", type=float, default=1.0, help="how often it strikes, above 0 and up to 1")
    chance.add_argument("--seed", type=int, default=0, help="the same seed gives the same strikes")


def _settings(kind: Kind) -> dict[str, tuple[str, Any]]:
    """Return the further settings of a kind's effects, each with the flags of the effects that have it."""
    found: dict[str, tuple[str, Any]] = {}
    for name, effect in kind.effects.items():
        for key, setting in effect.more.items():
            flags = [*([found[key][0]] if key in found else []), f"--{name.replace('_', '-')}"]
            found[key] = (", ".join(flags), setting)
    return found


def _chosen(name: str) -> type[argparse.Action]:
    """Return the action of an effect's flag: the one effect of the fault, with its value."""

    class Chosen(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            before = getattr(namespace, _EFFECT, None)
            if before is not None and before[0] != name:
                parser.error(
                    f"a fault has one effect, and not both --{before[0].replace('_', '-')} and {option_string}"
                )
            setattr(namespace, _EFFECT, (name, None if values == [] else values))

    return Chosen


def to_fault(arguments: argparse.Namespace) -> Fault:
    """Return the fault that the command line asks for. Raises FaultInvalid."""
    kind = KINDS[arguments.fault_verb]
    effects = list(kind.effects)
    chosen, value = getattr(arguments, _EFFECT, None) or (effects[0] if len(effects) == 1 else None, None)
    if chosen is None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in effects)
        raise FaultInvalid("A fault needs an effect", None, f"Add one of {flags}")
    given: dict[str, Any] = {"kind": arguments.fault_verb, "effect": chosen}
    given |= {} if value is None else {"value": value}
    for name in kind.match:
        said = [getattr(arguments, f"given_{name}", None), getattr(arguments, name)]
        words = [word for word in said if word is not None]
        if len(words) == 2:
            raise FaultInvalid(f"The {name} is given once", words[1], f"Leave out --{name}")
        given |= {name: words[0]} if words else {}
    for name in _settings(kind):
        word = getattr(arguments, f"more_{name}")
        given |= {} if word is None else {name: word}
    given |= {} if arguments.times is None else {"times": arguments.times}
    given |= {} if arguments.lasts is None else {"for": arguments.lasts}
    return parse(given | {"probability": arguments.probability, "seed": arguments.seed})


def add(arguments: argparse.Namespace) -> int:
    """Add one fault."""
    fault = to_fault(arguments)
    added = _send(arguments, [fault])
    if unknown := _unknown_operation(fault):
        print(f"deploy-runner: {unknown}. It may never strike: `fault list` tells.", file=sys.stderr)
    return added


def _unknown_operation(fault: Fault) -> str:
    """Return what is unknown of a fault of calls, or nothing. A typing error is no fault, and would pass for one."""
    service, operation = fault.match.get("service", ""), fault.match.get("operation", "")
    if fault.kind != "api" or not operation:
        return ""
    import botocore.session  # slow, and no other verb needs it

    session = botocore.session.get_session()
    if service.lower() not in session.get_available_services():
        return ""
    names = session.get_service_model(service.lower()).operation_names
    if any(fnmatch.fnmatchcase(name.lower(), operation.lower()) for name in names):
        return ""
    close = difflib.get_close_matches(operation.replace("-", ""), names, 1)
    return f"{service} has no operation {operation}" + (f", but {close[0]}" if close else "")


def add_profile(arguments: argparse.Namespace) -> int:
    """Add a profile's faults."""
    if not 0 < arguments.scale <= 10:
        raise FaultInvalid("A scale is above 0 and at most 10", arguments.scale, "Leave it out for 1")
    return _send(arguments, profile(arguments.profile, arguments.scale))


def _send(arguments: argparse.Namespace, faults: list[Fault]) -> int:
    arguments.ask(arguments.port, "faults", "POST", [fault.to_json() for fault in faults])
    for fault in faults:
        print(f"{fault}: {_end(fault.times, fault.lasts)}")
    return 0


def _end(times: int | None, lasts: float | None) -> str:
    ends = [f"{times} times" if times != 1 else "once"] if times is not None else []
    ends += [f"for {lasts:g} s"] if lasts is not None else []
    return ", ".join(ends) or "until `deploy-runner local fault clear`"


def show(arguments: argparse.Namespace) -> int:
    """Print the faults."""
    found = arguments.ask(arguments.port, "faults")
    if arguments.format == "json":
        print(json.dumps(found, indent=2))
    elif not found:
        print("Nothing goes wrong. To change that: deploy-runner local fault --help")
    else:
        for each in found:
            left = "" if each["left"] is None else f", {each['left']} left"
            print(f"{each['id']:>3}  {each['text']}  (struck {each['struck']} times{left})")
    return 0


def clear(arguments: argparse.Namespace) -> int:
    """End every fault."""
    arguments.ask(arguments.port, "faults", "DELETE")
    print("Nothing goes wrong any more.")
    return 0
