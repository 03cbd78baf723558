"""Clients in forked processes and in pickles: own connections, right answers, an undisturbed parent."""

from __future__ import annotations

import http.server
import textwrap
import threading
from collections.abc import Iterator

import pytest

from tests.helpers.servers import ROOT, run_python

IMAGES = [ROOT / "scripts" / "demo" / "images" / name for name in ("red_circle.jpg", "digit_7.jpg")]
RUN_CHILDREN = """
import os, sys, traceback
import numpy as np
from tritonclip import AsyncClient, Client, ZeroShotClassifier

url, *images = sys.argv[1:]

def fork(function, *arguments):
    child = os.fork()
    if child:
        return child
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def join(*children):
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
"""


def run(code: str, *arguments: object) -> None:
    done = run_python(RUN_CHILDREN + textwrap.dedent(code), *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def url(server, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"


def test_forked_children_and_their_parent_get_the_answers_to_their_own_images(url: str) -> None:
    run(
        """
        client = Client(url)
        classifier = ZeroShotClassifier(client, ["a red circle", "the digit 7"])
        right = [client.embed_images(image) for image in images]
        best = [classifier(image)[0]["label"] for image in images]

        def check(number, client, rounds=20):
            for _ in range(rounds):
                np.testing.assert_allclose(client.embed_images(images[number]), right[number], atol=1e-5)

        def child(number):
            check(number, client)
            assert classifier(images[number])[0]["label"] == best[number]
            with Client(url) as new:
                check(number, new, rounds=1)
            client.close()

        children = [fork(child, number) for number in range(2)]
        check(0, client)
        join(*children)
        check(1, client)
        """,
        url,
        *IMAGES,
    )


def test_child_of_a_thread_can_call_a_server_by_name(server) -> None:
    run(
        """
        import threading

        client = Client(url)
        assert client.health().ok

        def child():
            assert client.health().ok
            with Client(url) as new:
                assert new.health().ok

        def start():
            assert client.health().ok
            join(fork(child))
            ended.append(True)

        ended = []
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        assert ended and client.health().ok
        """,
        f"http://localhost:{server.http_url.rpartition(':')[2]}",
    )


def test_async_client_over_http_works_in_a_forked_child_and_in_its_parent(server) -> None:
    run(
        """
        import asyncio, threading

        async def main():
            async with AsyncClient(url) as client:
                right = [await client.embed_images(image) for image in images]

                async def check(number):
                    for _ in range(20):
                        embeds = await client.embed_images(images[number])
                        np.testing.assert_allclose(embeds, right[number], atol=1e-5)

                async def child_main(number):
                    await check(number)
                    await client.close()

                children = [fork(asyncio.run, child_main(number)) for number in range(2)]
                await check(0)
                await asyncio.to_thread(join, *children)
                await check(1)

        asyncio.run(main())
        """,
        f"http://{server.http_url}",
        *IMAGES,
    )


@pytest.mark.parametrize("use", ["asyncio", "thread", "switched off"])
def test_child_that_grpc_cannot_work_in_says_so_at_the_first_call(server, use: str) -> None:
    run(
        """
        import asyncio, threading, time
        from tritonclip import TritonClipError
        from tritonclip._transport import grpc_forks

        url, use = sys.argv[1:]
        if use == "switched off":
            os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        client, called = Client(url), threading.Event()

        def call_until_the_end():
            while True:
                client.embed_texts("a")
                called.set()

        def child():
            for one in (client, Client(url)):
                try:
                    one.health()
                except RuntimeError as error:
                    assert "spawn" in str(error), error
                else:
                    raise AssertionError("no error")

        if use == "asyncio":
            async def ask():
                async with AsyncClient(url) as asynchronous:
                    assert (await asynchronous.health()).ok
            asyncio.run(ask())
        elif use == "thread":
            threading.Thread(target=call_until_the_end, daemon=True).start()
            called.wait()
            while not grpc_forks.other_thread_is_inside_grpc():
                time.sleep(0.0001)
        else:
            assert client.health().ok
        join(fork(child))
        assert client.health().ok
        """,
        server.grpc_url,
        use,
    )


def test_pickled_client_and_classifier_answer_in_a_pool_of_processes(url: str, tmp_path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        textwrap.dedent(
            """
            import functools, multiprocessing, sys
            import numpy as np
            from tritonclip import Client, ZeroShotClassifier

            def embed(client, image):
                return client.embed_images(image)

            def best(classifier, image):
                return classifier(image)[0]["label"]

            if __name__ == "__main__":
                client = Client(sys.argv[1])
                classifier = ZeroShotClassifier(client, ["a red circle", "the digit 7"])
                images = sys.argv[2:]
                right = [client.embed_images(image) for image in images]
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    embeds = pool.map(functools.partial(embed, client), images)
                    np.testing.assert_allclose(embeds, right, atol=1e-5)
                    labels = pool.map(functools.partial(best, classifier), images)
                    assert labels == ["a red circle", "the digit 7"], labels
            """
        )
    )
    done = run_python(
        "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')",
        script,
        url,
        *IMAGES,
    )
    assert done.returncode == 0, done.stderr


class _Site(http.server.ThreadingHTTPServer):
    """A site whose answer is the port of the caller's connection."""

    daemon_threads = True

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802  # called by http.server
            port = str(self.client_address[1]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(port)))
            self.end_headers()
            self.wfile.write(port)

        def log_message(self, *_: object) -> None:
            pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with _Site(("127.0.0.1", 0), _Site.Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_forked_child_fetches_urls_over_its_own_connection(site: str) -> None:
    run(
        """
        from tritonclip._images.fetch import Fetcher
        from tritonclip._images.guard import AddressGuard

        guard = AddressGuard(["127.0.0.0/8"], [int(url.rpartition(":")[2])])
        for fetcher in (Fetcher(), Fetcher(guard=guard)):
            used = fetcher.fetch(url, "image 0")

            def child():
                own = fetcher.fetch(url, "image 0")
                assert own != used
                assert fetcher.fetch(url, "image 0") == own  # it is kept

            join(fork(child))
            assert fetcher.fetch(url, "image 0") == used
        """,
        site,
    )
