"""The main paths of the gateway's web pages in a real browser, in front of a real server."""

import base64
import json
import math
import re

import pytest
from playwright.sync_api import expect

from tests.helpers.gateway_fixtures import HTML_NAME
from tests.helpers.programs import require
from tests.server.gateway.page_driver import DEMO, IMAGES, SearchPage, best_of, run_program

LABELS = DEMO["candidate_labels"]
EXPECTED = DEMO["expected"]
CIRCLE = IMAGES / "red_circle.jpg"
NASTY_LABELS = ["@a red circle", 'it\'s "$HOME" \\n `id`', "<a blue square>; type=x", "100 % größer 🟥"]


@pytest.fixture
def found(opened, searching):
    return opened(searching.url, kind=SearchPage).open()


def test_every_demo_image_gets_its_label(clip):
    clip.add_images(*(IMAGES / name for name in EXPECTED))
    clip.add_labels(*LABELS)
    clip.classify()
    for name, label in EXPECTED.items():
        ranking = clip.ranking(name)
        assert ranking[0][0] == label
        assert ranking[0][1] > 50
        scores = [score for _, score in ranking]
        assert len(scores) == len(LABELS)
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(100, abs=1)
    assert clip.page.locator("#news").inner_text().count("three orange triangles, ") == 1


def test_page_says_when_scores_mean_little(clip, opened, gateway, axe):
    banner = clip.page.locator("#weights")
    expect(banner).to_contain_text("the demo model, which knows drawn shapes, colours and digits only")
    assert clip.violations(axe) == []
    model = clip.page.request.get(f"{gateway}/v1/models").json()["data"][0]
    assert model["demo_weights"] and not model["random_weights"]
    for change, shown in [({"random_weights": True}, "random weights"), ({"demo_weights": False}, "")]:
        other = opened(gateway)
        with other.replying("v1/models", 200, {"data": [model | change]}):
            other.open()
            expect(other.page.locator("#model")).not_to_be_empty()
        expect(other.page.locator("#weights")).to_contain_text(shown)
        assert other.page.locator("#weights").is_visible() == bool(shown)


def test_bad_file_fails_only_its_own_card(clip, broken, tmp_path):
    clip.expected_statuses.add(400)
    notes = tmp_path / "notes.txt"
    notes.write_text("no image", encoding="utf-8")
    clip.add_labels("a red circle", "a blue square")
    clip.add_images(broken, CIRCLE, notes, IMAGES / "blue_square.webp")
    assert clip.ranking(CIRCLE.name)[0][0] == "a red circle"
    assert clip.ranking("blue_square.webp")[0][0] == "a blue square"
    expect(clip.card("broken.jpg").locator(".error")).to_contain_text("The file is not an image")
    expect(clip.card("notes.txt").locator(".error")).to_have_text("Not an image: its type is text/plain.")
    retries = clip.page.get_by_role("button", name=re.compile("^Try again"))
    expect(retries).to_have_count(1)  # retrying notes.txt is pointless


def test_dropped_images_are_classified(clip):
    hint = clip.page.locator("#drop-hint")
    clip.add_labels("a red circle", "a blue square")
    clip.send_files("dragover", CIRCLE)
    expect(hint).to_be_visible()
    clip.send_files("drop", CIRCLE, IMAGES / "blue_square.webp")
    expect(hint).to_be_hidden()
    assert clip.ranking(CIRCLE.name)[0][0] == "a red circle"
    assert clip.ranking("blue_square.webp")[0][0] == "a blue square"


