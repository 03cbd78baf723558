"""The command `tritonclip` as a process against the real server: what it prints where, and its exit codes."""

import csv
import io
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tritonclip import Client

COMMAND = Path(sys.executable).parent / "tritonclip"
SAMPLES = ["scripts/demo/images/red_circle.jpg", "scripts/demo/images/digit_7.jpg"]
SAMPLE = SAMPLES[0]
LABELS = ["a red circle", "a blue square"]


def over(protocol, server):
    """Runs a command against the server, over a protocol."""
    url = f"{protocol}://{ {'grpc': server.grpc_url, 'http': server.http_url}[protocol] }"

    def _run(command, *arguments, **options):
        line = [COMMAND, command, "--url", url, *arguments]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, **options)

    return _run


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


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_classify_prints_what_the_client_answers(protocol, server, client):
    answer = json.loads(succeeded(over(protocol, server)("classify", "--json", SAMPLE, *LABELS)))
    assert answer["results"] == [{"input": SAMPLE, "predictions": client.classify(ROOT / SAMPLE, LABELS)}]
    assert answer["elapsed_ms"] > 0


def test_classify_as_tables(run):
    lines = succeeded(run("classify", *SAMPLES, *LABELS, "--top-k", "1")).splitlines()
    assert [line for line in lines if line in SAMPLES] == SAMPLES
    assert lines[-1].startswith("2 images in ")


def test_classify_as_json_lines_and_csv(run):
    records = [
        json.loads(line) for line in succeeded(run("classify", "--jsonl", *SAMPLES, *LABELS)).splitlines()
    ]
    assert [record["input"] for record in records] == SAMPLES
    assert records[0]["predictions"][0]["label"] == LABELS[0]
    rows = list(csv.DictReader(io.StringIO(succeeded(run("classify", "--csv", *SAMPLES, *LABELS)))))
    assert [(row["input"], row["error"]) for row in rows] == [(s, "") for s in SAMPLES for _ in LABELS]


def test_labels_from_options_and_a_file(run, tmp_path):
    (tmp_path / "labels.txt").write_text("a blue square\n\na green ring\n")
    options = ["-l", LABELS[0], "--labels-file", tmp_path / "labels.txt"]
    (record,) = map(json.loads, succeeded(run("classify", SAMPLE, "--jsonl", *options)).splitlines())
    assert {p["label"] for p in record["predictions"]} == {*LABELS, "a green ring"}


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_images_from_directories_patterns_and_stdin(run, preprocess):
    folder = "scripts/demo/images"
    items = [folder, f"{folder}/digit_?.*", "-"]
    done = run("embed", *items, "--jsonl", "--preprocess", preprocess, input=f"{SAMPLE}\n\n{SAMPLE}\n")
    inputs = [json.loads(line)["input"] for line in succeeded(done).splitlines()]
    found = [path for path in (ROOT / folder).iterdir() if path.suffix != ".json"]
    assert len(inputs) == len(found) + 2 + 2
    assert inputs[-2:] == [SAMPLE, SAMPLE]


def test_embed_writes_every_form(run, client, tmp_path, broken):
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


def test_embed_texts(run, client, tmp_path):
    file = tmp_path / "vectors.npy"
    succeeded(run("embed", "--text", LABELS[0], "-", "--output", file, input=f"{LABELS[1]}\n"))
    np.testing.assert_allclose(np.load(file), client.embed_texts(LABELS), atol=1e-6)
    assert "first of" in succeeded(run("embed", "--text", *LABELS))


def test_similarity(run, client):
    wanted = client.similarity([ROOT / sample for sample in SAMPLES], LABELS)
    (record, _) = map(json.loads, succeeded(run("similarity", "--jsonl", *SAMPLES, *LABELS)).splitlines())
    assert [item["text"] for item in record["similarities"]] == LABELS
    rows = list(csv.DictReader(io.StringIO(succeeded(run("similarity", "--csv", *SAMPLES, "-t", LABELS[1])))))
    np.testing.assert_allclose([item["cosine"] for item in record["similarities"]], wanted[0], atol=1e-6)
    np.testing.assert_allclose([float(row["cosine"]) for row in rows], wanted[:, 1], atol=1e-6)
    assert f"{wanted[0, 0]:.4f}" in succeeded(run("similarity", SAMPLE, *LABELS))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_health_models_and_stats(protocol, server, client):
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


def test_health_asks_every_server(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
    for urls, code in (
        ([server.grpc_url] * 2, 0),
        ([server.grpc_url, dead], 3),
        ([dead, server.grpc_url], 3),
    ):
        line = [COMMAND, "health", "--json", "--url", ",".join(urls), "--attempts", "1"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == code
        states = json.loads(done.stdout)["endpoints"]
        assert [state["endpoint"] for state in states] == [f"grpc://{url}" for url in urls]
        assert [state["ok"] for state in states] == [url != dead for url in urls]


def test_a_cut_label_is_one_line_on_standard_error(run):
    arguments = ["--batch-size", "1", "a red circle", "word " * 200]
    done = run("classify", SAMPLE, SAMPLE, SAMPLE, *arguments)
    assert done.returncode == 0
    assert done.stderr.startswith("tritonclip: warning: label 1 has ")
    assert done.stderr.count("\n") == 1


def test_a_bad_image_spoils_no_other_and_is_exit_code_2(run, broken):
    done = run("classify", "--jsonl", SAMPLE, broken, SAMPLE, "a red circle")
    assert done.returncode == 2
    assert done.stderr.startswith(f"tritonclip: error: {broken}: cannot be decoded")
    assert done.stderr.count("\n") == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in record for record in records] == [False, True, False]


def test_fail_fast(run, broken):
    done = run("classify", "--jsonl", "--fail-fast", broken, SAMPLE, "a red circle")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tritonclip: error: {broken}: cannot be decoded")
    assert done.stderr.count("\n") == 1


def test_the_progress_bar_is_for_a_terminal_on_standard_error(server, tmp_path):
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as terminal:
        line = [COMMAND, "embed", "--jsonl", "--url", server.grpc_url, *SAMPLES]
        done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=slave, check=False)
        os.close(slave)
        shown = terminal.read(65536).decode()
    assert [json.loads(row)["input"] for row in done.stdout.splitlines()] == SAMPLES
    assert "2 of 2 done, 0 failed, 0 retries" in shown
    assert SAMPLE not in shown


@pytest.mark.parametrize("form", [[], ["--jsonl"], ["--csv"], ["--json"]])
def test_a_reader_that_leaves_ends_the_run_quietly(server, form):
    line = [COMMAND, "embed", *form, "--url", server.grpc_url, "--text", "-"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        _, err = run.communicate(b"\n".join(b"text %d" % i for i in range(2000)))
    assert err == b""
    assert run.returncode == 1
