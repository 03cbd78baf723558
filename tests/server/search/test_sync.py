"""Sync runs: after any change of the files, the index equals a new index of the same files."""

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.waiting import settled
from tests.server.search.index_rows import assert_same, rows_of
from tests.server.search.search_pictures import picture
from tritonclip import Client
from tritonclip.errors import InvalidInputError
from tritonclip.search import SearchIndex

SLOW_WRITER = """
import sys
from tritonclip import Client
from tritonclip.search import SearchIndex
from tritonclip.search._lance import LanceStore
LanceStore.flush_rows = 60  # so that kills often hit a write
url, folder, place = sys.argv[1:]
with Client(url) as clip, SearchIndex.open(place, clip, create=True) as index:
    print(index.sync([folder], batch_size=4, concurrency=2), flush=True)
"""


def sync(clip, place, *folders, **options):
    with SearchIndex.open(place, clip, create=True) as index:
        return index.sync(folders, **options)


@pytest.fixture
def embedded(server):
    """Return a function that reads the number of embedded images once the counter has settled."""

    def published():
        lines = re.findall(
            r'^tritonclip_images_total{.*model="vision_encoder".*} (\d+)', server.metrics(), re.M
        )
        return sum(map(int, lines))

    return lambda: settled(published, pause_s=0.6)