def test_page_works_by_keyboard_alone(clip):
    keyboard = clip.page.keyboard

    def tab_to(locator):
        for _ in range(40):
            keyboard.press("Tab")
            if locator.evaluate("(node) => node === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {locator}")

    tab_to(clip.page.get_by_role("button", name="Choose files"))
    with clip.page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files([CIRCLE])
    tab_to(clip.page.get_by_label("Labels", exact=True))
    for label in ("a blue square", "a red circle"):
        keyboard.type(label)
        keyboard.press("Enter")
    tab_to(clip.page.get_by_role("button", name="Classify", exact=True))
    keyboard.press("Enter")
    assert clip.ranking(CIRCLE.name)[0][0] == "a red circle"
    tab_to(clip.page.get_by_role("tab", name="Classify"))
    keyboard.press("ArrowRight")
    expect(clip.page.get_by_role("tab", name="Compare")).to_be_focused()
    expect(clip.page.get_by_role("tabpanel", name="Compare")).to_be_visible()
    tab_to(clip.page.get_by_label("Texts, one per line"))
    keyboard.type("a red circle")
    keyboard.press("Control+Enter")
    assert list(clip.cosines()) == [CIRCLE.name]
    tab_to(clip.page.get_by_role("region", name="Table of cosines"))
    tab_to(clip.page.get_by_role("tab", name="Compare"))
    keyboard.press("Home")
    expect(clip.page.get_by_role("tabpanel", name="Classify")).to_be_visible()


def test_heat_map_shows_the_cosines(clip, broken):
    clip.expected_statuses.add(400)
    clip.add_images(CIRCLE, IMAGES / "blue_square.webp")
    clip.compare("a red circle", "", "a blue square, with a comma", "a red circle")
    table = clip.cosines()
    assert table[CIRCLE.name][0] > table[CIRCLE.name][1]
    assert table["blue_square.webp"][0] < table["blue_square.webp"][1]
    headers = clip.page.locator("#heat thead th").all_text_contents()
    assert headers == ["a red circle", "a blue square, with a comma"]
    cosines = [cosine for row in table.values() for cosine in row]
    legend = clip.page.locator(".legend").inner_text()
    assert f"{min(cosines):.3f}" in legend
    assert f"{max(cosines):.3f}" in legend
    expect(clip.page.locator("#heat td.best")).to_have_count(2)
    clip.add_images(broken)
    clip.page.get_by_role("button", name="Compare", exact=True).click()
    expect(clip.page.locator("#heat td.error")).to_contain_text("The file is not an image")
    clip.page.get_by_role("button", name="Remove broken.jpg").filter(visible=True).click()
    expect(clip.page.locator("#heat tbody tr")).to_have_count(2)


def test_embedding_is_downloaded(clip, gateway):
    clip.add_images(CIRCLE)
    with clip.page.expect_download() as download:
        clip.page.get_by_role("button", name=f"Download embedding of {CIRCLE.name}").click()
    assert download.value.suggested_filename == "red_circle.jpg.embedding.json"
    saved = json.loads(download.value.path().read_text(encoding="utf-8"))
    uri = "data:image/jpeg;base64," + base64.b64encode(CIRCLE.read_bytes()).decode()
    body = {"input": uri, "modality": "image"}
    answer = clip.page.request.post(f"{gateway}/v1/embeddings", data=body).json()
    model = clip.page.request.get(f"{gateway}/v1/models").json()["data"][0]
    assert (saved["model"], saved["sha256"], saved["image"]) == (model["id"], model["sha256"], CIRCLE.name)
    assert saved["embedding"] == pytest.approx(answer["data"][0]["embedding"], abs=1e-5)
    assert math.sqrt(sum(value**2 for value in saved["embedding"])) == pytest.approx(1, abs=1e-5)


def test_json_array_is_a_list_of_labels_and_a_single_label_has_a_warning(clip):
    clip.add_images(CIRCLE)
    clip.add_labels('["a red circle, big"]')
    clip.classify()
    assert clip.chips() == ["a red circle, big"]
    assert clip.ranking(CIRCLE.name) == [("a red circle, big", 100.0)]
    assert "only one label was given" in clip.page.locator("#warnings li").inner_text()


