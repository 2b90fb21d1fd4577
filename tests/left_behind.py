"""What an instance of local AWS left on the machine, for tests that hold it to leaving nothing."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy_runner.local_aws.engine import subnet_of


def left_behind(port: int) -> list[str]:
    """Return what belongs to the instance on a port: processes, mounts, and what its network is made of."""
    return [*_processes(port), *_mounts(port), *_network(port)]


def _processes(port: int) -> Iterator[str]:
    """Yield the command lines of those that speak of the instance's folder: in a container, that is its root."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            about = line + (folder / "environ").read_text(errors="replace") + _root(folder)
            if int(folder.name) != os.getpid() and (f"local-{port}/" in about or f"--port {port} " in line):
                yield f"process {folder.name}: {line}"


def _root(process: Path) -> str:
    """Return what a process has at its root. Its other mounts may be copies of whatever was there as it began."""
    lines = (process / "mountinfo").read_text().splitlines()  # proc_pid_mountinfo(5)
    return next((line for line in lines if line.split()[4] == "/"), "")


def _mounts(port: int) -> Iterator[str]:
    if Path("/proc/self/mounts").exists():
        yield from (m for m in Path("/proc/self/mounts").read_text().splitlines() if f"local-{port}/" in m)


def _network(port: int) -> Iterator[str]:
    bridge = Path(f"/sys/class/net/deploy-{port}")
    if bridge.exists():
        yield f"the bridge {bridge.name}"
    for interface in Path("/sys/class/net").glob("*/master"):
        if interface.resolve().name == bridge.name:
            yield f"the interface {interface.parent.name}"
    yield from (f"the network namespace {name}" for name in _namespaces(port))
    yield from (f"the rule of the firewall {rule}" for rule in _rules(port))
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        listening = re.findall(r":([0-9A-F]{4}) \S+ 0A ", table.read_text()) if table.exists() else []
        yield from (f"the port {port + n}" for n in range(3) if f"{port + n:04X}" in listening)


def _rules(port: int) -> Iterator[str]:
    """Yield the firewall's rules for the instance's subnet."""
    for table in ("nat", "filter") if shutil.which("iptables") else ():
        command = ["iptables", "--wait", "--table", table, "-S"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        yield from (rule for rule in shown.splitlines() if f" {subnet_of(port)}.0/24 " in rule)


def _namespaces(port: int) -> Iterator[str]:
    """Yield the network namespaces with a route into the instance's subnet: its containers'."""
    subnet = socket.inet_aton(f"{subnet_of(port)}.0")[::-1].hex().upper()  # as the kernel writes it
    for path in Path("/run/netns").glob("*"):
        shown = subprocess.run(
            ["nsenter", f"--net={path}", "cat", "/proc/self/net/route"], capture_output=True, text=True, check=False
        )
        if re.search(rf"\t{subnet}\t", shown.stdout):
            yield path.name
