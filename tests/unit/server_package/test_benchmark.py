"""The benchmark against peers: arithmetic, load and report."""

import asyncio
import base64
import contextlib
import http.server
import json
import struct
import sys
import threading
from collections import Counter
from typing import Annotated

import click
import fastapi
import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from tests.helpers.pictures import EXIF_ORIENTATION
from tritonclip import ModelStatistics
from tritonclip_server.benchmarks import machine, perf_analyzer, workload
from tritonclip_server.benchmarks.command import SUBCOMMANDS, main
from tritonclip_server.benchmarks.serving import comparison, load, measurements, report, roofline, stages
from tritonclip_server.benchmarks.serving.command import select_measurements, skipped_contenders
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


def served(images_per_s, text_ms=2.0, rejected=0):
    found = {stage: dict(STAGE) for stage in stages.STAGES}
    found["text_encoder"]["compute_ms"] = text_ms
    return figures(images_per_s, p95_ms=80.0, p99_ms=90.0, client_cpu_ms=0.5, rejected=rejected, stages=found)


@pytest.fixture
def rounds():
    """Two rounds of every measurement; in the second one the machine is half as fast."""
    made = {}
    for measurement in measurements.MEASUREMENTS:
        make = served if measurement.contender in (measurements.DEFAULT, measurements.INT8) else figures
        made[measurement.name] = [make(10.0), make(5.0)]
    made["encoder-32"] = [figures(60.0), figures(30.0)]
    made["decode"] = [figures(30.0), figures(15.0)]
    made["triton-64"] = [served(18.0), served(9.0)]
    made["triton-int8-64"] = [served(27.0), served(13.5)]
    made["litserve-2-64"] = [figures(12.0), figures(6.0)]
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


def test_mix_has_turned_photos_thumbnails_and_screenshots(tmp_path):
    paths = workload.write_files(tmp_path / "mix", workload.mix(4))
    assert sorted(paths) == paths
    kinds = Counter()
    for path in paths:
        with Image.open(path) as image:
            kinds[path.suffix, image.format, image.size, image.getexif().get(EXIF_ORIENTATION)] += 1
    assert kinds.pop((".jpg", "JPEG", workload.LARGE_PHOTO_SIZE, 6)) == 1
    assert kinds.pop((".png", "PNG", workload.SCREENSHOT_SIZE, None)) == 1
    assert [(suffix, kind, exif) for suffix, kind, _, exif in kinds] == [(".jpg", "JPEG", None)] * 2
    assert all(200 <= edge <= 300 for _, _, size, _ in kinds for edge in size)


def test_written_requests_hold_images_and_labels(tmp_path):
    images = [bytes([number]) * (number + 1) for number in range(5)]
    perf_analyzer.write_image_requests(tmp_path / "requests.json", images, 2, [b"a", b"bc", b"d"])
    first, second = json.loads((tmp_path / "requests.json").read_text())["data"]
    assert first["image"]["shape"] == [2] and first["labels"]["shape"] == [3]
    assert elements(second["image"]) == [b"\2" * 3, b"\3" * 4]
    assert elements(second["labels"]) == [b"a", b"bc", b"d"]


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


def test_load_figures_count_answers_and_rejections_apart():
    result = {"seconds": 2.0, "cpu_s": 0.01, "latencies_s": [0.1, 0.2, 0.3, 0.4], "rejected": 1}
    found = measurements.load_figures(result, images=3)
    assert found.pop("p50_ms") == pytest.approx(250)
    assert found.pop("p99_ms") > found.pop("p95_ms")
    assert found == {"images_per_s": 6.0, "client_cpu_ms": 2.0, "rejected": 1}


def test_load_figures_without_an_answer_have_no_latencies():
    result = {"seconds": 2.0, "cpu_s": 0.01, "latencies_s": [], "rejected": 5}
    assert measurements.load_figures(result, 1) == {"images_per_s": 0.0, "client_cpu_ms": 2.0, "rejected": 5}


def test_groups_leave_out_images_that_do_not_fill_a_request():
    assert load.groups([b"a", b"b", b"c"], 2) == [[b"a", b"b"]]


class CountingApi(load.Api):
    """Rejects every second request."""

    sent = 0

    def encode(self, images):
        return images

    @contextlib.asynccontextmanager
    async def connected(self):
        yield

    async def send(self, request):
        self.sent += 1
        answered = self.sent % 2 == 1
        await asyncio.sleep(0)
        return answered