def test_curl_command_returns_what_the_page_shows(clip):
    require("curl", "curl")
    clip.add_images(CIRCLE)
    clip.add_labels(*NASTY_LABELS)
    clip.classify()
    name, predictions = best_of(run_program("bash", "-euc", clip.code("curl")))
    assert name == CIRCLE.name
    assert {each["label"] for each in predictions} == set(NASTY_LABELS)
    shown = clip.ranking(CIRCLE.name)
    assert [(each["label"], round(100 * each["score"], 1)) for each in predictions] == shown


def test_page_asks_for_the_key_and_remembers_it(opened, gateway_with_keys):
    require("curl", "curl")
    page = opened(gateway_with_keys.url).open()
    page.expected_statuses.add(401)
    window, message = page.page, page.page.locator("#key-message")
    field = window.get_by_label("API key")
    page.add_images(CIRCLE)
    page.add_labels("a red circle", "a blue square")
    page.classify()
    expect(message).to_have_text("Enter the API key first.")
    field.fill("tck-wrong")
    field.press("Enter")
    expect(message).to_contain_text("rejected this key")
    page.classify()
    expect(page.card(CIRCLE.name).locator(".error")).to_be_visible()
    window.get_by_label("Remember in this tab").check()
    field.fill(gateway_with_keys.key)
    window.get_by_role("button", name="Use key").click()
    expect(window.locator("#key-form")).to_be_hidden()
    assert page.ranking(CIRCLE.name)[0][0] == "a red circle"  # the rejected image is retried automatically
    for kind in ("curl", "Python"):
        assert gateway_with_keys.key not in page.code(kind)
        assert "TRITONCLIP_KEY" in page.code(kind)
    _, predictions = best_of(
        run_program("bash", "-euc", page.code("curl"), TRITONCLIP_KEY=gateway_with_keys.key)
    )
    assert predictions[0]["label"] == "a red circle"
    window.reload()
    expect(window.locator("#model")).not_to_be_empty()
    expect(window.get_by_role("button", name="Change key")).to_be_visible()
    expect(window.locator("#key-form")).to_be_hidden()


def test_filled_in_page_is_accessible(clip, broken, axe):
    clip.expected_statuses.add(400)
    clip.add_images(CIRCLE, broken, IMAGES / "digit_7.jpg")
    clip.add_labels(*LABELS, "a red circle", "red " * 90)
    clip.classify()
    clip.ranking(CIRCLE.name)
    expect(clip.card("broken.jpg").locator(".error")).to_be_visible()
    expect(clip.page.locator("#warnings li")).to_have_count(1)
    clip.code("curl")
    clip.page.get_by_text("What the scores mean").click()
    assert clip.violations(axe) == []
    clip.compare(*LABELS, "red " * 90)
    clip.cosines()
    clip.code("Python")
    assert clip.violations(axe) == []


def test_search_page_finds_by_text(found, axe):
    found.search("a blue square")
    found.wait_for_thumbnails(24)
    assert found.names()[0].endswith("blue square.jpg")
    assert found.page.locator("#news").inner_text().count("24 results of 103 entries") == 1
    scores = [float(text) for text in found.page.locator("#results .figure").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert found.violations(axe) == []


def test_search_page_finds_by_a_file_and_by_a_result(found, pictures):
    square = next(pictures.rglob("*blue square.jpg"))
    with found.page.expect_file_chooser() as chooser:
        found.page.get_by_role("button", name="Search with an image").click()
    chooser.value.set_files(square)
    expect(found.page.locator("#heading")).to_have_text(f"Results for {square.name}")
    found.wait_for_thumbnails(24)
    assert found.names()[0].endswith(square.name)
    expect(found.page.get_by_alt_text("Query image")).to_be_visible()
    found.search("a green heart")
    expect(found.page.get_by_alt_text("Query image")).to_be_hidden()
    found.wait_for_thumbnails(24)
    first = found.names()[0]
    found.page.get_by_role("button", name=f"More like this: {first}", exact=True).click()
    expect(found.page.locator("#heading")).to_have_text(f"Results for {first.split('/')[-1]}")
    assert "green heart" in found.names()[0] or found.names()[0] == HTML_NAME
