"""The sampler of a soak on a copy of the files that it reads in /proc, and on texts of metrics."""

import psutil
import pytest
from loadtest.soaking import samples
from loadtest.soaking.samples import STUB, Sampler, kib_lines, metric_figures, process_name

METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
nv_inference_request_success{model="clip_zero_shot",version="1"} 10
nv_inference_request_success{model="clip_text_embedding",version="1"} 5
nv_inference_request_success{model="vision_encoder",version="1"} 7
nv_inference_request_failure{model="clip_zero_shot",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="clip_zero_shot",reason="CANCELED",version="1"} 1
nv_inference_pending_request_count{model="vision_encoder",version="1"} 3
nv_inference_pending_request_count{model="similarity",version="1"} 4
tritonclip_requests_executing{instance="similarity_0_0",model="similarity"} 2
tritonclip_label_cache_bytes{instance="text_encoder_0_0",model="text_encoder"} 2.5e+06
"""
REGION = f"{samples.REGION}ab"
SERVER, ENCODER, OTHER, WORKER = 100, 200, 300, 400
"""Process ids of the server, its stub, a process of nobody's, and a worker of the stub."""


def stub_command(instance):
    return [f"/tmp/x/{STUB}", "/models/m/1/model.py", REGION, "1048576", "6991", "/tmp/x", "336", instance]


class ProcFolder:
    """Writes the files of processes below a folder in the formats of /proc."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "stat").write_text("cpu  1 2 3 4 5 6 7 8 9 0\nbtime 1700000000\n")

    def add(self, pid, parent, command, kib):
        """Add a process; `kib` is its anonymous memory, and its other figures differ from this by a few."""
        own = self.folder / str(pid)
        (own / "fd").mkdir(parents=True)
        for handle in range(pid // 100):
            (own / "fd" / str(handle)).touch()
        program = process_name(command)[:15]
        (own / "stat").write_text(f"{pid} ({program}) S {parent} " + " ".join("0" for _ in range(48)) + "\n")
        (own / "cmdline").write_text("\0".join(command) + "\0")
        sizes = {"RssAnon": kib, "RssFile": 40, "RssShmem": 3, "VmSwap": 5}
        lines = [f"{name}:\t{size:8} kB" for name, size in sizes.items()]
        (own / "status").write_text("\n".join([f"Name:\t{program}", *lines, f"Threads:\t{pid // 50}"]) + "\n")
        sizes = {"Pss": kib + 20, "Private_Clean": 1, "Private_Dirty": kib}
        lines = [f"{name}:{size:20} kB" for name, size in sizes.items()]
        (own / "smaps_rollup").write_text("\n".join(["55d-7ff ---p 00000000 [rollup]", *lines]) + "\n")


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A folder in place of /proc, with a server, a stub and a process that is no child of the server."""
    folder, shared = tmp_path / "proc", tmp_path / "shm"
    folder.mkdir()
    shared.mkdir()
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(folder))
    monkeypatch.setattr(samples, "PROC", folder)
    monkeypatch.setattr(samples, "SHARED_MEMORY", shared)
    (shared / REGION).write_bytes(b"x" * 8192)
    made = ProcFolder(folder)
    made.add(SERVER, 1, ["/opt/bin/tritonserver", "--model-repository=/models"], 1000)
    made.add(ENCODER, SERVER, stub_command("vision_encoder_0_1"), 2000)
    made.add(OTHER, 1, stub_command("similarity_0_0"), 3000)
    made.add(WORKER, ENCODER, ["/usr/bin/python3.11", "-S", "/models/m/1/clip_worker.py", "{}"], 4000)
    return made


def test_process_name_is_the_instance_of_a_stub_or_the_program():
    assert process_name([*stub_command("vision_encoder_0_1"), "DEFAULT"]) == "vision_encoder_0_1"
    assert process_name(["/opt/bin/tritonserver", "--model-repository=/models"]) == "tritonserver"
    assert process_name([]) == "unknown"


def test_metric_figures_sum_over_models():
    row = metric_figures(METRICS)
    assert (row["succeeded"], row["failed"]) == (15, 3)
    assert (row["pending"], row["executing"]) == (7, 2)
    assert row["label_cache_bytes"] == 2.5e6


def test_kib_lines_are_converted_to_bytes():
    assert kib_lines("Rss:      48400 kB\nThreads:  7\nPss_Anon: 1 kB\n") == {
        "Rss": 49561600,
        "Pss_Anon": 1024,
    }


def test_sample_includes_the_server_its_stubs_and_the_metrics(proc):
    row = Sampler(SERVER, lambda: METRICS).sample()
    for name, pid, kib in (("tritonserver", SERVER, 1000), ("vision_encoder_0_1", ENCODER, 2000)):
        found = {key.partition(".")[2]: value for key, value in row.items() if key.startswith(f"{name}.")}
        assert found.pop("started_s") >= 0
        assert found == {
            "pid": pid,
            "private_bytes": 1024 * (kib + 5),
            "resident_bytes": 1024 * (kib + 40),
            "pss_bytes": 1024 * (kib + 20),
            "uss_bytes": 1024 * (kib + 1),
            "shm_bytes": 1024 * 3,
            "handles": pid // 100,
            "threads": pid // 50,
        }
    assert not [name for name in row if name.startswith(("similarity", "python"))]
    blocks = (samples.SHARED_MEMORY / REGION).stat().st_blocks
    assert (row["regions"], row["regions_bytes"]) == (1, 512 * blocks)
    assert (row["pending"], row["succeeded"]) == (7, 15)


def test_process_that_exits_during_the_sample_is_left_out(proc):
    (proc.folder / str(ENCODER) / "smaps_rollup").unlink()
    row = Sampler(SERVER, lambda: METRICS).sample()
    assert row["tritonserver.pid"] == SERVER
    assert not [name for name in row if name.startswith("vision_encoder_0_1.")]


def test_region_that_is_gone_has_no_bytes(proc):
    (samples.SHARED_MEMORY / REGION).unlink()
    row = Sampler(SERVER, lambda: METRICS).sample()
    assert (row["regions"], row["regions_bytes"]) == (1, 0)


def test_sample_of_an_exited_server_contains_only_the_time(proc):
    row = Sampler(SERVER + 1, lambda: pytest.fail("asked for metrics")).sample()
    assert row.keys() == {"time_s"}


def test_sample_without_metrics_includes_processes(proc):
    def refused():
        raise ConnectionRefusedError

    row = Sampler(SERVER, refused).sample()
    assert "tritonserver.pid" in row
    assert "pending" not in row
