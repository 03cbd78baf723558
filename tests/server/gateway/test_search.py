"""Search on the gateway: the API, thumbnails, and the page in a real browser."""

import base64
import contextlib
import functools
import io
import json
import shutil
import time

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.helpers.gateway import KEY, KEY_LINE
from tests.server.gateway.page_driver import IMAGES, ClipPage
from tests.server.search.chroma_server import running_chroma
from tests.server.search.search_pictures import draw_folder
from tritonclip import Client
from tritonclip.search import SearchIndex
from tritonclip.search._store import open_store
from tritonclip.search._types import Identity
from tritonclip_server.benchmarks.gateway_process import running

NASTY = '<img src=x onerror=alert(1)> & "quotes".jpg'


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Draw 300 pictures, and one whose name is HTML."""
    folder = tmp_path_factory.mktemp("gateway") / "pictures"
    draw_folder(folder, 300)
    shutil.copy(next(folder.rglob("*green heart.jpg")), folder / NASTY)
    return folder


@pytest.fixture(scope="module")
def square(pictures):
    """Return a picture of a blue square."""
    return next(pictures.rglob("*blue square.jpg"))


@pytest.fixture(scope="module")
def place(pictures, server, tmp_path_factory):
    place = tmp_path_factory.mktemp("index") / "index"
    captions = place.parent / "captions.txt"
    captions.write_text("a red circle\na blue square\n", encoding="utf-8")
    with Client(server.grpc_url) as clip, SearchIndex.open(place, clip, create=True) as index:
        index.sync([pictures], text_files=[captions])
    return place


@pytest.fixture(scope="module")
def searching(server, place):
    with running(server.grpc_url, "--index", place) as gateway:
        yield gateway


def search(gateway, **fields):
    reply = gateway.post("/v1/search", **fields)
    assert reply.status == 200, reply.data
    return reply.json()


def test_text_finds_matching_images(searching):
    answer = search(searching, text="a blue square", top_k=3)
    assert (answer["model"], answer["entries"]) == ("scripts/demo/checkpoint", 303)
    assert [result["name"].endswith("blue square.jpg") for result in answer["results"]] == [True] * 3
    assert all(result["kind"] == "image" for result in answer["results"])
    assert len(search(searching, text="a red circle")["results"]) == 20


def test_results_hold_no_server_paths(searching, pictures):
    answer = search(searching, text="a blue square", of="all", top_k=100)
    assert str(pictures) not in json.dumps(answer)


def test_image_finds_the_same_by_form_and_json(searching, square):
    content = square.read_bytes()
    form = searching.request("POST", "/v1/search", fields={"image": ("a.jpg", content), "top_k": "4"})
    json_answer = search(searching, image=base64.b64encode(content).decode(), top_k=4)
    assert form.status == 200
    assert [result["id"] for result in form.json()["results"]] == [r["id"] for r in json_answer["results"]]
    assert form.json()["results"][0]["name"].endswith(square.name)
    assert form.json()["results"][0]["score"] > 0.9999


def test_image_finds_texts(searching):
    content = base64.b64encode((IMAGES / "blue_square.webp").read_bytes()).decode()
    answer = search(searching, image=content, of="texts")
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


def test_two_query_images_are_rejected(searching):
    content = (IMAGES / "blue_square.webp").read_bytes()
    fields = [("image", ("a.webp", content)), ("image", ("b.webp", content))]
    reply = searching.request("POST", "/v1/search", fields=fields)
    assert (reply.status, "a search takes one" in reply.json()["error"]["message"]) == (400, True)


def test_thumbnail_of_a_result_is_served(searching):
    result = search(searching, text="a blue square", top_k=1)["results"][0]
    reply = searching.request("GET", f"/v1/search/{result['id']}/thumbnail")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(reply.data)).size == (96, 96)


def test_thumbnail_is_rotated_and_holds_no_metadata(searching, server, pictures, place):
    """A thumbnail follows the file's orientation, but none of its metadata is served."""
    exif = Image.Exif()
    exif[0x010E] = "secret words"
    exif[0x0112] = 6
    Image.new("RGB", (3000, 1500), "red").save(pictures / "large.jpg", exif=exif)
    with Client(server.grpc_url) as clip, SearchIndex.open(place, clip) as index:
        index.sync([pictures])
        time.sleep(1.1)  # longer than the gateway caches a version of the index
        entry = next(
            e for batch in open_store(str(place), None).stamps() for e, _ in batch if e.name == "large.jpg"
        )
        reply = searching.request("GET", f"/v1/search/{entry.id}/thumbnail")
        assert b"secret" not in reply.data
        assert Image.open(io.BytesIO(reply.data)).size == (128, 256)
        (pictures / "large.jpg").write_text("no image any more", encoding="utf-8")
        reply = searching.request("GET", f"/v1/search/{entry.id}/thumbnail")
        assert (reply.status, "gone" in reply.json()["error"]["message"]) == (404, True)
        (pictures / "large.jpg").unlink()
        index.sync([pictures])


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


