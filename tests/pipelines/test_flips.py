"""Single bits flipped in every file of a data folder: found by `vmoer verify`, or proven to change nothing."""

from __future__ import annotations

from pathlib import Path

from tests.harness import flips


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """Not the job database: SQLite keeps no checksums of values. `tests.harness.flips` flips 400, those too."""
    kinds = {kind: pattern for kind, pattern in flips.KINDS.items() if kind != "jobs"}
    found = flips.flips(flips.make(tmp_path), 48, seed=1, kinds=kinds)
    assert [one for one in found if one[3] == "missed"] == []
    assert sum(outcome == "found" for *_, outcome in found) >= 36
