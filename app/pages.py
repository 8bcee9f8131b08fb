"""The table of pages. Menu, overview and tests read it; a new page is a folder and one line here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PageEntry:
    """One page: its folder in ``app/views``, its titles, the question it answers and what it needs.

    ``needs`` names the link parameters a page opens with: ``run``, ``runs`` (at most two from here), ``baseline``.
    A page without any works before there are results.
    """

    name: str
    title: str
    short: str
    question: str
    needs: tuple[str, ...] = ("run",)

    @property
    def path(self) -> str:
        """The page's script, relative to ``app/main.py``, as Streamlit names it."""
        return path_of(self.name)

    @property
    def address(self) -> str:
        """The page's place below the dashboard's URL; empty for the first page."""
        return "" if self is PAGES[0] else self.name

    @property
    def needs_results(self) -> bool:
        """Whether the page shows stored results."""
        return bool(self.needs)


def path_of(name: str) -> str:
    """The script of the page called ``name``, relative to ``app/main.py``."""
    return f"views/{name}/view.py"


PAGES = (
    PageEntry("overview", "Overview", "Overview", "Which runs are there, and how good are they?"),
    PageEntry("layers", "Layer susceptibility", "Layers", "Which layers route unstably, and does it matter there?"),
    PageEntry("experts", "Experts", "Experts", "Which experts carry the load, and for which tokens?"),
    PageEntry("calibration", "Calibration", "Calibration", "Can the confidence of an answer be believed?", ("runs",)),
    PageEntry("ood", "OoD detection", "OoD detection", "Which score notices questions from elsewhere?"),
    PageEntry(
        "compare",
        "Compare",
        "Compare",
        "What changed against the deterministic run, down to one token?",
        ("run", "baseline"),
    ),
    PageEntry("training", "Training", "Training", "How did the routers learn, and when did they stop?"),
    PageEntry("inspect", "Inspect", "Inspect", "Type a prompt of your own: how is each token routed?", ()),
    PageEntry("jobs", "Jobs", "Jobs", "Evaluate a model on your questions in the background.", ()),
    PageEntry(
        "export", "Export", "Export", "Take tables, one database file or a report with you.", ("run", "baseline")
    ),
)
