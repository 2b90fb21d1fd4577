"""What an instance of local AWS left on the machine, for tests that hold it to leaving nothing."""

import os
from pathlib import Path


def left_behind(port: int) -> list[str]:
    """Return the command lines of processes and the mounts that belong to the instance on a port."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(folder.name) != os.getpid() and (f"local-{port}/" in line or f"sleep {port}" in line):
            found.append(line)
    if Path("/proc/self/mounts").exists():
        found += [m for m in Path("/proc/self/mounts").read_text().splitlines() if f"local-{port}/" in m]
    if Path(f"/sys/class/net/deploy-{port}").exists():
        found.append(f"the bridge deploy-{port}")
    return found
