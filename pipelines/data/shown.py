"""What a file was recognised as, in words: for the command line and for the page that takes uploads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.data.prompts import likelihood_option, likelihood_prompt
from pipelines.data.reading import Item, Reading


def what_it_is(reading: Reading) -> str:
    """Return one sentence: kind of file, layout, how many questions or prompts, and what was left out."""
    count = len(reading.items)
    if reading.answered:
        options = sorted({len(item.choices) for item in reading.items}) or [0]
        spread = str(options[0]) if len(options) == 1 else f"{options[0]} to {options[-1]}"
        holds = f"{_counted(count, 'question')} of {spread} options, answers read as {reading.answers}"
    else:
        holds = f"{_counted(count, 'prompt')} without answers"
    text = f"{reading.kind}, {reading.layout}: {holds}"
    if reading.unused:
        shown = ", ".join(repr(column[:40]) for column in reading.unused[:8])
        rest = f" and {len(reading.unused) - 8} more" if len(reading.unused) > 8 else ""
        text += f"; not used: {shown}{rest}"
    if reading.refused:
        text += f"; {_counted(len(reading.refused), 'row')} refused"
    return "; ".join([text, *reading.notes])


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def first_rows(items: Sequence[Item], most: int = 3) -> list[dict[str, Any]]:
    """Return the first rows as the model reads them: the prompt, each option after it, and which one is right."""
    return [
        {
            "id": item.id,
            "prompt": likelihood_prompt(item.question) if item.choices else item.question,
            "options": [likelihood_option(choice) for choice in item.choices],
            "right": item.answer if item.choices else None,
        }
        for item in items[:most]
    ]


def row_lines(row: dict[str, Any]) -> list[str]:
    """Return the lines that show one of :func:`first_rows`: the prompt, then the options, the right one marked."""
    lines = [f"{row['id']}:", *(f"    {line}" for line in row["prompt"].split("\n"))]
    for place, option in enumerate(row["options"]):
        lines.append(f"  {'→' if place == row['right'] else ' '} …{option}")
    return lines


def refused_rows(readings: Sequence[Reading]) -> list[dict[str, str]]:
    """Return each refused row: where it stands, the column at fault, and the reason as a sentence."""
    return [
        {"row": refusal.place, "column": refusal.column, "reason": refusal.sentence}
        for reading in readings
        for refusal in reading.refused
    ]
