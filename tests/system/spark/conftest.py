"""Fixtures: a Spark session, a client, and the demo images with their labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tests.system.spark.spark_sessions import start_session, stop_session
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton

IMAGES = ROOT / "scripts" / "demo" / "images"
SECRET = "5fd0c3-a-key-that-must-be-nowhere"


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local Spark session with two parallel tasks and three attempts per task."""
    require("java", "openjdk-17-jre-headless")
    session = start_session(
        "local[2,3]", tmp_path_factory.mktemp("spark"), **{"spark.executorEnv.CLIP_TOKEN": SECRET}
    )
    yield session
    stop_session(session)


@pytest.fixture(scope="session")
def client(server: EmbeddedTriton) -> Iterator[Client]:
    with Client(server.grpc_url) as one:
        yield one


@pytest.fixture(scope="session")
def labels() -> list[str]:
    return list(json.loads((IMAGES / "labels.json").read_text("utf-8"))["candidate_labels"])


@pytest.fixture(scope="session")
def images() -> Path:
    return IMAGES


@pytest.fixture
def classifier(spark: Any, server: EmbeddedTriton, labels: list[str]) -> Any:
    from tritonclip.spark import ClipZeroShotClassifier

    return ClipZeroShotClassifier(url=server.grpc_url, candidateLabels=labels)
