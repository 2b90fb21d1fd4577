"""Reads the answers of a local AWS that a test starts as a program of its own: Python imports this before it begins.

`tests.held.reading` names this folder in PYTHONPATH. What was found is written when the program ends.
"""

import atexit
import json
import os
import sys
from pathlib import Path

if os.environ.get("HELD_REPORT"):
    sys.path.append(str(Path(__file__).parents[2]))

    from deploy_runner.local_aws.machine import Machine
    from tests.local_aws import shapes

    Machine.gated = shapes.held(Machine.gated)  # type: ignore[method-assign]

    @atexit.register
    def _report(report: str = os.environ.pop("HELD_REPORT")) -> None:
        Path(report).write_text(json.dumps({"violations": shapes.VIOLATIONS, "called": sorted(shapes.CALLED)}))