def test_first_run_indexes_all_images(indexed):
    assert (indexed.summary.embedded, indexed.summary.total) == (2000, 2000)
    assert (indexed.summary.failed, indexed.summary.deleted) == (0, 0)
    rows = rows_of(indexed.place)
    lengths = np.linalg.norm([vector for _, _, vector in rows.values()], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    assert not list(indexed.place.glob("work.sqlite*"))


def test_changed_deleted_added_and_renamed_files_are_followed(indexed, clip, tmp_path, embedded):
    folder, place = tmp_path / "pictures", tmp_path / "index"
    shutil.copytree(indexed.folder, folder)
    assert sync(clip, place, folder).embedded == 2000
    files = sorted(folder.rglob("*.jpg"))
    random.Random(0).shuffle(files)
    for number, path in enumerate(files[:50]):
        picture(number, seed=7)[1].save(path)
    for path in files[50:100]:
        path.unlink()
    for number, path in enumerate(files[100:130]):
        path.rename(folder / f"renamed {number}.jpg")
    for number in range(20):
        picture(number, seed=8)[1].save(folder / f"added {number}.png")
    for path in files[130:140]:
        os.utime(path)  # new time, same content
    shutil.copy(files[140], folder / "copy.jpg")
    before = embedded()
    summary = sync(clip, place, folder)
    assert embedded() - before == summary.embedded == 70
    assert (summary.deleted, summary.reused, summary.unchanged) == (80, 31, 1870)
    assert summary.total == 2000 - 50 + 20 + 1
    sync(clip, tmp_path / "fresh", folder)
    assert_same(place, tmp_path / "fresh")
    assert sync(clip, place, folder).embedded == 0


def test_killed_runs_are_resumed_without_losses(clip, server, indexed, tmp_path, embedded):
    folder, place = indexed.folder, tmp_path / "index"
    command = [sys.executable, "-c", SLOW_WRITER, server.grpc_url, str(folder), str(place)]
    before, kills = embedded(), 0
    for wanted in (150, 500, 900, 1300, 1700):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        while process.poll() is None and safe_rows(place) < wanted:
            time.sleep(0.005)
        process.kill()  # SIGKILL
        process.communicate()
        kills += process.returncode == -9
        if (place / "rows.lance").exists():
            written = rows_of(place)  # readable, and no row is partial
            assert all(np.isclose(np.linalg.norm(v), 1, atol=1e-5) for _, _, v in written.values())
    assert kills >= 3
    assert sync(clip, place, folder).total == 2000
    assert_same(place, indexed.place)
    in_flight = 2 * 2 * 4  # images in the requests that a killed process had not completed
    assert embedded() - before <= 2000 + 5 * in_flight


def safe_rows(place):
    """Estimate how many vectors are on disk from the size of the log, since the writer locks the database."""
    total = 0
    if (place / "rows.lance").exists():
        total = len(rows_of(place))
    wal = place / "work.sqlite-wal"
    return total + (wal.stat().st_size // 8192 if wal.exists() else 0)


def test_unwritten_vectors_of_an_interrupted_run_are_written_first(clip, few, tmp_path):
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index:
        calls = 0

        def stop(progress):
            nonlocal calls
            calls += 1
            if progress.done >= 48:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.sync([few], on_progress=stop)
        assert index.count() == 0
    assert (place / "work.sqlite").exists()
    summary = sync(clip, place, few)
    assert summary.kept >= 48
    assert summary.embedded == 100 - summary.kept
    assert summary.total == 100


def test_unwritten_vectors_of_other_weights_are_dropped(clip, few, tmp_path):
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index, pytest.raises(KeyboardInterrupt):
        index.sync([few], on_progress=lambda progress: (_ for _ in ()).throw(KeyboardInterrupt))
    with sqlite3.connect(place / "work.sqlite") as state:
        state.execute("update weights set sha256 = 'other'")
    state.close()
    summary = sync(clip, place, few)
    assert (summary.kept, summary.embedded) == (0, 100)


def test_identical_content_is_embedded_once(clip, few, tmp_path, embedded):
    first = next(few.rglob("*.jpg"))
    for number in range(5):
        shutil.copy(first, few / f"copy {number}.jpg")
    before = embedded()
    summary = sync(clip, tmp_path / "index", few)
    assert embedded() - before == summary.embedded == 100
    assert (summary.reused, summary.total) == (5, 105)


def test_change_with_equal_size_and_time_is_detected(clip, tmp_path):
    """A file that is rewritten immediately can keep its modification time; here it keeps its size too."""
    folder = tmp_path / "folder"
    folder.mkdir()
    picture(0)[1].save(folder / "a.bmp")
    assert sync(clip, tmp_path / "index", folder).embedded == 1
    status = (folder / "a.bmp").stat()
    picture(1)[1].save(folder / "a.bmp")
    os.utime(folder / "a.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / "a.bmp").stat().st_size == status.st_size
    assert sync(clip, tmp_path / "index", folder).embedded == 1


def test_damaged_files_are_reported_and_removed_from_the_index(clip, few, tmp_path):
    files = sorted(few.rglob("*.jpg"))
    assert sync(clip, tmp_path / "index", few).total == 100
    files[0].write_bytes(b"no image at all")
    files[1].write_bytes(b"")
    files[2].write_bytes(files[3].read_bytes()[:300])
    reported = []
    summary = sync(clip, tmp_path / "index", few, on_error=lambda name, why: reported.append((name, why)))
    assert [name for name, _ in reported] == [str(path) for path in files[:3]]
    assert all(why and "image 0" not in why for _, why in reported)
    assert (summary.failed, summary.deleted, summary.total) == (3, 3, 97)


def test_file_name_that_is_not_utf8_is_reported(clip, few, tmp_path):
    name = os.fsencode(few) + b"/\xff.jpg"
    shutil.copy(next(few.rglob("*.jpg")), name)
    reported = []
    summary = sync(clip, tmp_path / "index", few, on_error=lambda name, why: reported.append(why))
    assert (summary.total, reported) == (100, ["its name is not UTF-8; rename it"])


def test_entries_of_other_directories_are_kept(clip, few, indexed, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(few / "00", other)
    place = tmp_path / "index"
    assert sync(clip, place, few).total == 100
    assert sync(clip, place, other).total == 200
    shutil.rmtree(few / "00")
    picture(0)[1].save(few / "left.png")
    summary = sync(clip, place, few)
    assert (summary.deleted, summary.total) == (100, 101)


def test_missing_or_empty_directory_deletes_nothing(clip, few, tmp_path):
    sync(clip, tmp_path / "index", few)
    few.rename(tmp_path / "away")
    with pytest.raises(InvalidInputError, match="no such directory"):
        sync(clip, tmp_path / "index", few)
    few.mkdir()  # like the mount point of an unmounted disk
    with pytest.raises(InvalidInputError, match="no image files"):
        sync(clip, tmp_path / "index", few)
    with SearchIndex.open(tmp_path / "index") as index:
        assert index.count() == 100


def test_second_writer_is_rejected(clip, few, tmp_path):
    place = tmp_path / "index"
    sync(clip, place, few)
    picture(3, seed=9)[1].save(few / "new.png")
    with SearchIndex.open(place, clip) as first, SearchIndex.open(place, clip) as second:

        def other(progress):
            with pytest.raises(InvalidInputError, match="another run is writing this index"):
                second.sync([few])

        assert first.sync([few], on_progress=other).embedded == 1


def test_lines_of_a_text_file_are_indexed_and_followed(clip, few, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("a red circle\n\n a blue square \na red circle\n", encoding="utf-8")
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index:
        summary = index.sync([few], text_files=[captions])
        assert (summary.embedded, summary.total) == (102, 102)
        hits = index.search(clip.embed_images(next(few.rglob("*blue square.jpg"))), 5, kind="text")
        assert [hit.entry.name for hit in hits] == ["a blue square", "a red circle"]
        captions.write_text("a blue square\na green heart\n", encoding="utf-8")
        summary = index.sync(text_files=[captions])
        assert (summary.embedded, summary.deleted, summary.unchanged) == (1, 1, 1)
        assert (index.count("text"), index.count("image")) == (2, 100)


def test_index_of_other_weights_is_rejected(clip, few, tmp_path):
    from tritonclip.search._store import open_store
    from tritonclip.search._types import Identity

    other = Identity(sha256="0" * 64, checkpoint="another/model", dim=len(clip.embed_texts("a")))
    open_store(str(tmp_path / "index"), other).close()
    for create in (False, True):
        with pytest.raises(InvalidInputError) as rejected:
            SearchIndex.open(tmp_path / "index", clip, create=create)
        assert "another/model" in str(rejected.value) and "scripts/demo/checkpoint" in str(rejected.value)


def test_directory_with_other_files_is_rejected(clip, few):
    with pytest.raises(InvalidInputError, match="contains other files"):
        SearchIndex.open(few, clip, create=True)
    with pytest.raises(InvalidInputError, match="is not an index"):
        SearchIndex.open(few)


def test_missing_extra_is_reported_with_its_install_command():
    program = """
import sys
sys.modules["lancedb"] = None
from tritonclip.errors import MissingExtraError
from tritonclip.search import SearchIndex
try:
    SearchIndex.open("anywhere")
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "tritonclip[search]"' in done.stdout


def test_memory_does_not_grow_with_the_number_of_files(server, indexed, tmp_path):
    """The state of a run is kept on disk, so 20 times the files need hardly more memory."""
    program = """
import re, sys
from pathlib import Path
from tritonclip.search._sources import SourceItem
from tritonclip.search._sync_state import SyncState
from tritonclip.search._types import Entry, Identity, Stamp
count, directory = int(sys.argv[1]), Path(sys.argv[2])
state = SyncState(directory, Identity(sha256="a", checkpoint="b", dim=4))
for start in range(0, count, 1000):
    names = [f"{number:032x}" for number in range(start, start + 1000)]
    state.add_found(
        SourceItem(id=n, kind="image", path="/a/long/path/" + n, name=n, stamp=Stamp()) for n in names
    )
    state.add_indexed(
        (Entry(id=n, kind="image", path="/a/long/path/" + n, name=n, sha256=n), Stamp()) for n in names
    )
assert sum(1 for _ in state.pending()) == 0 and sum(1 for _ in state.stale()) == 0
state.close(complete=True)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""

    def peak_kib(count):
        directory = tmp_path / str(count)
        directory.mkdir()
        command = [sys.executable, "-c", program, str(count), str(directory)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak_kib(100_000) < peak_kib(5000) + 30_000


def test_sync_without_a_client_is_rejected(indexed):
    with SearchIndex.open(indexed.place) as index, pytest.raises(InvalidInputError, match="needs a client"):
        index.sync([indexed.folder])


def test_unreachable_server_creates_no_index(indexed, few, tmp_path):
    from tritonclip.errors import ServerUnavailableError

    with Client("localhost:1") as client, pytest.raises(ServerUnavailableError):
        SearchIndex.open(tmp_path / "index", client, create=True)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "ask",
    [
        lambda index: index.search(np.eye(1, index.identity.dim, dtype=np.float32)[0]),
        lambda index: index.get("0" * 32),
        lambda index: index.count("image"),
        lambda index: index.duplicates(),
    ],
    ids=["search", "get", "count", "duplicates"],
)
def test_damage_while_the_index_is_open_is_reported(clip, few, tmp_path, ask):
    place = tmp_path / "index"
    sync(clip, place, few)
    with SearchIndex.open(place) as index:
        for part in (place / "rows.lance" / "data").iterdir():
            part.write_bytes(b"damaged")
        with pytest.raises(InvalidInputError, match="the index"):
            ask(index)


def test_damaged_index_is_reported(clip, few, tmp_path):
    place = tmp_path / "index"
    sync(clip, place, few)
    for manifest in (place / "rows.lance" / "_versions").iterdir():
        manifest.write_bytes(b"damaged")
    with pytest.raises(InvalidInputError, match="the index"):
        SearchIndex.open(place)
    (place / "work.sqlite").write_bytes(b"damaged" * 1000)
    shutil.rmtree(place / "rows.lance")
    with pytest.raises(InvalidInputError, match="is damaged"):
        sync(clip, place, few)
