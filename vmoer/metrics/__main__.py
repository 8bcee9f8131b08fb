"""``python -m vmoer.metrics > docs/metrics.md``: the definitions as documentation."""

import sys

from vmoer.metrics.definitions import markdown

sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
sys.stdout.write(markdown())
