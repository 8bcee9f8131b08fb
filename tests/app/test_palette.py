"""Colours stay apart, stay readable in both themes, and are the same in the theme file and in exports."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import app
from app.figures import palette
from app.shared.style import SHEET

CONFIG = tomllib.loads((Path(app.__file__).parent / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
# Machado, Oliveira & Fernandes 2009, severity 1.0, in linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    cone = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ np.clip(rgb, 0, 1)
    )
    return (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ cone
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_categorical_colour_stands_out_from_the_background(theme: palette.Theme) -> None:
    background = palette.BACKGROUND[theme]
    assert {c for c in palette.CATEGORICAL[theme] if contrast(c, background) < 3} == set()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("colour", [palette.NEUTRAL, palette.MARK, palette.BETTER, palette.WORSE, palette.CALM])
def test_fixed_colours_are_seen_in_both_themes(colour: str, theme: palette.Theme) -> None:
    assert contrast(colour, palette.BACKGROUND[theme]) >= 2.8


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_first_five_colours_stay_apart_for_every_kind_of_colour_vision(theme: palette.Theme, vision: str) -> None:
    seen = [oklab(np.array(VISION[vision]) @ linear(colour)) for colour in palette.CATEGORICAL[theme][:5]]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 0.09


def test_the_sequential_ramp_gets_lighter_step_by_step() -> None:
    lightness = [oklab(linear(colour))[0] for colour in palette.SEQUENTIAL]
    assert all(a < b for a, b in itertools.pairwise(lightness))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_theme_file_and_exports_use_one_palette(theme: palette.Theme) -> None:
    section = CONFIG["theme"][theme]
    assert tuple(section["chartCategoricalColors"]) == palette.CATEGORICAL[theme]
    assert tuple(section["chartDivergingColors"]) == palette.DIVERGING[theme]
    assert section["backgroundColor"] == palette.BACKGROUND[theme]
    assert tuple(CONFIG["theme"]["chartSequentialColors"]) == palette.SEQUENTIAL
    assert palette.export_config(theme)["range"]["category"] == list(palette.CATEGORICAL[theme])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_reaches_reading_contrast(theme: palette.Theme) -> None:
    section = CONFIG["theme"][theme]
    for background in (section["backgroundColor"], section["secondaryBackgroundColor"]):
        assert contrast(section["textColor"], background) >= 7


def test_the_style_sheet_has_the_colours_of_the_charts() -> None:
    sheet = SHEET.read_text(encoding="utf-8")
    assert f"--vmoer-mark: {palette.MARK};" in sheet
    assert f"--vmoer-worse: {palette.WORSE};" in sheet
    assert f'text[fill="{palette.NEUTRAL}"]' in sheet
    assert set(re.findall(r"#[0-9A-F]{6}", sheet)) == {palette.MARK, palette.WORSE, palette.NEUTRAL}
