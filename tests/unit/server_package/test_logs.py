"""The log as JSON: on lines of the embedded server and on random text."""

import json
import re
from datetime import datetime, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.waiting import wait_until
from tritonclip_server.serving.logs import (
    OPEN_FILES_EVERY_S,
    SUPERVISOR,
    Log,
    LogParser,
    OpenFilesFilter,
    text_log,
)

NOW = datetime(2026, 11, 25, 20, tzinfo=timezone.utc)
LOADED = """I1125 19:50:50.246298 19267 model_lifecycle.cc:839] "successfully loaded 'similarity'\""""
INCIDENT = (
    r"E1125 19:51:17.612229 19751 clip_responder.py:100] "
    r'"incident 828f8888, model similarity, request \"boom \\u00fc\": Traceback (most recent call last):\n'
    r"  File \"/models/similarity/1/clip_responder.py\", line 123, in _attempt\n    return parse(request)\n"
    r'           ^^^^^^^^^^^^^^\nKeyError: \'boom\'\n"'.replace(r"\'", "'")
)
TABLE = """\
I1125 19:50:53.167865 19267 server.cc:674] 
+----------------------+---------+--------+
| Model                | Version | Status |
+----------------------+---------+--------+
| admission            | 1       | READY  |
+----------------------+---------+--------+

I1125 19:50:53.167991 19267 metrics.cc:770] "Collecting CPU metrics\""""  # noqa: W291
STUB = """\
I1125 19:51:23.310412 20197 pb_stub.cc:366]  Failed to initialize Python stub: no module 'a'

At:
  /models/similarity/1/model.py(1): <module>
  <frozen importlib._bootstrap>(241): _call_with_frames_removed

error: creating server: Internal - failed to load all models"""
PRINTED = """\
Traceback (most recent call last):
  File "/models/similarity/1/model.py", line 1, in <module>
    import a
ModuleNotFoundError: No module named 'a'
double free or corruption (!prev)"""


def entries(text, now=NOW):
    found = LogParser(lambda: now)
    lines = [entry for line in text.split("\n") for entry in found.feed(line)]
    return [json.loads(entry.json()) for entry in [*lines, *found.flush()]]


def test_line_of_triton_is_parsed():
    assert entries(LOADED) == [
        {
            "time": "2026-11-25T19:50:50.246298Z",
            "level": "INFO",
            "source": "model_lifecycle.cc:839",
            "message": "successfully loaded 'similarity'",
        }
    ]


def test_incident_has_its_id_and_the_request_id():
    (entry,) = entries(INCIDENT)
    assert (entry["level"], entry["source"]) == ("ERROR", "clip_responder.py:100")
    assert (entry["incident"], entry["request_id"]) == ("828f8888", "boom ü")
    assert entry["message"].startswith("incident 828f8888, model similarity, ")
    assert entry["message"].endswith("^\nKeyError: 'boom'")


def test_table_is_one_entry():
    table, after = entries(TABLE)
    assert (table["source"], table["level"]) == ("server.cc:674", "INFO")
    assert table["message"].count("\n") == 4
    assert table["message"].startswith("+---") and "| admission " in table["message"]
    assert after["message"] == "Collecting CPU metrics"


def test_failure_of_a_stub_is_one_entry():
    stub, error = entries(STUB)
    assert stub["message"].startswith("Failed to initialize Python stub: no module")
    assert stub["message"].endswith("_call_with_frames_removed")
    assert (error["level"], error["source"]) == ("ERROR", "stdout")


def test_printed_traceback_is_one_entry():
    traceback, after = entries(PRINTED)
    assert (traceback["level"], traceback["source"]) == ("ERROR", "stdout")
    assert traceback["message"].endswith("No module named 'a'")
    assert after["message"] == "double free or corruption (!prev)"
    assert after["time"] == "2026-11-25T20:00:00.000000Z"