def test_each_caller_sends_at_least_one_request(monkeypatch):
    monkeypatch.setattr(load, "RETRY_S", 0)
    result = asyncio.run(load.load(CountingApi("", [], 5), [b"a", b"b"], seconds=0))
    assert len(result["latencies_s"]) == 3 and result["rejected"] == 2


@pytest.fixture
def http_server():
    """Start an HTTP server whose answers have the given status; yield a function that returns its URL."""
    with contextlib.ExitStack() as stack:

        def start(status):
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_POST(self):  # noqa: N802
                    bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

                def log_message(self, *_):
                    """Print nothing."""

            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        bodies = start.bodies = []
        yield start


@pytest.mark.parametrize("status", [429, 503, 504])
def test_rejections_over_http_are_counted(http_server, status):
    api = load.EmbeddingsApi(http_server(status), [], 2)
    result = asyncio.run(load.load(api, [api.encode([b"image"])], seconds=0))
    assert (result["rejected"], result["latencies_s"]) == (2, [])


def test_other_errors_over_http_end_the_load(http_server):
    api = load.EmbeddingsApi(http_server(500), [], 1)
    with pytest.raises(RuntimeError, match="answered with 500"):
        asyncio.run(load.load(api, [api.encode([b"image"])], seconds=0))


def test_embeddings_requests_hold_the_image_as_a_data_uri(http_server):
    api = load.EmbeddingsApi(http_server(200), [], 1)
    asyncio.run(load.load(api, [api.encode([b"image"])], seconds=0))
    (body,) = http_server.bodies
    (uri,) = json.loads(body)["input"]
    assert base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) == b"image"


def test_form_requests_are_read_by_the_peers_framework():
    app = fastapi.FastAPI()

    @app.post("/")
    def echo(image: Annotated[bytes, fastapi.File()], labels: Annotated[str, fastapi.Form()]):
        return [image.hex(), json.loads(labels)]

    body, headers = load.FormApi("", ["a cat", "Käse"], 1).encode([b"\r\n--\x00"])
    reply = TestClient(app).post("/", content=body, headers=headers)
    assert reply.json() == [b"\r\n--\x00".hex(), ["a cat", "Käse"]]


def test_grpc_requests_are_those_of_the_ensembles():
    request = service_pb2.ModelInferRequest.FromString(load.GrpcApi("", ["a"], 1).encode([b"x", b"y"]))
    assert request.model_name == "clip_zero_shot"
    assert [(one.name, list(one.shape)) for one in request.inputs] == [("image", [1, 2]), ("labels", [1, 1])]
    request = service_pb2.ModelInferRequest.FromString(load.GrpcApi("", [], 1).encode([b"x"]))
    assert request.model_name == "clip_image_embedding"
    assert list(deserialize_bytes_tensor(request.raw_input_contents[0])) == [b"x"]


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
    derived = {line.target.title: line for line in roofline.derive(rounds, bfloat16=False)}
    limit = derived["throughput / roofline"]
    assert (limit.spread.least, limit.spread.most) == pytest.approx((0.9, 0.9)) and limit.met
    litserve = derived["throughput / better LitServe"]
    assert litserve.spread.median == pytest.approx(1.5) and litserve.met is None
    int8 = derived["throughput in int8 / better LitServe"]
    assert int8.spread.median == pytest.approx(2.25) and int8.met
    assert derived["median latency of 1 caller, int8 / float32"].met is False
    assert derived["roofline: decoding and encoding only"].met is None
    assert derived["latency floor: decoding and encoding one image"].spread.most == pytest.approx(400)
    label = derived["server time of a cached label"]
    assert (label.spread.least, label.spread.most) == pytest.approx((2.0, 4.0)) and label.met


def test_target_for_litserve_holds_with_bfloat16_instructions_only(rounds):
    (litserve,) = (
        line
        for line in roofline.derive(rounds, bfloat16=True)
        if line.target.title == "throughput / better LitServe"
    )
    assert litserve.met is False


def test_figure_is_left_out_if_a_measurement_is_missing(rounds):
    some = {name: rounds[name] for name in ("triton-16", "fastapi-16", "litserve-1-16")}
    titles = [line.target.title for line in roofline.derive(some, bfloat16=False)]
    assert titles == ["throughput / FastAPI", "throughput / better LitServe"]


