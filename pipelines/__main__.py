"""``python -m pipelines`` is ``vmoer``."""

from pipelines.cli.app import main

main()
