"""Loads without a server, and with a malformed setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtest.soaking.locust_run import LoadError, LocustProcess, ServerAddresses

from tests.helpers.load_runs import requires_locust, run_load

pytestmark = requires_locust


def test_unreachable_server_misses_the_thresholds_and_exits_with_1(tmp_path: Path) -> None:
    done = run_load(
        "--url", "127.0.0.1:1", "--users", 1, "--run-time-s", 1, "--min-rate", 1, "--output", tmp_path,
        PICTURES="1", MIX="classify=1", BAD_SHARE="0", DEADLINE_S="60",
    )  # fmt: skip
    assert done.returncode == 1
    assert "threshold missed: max_error_share: " in done.stderr
    assert "threshold missed: min_rate: " in done.stderr
    assert "classify - error" in done.stderr


def test_load_that_cannot_start_reports_the_cause(tmp_path: Path) -> None:
    addresses = ServerAddresses("127.0.0.1:1", "127.0.0.1:1")
    load = LocustProcess("carrier pigeon", addresses, tmp_path, [(1, 1)], 0, 0)
    with pytest.raises(LoadError) as failed:
        load.wait()
    assert "locust (carrier pigeon) exited with code 1 and no report" in str(failed.value)
    assert "TRITONCLIP_LOAD_PROTOCOL" in str(failed.value)
