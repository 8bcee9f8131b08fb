"""``python -m vmoer.testing > docs/support.md``: the support matrix as documentation."""

import sys

from transformers.utils import logging

from vmoer.testing.support import markdown

logging.set_verbosity_error()
sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
sys.stdout.write(markdown())
