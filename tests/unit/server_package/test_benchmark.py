"""The benchmark against peers: arithmetic, load and report."""

import base64
import json
import struct
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tritonclip import ModelStatistics
from tritonclip_server.benchmarks import perf_analyzer, workload
from tritonclip_server.benchmarks.command import SUBCOMMANDS, main
from tritonclip_server.benchmarks.serving import measurements, report, roofline, stages
from tritonclip_server.benchmarks.serving.command import select_measurements
from tritonclip_server.benchmarks.serving.plots import write_plots

STAGE = {"queue_ms": 1.0, "compute_ms": 2.0, "batch": 3.0}


def elements(tensor):
    """Decode Triton's serialisation of a BYTES tensor."""
    content, found = base64.b64decode(tensor["b64"]), []
    while content:
        (length,) = struct.unpack_from("<I", content)
        found.append(content[4 : 4 + length])
        content = content[4 + length :]
    return found


def figures(images_per_s, **others):
    return {"images_per_s": images_per_s, "p50_ms": 1000 / images_per_s, **others}


def served(images_per_s, text_ms=2.0):
    found = {stage: dict(STAGE) for stage in stages.STAGES}
    found["text_encoder"]["compute_ms"] = text_ms
    return figures(
        images_per_s, requests_per_s=images_per_s, p95_ms=80.0, p99_ms=90.0, client_cpu_ms=0.5, stages=found
    )


@pytest.fixture
def rounds():
    """Two rounds of every measurement; in the second one the machine is half as fast."""
    made = {}
    for measurement in measurements.MEASUREMENTS:
        make = served if measurement.contender == "triton" else figures
        made[measurement.name] = [make(10.0), make(5.0)]
    made["encoder-32"] = [figures(60.0), figures(30.0)]
    made["decode"] = [figures(30.0), figures(15.0)]
    made["callers-64"] = [served(18.0), served(9.0)]
    made["litserve-2"] = [figures(12.0), figures(6.0)]
    made["labels-1000"] = [served(8.0, text_ms=2.0 + 0.99 * 2), served(4.0, text_ms=2.0 + 0.99 * 4)]
    return made


def test_labels_differ_and_shorter_lists_are_prefixes():
    assert len(set(workload.labels(1000))) == 1000
    assert workload.labels(1000)[:10] == workload.labels(10)


def test_photos_differ_and_are_reproducible(tmp_path):
    paths = workload.write_photos(tmp_path / "photos", 4, workload.PHOTO_SIZE)
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == 4
    assert contents == list(workload.photos(4, workload.PHOTO_SIZE))
    assert all(50_000 < len(content) < 150_000 for content in contents)
    with Image.open(paths[0]) as image:
        assert (image.format, image.size) == ("JPEG", workload.PHOTO_SIZE)


