"""Bulk runs and calls while the server is killed, started again, or stopped by a signal."""

import asyncio
import os
import signal
import threading

import numpy as np
import psutil
import pytest

from tests.helpers.pictures import encode, noise
from tests.helpers.waiting import wait_until
from tritonclip import AsyncClient, Client, DeadlineExceededError, ServerUnavailableError


@pytest.fixture(scope="module")
def restartable(servers, demo_repository):
    """A server that tests kill and start again at the same addresses."""
    with servers.run(demo_repository, "killed and started again") as running:
        yield running


def url_of(server, protocol):
    return server.grpc_url if protocol == "grpc" else server.http_url


def embed_many(kind, url, protocol, pictures, **options):
    """Return the results of a bulk run with a kind of client."""
    if kind is Client:
        with Client(url, protocol=protocol, timeout_s=120, attempts=1) as client:
            return list(client.embed_images_many(pictures, **options))

    async def run():
        async with AsyncClient(url, protocol=protocol, timeout_s=120, attempts=1) as client:
            return [embed async for embed in client.embed_images_many(pictures, **options)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("protocol", "kind"), [("grpc", Client), pytest.param("http", AsyncClient, marks=pytest.mark.slow)]
)
def test_bulk_run_survives_a_restart(restartable, protocol, kind):
    pictures = [encode(noise(24 + seed % 7, 24, seed), "PNG") for seed in range(160)]
    with Client(restartable.grpc_url, timeout_s=120) as client:
        alone = client.embed_images(pictures)
    reports, restarts = [], []

    def watch(progress):
        reports.append(progress)
        if progress.done >= 32 and not restarts:
            restartable.kill()
            restarts.append(threading.Thread(target=restartable.start))
            restarts[0].start()

    options = {"batch_size": 8, "patience_s": 600, "on_progress": watch}
    embeds = embed_many(kind, url_of(restartable, protocol), protocol, pictures, **options)
    restarts[0].join()
    np.testing.assert_allclose(np.stack(embeds), alone, atol=1e-5)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert (reports[-1].done, reports[-1].failed) == (len(pictures), 0)
    assert reports[-1].retries > 0
    assert reports[0].retries == 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_call_to_a_stopped_process_ends_at_the_deadline(restartable, protocol):
    with Client(url_of(restartable, protocol), protocol=protocol, timeout_s=120) as client:
        client.embed_texts("a")
        os.kill(restartable.pid, signal.SIGSTOP)
        process = psutil.Process(restartable.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the server was not stopped")
        try:
            with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.5 s"):
                client.embed_texts("a", timeout_s=0.5)
        finally:
            os.kill(restartable.pid, signal.SIGCONT)

        def answers():
            try:
                return client.embed_texts("a").shape == (512,)
            except ServerUnavailableError:
                return False

        wait_until(answers, "the server does not answer")
