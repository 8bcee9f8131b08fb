"""``python -m tests.harness.told_to_stop FOLDER``: a worker that gets SIGTERM in the middle of a step.

It has written the rows of its sixth shard, not yet the footer.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipelines.cli.app import main
from tests.harness.faults import Faults

if __name__ == "__main__":
    written = iter(range(1_000_000))
    faults = Faults(Path(sys.argv[1]))
    faults.event = lambda label: (  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGTERM) if label == "parquet footer" and next(written) == 5 else None
    )
    faults.install()
    sys.argv = ["vmoer", "worker", "--device", "cpu"]
    main()
