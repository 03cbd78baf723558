"""Percentage of long work on large files, in lines and as a bar."""

import re

import pytest

from tritonclip_server.repository import progress
from tritonclip_server.repository.checkpoint_files import locate
from tritonclip_server.repository.prepare import CheckpointSettings, Target, prepare_version


@pytest.fixture
def immediate(monkeypatch):
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)


def prepared_lines(checkpoint, output):
    lines = []
    files = locate(str(checkpoint), report=lines.append)
    prepare_version(files, Target(output), CheckpointSettings(), lines.append)
    return lines


def percents(lines, work):
    found = [re.fullmatch(rf"{work} .+: (\d+) % of \d+ MB", line) for line in lines]
    return [int(match[1]) for match in found if match]


def test_reading_writing_and_checking_report_percent_up_to_100(immediate, small_checkpoint, tmp_path):
    first = prepared_lines(small_checkpoint, tmp_path / "models")
    again = prepared_lines(small_checkpoint, tmp_path / "models")
    for lines, work in ((first, "reading"), (first, "writing"), (again, "checking")):
        shown = percents(lines, work)
        assert shown == sorted(shown)
        assert shown[-1] == 100
    assert min(percents(first, "writing")) < 100
    assert not percents(again, "writing")


def test_short_work_reports_nothing(small_checkpoint, tmp_path):
    lines = prepared_lines(small_checkpoint, tmp_path / "models")
    assert not any("%" in line for line in lines)


def test_terminal_shows_a_bar_unless_bars_are_off(immediate, monkeypatch, capsys):
    def shown():
        lines = []
        with progress.shown_progress("reading weights", 10_000_000, lines.append):
            progress.advance(4_000_000)
        return lines, capsys.readouterr().err

    monkeypatch.delenv(progress.NO_BARS, raising=False)
    assert shown() == (["reading weights: 40 % of 10 MB"], "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    lines, bar = shown()
    assert not lines
    assert "reading weights" in bar
    assert "40%" in bar
    monkeypatch.setenv(progress.NO_BARS, "1")
    assert shown() == (["reading weights: 40 % of 10 MB"], "")
