"""Worker processes of `image_preprocess`: their limits, and their ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from clip_bounded import BoundedDecoder
from clip_common.groups import Elements, RequestError
from clip_common.python import find_python
from clip_common.times import UNLIMITED, RejectedError
from clip_geometry import IMAGE_PROCESSORS, TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from clip_pillow import ImageError
from clip_work import RequestWork, WorkLimits
from clip_worker import WorkerOptions
from clip_worker_pool import WorkerPool
from tests.helpers.odd_pictures import ODD_PICTURES, odd_picture
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tests.system.attacks.expensive_files import EXPENSIVE

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF"]
SETTINGS = {
    "resize": 224,
    "resample": 3,
    "crop": [224, 224],
    "convert_rgb": True,
    "image_processor": TORCHVISION,
}
OPTIONS = WorkerOptions(SETTINGS, FORMATS, 89_478_485, 0.0, 960)
DIFFERENT_END = {
    "rle_bitmap": "399000 x 224 pixels, and the limit for this encoding of BMP is 40000000",
    "empty_jpeg2000": "needs about 1853 MiB of memory to decode, the limit is 960 MiB",
    "flat_webp": "needs about 1687 MiB of memory to decode, the limit is 960 MiB",
}
CPU_END = "takes too much CPU time to decode: more than 0.5 s, the limit for its size"


def work(cpu_s: float = 15.0, is_cancelled: Callable[[], bool] = lambda: False) -> RequestWork:
    group = Elements([b""], (1, 1), UNLIMITED, is_cancelled)
    return RequestWork(group, WorkLimits(805_306_368, cpu_s))


def decode(pool: WorkerPool, file: bytes, request: RequestWork | None = None) -> np.ndarray:
    """Return the image that a worker gives."""
    return pool.decode(file, request or work(), lambda rgb: rgb)


@pytest.fixture(scope="module")
def bounded() -> Iterator[BoundedDecoder]:
    """Return the decoder of a model with two threads."""
    decoder = BoundedDecoder(OPTIONS, 2)
    yield decoder
    decoder.close()


@pytest.fixture
def pools() -> Iterator[Callable[..., WorkerPool]]:
    """Return a function that makes pools; the fixture closes them."""
    made: list[WorkerPool] = []

    def make(options: WorkerOptions = OPTIONS, hold: Any = lambda pixels: nullcontext()) -> WorkerPool:
        made.append(WorkerPool(options, hold))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture(scope="module")
def webp() -> bytes:
    """Return a small image that a worker decodes."""
    return encode(noise(60, 50), "WEBP")


def worker_ids() -> set[int]:
    """Return the ids of the worker processes of this process."""
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return {child.pid for child in running if any("clip_worker" in part for part in child.cmdline())}


def signalling(number: signal.Signals) -> Callable[[int], Any]:
    """Return a `hold` that sends a signal to all workers, which wait for their grant."""

    def hold(pixels: int) -> Any:
        for pid in worker_ids():
            os.kill(pid, number)
        return nullcontext()

    return hold


@pytest.mark.parametrize("name", EXPENSIVE)
def test_expensive_file_is_rejected_and_the_next_one_decoded(
    bounded: BoundedDecoder, webp: bytes, name: str
) -> None:
    with pytest.raises(ImageError) as caught:
        bounded.decode(EXPENSIVE[name](), None, work())
    assert DIFFERENT_END.get(name, CPU_END) in str(caught.value)
    assert bounded.decode(webp, None, work()).shape == (3, 224, 224)


@pytest.mark.parametrize("kind", IMAGE_PROCESSORS)
def test_worker_gives_the_pixels_of_this_process(pools: Callable[..., WorkerPool], kind: str) -> None:
    settings = {**SETTINGS, "image_processor": kind}
    here = ImageDecoder(ProcessorSettings.from_dict(settings), FORMATS, 89_478_485)
    pool = pools(OPTIONS._replace(settings=settings))
    for name in ODD_PICTURES:
        file = odd_picture(name)
        np.testing.assert_array_equal(here.place(decode(pool, file), None), here.decode(file), name)
    assert len(worker_ids()) <= 2  # this pool's, and that of the module


def test_error_of_a_worker_is_that_of_this_process(pools: Callable[..., WorkerPool]) -> None:
    pool, here = pools(), ImageDecoder(ProcessorSettings.from_dict(SETTINGS), FORMATS, 89_478_485)
    for file in (b"text", odd_picture("JPEG2000 RGB")[:300], odd_picture("WEBP lossless")[:-9]):
        with pytest.raises(ImageError) as expected:
            here.decode(file)
        with pytest.raises(ImageError) as caught:
            decode(pool, file)
        assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_file_that_crashes_the_decoder_is_named(
    pools: Callable[..., WorkerPool], webp: bytes, number: signal.Signals
) -> None:
    with pytest.raises(ImageError, match=f"it crashes the decoder .{number.name}."):
        decode(pools(hold=signalling(number)), webp)


def test_killed_worker_counts_as_lack_of_memory(pools: Callable[..., WorkerPool], webp: bytes) -> None:
    with pytest.raises(RejectedError, match="overloaded: out of memory"):
        decode(pools(hold=signalling(signal.SIGKILL)), webp)


def test_idle_worker_that_was_killed_is_replaced(pools: Callable[..., WorkerPool], webp: bytes) -> None:
    pool, others = pools(), worker_ids()
    decode(pool, webp)
    (pid,) = worker_ids() - others
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, lambda: f"{pid} runs")
    assert decode(pool, webp).shape == (50, 60, 3)


def test_worker_of_a_caller_that_has_gone_is_ended(pools: Callable[..., WorkerPool], webp: bytes) -> None:
    others = worker_ids()
    pool = pools(hold=signalling(signal.SIGSTOP))
    with pytest.raises(RejectedError, match="the caller cancelled"):
        decode(pool, webp, work(is_cancelled=lambda: True))
    assert worker_ids() <= others


def test_cpu_time_of_a_request_is_limited(pools: Callable[..., WorkerPool]) -> None:
    file = b"P3 900 900 255\n" + b"1 2 3 " * 810_000
    with pytest.raises(RequestError, match=r"takes too much CPU time \(max_worker_cpu_s\); split"):
        decode(pools(), file, work(cpu_s=0.01))


def test_cpu_time_of_earlier_images_counts(pools: Callable[..., WorkerPool], webp: bytes) -> None:
    request, pool = work(), pools()

    def counts() -> bool:  # the kernel may count in steps of milliseconds
        decode(pool, webp, request)
        return request.cpu_left_s < 15

    wait_until(counts, "no CPU time counts")
    assert request.cpu_left_s > 0


@pytest.mark.parametrize(
    ("size", "reason"),
    [((4000, 4200), "needs about 128 MiB"), ((4000, 4000), "needs more of memory")],
    ids=["foreseen", "reached"],
)
def test_lack_of_memory_is_said_as_that(
    pools: Callable[..., WorkerPool], size: tuple[int, int], reason: str
) -> None:
    file = encode(Image.new("RGBA", size), "TIFF", compression="tiff_lzw")
    with pytest.raises(ImageError, match=f"{reason}.*the limit is 127 MiB .worker_memory_mib."):
        decode(pools(OPTIONS._replace(memory_mib=127)), file)


def test_workers_end_with_the_model(webp: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(webp)
    folders = [ROOT / "model_repository" / "image_preprocess" / "1", ROOT / "model_repository"]
    program = f"""
import json, os, sys
from contextlib import nullcontext
from pathlib import Path
from clip_common.groups import Elements
from clip_work import RequestWork, WorkLimits
from clip_worker import WorkerOptions
from clip_worker_pool import WorkerPool
pool = WorkerPool(WorkerOptions(*json.loads(sys.argv[1])), lambda pixels: nullcontext())
work = RequestWork(Elements([b""], (1, 1)), WorkLimits(10**9, 15))
pool.decode(Path(sys.argv[2]).read_bytes(), work, lambda rgb: rgb)
print(pool._idle[0]._process.pid, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(OPTIONS)), str(tmp_path / "image")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not psutil.pid_exists(int(done.stdout)), lambda: f"worker {done.stdout} runs")


def test_missing_interpreter_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"no python3\.\d+ in {tmp_path}/bin or PATH; it runs"):
        find_python("it runs")
