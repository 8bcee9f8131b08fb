"""Makes the question set `worldfacts` and the model `worldfacts-moe`: `python -m tools.worldfacts --help`."""
