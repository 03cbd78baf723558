"""The command `tritonclip` against the real server: output, exit codes and requests."""

import contextlib
import csv
import fcntl
import http.client
import http.server
import io
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.command import run_command
from tests.helpers.network import Forwarder
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.helpers.threads import in_thread
from tests.helpers.waiting import wait_until
from tritonclip import Client, ZeroShotClassifier

COMMAND = Path(sys.executable).parent / "tritonclip"
SAMPLES = ["scripts/demo/images/red_circle.jpg", "scripts/demo/images/digit_7.jpg"]
SAMPLE = SAMPLES[0]
LABELS = ["a red circle", "a blue square"]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def over(protocol, server):
    """Return a function that runs a command against the server over a protocol."""
    return over_url(f"{protocol}://{ {'grpc': server.grpc_url, 'http': server.http_url}[protocol] }")


def over_url(url):
    """Return a function that runs a command against a URL."""
    return lambda command, *arguments, **options: run_command(command, "--url", url, *arguments, **options)


@pytest.fixture
def run(server):
    return over("grpc", server)


@pytest.fixture
def client(server):
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(encode(noise(300, 300), "JPEG")[:3000])
    return str(path)


def succeeded(done):
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextlib.contextmanager
def recording_proxy(server):
    """Forward HTTP requests to the server; yield the URL, and the requests as `METHOD path` in order."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.closing(http.client.HTTPConnection(server.http_url)) as upstream:
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                reply = upstream.getresponse()
                content = reply.read()
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as proxy:
        yield f"http://127.0.0.1:{proxy.server_port}", requests


ZERO_SHOT, IMAGE, TEXT, PIXELS = (
    f"POST /v2/models/{model}/infer"
    for model in ("clip_zero_shot", "clip_image_embedding", "clip_text_embedding", "clip_pixel_embedding")
)
PIXEL_CONFIG = "GET /v2/models/clip_pixel_embedding/config"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["classify", SAMPLE, *LABELS], [ZERO_SHOT]),
        (["classify", *SAMPLES, *LABELS], [ZERO_SHOT]),
        (["classify", *SAMPLES, *LABELS, "--batch-size", "1"], [ZERO_SHOT] * 2),
        (["embed", *SAMPLES], [IMAGE]),
        (["embed", "--text", *LABELS], [TEXT]),
        (["similarity", *SAMPLES, *LABELS], [TEXT, IMAGE]),
        (["classify", *SAMPLES, *LABELS, "--preprocess", "client"], [TEXT, PIXEL_CONFIG, PIXELS]),
        (["embed", *SAMPLES, "--preprocess", "client"], [PIXEL_CONFIG, PIXELS]),
    ],
)
def test_run_to_standard_output_sends_only_its_inputs(server, arguments, wanted):
    with recording_proxy(server) as (url, requests):
        succeeded(over_url(url)(*arguments, "--jsonl"))
    assert requests == wanted


def test_run_into_a_file_also_reads_the_models_before_and_after(server, tmp_path):
    with recording_proxy(server) as (url, requests):
        succeeded(over_url(url)("classify", SAMPLE, *LABELS, "-o", tmp_path / "out.jsonl"))
    models = ("clip_zero_shot", "clip_image_embedding", "clip_text_embedding", "clip_pixel_embedding")
    configs = sorted(f"GET /v2/models/{model}/config" for model in models)
    assert requests[4] == ZERO_SHOT
    assert sorted(requests[:4]) == sorted(requests[5:]) == configs


def test_run_waits_through_an_outage_after_its_first_answer(server):
    line = [COMMAND, "embed", "--text", "-", "--jsonl", "--batch-size", "1", "--concurrency", "1"]
    with Forwarder(server.grpc_url) as forwarder:
        line += ["--url", forwarder.address, "--attempts", "1"]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
            run.stdin.write("one\ntwo\n")
            run.stdin.flush()
            first = run.stdout.readline()  # written once the second text is in flight
            forwarder.go_down()
            run.stdin.write("three\nfour\n")
            run.stdin.flush()
            rejected = forwarder.connections
            wait_until(lambda: forwarder.connections >= rejected + 2, "the run did not try again", 60)
            assert run.poll() is None
            forwarder.down = False
            rest, _ = run.communicate()
    inputs = [json.loads(record)["input"] for record in [first, *rest.splitlines()]]
    assert (run.returncode, inputs) == (0, ["one", "two", "three", "four"])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_classify_prints_the_predictions_of_the_client(protocol, server, client):
    answer = json.loads(succeeded(over(protocol, server)("classify", "--json", SAMPLE, *LABELS)))
    assert answer["results"] == [{"input": SAMPLE, "predictions": client.classify(ROOT / SAMPLE, LABELS)}]
    assert answer["elapsed_ms"] > 0


def test_classify_prints_a_line_per_image(run, client):
    lines = succeeded(run("classify", *SAMPLES, *LABELS, "--top-k", "1")).splitlines()
    best = [client.classify(ROOT / sample, LABELS)[0] for sample in SAMPLES]
    assert lines == [
        f"{sample}\t{one['label']}\t{one['score']:.4f}" for sample, one in zip(SAMPLES, best, strict=True)
    ]


def test_classify_prints_json_lines_and_csv(run):
    records = [
        json.loads(line) for line in succeeded(run("classify", "--jsonl", *SAMPLES, *LABELS)).splitlines()
    ]
    assert [record["input"] for record in records] == SAMPLES
    assert records[0]["predictions"][0]["label"] == LABELS[0]
    rows = list(csv.DictReader(io.StringIO(succeeded(run("classify", "--csv", *SAMPLES, *LABELS)))))
    assert [(row["input"], row["error"]) for row in rows] == [(s, "") for s in SAMPLES for _ in LABELS]


@pytest.mark.parametrize(
    ("words", "ranked"),
    [
        (["a red circle, a blue square"], LABELS),
        (["-l", "a red circle, a blue square"], LABELS),
        (['["a red circle, big", "b"]'], ["a red circle, big", "b"]),
        (["a red circle, big", "b"], ["a red circle, big", "b"]),
    ],
)
def test_labels_are_split_by_the_rule_of_the_client(run, words, ranked):
    done = run("classify", SAMPLE, *words, "--json")
    assert done.stderr == ""
    (record,) = json.loads(done.stdout)["results"]
    assert {one["label"] for one in record["predictions"]} == set(ranked)


@pytest.mark.parametrize(
    ("words", "warning"),
    [([], "no labels were given; ranked the default"), (["a"], "only one label was given")],
)
def test_labels_whose_scores_say_little_are_reported_once(run, words, warning):
    done = run("classify", *SAMPLES, *words, "--json", "--batch-size", 1)
    assert done.returncode == 0
    assert done.stderr.startswith(f"tritonclip: warning: {warning}")
    assert done.stderr.count("\n") == 1


def test_labels_are_read_from_options_and_a_file(run, tmp_path):
    (tmp_path / "labels.txt").write_text("a blue square\n\na green ring\n")
    options = ["-l", LABELS[0], "--labels-file", tmp_path / "labels.txt"]
    (record,) = map(json.loads, succeeded(run("classify", SAMPLE, "--jsonl", *options)).splitlines())
    assert {p["label"] for p in record["predictions"]} == {*LABELS, "a green ring"}


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_several_templates_are_an_ensemble_like_that_of_the_classifier(run, client, tmp_path, preprocess):
    templates = ["{}", "a drawing of {}.", "no picture of {}"]
    (tmp_path / "templates.txt").write_text("\n".join(templates[1:]))
    options = ["--template", templates[0], "--templates-file", tmp_path / "templates.txt"]
    arguments = ["classify", *SAMPLES, *LABELS, "--json", "--preprocess", preprocess]
    results = json.loads(succeeded(run(*arguments, *options)))["results"]
    wanted = ZeroShotClassifier(client, LABELS, templates=templates)([ROOT / sample for sample in SAMPLES])
    plain = json.loads(succeeded(run(*arguments, *options[:2])))["results"]
    for result, ranked, alone in zip(results, wanted, plain, strict=True):
        scores = {one["label"]: one["score"] for one in result["predictions"]}
        assert scores == pytest.approx({one["label"]: one["score"] for one in ranked}, abs=1e-5)
        assert scores != pytest.approx({one["label"]: one["score"] for one in alone["predictions"]}, rel=1e-3)


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_images_are_read_from_directories_patterns_and_stdin(run, preprocess):
    folder = "scripts/demo/images"
    items = [folder, f"{folder}/digit_?.*", "-"]
    done = run("embed", *items, "--jsonl", "--preprocess", preprocess, stdin=f"{SAMPLE}\n\n{SAMPLE}\n")
    assert (done.returncode, done.stderr) == (0, "tritonclip: skipped 1 file: 1 .json (not an image)\n")
    inputs = [json.loads(line)["input"] for line in done.stdout.splitlines()]
    found = [path for path in (ROOT / folder).iterdir() if path.suffix != ".json"]
    assert len(inputs) == len(found) + 2 + 2
    assert inputs[-2:] == [SAMPLE, SAMPLE]


def test_embed_writes_every_format(run, client, tmp_path, broken):
    import pyarrow.parquet

    wanted = client.embed_images([ROOT / sample for sample in SAMPLES])
    found = {}
    for suffix in ("jsonl", "json", "csv", "npy", "parquet"):
        file = tmp_path / f"out.{suffix}"
        done = run("embed", SAMPLES[0], broken, SAMPLES[1], "--output", file)
        assert done.returncode == 2
        assert done.stderr.startswith(f"tritonclip: error: {broken}: cannot be decoded")
        assert done.stdout.startswith("3 images in ")
        found[suffix] = file
    records = [json.loads(line) for line in found["jsonl"].read_text().splitlines()]
    assert json.loads(found["json"].read_text()) == {"results": records}
    columns = list(csv.DictReader(io.StringIO(found["csv"].read_text())))
    table = pyarrow.parquet.read_table(found["parquet"]).to_pylist()
    names = [SAMPLES[0], broken, SAMPLES[1]]
    for rows in (records, columns, table):
        assert [row["input"] for row in rows] == names
        assert "cannot be decoded" in rows[1]["error"]
    array = np.load(found["npy"])
    assert array.dtype == np.float32
    assert np.isnan(array[1]).all()
    for vectors in (
        array[[0, 2]],
        [records[i]["embedding"] for i in (0, 2)],
        [json.loads(columns[i]["embedding"]) for i in (0, 2)],
        [table[i]["embedding"] for i in (0, 2)],
    ):
        np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    assert [
        json.loads(line)["input"] for line in (tmp_path / "out.inputs.jsonl").read_text().splitlines()
    ] == names


def test_embed_writes_text_embeddings(run, client, tmp_path):
    file = tmp_path / "vectors.npy"
    succeeded(run("embed", "--text", LABELS[0], "-", "--output", file, stdin=f"{LABELS[1]}\n"))
    np.testing.assert_allclose(np.load(file), client.embed_texts(LABELS), atol=1e-6)
    lines = succeeded(run("embed", "--text", *LABELS)).splitlines()
    assert [line.split("\t")[0] for line in lines] == LABELS


def test_similarity_prints_the_cosines_of_the_client(run, client):
    wanted = client.similarity([ROOT / sample for sample in SAMPLES], LABELS)
    (record, _) = map(json.loads, succeeded(run("similarity", "--jsonl", *SAMPLES, *LABELS)).splitlines())
    assert [item["text"] for item in record["similarities"]] == LABELS
    rows = list(csv.DictReader(io.StringIO(succeeded(run("similarity", "--csv", *SAMPLES, "-t", LABELS[1])))))
    np.testing.assert_allclose([item["cosine"] for item in record["similarities"]], wanted[0], atol=1e-6)
    np.testing.assert_allclose([float(row["cosine"]) for row in rows], wanted[:, 1], atol=1e-6)
    assert f"{wanted[0, 0]:.4f}" in succeeded(run("similarity", SAMPLE, *LABELS)).split("\t")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["classify", SAMPLE, *LABELS], " ms: queue"),
        (["embed", *SAMPLES, "--batch-size", "1"], " ms per request, the mean of 2: queue"),
        (["embed", "--text", *LABELS, "--json"], " ms: queue"),
        (["similarity", SAMPLE, "a red circle"], " ms per request, the mean of 2: queue"),
    ],
)
def test_timings_say_where_the_time_went(run, arguments, text):
    done = run(*arguments, "--timings")
    line = done.stderr.splitlines()[-1]
    assert text in line
    total, *parts = map(float, re.findall(r"(\d+\.\d)\b(?! of)", line))
    assert len(parts) == 7
    assert sum(parts) == pytest.approx(total, abs=0.5)  # each is rounded
    plain = run(*arguments)
    assert plain.returncode == done.returncode == 0
    assert "queue" not in plain.stdout + plain.stderr + done.stdout


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_health_models_and_stats_report_the_server(protocol, server, client):
    run = over(protocol, server)
    (state,) = json.loads(succeeded(run("health", "--json")))["endpoints"]
    assert state["ok"]
    assert set(state["models"]) == {model.name for model in client.models()}
    models = json.loads(succeeded(run("models", "--json")))["models"]
    assert [model["sha256"] for model in models] == [model.sha256 for model in client.models()]
    client.embed_texts(LABELS)
    stats = {model["name"]: model for model in json.loads(succeeded(run("stats", "--json")))["models"]}
    assert stats["text_encoder"]["requests"] > 0
    assert stats["text_encoder"]["mean_batch"] >= 1
    for command in ("health", "models", "stats"):
        assert "clip_zero_shot" in succeeded(run(command))


def test_health_checks_every_server(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
    for urls, code in (
        ([server.grpc_url] * 2, 0),
        ([server.grpc_url, dead], 3),
        ([dead, server.grpc_url], 3),
    ):
        done = run_command("health", "--json", "--url", ",".join(urls), "--attempts", "1")
        assert done.returncode == code
        states = json.loads(done.stdout)["endpoints"]
        assert [state["endpoint"] for state in states] == [f"grpc://{url}" for url in urls]
        assert [state["ok"] for state in states] == [url != dead for url in urls]


def test_truncated_label_is_one_warning(run):
    arguments = ["--batch-size", "1", "a red circle", "word " * 200]
    done = run("classify", SAMPLE, SAMPLE, SAMPLE, *arguments)
    assert done.returncode == 0
    assert done.stderr.startswith("tritonclip: warning: label 1 has ")
    assert done.stderr.count("\n") == 1


def test_bad_image_fails_alone_with_exit_code_2(run, broken):
    done = run("classify", "--jsonl", SAMPLE, broken, SAMPLE, *LABELS)
    assert done.returncode == 2
    assert done.stderr.startswith(f"tritonclip: error: {broken}: cannot be decoded")
    assert done.stderr.count("\n") == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in record for record in records] == [False, True, False]


def test_fail_fast_stops_at_the_first_bad_image(run, broken):
    done = run("classify", "--jsonl", "--fail-fast", broken, SAMPLE, *LABELS)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tritonclip: error: {broken}: cannot be decoded")
    assert done.stderr.count("\n") == 1


def test_progress_bar_is_shown_on_a_terminal(server):
    with on_terminal("embed", "--jsonl", "--url", server.grpc_url, *SAMPLES, stdout=subprocess.PIPE) as run:
        shown, out = run
    assert [json.loads(row)["input"] for row in out.splitlines()] == SAMPLES
    assert " 2/2 " in shown
    assert "/s" in shown
    assert SAMPLE not in shown


def test_bar_counts_the_images_of_a_directory_and_stays_below_the_results(server, tmp_path):
    """The count arrives while results are printed, so the run is held up with one image per request."""
    for number in range(60):
        (tmp_path / f"{number:02}.png").write_bytes(encode(noise(8, 8), "PNG"))
    options = ["--url", server.grpc_url, "--batch-size", "1", "--concurrency", "1"]
    with on_terminal("classify", tmp_path, *LABELS, *options) as (shown, _):
        pass
    assert "/60 " in shown
    assert re.search(r"\d:\d\d:\d\d left", shown)
    # The bar is erased before each result, which a carriage return shows.
    rows = re.findall(r"\r\d\.\d{4} [^\r\n]*/(\d\d)\.png\r\n", shown)
    assert rows == [f"{number:02}" for number in range(60)]
    assert "60 images in " in shown.splitlines()[-1]


@contextlib.contextmanager
def on_terminal(*arguments, stdout=None):
    """Run a command on a terminal of 100 columns; yield what the terminal and `stdout` received."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = []

    def read():
        with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
            while part := os.read(master, 65536):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=stdout or slave,
        stderr=slave,
        check=False,
    )
    os.close(slave)
    reader.join()
    os.close(master)
    yield re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(shown).decode()), done.stdout


@pytest.mark.parametrize("form", ["--jsonl", "--json"])  # writes each result, or all at the end
def test_closed_pipe_ends_the_run_quietly(server, form):
    line = [COMMAND, "embed", form, "--url", server.grpc_url, "--text", "-"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        _, err = run.communicate(b"\n".join(b"text %d" % number for number in range(200)))
    assert err == b""
    assert run.returncode == 1


def test_completion_script_works_in_bash():
    """The function that the script defines is called as bash does when Tab is pressed."""
    script = """source <("$0" completion bash) && complete -p tritonclip
    COMP_WORDS=("$0" "classify" "--lab") COMP_CWORD=2
    _tritonclip_completion "$0"
    printf '%s\\n' "${COMPREPLY[@]}" """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, COMMAND], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    registered, *words = done.stdout.splitlines()
    assert registered.endswith("_tritonclip_completion tritonclip")
    assert words == ["--label", "--labels-file"]
