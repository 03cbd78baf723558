"""Search on a gateway whose index is damaged, unreachable or of other weights, and its rate limit."""

import contextlib
import shutil

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway
from tests.server.search.chroma_server import running_chroma


def test_thumbnails_count_for_the_rate_limit(server, place):
    environ = {"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    options = ("--index", place, "--rate-limit", "3/year")
    with run_gateway(server.grpc_url, *options, environ=environ, key=KEY) as gateway:
        found = gateway.post("/v1/search", text="a red circle").json()["results"][0]["id"]
        statuses = [gateway.request("GET", f"/v1/search/{found}/thumbnail").status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert gateway.post("/v1/search", text="a red circle").status == 429
        assert gateway.request("GET", "/search").status == 200  # the page itself needs no key


def test_damaged_index_gets_500_without_its_path(server, place, tmp_path):
    damaged = shutil.copytree(place, tmp_path / "index")
    with run_gateway(server.grpc_url, "--index", damaged) as gateway:
        assert gateway.post("/v1/search", text="a").status == 200
        shutil.rmtree(damaged / "rows.lance" / "data")
        headers = {"X-Request-ID": "damaged"}
        reply = gateway.request("POST", "/v1/search", json={"text": "b"}, headers=headers)
        assert (reply.status, reply.json()["error"]["code"]) == (500, "index_failed")
        assert str(damaged) not in reply.data.decode()
        assert str(damaged) in gateway.logged(request_id="damaged")["cause"]


def test_unreachable_index_server_gets_503(server, direct, pictures, tmp_path):
    from tritonclip.search import SearchIndex

    (tmp_path / "chroma").mkdir()
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(next(pictures.rglob("*blue square.jpg")), few)
    with contextlib.ExitStack() as stack:
        with running_chroma(tmp_path / "chroma") as chroma:
            place = f"{chroma}/pictures"
            with SearchIndex.open(place, direct, create=True) as index:
                index.sync([few])
            gateway = stack.enter_context(run_gateway(server.grpc_url, "--index", place))
            assert len(gateway.post("/v1/search", text="a blue square").json()["results"]) == 1
        reply = gateway.request("POST", "/v1/search", json={"text": "b"}, headers={"X-Request-ID": "gone"})
        assert (reply.status, reply.json()["error"]["code"]) == (503, "server_unavailable")
        assert reply.json()["error"]["message"] == "the index cannot be reached; try again later"
        assert int(reply.headers["retry-after"]) >= 1
        assert "no Chroma server answers at" in gateway.logged(request_id="gone")["cause"]


def test_index_of_other_weights_gets_503(server, tmp_path):
    from tritonclip.search._store import open_store
    from tritonclip.search._types import Identity

    other = Identity(sha256="0" * 64, checkpoint="another/model", dim=256)
    open_store(str(tmp_path / "index"), other).close()
    with run_gateway(server.grpc_url, "--index", tmp_path / "index") as gateway:
        reply = gateway.post("/v1/search", text="a")
        assert (reply.status, reply.json()["error"]["code"]) == (503, "model_not_ready")
