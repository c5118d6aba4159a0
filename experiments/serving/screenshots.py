"""What does the page look like? Take the pictures of the README and of docs/.

Cost: half a minute. It needs Debian's packages chromium and chromium-driver.
Expected result: three PNG files of drawn hands, in docs/screenshots.
Command: python -m experiments.serving.screenshots
"""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from experiments.serving.server import HOST, serving

SETTLED = """
const shown = (id) => !document.getElementById(id).hidden;
return !shown("waiting") && (shown("report") || shown("problem"));
"""
BELOW_THE_NOTICE = """
document.getElementById("result").scrollIntoView();
scrollBy(0, -document.getElementById("notice").offsetHeight);
"""
DRAWING_SECONDS = 1.0  # the pictures are painted after the answer
LARGEST_FILE = 150_000


def open_browser() -> webdriver.Chrome:
    """Open Chromium without a window."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or ""
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def set_screen(browser: Any, width: int, height: int, scheme: str) -> None:
    """Set the size of the screen, and light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def settle(browser: Any) -> None:
    """Wait for the answer and its pictures."""
    WebDriverWait(browser, 30).until(lambda _: browser.execute_script(SETTLED))
    time.sleep(DRAWING_SECONDS)


def open_sample(browser: Any, address: str, name: str) -> None:
    """Open the page in English, and choose a drawn hand."""
    browser.get(f"{address}/?lang=en")
    selector = f"[data-sample='{name}']"
    WebDriverWait(browser, 30).until(lambda _: browser.find_elements("css selector", selector))
    browser.find_element("css selector", selector).click()
    settle(browser)


def keep(browser: Any, path: Path) -> None:
    """Write what the screen shows."""
    shot = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    small = shot.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    assert size <= LARGEST_FILE, path


def main(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/screenshots"),
) -> None:
    """Start the server, and take three pictures of drawn hands."""
    browser = open_browser()
    with serving("--views", "1") as server:
        address = f"http://{HOST}:{server.port}"
        set_screen(browser, 1280, 960, "light")
        open_sample(browser, address, "girl-13-years")
        keep(browser, out / "answer.png")
        browser.find_element("id", "sex-unknown").click()
        settle(browser)
        keep(browser, out / "sex-unknown.png")
        set_screen(browser, 390, 844, "dark")
        open_sample(browser, address, "boy-15-years")
        browser.execute_script(BELOW_THE_NOTICE)
        keep(browser, out / "phone.png")
    browser.quit()


if __name__ == "__main__":
    typer.run(main)
