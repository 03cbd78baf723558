"""The search page in a real browser: every input, failures, keys, and narrow screens."""

import pytest
from playwright.sync_api import expect

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway
from tests.helpers.gateway_fixtures import HTML_NAME
from tests.server.gateway.page_driver import IMAGES, SearchPage


@pytest.fixture
def found(opened, searching):
    return opened(searching.url, kind=SearchPage).open()


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_page_accepts_pasted_and_dropped_images(found, kind):
    found.send_files(kind, IMAGES / "blue_square.webp")
    expect(found.page.locator("#heading")).to_have_text("Results for blue_square.webp")
    found.wait_for_thumbnails(24)


def test_page_shows_errors(found, tmp_path):
    found.expected_statuses.add(400)
    message = found.page.locator("#search-message")
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
    found.wait_for_thumbnails(24)
    assert HTML_NAME in found.names()
    assert found.page.locator("#results p img").count() == 0


def test_page_shows_a_missing_file(found, pictures):
    path = next(pictures.rglob("*blue star.jpg"))
    path.rename(path.with_suffix(".away"))
    try:
        found.expected_statuses.add(404)
        found.search("a blue star")
        expect(found.page.get_by_text("The file is missing or busy.")).to_have_count(1)
        found.wait_for_thumbnails(23)
    finally:
        path.with_suffix(".away").rename(path)


def test_page_asks_for_the_key(opened, server, place):
    environ = {"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    with run_gateway(server.grpc_url, "--index", place, environ=environ, key=KEY) as gateway:
        page = opened(gateway.url, kind=SearchPage).open()
        page.page.get_by_label("Describe the images").fill("a red circle")
        page.page.keyboard.press("Enter")
        page.page.get_by_label("API key").fill(KEY)
        page.page.keyboard.press("Enter")
        expect(page.page.locator("#key-form")).to_be_hidden()
        page.search("a red circle")
        page.wait_for_thumbnails(24)


def test_page_works_by_keyboard_alone(found):
    keyboard = found.page.keyboard
    for name in ("Classify", "API docs"):
        keyboard.press("Tab")
        expect(found.page.get_by_role("link", name=name)).to_be_focused()
    keyboard.press("Tab")
    expect(found.page.get_by_label("Describe the images")).to_be_focused()
    keyboard.type("a blue square")
    keyboard.press("Enter")
    found.wait_for_thumbnails(24)
    for _ in range(3):
        keyboard.press("Tab")
    expect(found.page.locator("#results li").first.get_by_role("button")).to_be_focused()
    keyboard.press("Enter")
    expect(found.page.locator("#query")).to_be_visible()


def test_page_fits_a_narrow_screen(opened, searching):
    page = opened(searching.url, kind=SearchPage, viewport={"width": 320, "height": 640}).open()
    page.search("a blue square")
    page.wait_for_thumbnails(24)
    assert page.overflow() == 0


def test_empty_page_and_message_and_query_image_are_accessible(found, axe):
    assert found.violations(axe) == []
    found.page.get_by_role("button", name="Search", exact=True).click()
    assert found.violations(axe) == []
    found.send_files("paste", IMAGES / "blue_square.webp")
    expect(found.page.locator("#query")).to_be_visible()
    found.wait_for_thumbnails(24)
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
