"""Columns as pandas data frames and Arrow tables; both libraries are imported when they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tritonclip._messages.text import error_reason, printable
from tritonclip.errors import InvalidInputError, MissingExtraError, TritonClipError, install_command

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


ColumnType = Literal["string", "int64", "float64"]


class Column(NamedTuple):
    """The values of a column, which are of one type or None; None among numbers becomes NaN in pandas."""

    type: ColumnType
    values: Sequence[Any]


class Tabular(ABC):
    """An answer that becomes a data frame. Its class says which columns it has."""

    __slots__ = ()

    @abstractmethod
    def _columns(self) -> Mapping[str, Column]:
        """Return the columns by name."""

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with the columns that the class names.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = _import("pandas", "pandas")
        return pandas.DataFrame(
            {
                name: pandas.Series(values, dtype=None if kind == "string" and len(values) else _dtype(kind))
                for name, (kind, values) in self._columns().items()
            }
        )

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table with the same columns.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        pyarrow = _import("pyarrow", "parquet")
        types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}
        return pyarrow.table(
            {
                name: pyarrow.array(values, type=types[kind])
                for name, (kind, values) in self._columns().items()
            }
        )


def embeddings_to_arrow(
    embeds: npt.NDArray[np.float32] | Iterable[npt.NDArray[np.float32] | TritonClipError],
    inputs: Iterable[object] | None = None,
) -> pa.Table:
    """Return embeddings as an Arrow table, with the columns of the Parquet files of `tritonclip embed`.

    Args:
        embeds: float32 [n, d] of `Client.embed_images` or `embed_texts`; or the results of a bulk run, each
            float32 [d] or an error.
        inputs: Names of the rows, such as the paths of the images or the texts. None: no names.

    Returns:
        Columns `input` (string), `embedding` (float32 lists of length d) and `error` (string). A failed
        input has an embedding of NaN. Write it with `pyarrow.parquet.write_table`, or call `to_pandas()`.

    Raises:
        InvalidInputError: The shape is another one, or the number of names differs from that of the rows.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = _import("pyarrow", "parquet")
    vectors, errors = _split_errors(embeds)
    names = [None] * len(vectors) if inputs is None else [printable(str(one)) for one in inputs]
    if len(names) != len(vectors):
        raise InvalidInputError(
            f"inputs: got {len(names)} names for {len(vectors)} embeddings; give one for each"
        )
    flat = pyarrow.array(np.ascontiguousarray(vectors).ravel())
    return pyarrow.table(
        {
            "input": pyarrow.array(names, type=pyarrow.string()),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            "error": pyarrow.array(errors, type=pyarrow.string()),
        }
    )


def _split_errors(
    embeds: npt.NDArray[np.float32] | Iterable[npt.NDArray[np.float32] | TritonClipError],
) -> tuple[npt.NDArray[np.float32], list[str | None]]:
    """Return embeddings as float32 [n, d] with NaN for errors, and the text of each error."""
    errors: list[str | None]
    if isinstance(embeds, np.ndarray):
        vectors, errors = embeds, [None] * len(embeds)
    else:
        rows: list[npt.NDArray[np.float32] | TritonClipError] = list(embeds)
        errors = [error_reason(row) if isinstance(row, TritonClipError) else None for row in rows]
        dim = next((len(row) for row in rows if not isinstance(row, TritonClipError)), 0)
        blank = np.full(dim, np.nan, np.float32)
        vectors = np.array([blank if isinstance(row, TritonClipError) else row for row in rows], np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise InvalidInputError(
            f"embeds: expected embeddings of shape [n, d], got {vectors.shape}; give one embedding as [embed]"
        )
    return np.asarray(vectors, np.float32), errors


def _dtype(kind: str) -> str:
    return "object" if kind == "string" else kind


def _import(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{module} is not installed ({error}): {install_command(extra)}") from error
