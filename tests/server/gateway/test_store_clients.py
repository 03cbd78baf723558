"""Clients of the vector stores Milvus and Qdrant that embed through the gateway, in their own environment."""

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.environments import python_of
from tests.helpers.servers import ROOT

IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
URI = f"data:image/jpeg;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
TEXTS = ["a red circle", "größer"]


@pytest.mark.slow
def test_stores_find_images_and_texts_by_a_text(gateway_with_keys, direct, tmp_path):
    calls = Path(__file__).parent / "store_clients_calls.py"
    command = [
        python_of("store-clients"),
        calls,
        gateway_with_keys.url,
        gateway_with_keys.key,
        tmp_path,
        URI,
        *TEXTS,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = np.concatenate([direct.embed_images([IMAGE]), direct.embed_texts(TEXTS)])
    np.testing.assert_allclose(found["milvus documents"], expected, atol=1e-6)
    np.testing.assert_allclose(found["milvus query"], expected[1:2], atol=1e-6)
    cosines = expected @ expected[1]
    order = np.argsort(-cosines)
    for store in ("milvus", "qdrant"):
        assert [number for number, _ in found[f"{store} hits"]] == order.tolist(), store
        scores = [score for _, score in found[f"{store} hits"]]
        np.testing.assert_allclose(scores, cosines[order], atol=1e-5, err_msg=store)
