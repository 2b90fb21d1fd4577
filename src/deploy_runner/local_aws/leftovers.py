"""What is left on the machine when local AWS or Podman is killed: functions, forgotten containers, mounts, rules."""

import contextlib
import fcntl
import ipaddress
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def end_containers_below(folder: Path, seconds: float = 10) -> None:
    """End containers that still run though the engine in `folder` knows them no more.

    Podman 4.3 forgets a container that is removed in the moment in which it starts, and lets it run. A build's step has
    no monitor at all, and stays for ever if Podman is ended between its creation and its start. A monitor that waits
    for Podman's word goes on once Podman is ended, as another process, and runs what was not there before: so we look
    for some seconds at most, until nothing is found twice, since one that forks while we look is not found.
    """
    deadline, looks_in_vain = time.monotonic() + seconds, 0
    while looks_in_vain < 2 and time.monotonic() < deadline:
        # Helpers first: a monitor whose container ends would start Podman to tidy up.
        found = sum(_end(process) for is_one in (_is_helper, _root_is_below) for process in _processes(is_one, folder))
        looks_in_vain = 0 if found else looks_in_vain + 1
        time.sleep(0.02)


def _processes(is_one: Callable[[Path, Path], bool], folder: Path) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if is_one(process, folder):
                yield process


def _root_is_below(process: Path, folder: Path) -> bool:
    """Tell whether a process has a root of its own, which an engine in `folder` made: proc_pid_mountinfo(5)."""
    for line in (process / "mountinfo").read_text().splitlines():
        if line.split()[4] == "/":
            return f"{folder}/" in line
    return False


def _is_helper(process: Path, folder: Path) -> bool:
    """Tell whether a process is a container's monitor, or makes one, or tidies up after it, for the engine there."""
    line = (process / "cmdline").read_bytes()
    program, *arguments = line.split(b"\0")
    name = os.path.basename(program)
    if name in (b"conmon", b"runc") or (name == b"podman" and b"\0container\0cleanup\0" in line):
        return any(Path(os.fsdecode(argument)).is_relative_to(folder) for argument in arguments)
    return False


def _end(process: Path) -> bool:
    """End a process, and remove the network namespace that was made for it. Return whether it was there to be ended."""
    with contextlib.suppress(OSError):
        namespaces = [name for name in NAMESPACES.glob(_OF_PODMAN) if _is_in(process, name)]
        os.kill(int(process.name), signal.SIGKILL)
        for name in namespaces:
            _remove_namespace(name)
        return True
    return False


def _is_in(process: Path, namespace: Path) -> bool:
    with contextlib.suppress(OSError):
        own = os.stat("/proc/self/ns/net").st_ino
        return namespace.stat().st_ino == os.stat(process / "ns/net").st_ino != own
    return False


NAMESPACES = Path("/run/netns")
_OF_PODMAN = "netns-*-*-*-*-*"


def remove_namespaces(gateway: str, folder: Path = NAMESPACES) -> None:
    """Remove Podman's network namespaces that are connected to a network all of whose containers have ended.

    It was ended before it had written down whose one is. `gateway` is an address with its length, as in 10.1.2.1/24.
    """
    network = ipaddress.ip_interface(gateway).network.network_address
    route = f"\t{int.from_bytes(network.packed, 'little'):08X}\t"  # proc_pid_net(5)
    for name in folder.glob(_OF_PODMAN):
        if route in _read_in(name, "route"):
            _remove_namespace(name)


def remove_empty_namespaces(folder: Path = NAMESPACES, older_than: float = 60) -> None:
    """Remove Podman's network namespaces that nobody is in and nothing is in, once they are some seconds old.

    It was ended between making one and connecting it, for which it takes a second; nothing says whose one is.
    """
    used = set[int]()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used.add((process / "ns/net").stat().st_ino)
    for name in folder.glob(_OF_PODMAN):
        with contextlib.suppress(OSError):
            found = name.stat()
            if found.st_ino in used or found.st_ctime > time.time() - older_than:
                continue
            if re.findall(r"^ *(\S+):", _read_in(name, "dev"), re.MULTILINE) == ["lo"]:
                _remove_namespace(name)


def _read_in(namespace: Path, file: str) -> str:
    command = ["nsenter", f"--net={namespace}", "cat", f"/proc/self/net/{file}"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def _remove_namespace(name: Path) -> None:
    subprocess.run(["umount", "--lazy", str(name)], check=False, capture_output=True)
    name.unlink(missing_ok=True)


def end_functions_below(folder: Path) -> None:
    """End Lambda's functions whose code is in `folder`, with what they started, which has their environment.

    An idle one ends when it finds nobody to ask for events; one that is busy would go on to its end.
    """
    for process in _processes(_is_function, folder):
        _end(process)


def _is_function(process: Path, folder: Path) -> bool:
    variables = dict(v.partition(b"=")[::2] for v in (process / "environ").read_bytes().split(b"\0"))
    code = variables.get(b"LAMBDA_TASK_ROOT")
    return code is not None and Path(os.fsdecode(code)).is_relative_to(folder)


def unmount_below(folder: Path) -> None:
    """Unmount what Podman leaves mounted in its folder when it ends, or is ended."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def remove_rules(gateway: str) -> None:
    """Remove what Podman's netavark told iptables for containers that ended without it, and nobody else's rules.

    `gateway` is an address of their network with its length, as in 10.1.2.1/24. Every rule names the network, in one of
    netavark's chains or to send it to the network's own one: src/firewall/varktables/types.rs of containers/netavark.
    """
    network = str(ipaddress.ip_interface(gateway).network)
    for table in ("nat", "filter") if shutil.which("iptables") else ():
        for line in _iptables(table, "-S").split("\n"):
            if not re.match(rf"-A (NETAVARK\S+|POSTROUTING) .*(?<=-[sd] ){re.escape(network)} ", line):
                continue
            chain, *rest = shlex.split(line.removeprefix("-A "))
            own = rest[-1] if re.fullmatch("NETAVARK-[0-9A-F]+", rest[-1]) else None
            if chain != "POSTROUTING" or own:
                _iptables(table, "-D", chain, *rest)
            if chain == "POSTROUTING" and own:
                _iptables(table, "-F", own)
                _iptables(table, "-X", own)


def _iptables(table: str, *arguments: str) -> str:
    command = ["iptables", "--wait", "5", "--table", table, *arguments]
    found = subprocess.run(command, check=False, capture_output=True, text=True, errors="surrogateescape")
    return found.stdout


def remove_bridge(name: str) -> None:
    """Remove a bridge that Podman left because it was ended midway. Source: netdevice(7), sockios.h."""
    if not Path(f"/sys/class/net/{name}/bridge").exists():
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        down = struct.pack("16sh", name.encode(), 0)
        fcntl.ioctl(control, 0x8914, down)  # SIOCSIFFLAGS: no flag is left, so it is not up
        fcntl.ioctl(control, 0x89A1, struct.pack("16s", name.encode()))  # SIOCBRDELBR
