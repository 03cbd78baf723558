"""Jobs whose Python workers are killed answer every row exactly once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.network import count_calls
from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tests.system.spark.spark_pictures import assert_same, write_pictures
from tests.system.spark.spark_sessions import WorkerKiller, failed_tasks
from tritonclip import Client
from tritonclip.spark import ClipZeroShotClassifier
from tritonclip_server.serving.launcher import EmbeddedTriton

MANY = 5000


@pytest.mark.slow
def test_killed_workers_lose_or_repeat_no_row(
    spark: Any,
    server: EmbeddedTriton,
    client: Client,
    classifier: ClipZeroShotClassifier,
    labels: list[str],
    tmp_path: Path,
) -> None:
    paths = write_pictures(tmp_path / "pictures", 120)
    table = spark.createDataFrame([(str(path),) for path in paths], "image string").repartition(4)
    spark.sparkContext.setJobGroup("killed", "workers are killed during the job")
    with count_calls(server, "grpc") as calls:
        calls.on_call = killer = WorkerKiller([10, 40])
        rows = classifier.setUrl(calls.url).setBatchSize(2).transform(table).collect()  # 60 requests
    assert len(killer.killed) >= 2
    assert failed_tasks(spark, "killed") >= 2
    assert sorted(row.image for row in rows) == [str(path) for path in paths]
    expected = dict(zip(map(str, paths), client.classify_many(paths, labels), strict=True))
    for row in rows:
        assert_same(row.label, row.label_scores, expected[row.image])


@pytest.mark.slow
@pytest.mark.parametrize("master", ["local-cluster[2,1,1024]", "local[2,8]"])
def test_cluster_with_killed_workers_answers_every_row_once(
    server: EmbeddedTriton, client: Client, labels: list[str], tmp_path: Path, master: str
) -> None:
    require("java", "openjdk-17-jre-headless")
    paths = write_pictures(tmp_path / "pictures", MANY)
    command = [
        sys.executable,
        "-m",
        "tests.system.spark.spark_cluster_run",
        server.grpc_url,
        str(tmp_path),
        master,
        json.dumps(labels),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["killed"] >= 5 and counts["failed_tasks"] >= 3, counts
    lines = (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert sorted(one["name"] for one in answers) == [path.name for path in paths]
    expected = dict(zip((path.name for path in paths), client.classify_many(paths, labels), strict=True))
    for one in answers:
        assert_same(one["label"], one["scores"], expected[one["name"]])
