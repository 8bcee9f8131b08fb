"""Folders that the package carries: specs, shipped routers, archives; and those of the checkout it lies in."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SPECS = PACKAGE / "specs"
ARCHIVES = PACKAGE / "archives"
ROUTERS = PACKAGE / "routers"
#: the checkout
ROOT = PACKAGE.parent
DASHBOARD = ROOT / "app" / "main.py"
RESULTS = ROOT / "docs" / "results"
