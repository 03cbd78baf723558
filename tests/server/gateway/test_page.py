"""The main paths of the gateway's web pages in a real browser, in front of a real server."""

import base64
import csv
import functools
import http.server
import io
import json
import math
import re
import sys
import threading

import pytest
from playwright.sync_api import expect

from tests.helpers.gateway import run_gateway
from tests.helpers.gateway_fixtures import HTML_NAME
from tests.helpers.programs import require
from tests.server.gateway.page_driver import DEMO, IMAGES, SearchPage, best_of, run_program
from tritonclip import ZeroShotClassifier

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


def test_card_says_where_the_time_of_its_request_went(clip, axe):
    clip.add_labels("a red circle", "a blue square")
    clip.add_images(CIRCLE)
    clip.ranking(CIRCLE.name)
    timing = clip.card(CIRCLE.name).locator("details.timing")
    timing.locator("summary").click()
    total = re.search(r"Answered in (\d+\.\d) ms", timing.locator("summary").inner_text())
    parts = dict(row.locator("span").all_text_contents()[1:] for row in timing.locator("li").all())
    assert {"decoding", "image encoding", "between page and gateway"} <= parts.keys()
    spent = [float(figure.removesuffix(" ms")) for figure in parts.values()]
    assert sum(spent) == pytest.approx(float(total[1]), abs=0.5)
    expect(timing.locator(".part")).to_have_count(len(parts))
    assert clip.violations(axe) == []


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
    tab_to(clip.page.get_by_role("button", name="Download CSV"))
    tab_to(clip.page.get_by_role("button", name="Example: a blue square"))
    keyboard.press("Enter")
    assert clip.ranking("blue_square.webp")[0][0] == "a blue square"
    clip.page.get_by_role("button", name="Remove blue_square.webp").press("Enter")
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
    assert headers == ["1. a red circle", "2. a blue square, with a comma"]
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


def test_cosines_are_readable_on_a_phone(clip):
    clip.page.set_viewport_size({"width": 360, "height": 760})
    clip.add_images(CIRCLE)
    clip.compare("a red circle", "a red circle " * 20)
    clip.cosines()
    assert clip.overflow() == 0
    short, long = clip.page.locator("td.heat").all()
    assert short.bounding_box()["height"] < long.bounding_box()["height"]
    count_lines = "(node) => (all = new Range(), all.selectNodeContents(node), all.getClientRects().length)"
    assert [cell.evaluate(count_lines) for cell in (short, long)] == [1, 1]


def test_examples_are_demo_images_and_bring_their_labels(clip):
    clip.example("a blue square")
    assert clip.ranking("blue_square.webp")[0][0] == "a blue square"
    labels = clip.chips()
    for label in labels:
        if label != "a blue square":
            clip.example(label)
    expect(clip.page.locator("#gallery > li")).to_have_count(len(labels))
    for name in clip.page.locator("#gallery h3").all_text_contents():
        assert clip.ranking(name)[0][0] == EXPECTED[name]
        served = clip.page.request.get(f"{clip.url}/static/examples/{name}").body()
        assert served == (IMAGES / name).read_bytes()
    assert set(labels) == {EXPECTED[name] for name in clip.page.locator("#gallery h3").all_text_contents()}
    assert clip.chips() == labels


def test_cosines_are_shown_next_to_the_scores(clip, direct):
    clip.add_labels("a red circle", "a blue square")
    clip.add_images(CIRCLE)
    clip.ranking(CIRCLE.name)
    sentences = ["This is a photo of a red circle.", "This is a photo of a blue square."]
    cosines = direct.similarity([CIRCLE], sentences)[0]
    shown = clip.card(CIRCLE.name).locator(".cosine").all_text_contents()
    assert shown == [f"cosine {cosine:.3f}" for cosine in cosines]


def test_results_are_downloaded(clip):
    clip.add_labels("a red circle", '["=1+1, \\"quoted\\""]')
    clip.add_images(CIRCLE)
    ranking = clip.ranking(CIRCLE.name)
    name, text = clip.download("Download CSV")
    assert name == "classification.csv"
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["image", "label", "score", "cosine"]
    assert [row[1] for row in rows] == ["a red circle", '\'=1+1, "quoted"']
    assert [(CIRCLE.name, round(100 * float(row[2]), 1)) for row in rows] == [
        (CIRCLE.name, score) for _, score in ranking
    ]
    _, text = clip.download("Download JSON")
    (result,) = json.loads(text)["results"]
    assert [each["label"] for each in result["predictions"]] == [label for label, _ in ranking]
    clip.compare("a red circle", "the digit 7")
    (cosines,) = clip.cosines().values()
    _, text = clip.download("Download CSV")
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert [row[:2] for row in rows] == [[CIRCLE.name, "a red circle"], [CIRCLE.name, "the digit 7"]]
    assert [round(float(row[2]), 3) for row in rows] == cosines


