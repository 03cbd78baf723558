"""Classify a folder of pictures with Spark while the Python workers are killed.

    python -m tests.system.spark.spark_cluster_run URL FOLDER MASTER LABELS

Read FOLDER/pictures, write FOLDER/answers.jsonl, and print the numbers of killed workers and failed tasks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.helpers.network import count_calls
from tests.system.spark.spark_sessions import WorkerKiller, failed_tasks, start_session, stop_session
from tritonclip.spark import ClipZeroShotClassifier

KILL_AT_REQUESTS = [20, 100, 200, 320, 450]  # of about 630 requests


def main(url: str, folder: Path, master: str, labels: list[str]) -> None:
    settings = {"spark.task.maxFailures": "8", "spark.excludeOnFailure.enabled": "false"}
    spark = start_session(master, folder, **settings)
    table = spark.read.format("binaryFile").load(str(folder / "pictures")).repartition(16)
    spark.sparkContext.setJobGroup("killed", "workers are killed during the job")
    with count_calls(SimpleNamespace(grpc_url=url), "grpc") as calls:
        calls.on_call = killer = WorkerKiller(KILL_AT_REQUESTS)
        stage = ClipZeroShotClassifier(url=calls.url, inputCol="content", candidateLabels=labels, batchSize=8)
        answered = stage.transform(table).selectExpr(
            "element_at(split(path, '/'), -1) AS name", "label", "label_scores AS scores"
        )
        rows = answered.collect()
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row.asDict(recursive=True)) + "\n")
    failed = failed_tasks(spark, "killed")
    stop_session(spark)
    print(json.dumps({"killed": len(killer.killed), "failed_tasks": failed}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
