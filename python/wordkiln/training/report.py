"""log.csv, which grows row by row and survives a resume, and loss.png, the picture of it."""

from __future__ import annotations

import csv
import io
import os
from importlib.util import find_spec
from pathlib import Path

from wordkiln._files import write_file
from wordkiln.errors import DependencyError, PathError

COLUMNS = (
    "step",
    "train_loss",
    "valid_loss",
    "valid_bits_per_byte",
    "learning_rate",
    "gradient_norm",
    "tokens_per_second",
)
Row = dict[str, float | None]


class LogFile:
    """The rows of a run, one per logged step; an empty cell is a value that this step has not.

    Args:
        path: of log.csv. Opened, it holds the rows up to `last_step` that it had before; later and broken ones, left by
            a run that was killed after its last checkpoint, are gone.
        last_step: the step that the run goes on from.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        self.rows = [row for row in _read_rows(path) if (row["step"] or 0) <= last_step] if last_step else []
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(_cells, self.rows))
        write_file(path, lines.getvalue())

    def append(self, row: Row) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows.append(row)
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(_cells(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PathError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def require_matplotlib() -> None:
    """Say now, not after hours of training, that the picture cannot be drawn.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DependencyError("the picture of the loss needs matplotlib: pip install 'wordkiln[train]'")


def draw_loss(path: Path, rows: list[Row]) -> None:
    """Write a PNG of train and validation loss over the steps; the validation's lowest point is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train, valid = _curve(rows, "train_loss"), _curve(rows, "valid_loss")
    axes.plot(*train, color="#8aa4c8", linewidth=1.2, label="train")
    axes.plot(*valid, color="#c0392b", linewidth=2, marker="o", markersize=4, label="validation")
    if valid[0]:
        low = min(valid[1])
        at = valid[0][valid[1].index(low)]
        axes.plot([at], [low], "*", color="#c0392b", markersize=15, label=f"best: {low:.3f} at step {at:,.0f}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    canvas.print_png(picture)  # type: ignore[no-untyped-call]  # matplotlib
    write_file(path, picture.getvalue())


def _curve(rows: list[Row], column: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[column]) for row in rows if row[column] is not None]
    return [step for step, _ in points if step is not None], [value for _, value in points if value is not None]


def _cells(row: Row) -> list[str]:
    cells = [row[name] for name in COLUMNS]
    return ["" if cell is None else str(cell) for cell in cells]


def _read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    rows: list[Row] = []
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        for cells in csv.reader(file):
            row = _parse(cells)
            if row is not None:
                rows.append(row)
    return rows


def _parse(cells: list[str]) -> Row | None:
    if len(cells) != len(COLUMNS):
        return None
    try:
        row: Row = {name: float(cell) if cell else None for name, cell in zip(COLUMNS, cells, strict=True)}
        row["step"] = int(cells[0])
    except ValueError:
        return None
    return row