def test_search_requires_a_key_and_counts_for_the_rate_limit(server, place):
    environ = {"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    options = ("--index", place, "--rate-limit", "3/year")
    with running(server.grpc_url, *options, environ=environ, key=KEY) as gateway:
        rejected = gateway.request("POST", "/v1/search", json={"text": "a"}, headers={})
        assert rejected.status == 401
        assert gateway.request("GET", f"/v1/search/{'0' * 32}/thumbnail", headers={}).status == 401
        id = search(gateway, text="a red circle")["results"][0]["id"]
        statuses = [gateway.request("GET", f"/v1/search/{id}/thumbnail").status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert gateway.request("GET", "/search").status == 200  # the page itself needs no key


def test_damaged_index_gets_500_without_its_path(server, place, tmp_path):
    damaged = shutil.copytree(place, tmp_path / "index")
    with running(server.grpc_url, "--index", damaged) as gateway:
        assert gateway.post("/v1/search", text="a").status == 200
        shutil.rmtree(damaged / "rows.lance" / "data")
        headers = {"X-Request-ID": "damaged"}
        reply = gateway.request("POST", "/v1/search", json={"text": "b"}, headers=headers)
        assert (reply.status, reply.json()["error"]["code"]) == (500, "index_failed")
        assert str(damaged) not in reply.data.decode()
        assert str(damaged) in gateway.logged(request_id="damaged")["cause"]


def test_unreachable_index_server_gets_503(server, square, tmp_path):
    (tmp_path / "chroma").mkdir()
    with contextlib.ExitStack() as stack:
        with running_chroma(tmp_path / "chroma") as chroma:
            place = f"{chroma}/pictures"
            with Client(server.grpc_url) as clip, SearchIndex.open(place, clip, create=True) as index:
                index.sync([square.parent])
            gateway = stack.enter_context(running(server.grpc_url, "--index", place))
            assert search(gateway, text="a blue square", top_k=1)["results"]
        reply = gateway.request("POST", "/v1/search", json={"text": "b"}, headers={"X-Request-ID": "gone"})
        assert (reply.status, reply.json()["error"]["code"]) == (503, "server_unavailable")
        assert reply.json()["error"]["message"] == "the index cannot be reached; try again later"
        assert int(reply.headers["retry-after"]) >= 1
        assert "no Chroma server answers at" in gateway.logged(request_id="gone")["cause"]


def test_gateway_without_index_gets_404(open_gateway):
    reply = open_gateway.post("/v1/search", text="a")
    assert (reply.status, "--index" in reply.json()["error"]["message"]) == (404, True)
    assert open_gateway.request("GET", f"/v1/search/{'0' * 32}/thumbnail").status == 404
    assert open_gateway.request("GET", "/search").status == 404
    assert open_gateway.request("GET", "/v1/info").json()["search"] is False


def test_missing_index_fails_at_startup(server, tmp_path):
    with (
        pytest.raises(RuntimeError, match="is not an index"),
        running(server.grpc_url, "--index", tmp_path / "no"),
    ):
        pass


def test_index_of_other_weights_gets_503(server, tmp_path):
    other = Identity(sha256="0" * 64, checkpoint="another/model", dim=256)
    open_store(str(tmp_path / "index"), other).close()
    with running(server.grpc_url, "--index", tmp_path / "index") as gateway:
        reply = gateway.post("/v1/search", text="a")
        assert (reply.status, reply.json()["error"]["code"]) == (503, "model_not_ready")


def test_concurrent_searches_get_their_own_results(searching):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        texts = ["a blue square", "a green heart"] * 16
        answers = list(pool.map(lambda text: search(searching, text=text, top_k=1), texts))
    for text, answer in zip(texts, answers, strict=True):
        assert (
            text.removeprefix("a ") in answer["results"][0]["name"] or answer["results"][0]["name"] == NASTY
        )


class SearchPage(ClipPage):
    """The search page."""

    def open(self):
        self.page.goto(f"{self.url}/search")
        expect(self.page.locator("#status")).not_to_have_text("Connecting to the server")
        expect(self.page.locator("#version")).not_to_be_empty()
        return self

    def search(self, text):
        self.page.get_by_label("Describe the images").fill(text)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#heading")).to_have_text(f"Results for {text}")

    def names(self):
        return self.page.locator("#results p:not(.figure)").all_text_contents()

    def drawn(self, count):
        expect(self.page.locator("#results img")).to_have_count(count)
        for picture in self.page.locator("#results img").all():
            expect(picture).to_have_js_property("naturalWidth", 96)


@pytest.fixture
def opened(opened):
    """Return a function that opens search pages."""
    return functools.partial(opened, kind=SearchPage)


@pytest.fixture
def found(opened, searching):
    return opened(searching.url).open()


def test_page_finds_by_text(found):
    found.search("a blue square")
    found.drawn(24)
    assert found.names()[0].endswith("blue square.jpg")
    assert found.page.locator("#news").inner_text().count("24 results of 303 entries") == 1
    scores = [float(text) for text in found.page.locator("#results .figure").all_text_contents()]
    assert scores == sorted(scores, reverse=True)


def test_page_finds_by_a_file_and_by_a_result(found, square):
    with found.page.expect_file_chooser() as chooser:
        found.page.get_by_role("button", name="Search with an image").click()
    chooser.value.set_files(square)
    expect(found.page.locator("#heading")).to_have_text(f"Results for {square.name}")
    found.drawn(24)
    assert found.names()[0].endswith(square.name)
    expect(found.page.get_by_alt_text("Query image")).to_be_visible()
    found.search("a green heart")
    expect(found.page.get_by_alt_text("Query image")).to_be_hidden()
    found.drawn(24)
    first = found.names()[0]
    found.page.get_by_role("button", name=f"More like this: {first}", exact=True).click()
    expect(found.page.locator("#heading")).to_have_text(f"Results for {first.split('/')[-1]}")
    assert "green heart" in found.names()[0] or found.names()[0] == NASTY


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_page_accepts_pasted_and_dropped_images(found, kind):
    found.send_files(kind, IMAGES / "blue_square.webp")
    expect(found.page.locator("#heading")).to_have_text("Results for blue_square.webp")
    found.drawn(24)


def test_page_shows_errors(found, tmp_path):
    found.expected_statuses.add(400)
    found.page.get_by_role("button", name="Search", exact=True).click()
    message = found.page.locator("#search-message")
    expect(message).to_have_text("Describe the images, or choose an image.")
    expect(found.page.get_by_label("Describe the images")).to_be_focused()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image at all")
    found.send_files("paste", broken)
    expect(message).to_contain_text("The file is not an image")
    notes = tmp_path / "notes.txt"
    notes.write_text("words", encoding="utf-8")
    found.send_files("drop", notes)
    expect(message).to_have_text("Not an image: its type is text/plain.")


def test_page_warns_about_a_truncated_text(found):
    text = " ".join(["red"] * 90)
    found.search(text)
    expect(found.page.locator("#warnings li")).to_contain_text("was cut at 77")


def test_page_does_not_render_html_in_names(found):
    found.search("a green heart")
    found.drawn(24)
    assert NASTY in found.names()
    assert found.page.locator("#results p img").count() == 0


def test_page_shows_a_missing_file(found, pictures):
    path = next(pictures.rglob("*blue star.jpg"))
    path.rename(path.with_suffix(".away"))
    try:
        found.expected_statuses.add(404)
        found.search("a blue star")
        expect(found.page.get_by_text("The file is missing or busy.")).to_have_count(1)
        found.drawn(23)
    finally:
        path.with_suffix(".away").rename(path)


def test_page_asks_for_the_key(opened, server, place):
    environ = {"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    with running(server.grpc_url, "--index", place, environ=environ, key=KEY) as gateway:
        page = opened(gateway.url).open()
        page.page.get_by_label("Describe the images").fill("a red circle")
        page.page.keyboard.press("Enter")
        page.page.get_by_label("API key").fill(KEY)
        page.page.keyboard.press("Enter")
        expect(page.page.locator("#key-form")).to_be_hidden()
        page.search("a red circle")
        page.drawn(24)


def test_page_works_by_keyboard_alone(found):
    keyboard = found.page.keyboard
    for name in ("Classify", "API docs"):
        keyboard.press("Tab")
        expect(found.page.get_by_role("link", name=name)).to_be_focused()
    keyboard.press("Tab")
    expect(found.page.get_by_label("Describe the images")).to_be_focused()
    keyboard.type("a blue square")
    keyboard.press("Enter")
    found.drawn(24)
    for _ in range(3):
        keyboard.press("Tab")
    expect(found.page.locator("#results li").first.get_by_role("button")).to_be_focused()
    keyboard.press("Enter")
    expect(found.page.locator("#query")).to_be_visible()


def test_page_fits_a_narrow_screen(opened, searching):
    page = opened(searching.url, viewport={"width": 320, "height": 640}).open()
    page.search("a blue square")
    page.drawn(24)
    assert page.overflow() == 0


def test_page_is_accessible(found, axe):  # noqa: F811
    found.expected_statuses.add(400)
    assert found.violations(axe) == []
    found.page.get_by_role("button", name="Search", exact=True).click()
    assert found.violations(axe) == []
    found.search("a blue square")
    found.drawn(24)
    assert found.violations(axe) == []
    found.send_files("paste", IMAGES / "blue_square.webp")
    expect(found.page.locator("#query")).to_be_visible()
    found.drawn(24)
    assert found.violations(axe) == []


def test_classify_page_links_to_search_if_there_is_an_index(opened, searching, gateway):
    page = opened(searching.url)
    page.page.goto(searching.url)
    page.page.get_by_role("link", name="Search").click()
    expect(page.page.get_by_role("heading", name="tritonclip search")).to_be_visible()
    other = opened(gateway)
    other.page.goto(gateway)
    expect(other.page.locator("#version")).not_to_be_empty()
    expect(other.page.get_by_role("link", name="Search")).to_have_count(0)
