"""The built-in question set `worldfacts`: its splits and where their Parquet files lie (torch-free)."""

from pathlib import Path

DATA_FOLDER = Path(__file__).parent / "data"

#: Name of a split -> (file name, role in an experiment). The facts behind two splits never overlap.
SPLITS: dict[str, tuple[str, str]] = {
    "pretrain": ("pretrain.parquet", "training"),
    "train": ("train.parquet", "training"),
    "validation": ("validation.parquet", "validation"),
    "test": ("test.parquet", "in-distribution"),
    "near-ood": ("near_ood.parquet", "near-ood"),
    "far-ood": ("far_ood.parquet", "far-ood"),
}


def split_path(name: str) -> Path:
    """Path of the Parquet file of split `name`; an unknown name is a `KeyError` that lists the known ones."""
    try:
        return DATA_FOLDER / SPLITS[name][0]
    except KeyError:
        known = ", ".join(SPLITS)
        raise KeyError(f"worldfacts has no split {name!r}; its splits are {known}") from None
