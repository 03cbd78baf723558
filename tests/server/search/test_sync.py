"""Sync runs: after any change of the files, the index equals a new index of the same files."""

import dataclasses
import errno
import itertools
import os
import random
import shutil
import sqlite3
import sys

import numpy as np
import pytest

from tests.helpers.servers import run_python
from tests.server.search.conftest import COUNT, FEW
from tests.server.search.index_rows import assert_same, rows_of
from tests.server.search.search_pictures import draw_folder, picture
from tritonclip import Client
from tritonclip.errors import InvalidInputError, MissingExtraError, ServerUnavailableError
from tritonclip.search import SearchIndex, _sources


class CountingClient(Client):
    """A client that counts the images that it gets to embed."""

    images = 0

    def embed_images_many(self, images, **options):
        def count():
            for image in images:
                self.images += 1
                yield image

        return super().embed_images_many(count(), **options)


def sync(clip, place, *folders, **options):
    with SearchIndex.open(place, clip, create=True) as index:
        return index.sync(folders, **options)


@pytest.fixture
def counting(server):
    with CountingClient(server.grpc_url) as client:
        yield client


def test_first_run_indexes_all_images(indexed):
    assert (indexed.summary.embedded, indexed.summary.total) == (COUNT, COUNT)
    assert (indexed.summary.failed, indexed.summary.deleted) == (0, 0)
    rows = rows_of(indexed.place)
    lengths = np.linalg.norm([vector for _, _, vector in rows.values()], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    assert not list(indexed.place.glob("work.sqlite*"))


def test_changed_deleted_added_and_renamed_files_are_followed(counting, tmp_path):
    folder, place = tmp_path / "pictures", tmp_path / "index"
    files = draw_folder(folder, 60)
    reports = []
    assert sync(counting, place, folder, on_progress=reports.append).embedded == counting.images == 60
    assert (reports[-1].done, {one.total for one in reports}) == (60, {60})
    random.Random(0).shuffle(files)
    parts = iter(files)
    for number, path in enumerate(itertools.islice(parts, 10)):
        picture(number, seed=7)[1].save(path)
    for path in itertools.islice(parts, 9):
        path.unlink()
    for number, path in enumerate(itertools.islice(parts, 8)):
        path.rename(folder / f"renamed {number}.jpg")
    for path in itertools.islice(parts, 7):
        os.utime(path)  # new time, same content
    shutil.copy(next(parts), folder / "copy.jpg")
    for number in range(6):
        picture(number, seed=8)[1].save(folder / f"added {number}.png")
    summary = sync(counting, place, folder)
    assert counting.images - 60 == summary.embedded == 10 + 6
    assert (summary.deleted, summary.reused, summary.unchanged) == (9 + 8, 8 + 1, 60 - 10 - 9 - 8)
    assert summary.total == 60 - 9 + 6 + 1
    sync(counting, tmp_path / "fresh", folder)
    assert_same(place, tmp_path / "fresh")
    assert sync(counting, place, folder).embedded == 0


def test_unwritten_vectors_of_an_interrupted_run_are_written_first(clip, few, tmp_path):
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index:

        def stop(progress):
            if progress.done >= 10:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.sync([few], on_progress=stop)
        assert index.count() == 0
    assert (place / "work.sqlite").exists()
    summary = sync(clip, place, few)
    assert summary.kept >= 10
    assert summary.embedded == FEW - summary.kept
    assert summary.total == FEW


def test_unwritten_vectors_of_other_weights_are_dropped(clip, few, tmp_path):
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index, pytest.raises(KeyboardInterrupt):
        index.sync([few], on_progress=lambda progress: (_ for _ in ()).throw(KeyboardInterrupt))
    with sqlite3.connect(place / "work.sqlite") as state:
        state.execute("update weights set sha256 = 'other'")
    state.close()
    summary = sync(clip, place, few)
    assert (summary.kept, summary.embedded) == (0, FEW)


def test_identical_content_is_embedded_once(counting, few, tmp_path):
    first = next(few.rglob("*.jpg"))
    for number in range(5):
        shutil.copy(first, few / f"copy {number}.jpg")
    summary = sync(counting, tmp_path / "index", few)
    assert counting.images == summary.embedded == FEW
    assert (summary.reused, summary.total) == (5, FEW + 5)


def test_change_with_equal_size_and_time_is_detected(clip, tmp_path, monkeypatch):
    """A file that is rewritten immediately can keep its modification time; here it keeps its size too."""
    monkeypatch.setattr(_sources, "SETTLED_NS", 3600 * 10**9)  # the rewrite below counts as immediate
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
    assert sync(clip, tmp_path / "index", few).total == FEW
    files[0].write_bytes(b"no image at all")
    files[1].write_bytes(b"")
    files[2].write_bytes(files[3].read_bytes()[:300])
    reported = []
    summary = sync(clip, tmp_path / "index", few, on_error=lambda name, why: reported.append((name, why)))
    assert [name for name, _ in reported] == [str(path) for path in files[:3]]
    assert all(why and "image 0" not in why for _, why in reported)
    assert (summary.failed, summary.deleted, summary.total) == (3, 3, FEW - 3)


def test_file_name_that_is_not_utf8_is_reported(clip, few, tmp_path):
    name = os.fsencode(few) + b"/\xff.jpg"
    shutil.copy(next(few.rglob("*.jpg")), name)
    reported = []
    summary = sync(clip, tmp_path / "index", few, on_error=lambda name, why: reported.append(why))
    assert (summary.total, reported) == (FEW, ["its name is not UTF-8; rename it"])


def test_files_that_are_left_out_are_in_the_summary(clip, few, tmp_path):
    for name in ("IMG_1.PSD", "00/IMG_2.psd", "raw.cr2", "notes.txt"):
        (few / name).touch()
    summary = sync(clip, tmp_path / "index", few)
    assert [(kind.suffix, kind.count) for kind in summary.skipped] == [(".psd", 2), (".cr2", 1), (".txt", 1)]
    assert "convert it to JPEG" in summary.skipped[0].reason
    assert (summary.total, summary.failed) == (FEW, 0)


def test_entries_below_a_directory_that_cannot_be_listed_are_kept(clip, few, tmp_path, monkeypatch):
    (few / "a").mkdir()
    picture(0)[1].save(few / "a" / "kept.png")
    picture(1)[1].save(few / "gone.png")
    assert sync(clip, tmp_path / "index", few).total == FEW + 2
    (few / "gone.png").unlink()
    scandir = os.scandir

    def denied(path):
        if os.fspath(path) == str(few / "a"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        summary = sync(clip, tmp_path / "index", few)
    (kind,) = summary.skipped
    assert (kind.count, kind.is_directory, summary.deleted, summary.total) == (1, True, 1, FEW + 1)
    shutil.rmtree(few / "a")
    assert sync(clip, tmp_path / "index", few).deleted == 1


def test_entries_of_other_directories_are_kept(clip, few, indexed, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(few / "00", other)
    place = tmp_path / "index"
    assert sync(clip, place, few).total == FEW
    assert sync(clip, place, other).total == 2 * FEW
    shutil.rmtree(few / "00")
    picture(0)[1].save(few / "left.png")
    summary = sync(clip, place, few)
    assert (summary.deleted, summary.total) == (FEW, FEW + 1)


def test_missing_or_empty_directory_deletes_nothing(clip, few, tmp_path):
    sync(clip, tmp_path / "index", few)
    few.rename(tmp_path / "away")
    with pytest.raises(InvalidInputError, match="no such directory"):
        sync(clip, tmp_path / "index", few)
    few.mkdir()  # like the mount point of an unmounted disk
    with pytest.raises(InvalidInputError, match="no image files"):
        sync(clip, tmp_path / "index", few)
    with SearchIndex.open(tmp_path / "index") as index:
        assert index.count() == FEW


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
    captions.write_text("a red circle\n\n a blue heart \na red circle\n", encoding="utf-8")
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index:
        summary = index.sync([few], text_files=[captions])
        assert (summary.embedded, summary.total) == (FEW + 2, FEW + 2)
        hits = index.search(clip.embed_images(next(few.rglob("*blue heart.jpg"))), 5, kind="text")
        assert [hit.entry.name for hit in hits] == ["a blue heart", "a red circle"]
        captions.write_text("a blue heart\na green heart\n", encoding="utf-8")
        summary = index.sync(text_files=[captions])
        assert (summary.embedded, summary.deleted, summary.unchanged) == (1, 1, 1)
        assert (index.count("text"), index.count("image")) == (2, FEW)


def test_index_of_other_weights_is_rejected(clip, few, tmp_path):
    from tritonclip.search._store import open_store
    from tritonclip.search._types import Identity

    other = Identity(sha256="0" * 64, checkpoint="another/model", dim=len(clip.embed_texts("a")))
    open_store(str(tmp_path / "index"), other).close()
    for create in (False, True):
        with pytest.raises(InvalidInputError) as rejected:
            SearchIndex.open(tmp_path / "index", clip, create=create)
        assert "another/model" in str(rejected.value) and "scripts/demo/checkpoint" in str(rejected.value)


def test_index_of_other_settings_of_the_same_weights_is_rejected(clip, tmp_path):
    from tritonclip.search._store import open_store
    from tritonclip.search._types import Identity

    (model, *_) = clip.models()
    other = Identity(sha256=model.sha256, checkpoint=model.checkpoint, dim=256, identity="f" * 64)
    open_store(str(tmp_path / "index"), other).close()
    for create in (False, True):
        with pytest.raises(InvalidInputError, match=f"identity {'f' * 12}.*identity {model.identity[:12]}"):
            SearchIndex.open(tmp_path / "index", clip, create=create)


def test_vectors_of_a_model_that_changed_during_a_run_are_not_written(clip, few, tmp_path):
    place = tmp_path / "index"
    with SearchIndex.open(place, clip, create=True) as index:
        index.identity = dataclasses.replace(
            index.identity, identity="f" * 64
        )  # as if the server had changed
        with pytest.raises(InvalidInputError, match="vectors of different weights, settings or code"):
            index.sync([few])
        assert index.count() == 0
    summary = sync(clip, place, few)
    assert (summary.kept, summary.embedded, summary.total) == (0, FEW, FEW)


def test_index_of_an_earlier_release_is_opened_with_a_warning(clip, few, tmp_path, monkeypatch):
    from tritonclip.search import _types
    from tritonclip.search._store import open_store

    (model, *_) = clip.models()
    old = _types.Identity(sha256=model.sha256, checkpoint=model.checkpoint, dim=len(clip.embed_texts("a")))
    with monkeypatch.context() as patch:
        patch.setattr(_types, "FORMAT", 1)
        patch.setattr(_types, "asdict", lambda one: {"sha256": one.sha256, "checkpoint": "a", "dim": one.dim})
        open_store(str(tmp_path / "index"), old).close()
    with pytest.warns(UserWarning, match="recorded the weights but not the settings"):
        index = SearchIndex.open(tmp_path / "index", clip)
    with index:
        assert index.sync([few]).total == FEW


def test_directory_with_other_files_is_rejected(clip, few):
    with pytest.raises(InvalidInputError, match="contains other files"):
        SearchIndex.open(few, clip, create=True)
    with pytest.raises(InvalidInputError, match="is not an index"):
        SearchIndex.open(few)


def test_missing_extra_is_reported_with_its_install_command(monkeypatch):
    monkeypatch.delitem(sys.modules, "tritonclip.search._lance", raising=False)
    monkeypatch.setitem(sys.modules, "lancedb", None)  # makes its import fail
    with pytest.raises(MissingExtraError, match=r'pip install "tritonclip\[search\]"'):
        SearchIndex.open("anywhere")


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
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
        done = run_python(program, count, directory)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert peak_kib(40_000) < peak_kib(2000) + 12_000


def test_sync_without_a_client_is_rejected(indexed):
    with SearchIndex.open(indexed.place) as index, pytest.raises(InvalidInputError, match="needs a client"):
        index.sync([indexed.folder])


def test_unreachable_server_creates_no_index(indexed, few, tmp_path):
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
