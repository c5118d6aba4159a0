"""How soon is the page there, and what does it weigh?

Question: how long does a person wait for the page on the own computer, with an empty cache?
Cost: half a minute. It needs Chromium, chromedriver and selenium.
Expected result: first contentful paint after at most 1 second; at most 300 kB; no other origin.
Command: python -m experiments.serving.first_paint   (in a clone)

Each visit has a new profile, so nothing is cached. The time of the first paint is Chromium's own,
from the start of the navigation. The weight is that of all responses as they were sent, headers
included, until two seconds after the page has loaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.serving.server import HOST, ROOT, machine, record, serving

RESULT = ROOT / "experiments/serving/results/first-paint.json"
_PAINT = """
const done = arguments[arguments.length - 1];
const found = () => performance.getEntriesByName("first-contentful-paint")[0];
const wait = () => found() ? done(found().startTime) : setTimeout(wait, 20);
wait();
"""


def visit(address: str, language: str) -> dict[str, Any]:
    """Open the page in a new browser; return the times and the responses."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(each)
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument(f"--lang={language}")
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        options.binary_location = shutil.which("chromium") or ""
        driver = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=driver)
        try:
            browser.set_script_timeout(30)
            browser.get(address)
            paint = float(browser.execute_async_script(_PAINT))
            loaded = browser.execute_script(
                "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            )
            time.sleep(2)
            return {
                "first_contentful_paint_ms": round(paint, 1),
                "load_event_ms": round(float(loaded), 1),
                "browser": str(browser.capabilities["browserVersion"]),
                **weigh(browser.get_log("performance"), address),
            }
        finally:
            browser.quit()


def weigh(log: list[dict[str, Any]], address: str) -> dict[str, Any]:
    """Return the responses of a log of Chromium's events, with their bytes."""
    messages = [json.loads(entry["message"])["message"] for entry in log]
    urls: dict[str, str] = {}
    sizes: dict[str, float] = {}
    for message in messages:
        values = message["params"]
        if message["method"] == "Network.requestWillBeSent":
            urls[values["requestId"]] = values["request"]["url"]
        elif message["method"] == "Network.loadingFinished":
            sizes[values["requestId"]] = values["encodedDataLength"]
    asked = {key: url for key, url in urls.items() if urlsplit(url).scheme in ("http", "https")}
    own = urlsplit(address).netloc
    return {
        "page_kb": round(sum(sizes.get(key, 0) for key in asked) / 1000, 1),
        "requests": sorted(
            [urlsplit(url).path, round(sizes.get(key, 0))] for key, url in asked.items()
        ),
        "other_origins": sorted({urlsplit(url).netloc for url in asked.values()} - {own}),
    }


def measure(visits: int) -> dict[str, Any]:
    """Visit the page in English, then once in each other language; see the module."""
    with serving("--views", "1") as server:
        address = f"http://{HOST}:{server.port}/"
        found = [visit(address, "en") for _ in range(visits)]
        others = {language: visit(address, language) for language in ("de", "pt")}
    paints = [each["first_contentful_paint_ms"] for each in found]
    return {
        "median_first_contentful_paint_ms": round(statistics.median(paints), 1),
        "first_contentful_paint_ms": paints,
        "median_load_event_ms": round(statistics.median(each["load_event_ms"] for each in found)),
        "page_kb": max(each["page_kb"] for each in (*found, *others.values())),
        "page_kb_by_language": {
            "en": found[0]["page_kb"],
            **{language: each["page_kb"] for language, each in others.items()},
        },
        "requests": found[0]["requests"],
        "other_origins": sorted({name for each in found for name in each["other_origins"]}),
        "chromium": found[0]["browser"],
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    facts = machine()
    result = measure(options.visits)
    record(options.out, facts, result)


if __name__ == "__main__":
    main()
