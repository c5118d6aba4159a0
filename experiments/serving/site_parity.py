"""Does the page of `boneage site` answer as `boneage predict` does?

Question: by how many months do the answers of the browser and of Python differ?
Cost: ten minutes for 200 radiographs on two cores. It needs Chromium, chromedriver and selenium.
Expected result: the same refusals, and no difference above 0.1 months, also after the web server
has ended.
Command: python -m experiments.serving.site_parity RADIOGRAPH…   (PNG or JPEG, in a clone)

The result holds no file name and no answer of a single radiograph.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boneage.prediction.predict import Estimator
from boneage.prediction.shipped import open_run
from boneage.runtime.files import write_json
from boneage.serving.site import write_site
from experiments.serving.server import HOST, ROOT, machine

RESULT = ROOT / "experiments/serving/results/site-parity.json"
_ASK = """
const [text, sex, done] = arguments;
const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const started = performance.now();
import(new URL("page/client.js", document.baseURI))
  .then((client) => client.predict({file: new File([bytes], "image"), sex, months: null}))
  .then((answer) => done({...answer, ms: performance.now() - started}),
    (problem) => done({status: "unreadable", reason: problem.detail}));
"""


def browser_answers(site: Path, radiographs: Sequence[Path], sexes: Sequence[str]) -> list[Any]:
    """Return the answers of the page. The web server ends after the first."""
    from selenium import webdriver

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    server = http.server.ThreadingHTTPServer((HOST, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(each)
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    found = []
    try:
        browser.set_script_timeout(300)
        browser.get(f"http://{HOST}:{server.server_port}/")
        for path, sex in zip(radiographs, sexes, strict=True):
            text = base64.b64encode(path.read_bytes()).decode()
            found.append(browser.execute_async_script(_ASK, text, sex))
            if len(found) == 1:
                server.shutdown()
                server.server_close()
    finally:
        browser.quit()
    return found


def compare(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how the answers differ."""
    alike = ("status", "reason", "reason_code")
    pairs = list(zip(expected, found, strict=True))
    same = [(one, other) for one, other in pairs if all(one[k] == other.get(k) for k in alike)]
    answered = [(one, other) for one, other in same if one["status"] == "answered"]
    key = "predicted_age_months"
    months = np.array([abs(one[key] - other[key]) for one, other in answered] or [np.nan])
    return {
        "radiographs": len(pairs),
        "answered_by_both": len(answered),
        "other_refusals": len(pairs) - len(same),
        "other_findings": sum(one["findings"] != other["findings"] for one, other in same),
        "median_months": float(np.median(months)),
        "p99_months": float(np.quantile(months, 0.99)),
        "largest_months": float(months.max()),
        "above_a_tenth": int((months > 0.1).sum()),
        "median_ms": float(np.median([other["ms"] for _, other in answered] or [np.nan])),
    }


def main() -> None:
    """Measure, print the result and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("radiographs", nargs="+", type=Path)
    parser.add_argument("--views", type=int, default=6, choices=(1, 2, 6))
    parser.add_argument("--packages", type=Path, help="folder with the archives of npm")
    options = parser.parse_args()
    run, radiographs = open_run(Path("rsna-best")), options.radiographs
    sexes = ["FM"[number % 2] for number in range(len(radiographs))]
    estimator = Estimator(run, views=options.views)
    expected = [
        estimator.predict(path, sex).as_dict() for path, sex in zip(radiographs, sexes, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        write_site(site, run, views=options.views, packages=options.packages)
        found = browser_answers(site, radiographs, sexes)
    result = {"views": options.views, **compare(expected, found), "machine": machine()}
    print(result)
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
