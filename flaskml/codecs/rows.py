"""The validated rows of a request, and the protocol of the object that makes a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from flaskml.schema.columns import Columns
from flaskml.schema.features import Value


class TableBuilder(Protocol):
    """The builder of the tables that a runtime computes."""

    def build(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Return the table of rows whose values are in schema order, null as None."""
        ...

    def build_columns(self, columns: Columns) -> Any:
        """Return the table of the columns of at least one feature, in schema order."""
        ...


class Rows:
    """The validated rows of a request, and whether the request sent one row or a list."""

    __slots__ = ("_table", "_table_builder", "is_single", "values")

    def __init__(self, values: Sequence[Sequence[Value]], table_builder: TableBuilder, *, is_single: bool) -> None:
        self.values = values
        """Valid values in schema order, null as None."""

        self.is_single = is_single
        """True if the request sent one row rather than a list of rows."""

        self._table_builder = table_builder
        self._table: Any = None

    @property
    def table(self) -> Any:
        """The rows as the table that the estimator takes, built at first use: a batch builds one for many requests."""
        if self._table is None:
            self._table = self._table_builder.build(self.values)
        return self._table
