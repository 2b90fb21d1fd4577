"""`deploy-runner local iam`: who is granted what on the running local AWS, what of it was used, and why the rest is."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 140  # columns of a terminal, or of a file, that have room for the reasons beside the resources


def show(roles: list[dict[str, Any]], console: Console) -> None:
    """Print a table per role, and what was refused below it."""
    for role in roles:
        entered = ", ".join(f"{_who(who)} ({times}×)" for who, times in role["entered"].items()) or "nobody yet"
        console.print(Text.assemble((role["role"], "bold"), f"  entered by {entered}"))
        if role["grants"]:
            console.print(_grants(role["grants"], narrow=console.width < WIDE))
        else:
            console.print("  no grants")
        for refused in role["refused"]:
            console.print(Text(f"  refused {refused['times']}×: {refused['message']}", "red"))
        console.print()


def _who(principal: str) -> str:
    """Return the role of a session's ARN, any other principal as it is."""
    return principal.split("/")[1] if ":assumed-role/" in principal else principal


def _grants(grants: list[dict[str, Any]], *, narrow: bool) -> Table:
    """Return a table with a line for each action; what is said of a whole statement stands in its first line.

    Nothing is cut: names are folded, and in a narrow terminal the reasons stand below the resources.
    """
    table = Table(box=None, pad_edge=True, show_edge=False, padding=(0, 2, 0, 0))
    table.add_column("used", justify="right")
    for heading in ("statement", "action", *(("resource and why",) if narrow else ("resource", "why"))):
        table.add_column(heading, overflow="fold")
    statement = ""
    for grant in grants:
        first = statement != f"{grant['policy']}/{grant['statement']}"
        statement = f"{grant['policy']}/{grant['statement']}"
        allows = grant["effect"] == "Allow"
        last = (short(grant["resource"]), reason(grant, first=first))
        table.add_row(
            str(grant["used"] or "never") if allows else "denies",
            grant["statement"] if first else "",
            grant["action"],
            *(("\n".join(filter(None, last)),) if narrow else last),
            style="" if grant["used"] or not allows else "yellow",
        )
    return table


def reason(grant: dict[str, Any], *, first: bool = True) -> str:
    """Return why a grant has a wildcard (once a statement) and why it is there though nothing used it."""
    wildcard = grant["why_wildcard"] if grant["wildcard"] and first else ""
    unused = grant["why_unused"] if not grant["used"] else ""
    return " ".join(f"{why.rstrip('.')}." for why in (wildcard, unused) if why)


def short(arn: str) -> str:
    """Return an ARN from its service on, without this account and region."""
    _, _, service, _, _, resource = [*arn.split(":", 5), "", "", "", "", "", ""][:6]
    return f"{service}: {resource}" if resource else arn
