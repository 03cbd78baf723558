"""Local Spark sessions, and the killing of their Python workers during a job."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil


def start_session(master: str, scratch: Path, **settings: str) -> Any:
    """Start Spark on the loopback interface; it writes all files below `scratch`."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable  # for the workers too
    builder = SparkSession.builder.master(master)
    settings |= {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(scratch / "local"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.shuffle.partitions": "2",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")  # tasks fail intentionally
    return session


def stop_session(session: Any) -> None:
    """Stop Spark and its JVM, which would otherwise run until this process exits."""
    gateway = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()
    if gateway.proc.stdout is not None:
        gateway.proc.stdout.close()


def python_workers() -> list[psutil.Process]:
    """Return the Python workers, which are children of a `pyspark.daemon` below this process."""
    workers = []
    for daemon in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "pyspark.daemon" in daemon.cmdline() and "pyspark.daemon" not in daemon.parent().cmdline():
                workers += daemon.children()
    return workers


class WorkerKiller:
    """Kills all Python workers before certain requests of a job are forwarded; see `RecordedCalls.on_call`.

    Args:
        points: Numbers of requests so far at which to kill, ascending.
    """

    def __init__(self, points: Sequence[int]) -> None:
        self._points = list(points)
        self._lock = threading.Lock()
        self.killed: list[int] = []

    def __call__(self, requests: int) -> None:
        with self._lock:
            if not self._points or requests < self._points[0]:
                return
            del self._points[0]
            for worker in python_workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
                    self.killed.append(worker.pid)


def failed_tasks(session: Any, group: str) -> int:
    """Return the number of failed task attempts in a job group."""
    tracker = session.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds]
    return sum(stage.numFailedTasks for stage in stages if stage is not None)
