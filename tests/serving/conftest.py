"""A server, a browser and the page in it, for the tests of the page. Both are started once."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

# The state of the page: what is shown, typed and drawn. The list names each radiograph, so that
# is left out. A checksum stands for each picture.
STATE = """
const visible = (node) => node.checkVisibility({visibilityProperty: true});
const checksum = (text) => {
  let sum = 0;
  for (let at = 0; at < text.length; at += 1) sum = (31 * sum + text.charCodeAt(at)) | 0;
  return sum;
};
return {
  text: document.getElementById("main").innerText,
  status: document.getElementById("status").textContent,
  report: [...document.querySelectorAll(".print-only")].map((node) => node.textContent),
  labels: [...document.querySelectorAll("#main [aria-label]")].map((node) => node.ariaLabel),
  values: [...document.querySelectorAll("#child input, #main input, #main textarea")]
    .map((node) => [node.id, node.type === "radio" ? node.checked : node.value]),
  buttons: [...document.querySelectorAll("#child button, #main button")].filter(visible)
    .map((node) => node.id),
  pictures: [...document.querySelectorAll("canvas")].filter(visible)
    .map((node) => checksum(node.toDataURL())),
};
"""
DROP = """
const [name, content] = arguments;
const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name));
const zone = document.getElementById("drop");
for (const type of ["dragenter", "dragover", "drop"]) {
  const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
  zone.dispatchEvent(new DragEvent(type, options));
}
"""
SETTLED = """
const shown = (id) => !document.getElementById(id).hidden;
return !shown("waiting") && (shown("report") || shown("problem"));
"""


class Page:
    """The page in the browser, and what a person does there."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, language: str = "en") -> None:
        """Open the page, without anything of the page before it."""
        self.driver.get(f"{self.address}/?lang={language}")
        self.wait_for(lambda: self.text("choose"))

    def wait_for(self, condition: Callable[[], Any], seconds: float = 180.0) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition())

    def script(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def element(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def text(self, name: str) -> str:
        return str(self.element(name).text)

    def is_shown(self, name: str) -> bool:
        return bool(self.element(name).is_displayed())

    def click(self, name: str) -> None:
        self.element(name).click()

    def language(self) -> str:
        return str(self.script("return document.documentElement.lang"))

    def state(self) -> Any:
        return self.script(STATE)

    def give(self, path: Path) -> None:
        """Choose a file, and wait for the answer, the refusal or the problem."""
        self.element("files").send_keys(str(path))
        self.settle()

    def drop(self, path: Path) -> None:
        self.script(DROP, path.name, base64.b64encode(path.read_bytes()).decode())
        self.settle()

    def choose_sex(self, sex: str) -> None:
        self.click(f"sex-{sex}")
        self.settle()

    def settle(self) -> None:
        self.wait_for(lambda: self.script(SETTLED))

    def set_age(self, years: int, months: int) -> None:
        for name, value in (("age-years", years), ("age-months", months)):
            self.element(name).clear()
            self.element(name).send_keys(str(value))
        before = self.text("estimates")
        self.script("document.getElementById('age-months').blur()")
        self.wait_for(lambda: self.text("estimates") not in ("", before))
        self.settle()

    def emulate(self, **features: str) -> None:
        """Emulate media features, such as `prefers_color_scheme="dark"`; `media="print"`."""
        media = features.pop("media", "")
        chosen = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        command = {"media": media, "features": chosen}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", command)

    def set_width(self, width: int, height: int = 740) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def download_to(self, folder: Path) -> None:
        command = {"behavior": "allow", "downloadPath": str(folder)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", command)

    def wait_for_download(self, path: Path) -> None:
        """Wait for the whole file: Chromium holds its place with an empty one."""
        self.wait_for(lambda: path.exists() and path.stat().st_size)

    def requests(self) -> list[str]:
        """The addresses that the page asked for since the last call."""
        entries = self.driver.get_log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def errors(self) -> list[str]:
        """Errors of scripts and refusals of the content security policy since the last call.

        A request that the server refuses is no error here: the page has a text for it.
        """
        entries = self.driver.get_log("browser")
        return [
            entry["message"]
            for entry in entries
            if not (entry["source"] == "network" and "/v1/" in entry["message"])
        ]


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., AbstractContextManager[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server without a token."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serve(log, "--views", "1", "--workers", "2", "--timeout", "300") as address:
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Chromium without a window; its log has every request of the page."""
    webdriver = pytest.importorskip("selenium.webdriver")
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in found.items():
        if path is None:
            pytest.skip(f"{name} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,900")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(chromium: Any, server: str) -> Iterator[Page]:
    """The page, just opened. At the end: no error, and nothing was asked of another address."""
    yield from opened(Page(chromium, server))


def opened(page: Page) -> Iterator[Page]:
    page.driver.get("about:blank")
    page.errors(), page.requests()  # a new Chromium asks for its own pages
    page.open()
    yield page
    errors, requests = page.errors(), page.requests()
    page.emulate()
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert not errors
    own = (f"{page.address}/", f"blob:{page.address}/", "data:")
    assert not [address for address in requests if not address.startswith(own)]


@pytest.fixture(scope="module")
def token(
    serve: Callable[..., AbstractContextManager[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The token and the address of a server that asks for it."""
    secret = "f7Kp2-9aQx41"
    log = tmp_path_factory.mktemp("guarded") / "log.txt"
    with serve(log, "--views", "1", "--workers", "1", "--token", secret) as address:
        yield secret, address


@pytest.fixture
def guarded_page(chromium: Any, token: tuple[str, str]) -> Iterator[Page]:
    """The page of the server that asks for a token."""
    yield from opened(Page(chromium, token[1]))