@pytest.mark.parametrize(
    ("now", "stamp", "year"),
    [("2027-01-01", "1231", 2026), ("2026-12-31", "0101", 2027), ("2028-02-29", "0229", 2028)],
)
def test_year_is_the_one_closest_to_now(now, stamp, year):
    at = datetime.fromisoformat(f"{now}T12:00:00+00:00")
    (entry,) = entries(f'I{stamp} 12:00:00.000000 1 a.cc:1] "x"', at)
    assert entry["time"].startswith(f"{year}-")


LINES = st.one_of(
    st.text(st.characters(exclude_characters="\n")),
    st.sampled_from([part for text in (LOADED, INCIDENT, TABLE, STUB, PRINTED) for part in text.split("\n")]),
    st.text(st.sampled_from('I1125 :.]"\\+|{}T'), max_size=40).map(
        "I1125 19:50:50.246298 1 a.cc:1] {}".format
    ),
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=20))
@example(["I0230 19:50:50.246298 1 a.cc:1] no such day"])
@example(["I0229 19:50:50.246298 1 a.cc:1] in no year near"])
@example(["I1125 19:50:50.246298 1 a.cc:1] \ud800"])
def test_no_line_is_lost(lines):
    found = [entry["message"] for entry in entries("\n".join(lines))]
    for line in lines:
        text = re.sub(r"^[VIWEF]\d{4} \S+ \d+ \S+\d\] ?", "", line, flags=re.ASCII)
        try:
            content = json.loads(text, strict=False)
        except ValueError:
            content = text
        content = content if isinstance(content, str) else text
        assert (
            any(content.strip().strip("\n") in message or line in message for message in found)
            or not content.strip()
        )


def test_incomplete_entry_is_written_after_a_pause():
    written = []
    log = Log(written.append)
    log.server_line("I1125 19:51:21.460559 19794 pb_stub.cc:2145]  Non-graceful termination detected. ")
    wait_until(lambda: written, "the entry was not written", timeout_s=60)
    (entry,) = written
    assert entry.message.strip() == "Non-graceful termination detected."


@pytest.mark.parametrize("verbose", [False, True])
def test_text_shows_people_what_they_need(verbose, capsys):
    log = text_log(verbose=verbose)
    log.message("ready: grpc 127.0.0.1:8001")
    log.server_line(LOADED)
    log.server_line('I1125 19:50:50.246298 19267 model.py:94] "compiling the vision tower"')
    log.server_line('W1125 19:50:50.246298 19267 server.cc:12] "a warning"')
    log.server_line("error: creating server: no GPU")
    log.message("the server must be restarted", level="WARNING", source=SUPERVISOR)
    log.message("error: the port is in use", level="ERROR")
    log.flush()
    shown = capsys.readouterr()
    assert shown.out == "ready: grpc 127.0.0.1:8001\n"
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in shown.err.splitlines()]
    assert lines == [
        *["model_lifecycle.cc:839: successfully loaded 'similarity'"] * verbose,
        "model.py:94: compiling the vision tower",
        "warning: server.cc:12: a warning",
        "error: creating server: no GPU",
        "warning: supervisor: the server must be restarted",
        "error: the port is in use",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[warn] Error from accept() call: Too many open files",
        "E1128 05:16:11.691504477   30567 tcp_server_posix.cc:358]  File descriptor limit reached. Retrying.",
    ],
)
def test_lines_at_the_limit_on_open_files_become_one_a_minute(line):
    now_s = 100.0
    open_files = OpenFilesFilter(lambda: now_s)
    assert open_files.matches(line)
    assert "1024 files and connections" in (open_files.replacement(1024) or "")
    assert [open_files.replacement(1024) for _ in range(3)] == [None] * 3
    now_s += OPEN_FILES_EVERY_S
    assert open_files.replacement(1024)


def test_errors_of_a_model_about_open_files_are_kept():
    assert not OpenFilesFilter().matches("OSError: [Errno 24] Too many open files: 'a'")
