"""The gateway's page in a real browser: single fields, failures, narrow screens, and generated programs."""

import json
import re
import shutil
import sys

import pytest
from playwright.sync_api import expect

from tests.helpers.programs import require
from tests.server.gateway.page_driver import DEMO, IMAGES, run_program

LABELS = DEMO["candidate_labels"]
CIRCLE = IMAGES / "red_circle.jpg"
BUSY = {
    "error": {
        "message": "the server is overloaded",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
}
NASTY_LABELS = ["@a red circle", 'it\'s "$HOME" \\n `id`', "<a blue square>; type=x", "100 % größer 🟥"]


def test_more_than_five_labels_are_collapsed(clip):
    clip.add_images(CIRCLE)
    clip.add_labels(*LABELS)
    clip.classify()
    rows = clip.card(CIRCLE.name).locator(".ranking li")
    expect(rows.filter(visible=True)).to_have_count(5)
    clip.page.get_by_role("button", name=f"Show all {len(LABELS)} labels").click()
    expect(rows.filter(visible=True)).to_have_count(len(LABELS))


def test_header_shows_model_and_status(clip):
    expect(clip.page.locator("#status")).to_have_text("Ready")
    expect(clip.page.locator("#model")).not_to_be_empty()
    expect(clip.page.locator("#scale")).to_contain_text("logit scale of this model is")
    assert clip.page.get_by_role("link", name="API docs").get_attribute("href") == "docs"
    expect(clip.page.locator("#key-form")).to_be_hidden()


def test_oversized_file_is_not_sent(opened, gateway, tmp_path):
    page = opened(gateway)
    info = json.loads(page.page.request.get(f"{gateway}/v1/info").body())
    with page.replying("v1/info", 200, info | {"max_body_bytes": 100_000}):
        page.open()
    large = tmp_path / "large.png"
    large.write_bytes(bytes(200_000))
    page.add_labels("a red circle")
    page.add_images(large)
    expect(page.card("large.png").locator(".error")).to_have_text(
        "Too large: 0.191 MiB of at most 0.095 MiB."
    )


def test_missing_input_is_reported_at_its_field(clip):
    clip.add_images(CIRCLE)
    clip.classify()
    expect(clip.page.locator("#label-message")).to_have_text("Add a label first.")
    expect(clip.page.get_by_label("Labels", exact=True)).to_be_focused()
    clip.add_labels("a red circle")
    clip.page.get_by_label("Hypothesis template").fill("a photo")
    clip.classify()
    expect(clip.page.locator("#template-message")).to_have_text("Add {} as a placeholder for the label.")
    clip.page.get_by_label("Hypothesis template").fill("a photo of {}")
    clip.page.get_by_role("button", name=f"Remove {CIRCLE.name}").click()
    clip.classify()
    expect(clip.page.locator("#classify-message")).to_have_text("Add an image first.")


def test_gallery_shows_many_images(clip, tmp_path):
    copies = [shutil.copy(CIRCLE, tmp_path / f"circle-{number}.jpg") for number in range(8)]
    clip.add_labels("a red circle", "a blue square")
    clip.add_images(*copies)
    for number in range(8):
        assert clip.ranking(f"circle-{number}.jpg")[0][0] == "a red circle"
    expect(clip.page.locator("#count")).to_have_text("8 images")
    columns = clip.page.evaluate("getComputedStyle(document.getElementById('gallery')).gridTemplateColumns")
    assert len(columns.split()) > 1
    clip.page.get_by_role("button", name="Remove circle-3.jpg").click()
    expect(clip.page.get_by_role("button", name="Remove circle-4.jpg")).to_be_focused()
    clip.page.get_by_role("button", name="Remove all").click()
    expect(clip.page.locator("#gallery > li")).to_have_count(0)


def test_page_sends_at_most_four_concurrent_requests(clip, tmp_path):
    held = []
    clip.page.route("**/v1/classify", lambda route: held.append(route))
    clip.add_labels("a red circle", "a blue square")
    clip.add_images(*(shutil.copy(CIRCLE, tmp_path / f"{number}.jpg") for number in range(6)))
    expect(clip.page.get_by_text("Classifying", exact=True)).to_have_count(6)
    clip.wait_until(lambda: len(held) >= 4, "the page sends fewer than four requests")
    assert len(held) == 4
    held[0].continue_()
    clip.wait_until(lambda: len(held) >= 5, "the page does not send the fifth request")
    assert len(held) == 5
    clip.page.route("**/v1/classify", lambda route: route.continue_())
    for route in held[1:]:
        route.continue_()
    for number in range(6):
        assert clip.ranking(f"{number}.jpg")[0][0] == "a red circle"


def test_labels_are_added_and_removed_as_chips(clip):
    field = clip.page.get_by_label("Labels", exact=True)
    field.press_sequentially("a cat,a dog")
    field.press("Enter")
    assert clip.chips() == ["a cat", "a dog"]
    clip.add_labels("a cat")
    expect(clip.page.locator("#label-message")).to_have_text("“a cat” has already been added.")
    field.press("Backspace")
    assert clip.chips() == ["a cat"]
    field.evaluate(
        """(field) => {
          const data = new DataTransfer();
          data.setData("text/plain", "a cow, a hen\\r\\n\\na cat\\na pig");
          const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          field.dispatchEvent(event);
        }"""
    )
    assert clip.chips() == ["a cat", "a cow", "a hen", "a pig"]
    clip.page.get_by_role("button", name="Remove a cow").click()
    assert clip.chips() == ["a cat", "a hen", "a pig"]
    expect(clip.page.get_by_role("button", name="Remove a hen")).to_be_focused()


def test_new_labels_take_effect_on_classify(clip):
    clip.add_labels("a blue square", "a green heart")
    clip.add_images(CIRCLE)
    assert {label for label, _ in clip.ranking(CIRCLE.name)} == {"a blue square", "a green heart"}
    clip.add_labels("a red circle")
    expect(clip.page.locator("#classify-message")).to_contain_text("The inputs have changed")
    assert len(clip.ranking(CIRCLE.name)) == 2
    clip.page.keyboard.press("Control+Enter")
    expect(clip.card(CIRCLE.name).locator(".ranking li")).to_have_count(3)
    assert clip.ranking(CIRCLE.name)[0][0] == "a red circle"
    expect(clip.page.locator("#classify-message")).to_be_empty()


def test_truncated_label_is_one_warning(clip):
    clip.add_labels("red " * 90, "a blue square")
    clip.add_images(CIRCLE, IMAGES / "digit_3.png")
    clip.ranking(CIRCLE.name)
    clip.ranking("digit_3.png")
    expect(clip.page.locator("#warnings li")).to_have_count(1)
    expect(clip.page.locator("#warnings li")).to_contain_text("was cut at 77")


def test_pasted_image_is_classified(clip):
    clip.add_labels("a red circle", "a blue square")
    clip.send_files("paste", IMAGES / "blue_square.webp")
    assert clip.ranking("blue_square.webp")[0][0] == "a blue square"


def test_photo_is_classified_and_the_camera_stopped(clip):
    clip.add_labels("a red circle", "a green clock")
    clip.page.get_by_role("button", name="Take a photo").click()
    shutter = clip.page.get_by_role("button", name="Take photo")
    expect(shutter).to_be_enabled()
    track = clip.page.evaluate_handle("document.getElementById('preview').srcObject.getTracks()[0]")
    shutter.click()
    expect(clip.page.get_by_role("dialog")).to_be_hidden()
    assert len(clip.ranking("photo-1.jpg")) == 2
    assert track.evaluate("(track) => track.readyState") == "ended"


def test_without_camera_the_file_picker_opens(opened, gateway):
    page = opened(gateway)
    page.page.add_init_script("delete Navigator.prototype.mediaDevices")
    page.open()
    with page.page.expect_file_chooser() as chooser:
        page.page.get_by_role("button", name="Take a photo").click()
    assert chooser.value.element.get_attribute("capture") == "environment"


def test_use_the_labels_fills_in_the_texts(clip):
    clip.add_labels("a red circle")
    clip.page.get_by_role("tab", name="Compare").click()
    clip.page.get_by_role("button", name="Use the labels").click()
    expect(clip.page.get_by_label("Texts, one per line")).to_have_value("This is a photo of a red circle.")


def test_python_program_returns_what_the_page_shows(clip):
    clip.add_images(CIRCLE)
    clip.add_labels(*NASTY_LABELS, "a red circle")
    clip.classify()
    printed = run_program(sys.executable, "-c", clip.code("Python"))
    best = clip.ranking(CIRCLE.name)[0][0]
    assert re.search(r"'predictions': \[\{'score': [\d.]+, 'label': ", printed)
    assert repr(best) in printed.split("}")[0]


def test_comparison_code_returns_what_the_page_shows(clip):
    require("curl", "curl")
    clip.add_images(CIRCLE)
    clip.compare("a red circle", "a blue square")
    cosines = clip.cosines()[CIRCLE.name]
    (result,) = json.loads(run_program("bash", "-euc", clip.code("curl")))["results"]
    assert [round(cosine, 3) for cosine in result["similarities"]] == cosines


def test_code_is_copied(opened, gateway):
    page = opened(gateway, permissions=["clipboard-read", "clipboard-write"]).open_with_stopped_clock()
    code = page.code("curl")
    page.page.get_by_role("button", name="Copy curl").click()
    expect(page.page.get_by_role("button", name="Copy curl")).to_have_text("Copied")
    assert page.page.evaluate("navigator.clipboard.readText()") == code
    page.page.clock.run_for(2000)
    expect(page.page.get_by_role("button", name="Copy curl")).to_have_text("Copy")


def test_server_that_is_not_ready_or_overloaded_is_shown(opened, gateway):
    page = opened(gateway)
    reply = {"status": "not ready", "inference": "timeout", "reason": "the model does not answer"}
    status = page.page.locator("#status")
    with page.replying("readyz", 503, reply):
        page.open()
        expect(status).to_have_text("Not ready: the model does not answer")
    with page.replying("readyz", 200, {"status": "ready", "inference": "overloaded", "reason": None}):
        page.open()
        expect(status).to_have_text("Overloaded")
    page.page.clock.install()
    page.open()
    expect(status).to_have_text("Ready")
    page.page.wait_for_load_state("networkidle")
    with page.replying("readyz", 503, reply | {"reason": None}):
        page.page.clock.run_for(16_000)  # the page polls every 15 s
        expect(status).to_have_text("Not ready")


def test_page_recovers_when_the_gateway_returns(opened, gateway):
    page = opened(gateway)
    page.page.clock.install()
    with (
        page.replying("v1/info", 502, {}),
        page.replying("v1/models", 502, {}),
        page.replying("readyz", 502, {}),
    ):
        page.page.goto(gateway)
        expect(page.page.locator("#status")).to_have_text("Not ready")
        page.page.wait_for_load_state("networkidle")  # then the page waits for its next poll
    page.page.clock.run_for(16_000)
    expect(page.page.locator("#status")).to_have_text("Ready")
    expect(page.page.get_by_label("Hypothesis template")).to_have_value("This is a photo of {}.")
    expect(page.page.locator("#model")).not_to_be_empty()


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_is_retried(opened, gateway, status):
    page = opened(gateway).open_with_stopped_clock()
    page.add_labels("a red circle", "a blue square")
    with page.replying("v1/classify", status, BUSY, times=2, Retry_After="1"):
        page.add_images(CIRCLE)
        for attempt in (1, 2):
            text = f"The server is busy. Retry in 1 s ({attempt} of 3)."
            expect(page.card(CIRCLE.name)).to_contain_text(text)
            page.page.clock.run_for(1000)
        assert page.ranking(CIRCLE.name)[0][0] == "a red circle"


def test_busy_server_gets_at_most_four_attempts(clip):
    asked = []
    clip.page.on("request", lambda request: asked.append(request.url))
    clip.add_labels("a red circle", "a blue square")
    with clip.replying("v1/classify", 503, BUSY, Retry_After="0"):
        clip.add_images(CIRCLE)
        expect(clip.card(CIRCLE.name).locator(".error")).to_have_text("the server is overloaded")
    assert sum(url.endswith("/v1/classify") for url in asked) == 4
    clip.page.get_by_role("button", name=f"Try again: {CIRCLE.name}").click()
    assert clip.ranking(CIRCLE.name)[0][0] == "a red circle"


def test_unreachable_server_is_reported(clip):
    clip.page.route("**/v1/classify", lambda route: route.abort())
    clip.add_labels("a red circle")
    clip.add_images(CIRCLE)
    expect(clip.card(CIRCLE.name).locator(".error")).to_contain_text("No answer")
    assert clip.problems == ["error: Failed to load resource: net::ERR_FAILED"]
    clip.problems.clear()


def test_page_fits_a_phone(opened, gateway, broken, axe):
    page = opened(gateway, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True).open()
    page.expected_statuses.add(400)
    assert page.overflow() == 0
    page.add_labels(*LABELS, "x" * 80)
    page.add_images(CIRCLE, broken, IMAGES / "three_orange_triangles.jpg")
    page.ranking(CIRCLE.name)
    page.code("curl")
    assert page.overflow() == 0
    page.compare(*LABELS, "y" * 80)
    page.cosines()
    assert page.overflow() == 0
    assert page.page.locator(".scroller").evaluate("(node) => node.scrollWidth <= node.clientWidth")
    names = (
        page.page.locator("#heat tbody tr")
        .first.locator("td")
        .evaluate_all("(cells) => cells.map((cell) => getComputedStyle(cell, '::before').content)")
    )
    assert names[:2] == [f'"{number}. {text}"' for number, text in enumerate(LABELS[:2], 1)]
    assert page.violations(axe) == []
    page.page.get_by_role("button", name="Take a photo").click()
    expect(page.page.get_by_role("button", name="Take photo")).to_be_enabled()
    assert page.overflow() == 0


def test_page_follows_the_colour_scheme(clip):
    def brightness():
        colour = clip.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    clip.page.emulate_media(color_scheme="light")
    assert brightness() > 600
    clip.page.emulate_media(color_scheme="dark")
    assert brightness() < 150


def test_empty_busy_and_camera_states_are_accessible(clip, axe):
    clip.expected_statuses.add(503)
    assert clip.violations(axe) == []
    clip.classify()
    assert clip.violations(axe) == []
    clip.add_labels("a red circle", "a blue square")
    with clip.replying("v1/classify", 503, BUSY, Retry_After="60"):
        clip.add_images(CIRCLE)
        expect(clip.card(CIRCLE.name)).to_contain_text("Retry in 60 s")
        assert clip.violations(axe) == []
    clip.page.get_by_role("button", name="Take a photo").click()
    expect(clip.page.get_by_role("button", name="Take photo")).to_be_enabled()
    assert clip.violations(axe) == []


def test_key_form_is_accessible(opened, gateway_with_keys, axe):
    page = opened(gateway_with_keys.url).open()
    page.expected_statuses |= {401, 503}
    page.page.get_by_label("API key").fill("tck-wrong")
    page.page.keyboard.press("Enter")
    expect(page.page.locator("#key-message")).to_contain_text("rejected this key")
    with page.replying("readyz", 503, {"status": "not ready", "inference": None, "reason": "down"}):
        page.open()
        assert page.violations(axe) == []
