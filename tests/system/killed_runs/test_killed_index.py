"""Runs of `index` that are killed at different points of their work lose nothing and repeat little."""

import signal

import numpy as np
import pytest

from tests.helpers.calls import metric
from tests.helpers.servers import run_python
from tests.helpers.waiting import wait_until
from tests.server.search.index_rows import assert_same, rows_of
from tests.server.search.search_pictures import draw_folder
from tritonclip import Client
from tritonclip.search import SearchIndex

COUNT = 100
FLUSH_ROWS = 20
BATCH_SIZE, CONCURRENCY = 4, 2
KILLED_WRITER = f"""
import os, signal, sys, threading
from pathlib import Path
from tritonclip import Client
from tritonclip.search import SearchIndex
from tritonclip.search._lance import LanceStore

url, folder, place, point, number = sys.argv[1:]
LanceStore.flush_rows = {FLUSH_ROWS}
put, writes = LanceStore.put, 0

def data_files():
    return set((Path(place) / "rows.lance" / "data").glob("*"))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_after_a_new_file(before):
    while data_files() == before:
        pass
    die()

def put_and_die(store, rows):
    global writes
    writes += 1
    last = writes == int(number)
    if last and point == "before a write":
        die()
    if last and point == "during a write":
        threading.Thread(target=die_after_a_new_file, args=[data_files()], daemon=True).start()
    put(store, rows)
    if last and point != "between writes":
        die()

def on_progress(progress):
    if point == "between writes" and progress.done == int(number):
        die()

LanceStore.put = put_and_die
with Client(url) as clip, SearchIndex.open(place, clip, create=True) as index:
    index.sync(
        [folder], batch_size={BATCH_SIZE}, concurrency={CONCURRENCY}, on_progress=on_progress
    )
"""
KILLS = [("between writes", 30), ("before a write", 2), ("during a write", 1), ("after a write", 1)]


@pytest.mark.slow
def test_index_whose_runs_were_killed_equals_a_new_one(server, tmp_path):
    folder, place = tmp_path / "pictures", tmp_path / "index"
    draw_folder(folder, COUNT)

    def embedded():
        return metric(server, "tritonclip_images_total", model="vision_encoder") - before

    before = metric(server, "tritonclip_images_total", model="vision_encoder")
    written = 0
    for point, number in KILLS:
        done = run_python(KILLED_WRITER, server.grpc_url, folder, place, point, number)
        assert done.returncode == -signal.SIGKILL, done.stderr
        rows = rows_of(place)  # readable, and no row is partial
        assert all(np.isclose(np.linalg.norm(vector), 1, atol=1e-5) for _, _, vector in rows.values())
        assert len(rows) >= written
        written = len(rows)
    assert 0 < written < COUNT
    with Client(server.grpc_url) as clip:
        with SearchIndex.open(place, clip, create=True) as index:
            assert index.sync([folder]).total == COUNT
        wait_until(lambda: embedded() >= COUNT, "Triton did not count the images", timeout_s=60)
        in_flight = 2 * CONCURRENCY * BATCH_SIZE  # embedded, but not yet received when a run was killed
        assert embedded() <= COUNT + len(KILLS) * in_flight
        with SearchIndex.open(tmp_path / "fresh", clip, create=True) as index:
            index.sync([folder])
    assert_same(place, tmp_path / "fresh")
