# SPDX-License-Identifier: Apache-2.0
"""The rows that an import leaves out, in a file beside: to be mended and imported."""

import filecmp
import os
import tempfile
from pathlib import Path
from typing import IO

from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.reader.csv_source import BadRow
from edgepaas.telemetry.importer.reader.dialect import Dialect

#: Files of one name; an operator has seen them long before.
_MOST = 1000


class LeftOutFile:
    """Collects rows as the file has them below its header, and why in a second file.

    ``keep`` gives both their names: ``NAME.left-out.csv`` and ``NAME.left-out.txt``. One
    that is there is never overwritten, since it may be what an operator is mending.
    """

    def __init__(self, wanted: Path, dialect: Dialect) -> None:
        self._wanted, self._dialect = wanted, dialect
        #: The rows, and the reasons; nothing before there is a row.
        self._files: tuple[IO[str], IO[str]] | None = None

    def __enter__(self) -> "LeftOutFile":
        """Write nothing before there is a row."""
        return self

    def add(self, row: BadRow) -> None:
        """Add a row; raises ImportFailed where it cannot be written."""
        try:
            if self._files is None:
                self._files = self._open(self._dialect.encoding.name), self._open("utf-8")
                self._files[0].write(self._dialect.header_raw)
            rows, reasons = self._files
            end = "" if row.raw.endswith(self._dialect.line_end) else self._dialect.line_end
            rows.write(row.raw + end)
            reasons.write(f"line {row.line}: {row.problem}\n")
        except OSError as error:
            raise self._failed(error) from error

    def keep(self) -> Path | None:
        """Give the files their names; return that of the rows, None without any."""
        if self._files is None:
            return None
        try:
            for file in self._files:
                file.flush()
                os.fsync(file.fileno())
            rows, reasons = self._files
            return self._name(Path(rows.name), Path(reasons.name))
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(self, *error: object) -> None:
        """Remove what was not kept."""
        for file in self._files or ():
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def _open(self, encoding: str) -> IO[str]:
        # Under a name of its own: a run that is interrupted leaves none that looks whole.
        return tempfile.NamedTemporaryFile(
            "w",
            encoding=encoding,
            errors="surrogateescape",
            newline="",
            dir=self._wanted.parent,
            prefix=".left-out-",
            delete=False,
        )

    def _name(self, rows: Path, reasons: Path) -> Path:
        for number in range(1, _MOST):
            stem = f"{self._wanted.stem}{'' if number == 1 else f'-{number}'}"
            name = self._wanted.with_name(f"{stem}{self._wanted.suffix}")
            why = name.with_suffix(".txt")
            if why == name:
                why = name.with_suffix(".reasons.txt")
            if any(
                there.exists() and not filecmp.cmp(there, ours, shallow=False)
                for there, ours in ((name, rows), (why, reasons))
            ):
                continue
            rows.replace(name)
            reasons.replace(why)
            return name
        raise FileExistsError(f"{_MOST} files of that name are there")

    def _failed(self, error: OSError) -> ImportFailed:
        return ImportFailed(
            f"cannot write {self._wanted}, for the rows that are left out: "
            f"{error.strerror or error}; nothing was sent: name another file with --left-out"
        )