def test_comparison_has_ratios_of_the_defaults_and_of_int8(rounds):
    rows = {row[0]: row[1:] for row in comparison.comparison_rows(rounds)}
    loads = list(comparison.LOADS)
    assert rows["(images/s)"][loads.index("64")] == "13.5 / 20.2"
    assert rows["LitServe, 2 workers"][loads.index("64")] == "1.5 / 2.25"
    assert rows["LitServe, 2 workers"][loads.index("large")] == "1 / 1"
    assert rows["transformers pipeline, one by one"][loads.index("mix")] == ""
    assert rows["infinity, image embeddings"] == ["1 / 1", "1 / 1", "1 / 1", "", ""]


def test_comparison_leaves_out_what_was_not_measured(rounds):
    some = {name: rounds[name] for name in ("triton-16", "litserve-1-16", "fastapi-64")}
    assert comparison.comparison_rows(some) == [
        ["(images/s)", "", "7.5", "", "", ""],
        ["LitServe, 1 worker", "", "1", "", "", ""],
    ]


def test_peer_without_an_answer_has_no_ratio(rounds):
    some = {"triton-16": rounds["triton-16"], "fastapi-16": [figures(1.0), {"images_per_s": 0.0}]}
    assert [row[0] for row in comparison.comparison_rows(some)] == ["(images/s)"]
    assert roofline.derive(some, bfloat16=False) == []


def result_of(rounds, **skipped):
    machine = {"cpu": "C", "flags": ["avx2"], "bfloat16": False, "cores": 2, "memory_gib": 4.0}
    machine |= {"python": "3", "commit": "c", "versions": {"torch": "2"}}
    settings = {"checkpoint": "demo", "rounds": 2, "seconds": 1.0}
    return report.BenchmarkResult(rounds, machine, settings, {"triton": 1.5}, skipped)


@pytest.mark.parametrize("chosen", [None, "decode", "litserve-1-*,labels-1000"])
def test_report_writes_json_markdown_and_plots(rounds, tmp_path, chosen):
    kept = {one.name: rounds[one.name] for one in select_measurements(chosen)}
    report.write(result_of(kept), tmp_path)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["rounds"] == kept
    assert all(row["median"] == np.mean([row["least"], row["most"]]) for row in content["derived"])
    text = (tmp_path / "benchmark.md").read_text()
    assert all(
        f"| {report.titles()[name]} | 7.5 |" in text for name in kept if kept[name][0]["images_per_s"] == 10
    )
    pictures = write_plots(kept, tmp_path)
    assert len(pictures) == {None: 4, "decode": 0, "litserve-1-*,labels-1000": 2}[chosen]
    for path in pictures:
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_report_names_rejections_and_contenders_that_were_not_measured(rounds, tmp_path):
    kept = {"triton-64": [served(10.0, rejected=2), {"images_per_s": 0.0, "rejected": 3}]}
    report.write(result_of(kept, infinity="it is not installed"), tmp_path)
    text = (tmp_path / "benchmark.md").read_text()
    assert "- Not measured: infinity, because it is not installed" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| this system, 64 callers"))
    assert row.endswith("| 5 |")
    assert write_plots(kept, tmp_path) == []


@pytest.mark.parametrize(
    "line,bfloat16",
    [
        ("flags : fpu avx2", False),
        ("flags : avx512_bf16", True),
        ("Features : fp bf16", True),
        ("", False),
    ],
)
def test_bfloat16_is_recognised_on_x86_and_arm(monkeypatch, line, bfloat16):
    monkeypatch.setattr(machine, "_read", lambda path: f"processor : 0\n{line}\n")
    assert machine.has_bfloat16() is bfloat16


def test_measurement_names_differ():
    names = [one.name for one in measurements.MEASUREMENTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_int8_is_measured_on_cpus_without_bfloat16_instructions(monkeypatch, bfloat16):
    monkeypatch.setattr(machine, "has_bfloat16", lambda: bfloat16)
    assert (measurements.INT8 in skipped_contenders(infinity=None)) is bfloat16


def test_unknown_measurement_is_rejected():
    with pytest.raises(click.BadParameter, match="no measurement matches nothing; choose from pipeline-1, "):
        select_measurements("triton-1,nothing")


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
