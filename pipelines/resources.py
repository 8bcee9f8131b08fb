"""Folders that the package carries: specs, shipped routers, archives; and those of a checkout beside it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SPECS = PACKAGE / "specs"
ARCHIVES = PACKAGE / "archives"
ROUTERS = PACKAGE / "routers"
#: the checkout, or the folder that the packages are installed in
ROOT = PACKAGE.parent
DASHBOARD = ROOT / "app" / "main.py"
RESULTS = ROOT / "docs" / "results"
