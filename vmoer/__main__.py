"""``python -m vmoer`` and the command ``vmoer``: the product's command line, where the product is."""

import sys

from vmoer.errors import VmoerError
from vmoer.registry import CHECKOUT, product


def main() -> None:
    """Run the product's command line; without the product, say where it is found and exit with 2."""
    sys.path.insert(0, str(CHECKOUT))  # its packages come before others of the same name
    try:
        command = product("pipelines.cli.app")
    except VmoerError as error:
        print(f"vmoer: {error}", file=sys.stderr)
        sys.exit(2)
    command.main()


if __name__ == "__main__":
    main()