def test_address_holds_labels_template_texts_and_tab(clip, opened):
    labels = ["a red circle", "50 % & more, #1"]
    clip.add_labels(json.dumps(labels))
    clip.page.get_by_label("Hypothesis template").fill("a drawing of {}")
    clip.page.get_by_role("tab", name="Compare").click()
    clip.page.get_by_label("Texts, one per line").fill("one\ntwo")
    clip.wait_until(lambda: "texts=one" in clip.page.url, "the address does not change")
    clip.page.reload()
    for page in (clip, opened(clip.page.url).open()):
        expect(page.page.locator(".chip > span")).to_have_text(labels)
        expect(page.page.locator("#template")).to_have_value("a drawing of {}")
        expect(page.page.get_by_label("Texts, one per line")).to_have_value("one\ntwo")
        expect(page.page.get_by_role("tabpanel", name="Compare")).to_be_visible()
    clip.page.evaluate("location.hash = '#label=a+green+heart'")
    expect(clip.page.locator(".chip > span")).to_have_text(["a green heart"])
    expect(clip.page.locator("#template")).to_have_value("This is a photo of {}.")


def test_labels_are_ranked_in_several_templates(clip, direct):
    require("curl", "curl")
    labels, templates = ["a purple star", "a red circle"], ["a drawing of {}", "{}, seen from afar"]
    field, message = clip.page.get_by_label("Hypothesis template"), clip.page.locator("#template-message")
    field.fill("a drawing of {}\nseen from afar")
    clip.add_labels(*labels)
    clip.add_images(CIRCLE)
    clip.classify()
    expect(message).to_have_text("Template 2: add {} as a placeholder for the label.")
    field.fill("\n".join([templates[0], "", *templates]))
    expect(message).to_be_hidden()
    clip.classify()
    (expected,) = ZeroShotClassifier(direct, labels, templates=templates)([CIRCLE])
    ranking = clip.ranking(CIRCLE.name)
    assert ranking == [(each["label"], pytest.approx(100 * each["score"], abs=0.06)) for each in expected]
    _, predictions = best_of(run_program("bash", "-euc", clip.code("curl")))
    assert clip.code("curl").count("hypothesis_template=") == len(templates)
    assert [each["cosine"] for each in predictions] == pytest.approx(
        [float(text.split()[1]) for text in clip.card(CIRCLE.name).locator(".cosine").all_text_contents()],
        abs=0.0006,
    )
    _, text = clip.download("Download CSV")
    assert len(text.splitlines()) == 1 + len(labels)
    clip.page.get_by_role("tab", name="Compare").click()
    clip.page.get_by_role("button", name="Use the labels").click()
    sentences = [template.replace("{}", label) for label in labels for template in templates]
    expect(clip.page.get_by_label("Texts, one per line")).to_have_value("\n".join(sentences))
    clip.wait_until(lambda: "tab=compare" in clip.page.url, "the address does not change")
    clip.page.reload()
    expect(field).to_have_value("\n".join([templates[0], "", *templates]))


def test_last_results_are_dimmed_until_new_ones_arrive(clip, axe):
    clip.add_labels("a red circle", "a blue square")
    clip.add_images(CIRCLE)
    clip.ranking(CIRCLE.name)
    state = clip.card(CIRCLE.name).locator(".state")
    assert "stale" not in (state.get_attribute("class") or "")
    clip.add_labels("a green heart")
    expect(state).to_have_class(re.compile("stale"))
    held = []
    clip.page.route("**/v1/classify", lambda route: held.append(route))
    clip.classify()
    expect(state).to_contain_text("Classifying")
    expect(state.locator(".ranking li")).to_have_count(2)
    expect(state.locator(".parts")).to_have_css("filter", "grayscale(1)")
    assert clip.violations(axe) == []
    clip.wait_until(lambda: held, "the page sends no request")
    held[0].continue_()
    assert len(clip.ranking(CIRCLE.name)) == 3
    assert "stale" not in (state.get_attribute("class") or "")