def test_written_requests_hold_images_and_labels(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(bytes([number]) * (number + 1))
    measurements.write_zero_shot_requests(tmp_path / "requests.json", tmp_path / "photos", images=2, labels=3)
    first, second = json.loads((tmp_path / "requests.json").read_text())["data"]
    assert first["image"]["shape"] == [2] and first["labels"]["shape"] == [3]
    assert elements(second["image"]) == [b"\2" * 3, b"\3" * 4]
    assert elements(second["labels"]) == [label.encode() for label in workload.labels(3)]


def test_images_that_do_not_fill_a_request_are_ignored(tmp_path):
    assert perf_analyzer.write_image_requests(tmp_path / "requests.json", [b"a", b"bc", b"d"], 2) == 1
    (request,) = json.loads((tmp_path / "requests.json").read_text())["data"]
    assert elements(request["image"]) == [b"a", b"bc"]


def test_times_are_found_in_an_export_that_is_not_utf8():
    sent = b'{"timestamp":%d,"request_inputs":{"image":"\xff\xd8"},"response_timestamps":[%d]}'
    profile = b",".join(sent % (start, start + 500_000_000) for start in (0, 10**9, 1_500_000_000))
    load = perf_analyzer.summarise(profile, cpu_ms=0.25)
    assert load == perf_analyzer.LoadResult(1.5, 500.0, 500.0, 500.0, 0.25)


def test_missing_response_raises():
    with pytest.raises(perf_analyzer.PerfAnalyzerError, match="sent 1 requests and got 0 responses"):
        perf_analyzer.summarise(b'{"timestamp":5}', cpu_ms=0)


def test_request_count_is_a_multiple_of_the_callers():
    assert measurements.request_count(12.0, 16, 10.0) == 128
    assert measurements.request_count(12.0, 256, 10.0) == 512


def test_http_figures_have_the_same_names_as_perf_analyzers():
    found = measurements.http_figures({"seconds": 2.0, "cpu_s": 0.01, "latencies_s": [0.1, 0.2, 0.3, 0.4]})
    assert found.pop("p50_ms") == pytest.approx(250)
    assert found.pop("p99_ms") > found.pop("p95_ms")
    assert found == {"images_per_s": 2.0, "requests_per_s": 2.0, "client_cpu_ms": 2.5}


def test_stage_means_cover_the_requests_between_two_readings():
    def reading(requests, executions, queue_ms):
        return {
            stage: ModelStatistics(
                name=stage,
                version="1",
                requests=requests,
                failures=0,
                rows=requests,
                executions=executions,
                mean_ms=9.0,
                queue_ms=queue_ms,
                compute_ms=5.0,
            )
            for stage in stages.STAGES
        }

    found = stages.means_between(reading(10, 10, 1.0), reading(30, 15, 3.0))
    assert found["similarity"] == pytest.approx({"queue_ms": 4.0, "compute_ms": 5.0, "batch": 4.0})


def test_roofline_adds_decoding_and_encoding_times():
    assert roofline.roofline(60.0, 30.0) == pytest.approx(20.0)


def test_derived_figures_compare_round_by_round(rounds):
    derived = {line.target.title: line for line in roofline.derive(rounds)}
    assert len(derived) == len(roofline.TARGETS)
    limit = derived["throughput / roofline"]
    assert (limit.spread.least, limit.spread.most) == pytest.approx((0.9, 0.9)) and limit.met
    litserve = derived["throughput / better LitServe"]
    assert litserve.spread.median == pytest.approx(1.5) and litserve.met
    assert derived["throughput / pipeline one by one"].met is False
    assert derived["roofline: decoding and encoding only"].met is None
    assert derived["latency floor: decoding and encoding one image"].spread.most == pytest.approx(400)
    label = derived["server time of a cached label"]
    assert (label.spread.least, label.spread.most) == pytest.approx((2.0, 4.0)) and label.met


def test_figure_is_left_out_if_a_measurement_is_missing(rounds):
    some = {name: rounds[name] for name in ("callers-16", "fastapi", "litserve-1")}
    titles = [line.target.title for line in roofline.derive(some)]
    assert titles == ["throughput / FastAPI", "throughput / better LitServe"]


@pytest.mark.parametrize("chosen", [None, "decode", "litserve-1,labels-1000"])
def test_report_writes_json_markdown_and_plots(rounds, tmp_path, chosen):
    kept = {one.name: rounds[one.name] for one in select_measurements(chosen)}
    machine = {"cpu": "C", "flags": ["avx2"], "cores": 2, "memory_gib": 4.0, "python": "3", "commit": "c"}
    settings = {"checkpoint": "demo", "rounds": 2, "seconds": 1.0, "requests": {}}
    result = report.BenchmarkResult(kept, {**machine, "versions": {"torch": "2"}}, settings, {"triton": 1.5})
    report.write(result, tmp_path)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["rounds"] == kept
    assert all(row["median"] == np.mean([row["least"], row["most"]]) for row in content["derived"])
    text = (tmp_path / "benchmark.md").read_text()
    assert all(
        f"| {report.titles()[name]} | 7.5 |" in text for name in kept if kept[name][0]["images_per_s"] == 10
    )
    pictures = write_plots(kept, tmp_path)
    assert len(pictures) == {None: 4, "decode": 0, "litserve-1,labels-1000": 1}[chosen]
    for path in pictures:
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_unknown_measurement_is_rejected():
    with pytest.raises(click.BadParameter, match="no measurement matches nothing; choose from pipeline-1, "):
        select_measurements("callers-1,nothing")


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_benchmark_has_help(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f" {name} [OPTIONS]" in result.output


def test_missing_package_is_named_with_the_pip_command(monkeypatch):
    monkeypatch.delitem(sys.modules, "tritonclip_server.benchmarks.gateway", raising=False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    result = CliRunner().invoke(main, ["gateway", "--help"])
    assert result.exit_code == 1
    expected = "the package psutil is missing; install it with: pip install ./client '.[benchmark]'"
    assert result.output == f"Error: {expected}\n"
