"""The gateway's search API, and thumbnails of the images found."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.helpers.gateway_fixtures import HTML_NAME
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tritonclip._cli.main import main

SQUARE = ROOT / "scripts" / "demo" / "images" / "blue_square.webp"


def search(gateway, **fields):
    reply = gateway.post("/v1/search", **fields)
    assert reply.status == 200, reply.data
    return reply.json()


def test_text_finds_matching_images(searching):
    answer = search(searching, text="a blue square", top_k=3)
    assert (answer["model"], answer["entries"]) == ("scripts/demo/checkpoint", 103)
    first, second, third = answer["results"]
    assert first["name"].endswith("blue square.jpg")
    assert first["score"] >= second["score"] >= third["score"]
    assert {result["kind"] for result in answer["results"]} == {"image"}
    assert len(search(searching, text="a red circle")["results"]) == 20


def test_results_hold_no_server_paths(searching, pictures):
    answer = search(searching, text="a blue square", of="all", top_k=100)
    assert str(pictures) not in json.dumps(answer)


def test_image_finds_the_same_by_form_and_json(searching, pictures):
    path = next(pictures.rglob("*blue square.jpg"))
    content = path.read_bytes()
    form = searching.request("POST", "/v1/search", fields={"image": ("a.jpg", content), "top_k": "4"})
    json_answer = search(searching, image=base64.b64encode(content).decode(), top_k=4)
    assert form.status == 200
    assert [result["id"] for result in form.json()["results"]] == [r["id"] for r in json_answer["results"]]
    assert form.json()["results"][0]["name"].endswith(path.name)
    assert form.json()["results"][0]["score"] > 0.9999


def test_image_finds_texts(searching):
    answer = search(searching, image=base64.b64encode(SQUARE.read_bytes()).decode(), of="texts")
    assert [result["name"] for result in answer["results"]] == ["a blue square", "a red circle"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "give either a text or an image"),
        ({"text": "a", "image": "a"}, "give either a text or an image"),
        ({"text": " "}, "text"),
        ({"text": "a", "top_k": 0}, "top_k"),
        ({"text": "a", "top_k": 101}, "top_k"),
        ({"text": "a", "of": "files"}, "of"),
        ({"text": "a", "file": "/etc/passwd"}, "file: there is no such field"),
        ({"image": "bm90IGFuIGltYWdl"}, "is not an image"),
        ({"image": "http://127.0.0.1/a.jpg"}, "URLs are not fetched here"),
    ],
)
def test_invalid_request_is_rejected(searching, fields, text):
    reply = searching.post("/v1/search", **fields)
    assert reply.status == 400
    assert text in reply.json()["error"]["message"]


def test_images_are_listed_without_a_query(searching, direct, place):
    from tritonclip.search import SearchIndex

    reply = searching.request("GET", "/v1/search?top_k=7")
    assert reply.status == 200, reply.data
    with SearchIndex.open(place) as index:
        images, entries = index.count("image"), index.count()
        assert [entry.kind for entry in index.first(200, None)].count("text") == 2
        assert len(index.first(200)) == images
    assert reply.json()["entries"] == entries
    results = reply.json()["results"]
    assert len({result["id"] for result in results}) == 7
    assert {(result["kind"], result["score"]) for result in results} == {("image", None)}


def test_number_of_images_to_list_is_checked(searching, open_gateway):
    reply = searching.request("GET", "/v1/search?top_k=0")
    assert (reply.status, reply.json()["error"]["param"]) == (400, "top_k")
    assert open_gateway.request("GET", "/v1/search").status == 404


def test_two_query_images_are_rejected(searching):
    fields = [("image", (name, SQUARE.read_bytes())) for name in ("a.webp", "b.webp")]
    reply = searching.request("POST", "/v1/search", fields=fields)
    assert (reply.status, "a search takes one" in reply.json()["error"]["message"]) == (400, True)


def test_thumbnail_of_a_result_is_served(searching):
    result = search(searching, text="a blue square", top_k=1)["results"][0]
    reply = searching.request("GET", f"/v1/search/{result['id']}/thumbnail")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(reply.data)).size == (96, 96)


def test_thumbnail_is_rotated_and_holds_no_metadata(searching, direct, pictures, place):
    """A thumbnail follows the file's orientation, but none of its metadata is served."""
    from tritonclip.search import SearchIndex
    from tritonclip.search._store import open_store

    exif = Image.Exif()
    exif[0x010E] = "secret words"
    exif[0x0112] = 6
    large = pictures / "large.jpg"
    Image.new("RGB", (3000, 1500), "red").save(large, exif=exif)
    with SearchIndex.open(place, direct) as index:
        index.sync([pictures])
        stamps = (entry for batch in open_store(str(place), None).stamps() for entry, _ in batch)
        path = f"/v1/search/{next(entry.id for entry in stamps if entry.name == large.name)}/thumbnail"
        try:
            # The gateway caches a version of the index for a second.
            wait_until(lambda: searching.request("GET", path).status == 200, "the new entry is not served")
            reply = searching.request("GET", path)
            assert b"secret" not in reply.data
            assert Image.open(io.BytesIO(reply.data)).size == (128, 256)
            large.write_text("no image any more", encoding="utf-8")
            reply = searching.request("GET", path)
            assert (reply.status, "gone" in reply.json()["error"]["message"]) == (404, True)
        finally:
            large.unlink()
            index.sync([pictures])
            wait_until(
                lambda: search(searching, text="a")["entries"] == 103, "the deleted entry is still served"
            )


@pytest.mark.parametrize(
    "id",
    [
        "0" * 32,
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "' or 1=1 --",
        "A" * 32,
        "",
    ],
)
def test_thumbnail_of_unknown_id_is_rejected(searching, id):
    reply = searching.request("GET", f"/v1/search/{id.replace(' ', '%20')}/thumbnail")
    assert reply.status in (400, 404)
    assert "error" in reply.json()


def test_text_entry_has_no_thumbnail(searching):
    result = search(searching, text="a red circle", of="texts")["results"][0]
    assert searching.request("GET", f"/v1/search/{result['id']}/thumbnail").status == 404


def test_gateway_without_index_gets_404(open_gateway):
    reply = open_gateway.post("/v1/search", text="a")
    assert (reply.status, "--index" in reply.json()["error"]["message"]) == (404, True)
    assert open_gateway.request("GET", f"/v1/search/{'0' * 32}/thumbnail").status == 404
    assert open_gateway.request("GET", "/search").status == 404
    assert open_gateway.request("GET", "/v1/info").json()["search"] is False


def test_missing_index_fails_at_startup(tmp_path, capsys):
    assert main(["gateway", "--index", str(tmp_path / "no")]) == 2
    assert "is not an index" in capsys.readouterr().err


def test_concurrent_searches_get_their_own_results(searching):
    texts = ["a blue square", "a green heart"] * 8
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(lambda text: search(searching, text=text, top_k=1), texts))
    for text, answer in zip(texts, answers, strict=True):
        name = answer["results"][0]["name"]
        assert text.removeprefix("a ") in name or (text, name) == ("a green heart", HTML_NAME)
