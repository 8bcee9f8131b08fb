"""The frame of a page: title, data, link and banners, or the state that explains why there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import streamlit as st

from app.shared import runs as run_names
from app.shared import states
from app.shared.card import cards
from app.shared.data import Data, open_data
from app.shared.help_key import help_key
from app.shared.job_strip import jobs_strip
from app.shared.link import Link
from app.shared.page_file import begin_file
from app.shared.settings import Settings, SettingsError, load_settings
from app.shared.style import apply_style
from app.shared.text import plain
from store.archive import SUFFIX
from store.errors import StoreError


@dataclass
class Page:
    """One open page: its data, its link and the catalog of runs."""

    settings: Settings
    data: Data
    link: Link
    runs: pd.DataFrame

    @cached_property
    def labels(self) -> dict[str, str]:
        """Readable name per run id."""
        return run_names.labels(self.runs)

    @cached_property
    def synthetic(self) -> set[str]:
        """Names of the models whose weights are random or a toy's."""
        return set(self.runs.loc[self.runs["synthetic"].astype(bool), "model"])

    def run(self, run_id: str) -> dict[str, Any]:
        """The catalog row of a run."""
        return self._rows[run_id]

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {str(row["run_id"]): row for row in run_names.records(self.runs)}

    def label(self, run_id: str) -> str:
        """The readable name of a run."""
        return self.labels.get(run_id, run_id)

    def option(self, run_id: str) -> str:
        """The name of a run in a list of choices: an archived one says so where some are not."""
        label = self.label(run_id)
        said = label.endswith(" archived") or not run_id.endswith(SUFFIX)
        return label if said or not self._mixed else f"{label} (archived)"

    @cached_property
    def _mixed(self) -> bool:
        return self.runs["run_id"].str.endswith(SUFFIX).nunique() > 1

    def model(self, name: str) -> dict[str, Any]:
        """The catalog row of a model."""
        models = self.data("models")
        return run_names.records(models[models["model"] == name])[0]

    def layers(self, model: str) -> list[int]:
        """The MoE layers of a model, as absolute block indices."""
        return [int(layer) for layer in run_names.as_list(self.model(model)["moe_layers"])]

    def datasets(self, run_id: str) -> list[str]:
        """The data sets of a run, in-distribution first, validation last."""
        run = self.run(run_id)
        catalog = self.data("datasets", experiment=run["experiment"])["dataset"].tolist()
        known = run_names.as_list(run["datasets"])
        return [name for name in catalog if name in known] + [name for name in known if name not in catalog]

    def card(self, run_ids: Sequence[str], figure: str, query: str) -> dict[str, Any]:
        """The reproducibility card of a figure over these runs, shown by the given query."""
        return cards([self.run(run_id) for run_id in run_ids], figure=figure, query=query, generation=self.data.key[1])

    def absent(self, run_id: str, what: str, command: str, *, why: str = "", archived: str = "") -> None:
        """Say that ``what`` is missing for a run and what makes it; an archived run never has more than its results."""
        if run_id.endswith(SUFFIX):
            why = archived or (
                "An archived run has results only, no prompts, tokens or routing; a run computed here has them."
            )
        states.empty(what, command, why=why)

    def offer(self, path: str, run_id: str | None, what: str) -> None:
        """A link to the same page of a run that has ``what`` the shown one lacks; nothing where there is none."""
        if run_id is not None:
            label = plain(f"Show {self.label(run_id)}, which has {what} →")
            st.page_link(path, label=label, query_params={"run": run_id})

    def with_rows(self, table: str) -> pd.DataFrame:
        """The runs that have rows in a result table."""
        return self.runs[self.runs["run_id"].isin(self.data("runs_with", table)["run_id"])]

    def banners(self, run_ids: Sequence[str]) -> None:
        """Say what a reader must know about the runs shown: archived, not finished, failed, synthetic model."""
        shown = [self.run(run_id) for run_id in run_ids]
        archived = sorted({str(run["name"]) for run in shown if run["run_id"].endswith(SUFFIX)})
        if archived:
            names = plain(", ".join(archived))
            st.caption(
                f":blue-badge[archived results] {names}: computed before and added as a file, not on this machine"
            )
        for run in shown:
            found = run_names.posterior(run)
            if found.get("learned") is False:
                st.caption(
                    f":orange-badge[not learned] {plain(self.label(run['run_id']))}: {plain(found['why'])}. "
                    "What its answers gain or lose is not the work of a learned posterior."
                )
        states.run_states(shown, self.label)
        states.synthetic_banner(sorted({run["model"] for run in shown} & self.synthetic))


def open_page(path: str, title: str, lead: str, *, live: bool = False) -> Page:
    """The open page with its heading drawn; where there are no results it says so and ends the script run.

    ``live`` adds the strip of background jobs, which is worth seeing before the first result as well.
    """
    settings = head(title, lead)
    if live:
        jobs_strip(settings.poll_seconds)
    data = open_data(settings.home)
    if data is None:
        states.no_data(settings.home, settings.poll_seconds)
    try:
        runs = data("runs")
    except StoreError as error:
        states.broken(str(error))
    link = Link(path)
    if runs.empty:
        states.no_data(settings.home, settings.poll_seconds)
    return Page(settings, data, link, runs)


def head(title: str, lead: str) -> Settings:
    """Draw the heading of a page and return the dashboard's settings; ends the script run when one cannot be used."""
    apply_style()
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.title(title, anchor=False)
        with st.container(horizontal=True, width="content", vertical_alignment="center", gap="small"):
            begin_file(st.container(width="content"))
            with st.container(width="content", gap=None):
                help_key()
    st.markdown(lead)
    try:
        return load_settings()
    except SettingsError as error:
        states.broken(str(error))
