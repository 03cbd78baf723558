"""Driver of the gateway's web page in Chromium. It performs a person's actions and records problems."""

from __future__ import annotations

import base64
import datetime
import json
import mimetypes
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, Request, Route, expect

from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until

HOPELESS_MS = 120_000
IMAGES = ROOT / "scripts" / "demo" / "images"
DEMO = json.loads((IMAGES / "labels.json").read_text(encoding="utf-8"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WATCH_POLICY = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
# Ends each transition of colour that has an end, once the page has drawn the new colour scheme.
FINISH_ANIMATIONS = """
new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))).then(() => {
  for (const animation of document.getAnimations())
    if (Number.isFinite(animation.effect.getComputedTiming().endTime)) animation.finish();
})
"""
# Dispatches paste and drop events with files, which otherwise only a person can cause.
SEND_FILES = """
([kind, files]) => {
  const data = new DataTransfer();
  for (const { name, type, content } of files) {
    const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
    data.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true };
  const target = document.querySelector("main");
  target.dispatchEvent(kind === "paste"
    ? new ClipboardEvent(kind, { ...options, clipboardData: data })
    : new DragEvent(kind, { ...options, dataTransfer: data }));
}
"""


def launch(playwright: Playwright, executable: str) -> Browser:
    """Start the browser with a fake camera."""
    expect.set_options(timeout=HOPELESS_MS)
    return playwright.chromium.launch(executable_path=executable, args=ARGUMENTS, timeout=HOPELESS_MS)


def run_program(*arguments: str, **environ: str) -> str:
    """Run a program that the page shows, in the folder of the images, and return its output."""
    command, environ = list(arguments), os.environ | environ
    done = subprocess.run(
        command, cwd=IMAGES, env=environ, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def best_of(printed: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the name and the predictions of the only result in a printed response."""
    (result,) = json.loads(printed)["results"]
    return result["name"], result["predictions"]


class ClipPage:
    """The page in a separate browser window.

    Attributes:
        page: Playwright's page.
        expected_statuses: Statuses of intended failures, which the browser logs as errors.
        problems: Console errors, violations of the security policy, and requests to other hosts.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.expected_statuses: set[int] = set()
        self.problems: list[str] = []
        page.set_default_timeout(HOPELESS_MS)
        page.add_init_script(WATCH_POLICY)
        page.on(
            "filechooser", lambda chooser: None
        )  # registered first, because a late listener can miss a chooser
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        status = re.search(r"the server responded with a status of (\d+)", message.text)
        if status and int(status[1]) in self.expected_statuses:
            return
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("blob", "data") and address.netloc != urlsplit(self.url).netloc:
            self.problems.append(f"request to {request.url}")

    def open(self) -> ClipPage:
        """Load the page and wait until it has read the server's settings."""
        self.page.goto(self.url)
        expect(self.page.locator("#template")).not_to_have_value("")
        expect(self.page.locator("#status")).not_to_have_text("Connecting to the server")
        return self

    def open_with_stopped_clock(self) -> ClipPage:
        """Load the page, and stop its clock, which only `page.clock.run_for` moves from then on."""
        self.page.clock.install()
        self.open()
        self.page.clock.pause_at(datetime.datetime.now() + datetime.timedelta(days=1))
        return self

    def wait_until(self, condition: Callable[[], object], failure: str) -> None:
        """Wait until a condition holds, and handle events of the browser meanwhile."""
        wait_until(lambda: self.page.evaluate("true") and condition(), failure)

    def add_images(self, *paths: Path) -> None:
        """Choose files in the file picker."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Choose files").click()
        chooser.value.set_files(list(paths))

    def send_files(self, kind: str, *paths: Path) -> None:
        """Paste, drop or drag files.

        Args:
            kind: Event to dispatch: `paste`, `drop` or `dragover`.
            paths: The files.
        """
        files = [
            {
                "name": path.name,
                "type": mimetypes.guess_type(path.name)[0] or "",
                "content": base64.b64encode(path.read_bytes()).decode(),
            }
            for path in paths
        ]
        self.page.evaluate(SEND_FILES, [kind, files])

    def add_labels(self, *labels: str) -> None:
        """Type labels, and press Enter after each."""
        field = self.page.get_by_label("Labels", exact=True)
        for label in labels:
            field.fill(label)
            field.press("Enter")

    def chips(self) -> list[str]:
        """Return the labels on screen."""
        return self.page.locator(".chip > span").all_text_contents()

    def classify(self) -> None:
        """Press Classify."""
        self.page.get_by_role("button", name="Classify", exact=True).click()

    def card(self, name: str) -> Locator:
        """Return the card of an image."""
        heading = self.page.get_by_role("heading", name=name, exact=True)
        return self.page.locator("#gallery > li").filter(has=heading)

    def ranking(self, name: str) -> list[tuple[str, float]]:
        """Return the labels and scores in percent on the card of an image."""
        rows = self.card(name).locator(".ranking li")
        expect(rows.first).to_be_attached()
        expect(self.card(name).locator(".busy")).to_have_count(0)
        texts = [row.locator("span").all_text_contents() for row in rows.all()]
        return [(label, float(figure.removesuffix("%"))) for label, figure, *_ in texts]

    def compare(self, *texts: str) -> None:
        """Enter texts in the tab Compare and press its button."""
        self.page.get_by_role("tab", name="Compare").click()
        self.page.get_by_label("Texts, one per line").fill("\n".join(texts))
        self.page.get_by_role("button", name="Compare", exact=True).click()

    def cosines(self) -> dict[str, list[float]]:
        """Wait until the table is complete, and return the cosines of each image that has some."""
        cells = self.page.locator("td.heat")
        expect(cells.first).to_be_visible()
        expect(self.page.locator("#heat .busy")).to_have_count(0)
        table = {}
        for row in self.page.locator("#heat tbody tr").filter(has=cells).all():
            name = row.locator("th").text_content() or ""
            texts = row.locator("td.heat").all_text_contents()
            table[name.removesuffix("\u00d7")] = [float(text) for text in texts]
        return table

    def code(self, kind: str) -> str:
        """Open "Copy as curl or Python" in the current tab and return the program."""
        details = self.page.locator("[role=tabpanel]:visible details.code")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
        program = self.page.get_by_role("group", name=f"{kind} code")
        expect(program).not_to_be_empty()
        return program.inner_text()

    def example(self, label: str) -> None:
        """Click the example image of a label."""
        self.page.get_by_role("button", name=f"Example: {label}").click()

    def download(self, button: str) -> tuple[str, str]:
        """Press a button that saves a file, and return the file's name and text."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button).filter(visible=True).click()
        return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")

    @contextmanager
    def replying(
        self, path: str, status: int, body: dict[str, Any], times: int | None = None, **headers: str
    ) -> Iterator[None]:
        """Intercept calls to a path and give a response that the server is hard to provoke to."""

        def reply(route: Route) -> None:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            route.fulfill(status=status, json=body, headers=named)

        self.expected_statuses.add(status)
        pattern = re.compile(re.escape(f"{self.url.rstrip('/')}/{path}") + "$")
        self.page.route(pattern, reply, times=times)
        yield
        self.page.unroute(pattern)

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def violations(self, axe: str) -> list[str]:
        """Return axe-core's violations on screen, in light and in dark mode."""
        found = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.evaluate(FINISH_ANIMATIONS)
            self.page.evaluate(f"typeof axe === 'undefined' && (() => {{ {axe} }})()")
            answer = self.page.evaluate("axe.run({ resultTypes: ['violations'] })")
            assert len(answer["passes"]) > 10  # the page was not empty
            found += [
                f"{scheme}: {rule['id']}: {node['target']}: {node['failureSummary']}"
                for rule in answer["violations"]
                for node in rule["nodes"]
            ]
        return found


class SearchPage(ClipPage):
    """The search page."""

    def open(self) -> SearchPage:
        """Load the page and wait until it has read the server's settings."""
        self.page.goto(f"{self.url}/search")
        expect(self.page.locator("#status")).not_to_have_text("Connecting to the server")
        expect(self.page.locator("#version")).not_to_be_empty()
        return self

    def search(self, text: str) -> None:
        """Search for a text, and wait for the results."""
        self.page.get_by_label("Describe the images").fill(text)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#heading")).to_have_text(f"Results for {text}")

    def names(self) -> list[str]:
        """Return the names of the results."""
        return self.page.locator("#results p:not(.figure)").all_text_contents()

    def wait_for_thumbnails(self, count: int) -> None:
        """Wait until the page shows the thumbnails of its results."""
        expect(self.page.locator("#results img")).to_have_count(count)
        for picture in self.page.locator("#results img").all():
            expect(picture).to_have_js_property("naturalWidth", 96)
