"""Runs one of the two programs: `python -m tools.worldfacts generate`, or `pretrain`."""

import argparse

from tools.worldfacts import generate, pretrain

_PROGRAMS = {"generate": generate, "pretrain": pretrain}


def main() -> None:
    """Parse the program's name and options and run it."""
    parser = argparse.ArgumentParser(prog="python -m tools.worldfacts", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    for name, module in _PROGRAMS.items():
        module.add_options(programs.add_parser(name, description=module.__doc__))
    options = parser.parse_args()
    _PROGRAMS[options.program].run(options)


if __name__ == "__main__":
    main()
