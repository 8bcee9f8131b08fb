"""``python -m pipelines`` is ``vmoer``."""

from pipelines.cli import main

main()