def test_failed_images_are_kept_and_retried_together(clip):
    clip.add_labels("a red circle", "the digit 7")
    error = {"error": {"message": "it failed", "type": "server_error", "param": None, "code": "failed"}}
    with clip.replying("v1/classify", 500, error):
        clip.add_images(CIRCLE, IMAGES / "digit_7.jpg")
        expect(clip.page.locator("#gallery .error")).to_have_count(2)
    clip.page.get_by_role("button", name="Try 2 failed images again").click()
    assert clip.ranking(CIRCLE.name)[0][0] == "a red circle"
    assert clip.ranking("digit_7.jpg")[0][0] == "the digit 7"
    expect(clip.page.locator("#retry")).to_be_hidden()


def test_image_is_added_by_url_if_the_gateway_fetches(opened, server, clip, axe):
    require("curl", "curl")
    expect(clip.page.locator("#url-form")).to_be_hidden()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=IMAGES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        options = ("--allow-urls", "--url-network", "127.0.0.1/32", "--url-port", host.server_port)
        with run_gateway(server.grpc_url, *options) as gateway:
            page = opened(gateway.url).open()
            page.add_labels("a red circle", "a blue square")
            field = page.page.get_by_label("Address of an image")
            field.fill("circle")
            field.press("Enter")
            expect(page.page.locator("#url-message")).to_contain_text("begins with http:// or https://")
            assert page.violations(axe) == []
            field.fill(f"http://127.0.0.1:{host.server_port}/red_circle.jpg")
            field.press("Enter")
            assert page.ranking("red_circle.jpg")[0][0] == "a red circle"
            for kind, run in (("curl", ["bash", "-euc"]), ("Python", [sys.executable, "-c"])):
                assert '"a red circle"' in run_program(*run, page.code(kind)).replace("'", '"')
        host.shutdown()


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


def test_search_page_shows_images_without_a_query(found, axe):
    found.wait_for_thumbnails(24)
    expect(found.page.locator("#heading")).to_have_text("Images in the index")
    assert found.violations(axe) == []
    first = found.names()[0]
    found.page.get_by_role("button", name=f"More like this: {first}", exact=True).click()
    expect(found.page.locator("#heading")).to_have_text(f"Results for {first.split('/')[-1]}")
    assert found.names()[0] == first


def test_search_page_keeps_its_query_through_failures_and_reloads(found):
    found.search("a green heart")
    found.wait_for_thumbnails(24)
    names = found.names()
    found.page.reload()
    expect(found.page.locator("#heading")).to_have_text("Results for a green heart")
    assert found.names() == names
    error = {"error": {"message": "it failed", "type": "server_error", "param": None, "code": "failed"}}
    with found.replying("v1/search", 500, error):
        found.send_files("drop", IMAGES / "blue_square.webp")
        expect(found.page.locator("#search-message")).to_contain_text("it failed")
    found.page.get_by_role("button", name="Try again").click()
    expect(found.page.locator("#heading")).to_have_text("Results for blue_square.webp")
    expect(found.page.get_by_alt_text("Query image")).to_be_visible()


def test_documentation_follows_the_colour_scheme_and_is_accessible(opened, gateway, axe):
    clip = opened(gateway)
    page = clip.page
    page.goto(f"{gateway}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    root, dark = page.locator("html"), re.compile(r"rgb\((\d\d?, ){2}\d\d?\)")
    page.emulate_media(color_scheme="light")
    expect(root).not_to_have_css("background-color", dark)
    page.emulate_media(color_scheme="dark")
    expect(root).to_have_css("background-color", dark)
    assert clip.violations(axe) == []


def test_documentation_shows_the_parameters_of_an_operation(opened, gateway):
    clip = opened(gateway)
    page = clip.page
    page.set_viewport_size({"width": 360, "height": 760})
    page.goto(f"{gateway}/docs")
    page.get_by_role("button", name="POST /v1/classify Rank labels").click()
    expect(page.locator(".opblock.is-open")).to_contain_text("hypothesis_template")
    expect(page).to_have_url(re.compile("#/native/classify"))
    assert clip.overflow() == 0
    description = page.get_by_role("cell").get_by_text("Minimum score.").bounding_box()
    assert description["width"] > 180


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
