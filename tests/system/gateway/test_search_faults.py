"""Search in an index that is damaged, unreachable or of other weights, and its rate limit.

The gateways run in this process, which has imported the packages of the index already.
"""

import contextlib
import shutil

import pytest
from starlette.testclient import TestClient

from tests.helpers.gateway import KEY, KEY_LINE
from tests.server.search.chroma_server import running_chroma
from tritonclip.gateway import GatewaySettings, create_app


@pytest.fixture
def search_gateway(server):
    @contextlib.contextmanager
    def run(place, **settings):
        app = create_app(GatewaySettings(index=str(place), **settings), server.grpc_url)
        with TestClient(app) as client:
            yield client

    return run


def cause(caplog):
    return [record.cause for record in caplog.records if hasattr(record, "cause")][-1]


def test_thumbnails_count_for_the_rate_limit(search_gateway, place):
    with search_gateway(place, keys=KEY_LINE, rate_limit="3/year") as gateway:
        gateway.headers["key"] = KEY
        found = gateway.post("/v1/search", json={"text": "a red circle"}).json()["results"][0]["id"]
        statuses = [gateway.get(f"/v1/search/{found}/thumbnail").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert gateway.post("/v1/search", json={"text": "a red circle"}).status_code == 429
        assert gateway.get("/search").status_code == 200  # the page itself needs no key


def test_damaged_index_gets_500_without_its_path(search_gateway, place, tmp_path, caplog):
    damaged = shutil.copytree(place, tmp_path / "index")
    with search_gateway(damaged) as gateway:
        assert gateway.post("/v1/search", json={"text": "a"}).status_code == 200
        shutil.rmtree(damaged / "rows.lance" / "data")
        with caplog.at_level("INFO", "tritonclip.gateway"):
            reply = gateway.post("/v1/search", json={"text": "b"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "index_failed")
    assert str(damaged) not in reply.text
    assert str(damaged) in cause(caplog)


def test_unreachable_index_server_gets_503(search_gateway, direct, pictures, tmp_path, caplog):
    from tritonclip.search import SearchIndex

    for name in ("chroma", "few"):
        (tmp_path / name).mkdir()
    shutil.copy(next(pictures.rglob("*blue square.jpg")), tmp_path / "few")
    with contextlib.ExitStack() as stack:
        with running_chroma(tmp_path / "chroma") as chroma:
            with SearchIndex.open(f"{chroma}/pictures", direct, create=True) as index:
                index.sync([tmp_path / "few"])
            gateway = stack.enter_context(search_gateway(f"{chroma}/pictures"))
            assert len(gateway.post("/v1/search", json={"text": "a blue square"}).json()["results"]) == 1
        with caplog.at_level("INFO", "tritonclip.gateway"):
            reply = gateway.post("/v1/search", json={"text": "b"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_unavailable")
    assert reply.json()["error"]["message"] == "the index cannot be reached; try again later"
    assert int(reply.headers["retry-after"]) >= 1
    assert "no Chroma server answers at" in cause(caplog)


def test_index_of_other_weights_gets_503(search_gateway, tmp_path):
    from tritonclip.search._store import open_store
    from tritonclip.search._types import Identity

    other = Identity(sha256="0" * 64, checkpoint="another/model", dim=256)
    open_store(str(tmp_path / "index"), other).close()
    with search_gateway(tmp_path / "index") as gateway:
        reply = gateway.post("/v1/search", json={"text": "a"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_ready")
