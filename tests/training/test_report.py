from __future__ import annotations

import pytest

from wordkiln.training.progress import ProgressLine
from wordkiln.training.report import COLUMNS, LogFile, draw_loss


def row(step, train=2.0, valid=None):
    return dict.fromkeys(COLUMNS) | {"step": step, "train_loss": train, "valid_loss": valid}


def test_a_log_goes_on_without_duplicates_or_torn_rows(tmp_path):
    path = tmp_path / "log.csv"
    log = LogFile(path, 0)
    for step in (10, 20, 30):
        log.append(row(step, valid=1.0 / step))
    with open(path, "a") as file:
        file.write("40,1.2")
    again = LogFile(path, 20)
    again.append(row(30, train=1.5))
    lines = path.read_text().splitlines()
    assert lines == [",".join(COLUMNS), "10,2.0,0.1,,,,", "20,2.0,0.05,,,,", "30,1.5,,,,,"]
    assert again.rows == LogFile(path, 30).rows
    assert len(LogFile(path, 0).rows) == 0


@pytest.mark.abuse
def test_a_damaged_log_stops_no_run(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"step\n\xff,,,,,,\nx,1,1,1,1,1,1\n5,1,1,1,1,1,1\n")
    assert [each["step"] for each in LogFile(path, 10).rows] == [5]


@pytest.mark.parametrize("rows", [[], [row(1)], [row(1), row(2, valid=3.0)]])
def test_the_picture_is_drawn_from_any_log(tmp_path, rows):
    draw_loss(tmp_path / "loss.png", rows)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_no_terminal_gets_a_plain_line_per_validation(capsys):
    with ProgressLine(1000, 0, shown=True) as line:
        line.step(100, 2.0, 5000.0)
        line.validation(200, 1.5, 1.234, 5000.0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "step 200/1,000  loss 1.500  valid 1.234 bits/byte  5,000 tokens/s\n"
    with ProgressLine(1000, 0, shown=False) as line:
        line.validation(200, 1.5, 1.234, 5000.0)
    assert capsys.readouterr().err == ""
