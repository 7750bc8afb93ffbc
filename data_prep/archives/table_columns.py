"""Options of `etp prep table`; the command line reads them without loading the readers of tables and signals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Names of the table's columns, for `etp prep table`."""

    signal_column: str
    """Column with the path of the signal file, in the table's folder or in --root, relative to it or absolute."""
    row_column: str | None = None
    """Column with the row of the record in a signal file that holds many (HDF5, npz, npy, Parquet): its id in the file,
    or its number from 0 if the file has no ids."""
    report_column: str | None = None
    """Column with the report; without it, the report is that of the signal file. Shards without reports cannot train an
    encoder."""
    id_column: str | None = None
    """Column with the record id; without it, the path of the signal file is the id, followed by the row."""
    patient_column: str | None = None
    """Column with the patient id, in which 00123, 123.0 and 123 are one, as are P1 and p1; without it, every record is
    one patient."""
    split_column: str | None = None
    """Column with the split (train, validation or test); without it, a hash of the patient id determines the split."""
    label_column: str | None = None
    """Column with the labels: separated by `;`, `,` or `|`, or a list or dictionary of Python or JSON."""
    label_columns: tuple[str, ...] = ()
    """Columns that are labels themselves: true or 1 where the record has the label, false or 0 where it does not."""
    age_column: str | None = None
    """Column with the age in years."""
    sex_column: str | None = None
    """Column with the sex: male, m, female, f or w; other words count as unknown."""

    @cached_property
    def named(self) -> dict[str, str]:
        """The names of the columns that hold one thing, by what they hold: `signal`, `report`, ..."""
        return {field.removesuffix("_column"): name for field, name in asdict(self).items() if isinstance(name, str)}
