"""Clients in the worker processes of PyTorch's DataLoader, whether forked or spawned."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.helpers.servers import ROOT, run_python

IMAGES = sorted((ROOT / "scripts" / "demo" / "images").iterdir())[:4]
SCRIPT = """
import sys
import numpy as np
from torch.utils.data import DataLoader, Dataset
from tritonclip import Client

class Embeddings(Dataset):
    def __init__(self, client, images):
        self.client, self.images = client, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.client.embed_images(self.images[index])

if __name__ == "__main__":
    url, method, *images = sys.argv[1:]
    with Client(url) as client:
        right = [client.embed_images(image) for image in images]
        workers = {"fork": 2, "spawn": 1}[method]  # a spawned one imports torch again
        loader = DataLoader(Embeddings(client, images), num_workers=workers, multiprocessing_context=method)
        np.testing.assert_allclose(np.concatenate([one.numpy() for one in loader]), right, atol=1e-5)
"""


@pytest.mark.parametrize(("protocol", "method"), [("grpc", "fork"), ("http", "fork"), ("http", "spawn")])
def test_workers_embed_their_own_images(server, tmp_path: Path, protocol: str, method: str) -> None:
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    script = tmp_path / "load.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = run_python(
        "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')",
        *(script, url, method, *IMAGES),
    )
    assert done.returncode == 0, done.stderr
