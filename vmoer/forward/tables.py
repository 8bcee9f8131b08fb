"""Columns as tables of other programs. pandas and pyarrow are loaded when they are asked for, and not before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, NDArray[Any]]


def to_frame(columns: Columns) -> pd.DataFrame:
    """Return a DataFrame; of columns ``[rows, k]`` each cell is an array ``[k]``."""
    import pandas as pd

    return pd.DataFrame({name: values if values.ndim == 1 else list(values) for name, values in columns.items()})


def to_arrow(columns: Columns) -> Any:
    """Return a ``pyarrow.Table``; columns ``[rows, k]`` become lists of length k."""
    import pyarrow as pa

    def column(values: NDArray[Any]) -> Any:
        if values.ndim == 1:
            return pa.array(values)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    return pa.table({name: column(values) for name, values in columns.items()})
