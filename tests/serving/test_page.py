"""The page in Chromium: what a radiologist does with it, and what it must never do."""

from __future__ import annotations

import base64
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import draw_hand
from boneage.prediction.answers import RESEARCH_ONLY

pytestmark = pytest.mark.slow

TEXTS = Path(__file__).parents[2] / "boneage" / "serving" / "page" / "texts"
LANGUAGES = ("en", "de", "pt")
# Holds the reply to the first radiograph until `release()`; notes the names of the files sent.
HOLD_FIRST = """
const send = window.fetch.bind(window);
let first = true;
window.sent = [];
window.fetch = async (address, options) => {
  const isUpload = options?.method === "POST";
  const isHeld = isUpload && first;
  if (isUpload) {
    first = false;
    window.sent.push(options.body.get("image").name);
  }
  const response = await send(address, {...options, signal: undefined});
  if (isHeld) await new Promise((resolve) => { window.release = resolve; });
  return response;
};
"""
# A heat map takes seconds. This one is there when `release()` is called.
CANNED_HEAT = """
const [heat, send] = [arguments[0], window.fetch.bind(window)];
window.fetch = async (address, options) => {
  if (!String(address).endsWith("/v1/explain")) return send(address, options);
  await new Promise((resolve) => { window.release = resolve; });
  return new Response(JSON.stringify({heat, limit_months: 6}));
};
"""
# The first upload gets a problem, the next ones what the server says.
REPLY_ONCE = """
const [status, send] = [arguments[0], window.fetch.bind(window)];
window.fetch = (address, options) => {
  if (options?.method !== "POST" || window.isBusy) return send(address, options);
  window.isBusy = true;
  return Promise.resolve(new Response("{}", {status, headers: {"Retry-After": "1"}}));
};
"""
OUTSIDE = """
return [...document.querySelectorAll("button, input, select, textarea, summary, canvas, a")]
  .filter((node) => node.checkVisibility({visibilityProperty: true}) && !node.matches(".skip"))
  .map((node) => [node, node.getBoundingClientRect()])
  .filter(([, box]) => box.left < 0 || box.right > innerWidth)
  .map(([node]) => node.outerHTML);
"""
WORDS = """
const nodes = [...document.querySelectorAll("body *")].filter((node) => !node.matches("script"));
return nodes.flatMap((node) => [
  node.getAttribute("aria-label"), node.placeholder, node.title,
  ...[...node.childNodes].filter((each) => each.nodeType === 3).map((each) => each.data.trim()),
]).filter(Boolean);
"""


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two drawn hands of different ages and sizes."""
    folder = tmp_path_factory.mktemp("hands")
    paths = folder / "Doe-Jane-4711.png", folder / "second.png"
    for path, months, sex, size in zip(paths, (62, 158), ("F", "M"), (300, 360), strict=True):
        hand = draw_hand(months, sex, rng=np.random.default_rng(months), size=size)
        cv2.imwrite(str(path), hand)
    return paths


@pytest.fixture(scope="module")
def no_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture without a hand."""
    path = tmp_path_factory.mktemp("other") / "checkerboard.png"
    squares = np.indices((12, 12)).sum(axis=0) % 2
    cv2.imwrite(str(path), np.kron(squares, np.full((32, 32), 255)).astype(np.uint8))
    return path


@pytest.fixture
def no_image(tmp_path: Path) -> Path:
    """A text with the name of an image."""
    path = tmp_path / "letter.png"
    path.write_text("Dear colleague, the radiograph is attached.\n" * 20)
    return path


@pytest.fixture
def dicom(write_dicom: Any, tmp_path: Path) -> Path:
    """A DICOM file whose header says sex and age."""
    header = {
        "SOPInstanceUID": "1.2.826.0.1.3680043.10.999.1",
        "StudyInstanceUID": "1.2.826.0.1.3680043.10.999.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.999.3",
        "PatientName": "Doe^Jane", "PatientID": "4711", "PatientBirthDate": "20160301",
        "PatientSex": "F", "StudyDate": "20260301", "StudyTime": "101500",
        "AccessionNumber": "A-1", "StudyID": "S-1", "ReferringPhysicianName": "Roe^Max",
        "BodyPartExamined": "HAND",
    }  # fmt: skip
    return Path(write_dicom(tmp_path / "hand.dcm", **header))


@pytest.fixture(scope="module")
def axe() -> str:
    """The script that checks a page for people with a keyboard or a screen reader."""
    spec = find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-core-python is not installed")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def serious(page: Any, axe: str) -> list[str]:
    """What axe calls serious or critical, each with its first element."""
    page.script(axe)
    run = "axe.run({resultTypes: ['violations']}).then(arguments[0]);"
    found = page.driver.execute_async_script(run)["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def drawn(page: Any) -> bool:
    """Whether both pictures are drawn: neither is blank."""
    code = """
      return ["whole-canvas", "framed-canvas"].every((id) => {
        const context = new OffscreenCanvas(99, 99).getContext("2d", {willReadFrequently: true});
        context.drawImage(document.getElementById(id), 0, 0, 99, 99);
        return new Set(context.getImageData(0, 0, 99, 99).data).size > 20;
      });"""
    return bool(page.script(code))


def can_heat(page: Any) -> None:
    """Answer with a heat map that costs nothing, after `window.release()`."""
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    page.script(CANNED_HEAT, base64.b64encode(cv2.imencode(".png", ramp)[1]).decode())


def release(page: Any) -> None:
    """Let a reply come that is held back."""
    page.wait_for(lambda: page.script("return window.release !== undefined"))
    page.script("window.release()")


def state_of(page: Any, path: Path) -> Any:
    """The state of a new page that shows this radiograph alone."""
    page.open()
    page.give(path)
    page.wait_for(lambda: drawn(page))
    return page.state()


def assert_same_state(page: Any, expected: Any) -> None:
    page.wait_for(lambda: drawn(page))
    assert page.state() == expected


def focused(page: Any) -> str:
    return str(page.script("return document.activeElement.id"))


def tab_to(page: Any, selector: str, *, back: bool = False) -> Any:
    """Press Tab until an element has the focus, and check that each focus can be seen."""
    from selenium.webdriver import ActionChains, Keys

    code = """
      const node = document.activeElement;
      const style = getComputedStyle(node);
      const isSeen = style.outlineStyle !== "none" || style.boxShadow !== "none";
      return [node.matches(arguments[0]), isSeen || node === document.body, node.outerHTML];"""
    for _ in range(60):
        keys = ActionChains(page.driver)
        if back:
            keys.key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
        else:
            keys.send_keys(Keys.TAB).perform()
        is_there, is_seen, html = page.script(code, selector)
        assert is_seen, f"no focus is visible on {html}"
        if is_there:
            return page.driver.switch_to.active_element
    return pytest.fail(f"Tab does not reach {selector}")


# --- The task: a radiograph, a sex, an answer.


def test_a_dropped_radiograph_gets_an_answer_for_each_sex_and_then_for_one(page, hands):
    assert page.is_shown("empty")
    page.drop(hands[0])
    assert len(page.all("article.estimate")) == 2
    page.choose_sex("F")
    years = page.texts("#estimates .age")[0].splitlines()[0]
    assert re.fullmatch(r"(\d+ years? ?)?(\d+ months?)?", years)
    (interval,) = page.texts("#estimates .interval")
    assert "90" in interval
    assert page.is_shown("notice")
    assert "drawing" in [each.get_attribute("data-code") for each in page.all("#findings li")]
    page.wait_for(lambda: drawn(page))


def test_the_page_shows_what_the_api_answers(page, hands, tmp_path):
    page.give(hands[0])
    page.choose_sex("M")
    page.download_to(tmp_path)
    page.click("save-json")
    path = tmp_path / "bone-age.json"
    page.wait_for_download(path)
    answer = json.loads(path.read_text())
    assert answer["sex"] == "M"
    assert "page" not in answer
    assert answer["notice"] == RESEARCH_ONLY
    assert page.texts("#estimates .months") == [f"{answer['predicted_age_months']:.1f} months"]
    assert answer["age"] in page.element("sentence").get_attribute("value")


def test_a_chronological_age_gives_the_score_and_a_word(page, hands):
    page.give(hands[0])
    page.choose_sex("F")
    assert not page.all(".assessment")
    page.set_age(9, 6)
    (word,) = page.texts(".assessment")
    assert word.lower() in {"delayed", "normal", "advanced", "indeterminate"}
    assert "9 years 6 months" in page.text("estimates")
    assert re.search(r"[−+]?\d\.\d", page.text("estimates"))
    assert word.lower() in page.element("sentence").get_attribute("value").lower()


def test_an_age_that_is_none_is_a_problem_of_its_field(page, hands):
    page.give(hands[0])
    page.element("age-years").send_keys("ten")
    page.wait_for(lambda: page.text("age-problem"))
    assert page.is_shown("report")


def test_birth_and_study_date_give_the_age(page, hands):
    page.give(hands[0])
    page.choose_sex("F")
    page.click("dates")
    for name, date in (("birth-date", "2016-03-01"), ("study-date", "2026-03-01")):
        code = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'));"
        page.script(code, page.element(name), date)
    page.wait_for(lambda: page.all(".assessment"))
    assert page.element("age-years").get_attribute("value") == "10"


def test_a_picture_without_a_hand_is_refused_in_words(page, no_hand):
    page.give(no_hand)
    (refusal,) = page.texts("#estimates .refusal")
    assert len(refusal) > 40
    assert not page.all("article.estimate")
    assert "No bone age" in page.element("sentence").get_attribute("value")
    assert not page.is_shown("heat-ask")
    assert not page.is_shown("save-report")


@pytest.mark.parametrize("kind", ["black", "noise"])
def test_a_picture_of_nothing_is_refused_in_words(page, tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (200, 160), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "picture.png"), noise * (kind == "noise"))
    page.give(tmp_path / "picture.png")
    (refusal,) = page.texts("#estimates .refusal")
    assert len(refusal) > 40
    assert page.is_shown("whole-canvas")
    assert not page.all("article.estimate")


def test_a_file_that_is_no_image_is_a_problem_in_words(page, no_image, hands):
    page.give(no_image)
    assert page.is_shown("problem")
    assert page.text("problem-text")
    assert not page.is_shown("report")
    assert not page.is_shown("pictures")
    page.give(hands[0])
    assert not page.is_shown("problem")
    assert page.is_shown("report")


def test_a_dicom_header_says_the_sex_which_a_person_confirms(page, dicom, tmp_path):
    import pydicom

    page.give(dicom)
    assert page.element("sex-F").is_selected()
    assert len(page.all("article.estimate")) == 1
    assert page.is_shown("sex-from-header")
    page.click("sex-confirm")
    assert not page.is_shown("sex-from-header")
    assert page.element("age-years").get_attribute("value") == "10"
    assert page.all(".assessment")
    assert not re.search("Doe|4711", page.script("return document.body.innerText"))
    if find_spec("highdicom") is None:
        assert not page.is_shown("save-report")
        assert "boneage[dicom]" in page.text("no-dicom")
        return
    page.download_to(tmp_path)
    for name, modality in (("report", "SR"), ("image", "OT")):
        page.click(f"save-{name}")
        path = tmp_path / f"bone-age-{name}.dcm"
        page.wait_for_download(path)
        document = pydicom.dcmread(path)
        assert document.Modality == modality
        assert document.StudyInstanceUID == "1.2.826.0.1.3680043.10.999.2"


def test_another_sex_or_age_than_in_the_header_is_a_warning(page, dicom):
    page.give(dicom)
    page.choose_sex("M")
    page.set_age(2, 1)
    sex, age = page.texts("#findings [data-code^=other]")
    assert "girl, you gave boy" in sex
    assert re.search(r"says 10 years( \d+ months?)?, not 2 years 1 month\.", age)


def test_a_sample_is_answered(page):
    page.all("#samples button")[1].click()
    page.settle()
    assert len(page.all("article.estimate")) == 1
    assert page.all(".assessment")
    sentence = page.element("sentence").get_attribute("value")
    assert "boy" in sentence
    assert "drawn hand" in sentence
    assert all(warning in sentence for warning in page.texts("#findings .warning"))


def test_the_pictures_zoom_and_have_a_window(page, hands):
    page.give(hands[0])
    page.wait_for(lambda: drawn(page))
    plain = page.state()["pictures"]
    page.click("whole-zoom-in")
    page.script(
        "arguments[0].value = 60; arguments[0].dispatchEvent(new Event('input'));",
        page.element("framed-level"),
    )
    assert not set(plain) & set(page.state()["pictures"])
    page.click("whole-reset")
    page.click("framed-reset")
    assert page.state()["pictures"] == plain


def test_several_radiographs_are_answered_one_after_the_other(page, hands, no_hand):
    page.element("files").send_keys("\n".join(map(str, (*hands, no_hand))))
    page.settle()
    page.wait_for(lambda: not page.all("#list .state-waiting, #list .state-asking"))
    assert len(page.all("#list .state-answered")) == 2
    assert len(page.all("#list .state-refused")) == 1
    assert page.all("#list button")[0].get_attribute("aria-current") == "true"


def test_a_busy_server_is_asked_again(page, hands):
    page.script(REPLY_ONCE, 503)
    page.element("files").send_keys(str(hands[0]))
    page.wait_for(lambda: page.script("return window.isBusy"))
    assert page.is_shown("waiting")
    page.settle()
    assert page.all("article.estimate")


def test_a_server_that_failed_is_asked_again_by_a_person(page, hands):
    page.script(REPLY_ONCE, 500)
    page.give(hands[0])
    assert page.is_shown("problem")
    page.click("retry")
    page.settle()
    assert page.all("article.estimate")


# --- A radiograph shows nothing of another.


def test_the_second_radiograph_shows_nothing_of_the_first(page, hands, tmp_path):
    alone = state_of(page, hands[1])
    page.open()
    page.give(hands[0])
    page.choose_sex("F")
    page.set_age(5, 2)
    page.element("label").send_keys("bed 7")
    page.click("whole-zoom-in")
    page.click("heat-ask")
    page.wait_for(lambda: page.is_shown("heat-opacity"))
    page.give(hands[1])
    assert_same_state(page, alone)
    page.download_to(tmp_path)
    page.click("save-json")
    path = tmp_path / "bone-age.json"
    page.wait_for_download(path)
    assert json.loads(path.read_text())["chronological_age_months"] is None


def test_a_late_reply_for_the_first_radiograph_changes_nothing_of_the_second(page, hands):
    alone = state_of(page, hands[1])
    page.open()
    page.script(HOLD_FIRST)
    page.element("files").send_keys(str(hands[0]))
    page.wait_for(lambda: page.script("return window.release !== undefined"))
    page.give(hands[1])
    assert_same_state(page, alone)
    release(page)
    page.wait_for(lambda: all("month" in text or "year" in text for text in page.texts("#list li")))
    assert_same_state(page, alone)
    assert page.script("return window.sent") == ["radiograph.png", "radiograph.png"]


def test_a_late_heat_map_of_the_first_radiograph_is_not_drawn_on_the_second(page, hands):
    alone = state_of(page, hands[1])
    page.open()
    page.give(hands[0])
    page.choose_sex("F")
    can_heat(page)
    page.click("heat-ask")
    page.give(hands[1])
    release(page)
    assert_same_state(page, alone)


def test_the_heat_map_has_a_slider_and_stays_with_its_radiograph(page, hands):
    page.give(hands[0])
    page.choose_sex("F")
    page.wait_for(lambda: drawn(page))
    plain = page.state()["pictures"]
    can_heat(page)
    page.click("heat-ask")
    release(page)
    page.wait_for(lambda: page.is_shown("heat-opacity"))
    page.wait_for(lambda: page.state()["pictures"] != plain)
    heated = page.state()["pictures"]
    assert heated[0] == plain[0]  # the whole radiograph has none
    page.give(hands[1])
    page.all("#list button")[0].click()
    page.wait_for(lambda: page.state()["pictures"] == heated)
    set_slider = "arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'));"
    page.script(set_slider, page.element("heat-opacity"))
    assert page.state()["pictures"] == plain


def test_a_radiograph_that_is_chosen_again_shows_its_own_answer(page, hands):
    page.give(hands[0])
    page.choose_sex("F")
    page.set_age(5, 2)
    page.wait_for(lambda: drawn(page))
    first = page.state()
    page.give(hands[1])
    page.all("#list button")[0].click()
    assert_same_state(page, first)


@pytest.mark.parametrize("button", ["remove", "clear"])
def test_a_removed_radiograph_leaves_nothing(page, hands, button):
    for path in hands[: 1 if button == "remove" else 2]:
        page.give(path)
    page.choose_sex("F")
    page.click(button)
    assert page.is_shown("empty")
    for name in ("result", "pictures", "report", "child"):
        assert not page.is_shown(name)
    assert not page.all("#estimates *, #findings *, #list *")
    assert page.element("sentence").get_attribute("value") == ""
    assert "Doe" not in page.script("return document.documentElement.outerHTML")


# --- Privacy and safety.


def test_the_browser_keeps_nothing(page, hands):
    page.give(hands[0])
    assert page.driver.get_cookies() == []
    kept = "return [localStorage.length, sessionStorage.length]"
    assert page.script(kept) == [0, 0]
    assert page.driver.execute_async_script("indexedDB.databases().then(arguments[0])") == []
    assert page.script("return document.cookie") == ""


def test_a_name_of_a_file_is_no_markup(page, hands, tmp_path):
    path = tmp_path / "<img src=x onerror=document.title='caught'>.png"
    path.write_bytes(hands[0].read_bytes())
    page.give(path)
    assert "<img" in page.text("list")
    assert page.driver.title != "caught"


def test_the_token_is_asked_for_and_kept_in_memory_only(guarded_page, token, hands, axe):
    page, (secret, _) = guarded_page, token
    page.wait_for(lambda: page.is_shown("token-dialog"))
    assert serious(page, axe) == []
    for attempt in ("wrong", secret):
        page.wait_for(lambda: page.is_shown("token-dialog"))
        page.element("token").send_keys(attempt)
        page.click("token-ok")
        if attempt == "wrong":
            page.wait_for(lambda: page.text("token-wrong"))
    page.wait_for(lambda: "rsna-best" in page.text("report-model"))
    page.give(hands[0])
    assert page.is_shown("report")
    assert secret not in page.script("return document.documentElement.outerHTML")
    assert secret not in page.element("token").get_attribute("value")
    page.open()
    page.wait_for(lambda: page.is_shown("token-dialog"))


# --- For every reader: widths, colours, keyboard, languages, paper.


def test_a_phone_shows_everything_without_scrolling_sideways(page, hands, no_hand):
    page.set_width(360)
    scroll = "return document.documentElement.scrollWidth"
    assert page.script(scroll) <= 360
    page.give(hands[0])
    page.set_age(9, 6)
    page.wait_for(lambda: drawn(page))
    assert page.script(scroll) <= 360
    assert page.script(OUTSIDE) == []
    page.give(no_hand)
    assert page.script(scroll) <= 360
    assert page.script(OUTSIDE) == []


def test_dark_where_the_system_is_dark(page, hands):
    page.give(hands[0])
    code = """
      const style = getComputedStyle(document.body);
      return [style.backgroundColor, style.color].map((colour) =>
        colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0) / 765);"""
    page.emulate(prefers_color_scheme="light")
    background, text = page.script(code)
    assert background > 0.85
    assert text < 0.35
    page.emulate(prefers_color_scheme="dark")
    background, text = page.script(code)
    assert background < 0.2
    assert text > 0.7


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_nothing_moves_where_the_system_asks_for_less_motion(page, hands, motion):
    page.emulate(prefers_reduced_motion=motion)
    page.script(HOLD_FIRST)
    page.element("files").send_keys(str(hands[0]))
    page.wait_for(lambda: page.script("return window.release !== undefined"))
    assert page.is_shown("waiting")
    moving = page.script("return document.getAnimations().length")
    assert (moving == 0) == (motion == "reduce")
    release(page)
    page.settle()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, hands, no_hand, no_image, axe, scheme):
    page.emulate(prefers_color_scheme=scheme)
    assert serious(page, axe) == []
    page.give(hands[0])
    page.set_age(9, 6)
    assert serious(page, axe) == []
    page.give(no_hand)
    assert serious(page, axe) == []
    page.give(no_image)
    assert serious(page, axe) == []


def test_the_whole_task_with_a_keyboard(page):
    from selenium.webdriver import Keys

    tab_to(page, "#choose")
    opens = """
      window.opened = 0;
      document.getElementById("files").addEventListener("click", (event) => {
        window.opened += 1;
        event.preventDefault();
      });"""
    page.script(opens)
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.script("return window.opened") == 1
    tab_to(page, "#samples button").send_keys(Keys.SPACE)
    page.settle()
    tab_to(page, "#child [name=sex]", back=True).send_keys(Keys.ARROW_RIGHT)
    page.settle()
    tab_to(page, "#age-years").send_keys(Keys.BACKSPACE * 2, "12")
    tab_to(page, "#age-months").send_keys(Keys.BACKSPACE * 3, "0")
    page.settle()
    page.wait_for(lambda: "12 years" in page.text("estimates"))
    assert page.all(".assessment")
    tab_to(page, "#whole-canvas").send_keys("+", Keys.ARROW_LEFT, "0")
    can_heat(page)
    tab_to(page, "#heat-ask").send_keys(Keys.ENTER)
    release(page)
    page.wait_for(lambda: focused(page) == "heat-opacity")
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    tab_to(page, "#copy").send_keys(Keys.SPACE)
    page.wait_for(lambda: page.text("copied"))


def test_an_answer_is_announced_to_a_screen_reader(page, hands):
    page.give(hands[0])
    page.choose_sex("F")
    years = page.texts("#estimates .age")[0].splitlines()[0]
    spoken = page.element("status")
    assert spoken.get_attribute("role") == "status"
    assert years in spoken.get_attribute("textContent")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_in_the_language(page, hands, no_hand, language):
    page.open(language)
    keys = set(json.loads((TEXTS / "en.json").read_text(encoding="utf-8")))
    assert page.language() == language
    for path in hands[0], no_hand:
        page.give(path)
        shown = page.script(WORDS)
        assert not [text for text in shown if re.search(r"\{\w+\}", text)]
        assert not [text for text in shown if text in keys and "." in text]
        assert page.script(
            "return [...document.querySelectorAll('[data-text]')].filter((node) =>"
            " !node.textContent || node.textContent === node.dataset.text).length"
        ) == 0  # fmt: skip


def test_the_language_changes_with_an_answer_in_sight(page, hands):
    from selenium.webdriver.support.ui import Select

    page.give(hands[0])
    page.choose_sex("F")
    seen = set()
    for language in LANGUAGES:
        Select(page.element("language")).select_by_value(language)
        page.wait_for(lambda expected=language: page.language() == expected)
        seen.add((page.text("result"), page.element("sentence").get_attribute("value")))
    assert len(seen) == len(LANGUAGES)


@pytest.mark.parametrize("sex", ["F", "unknown"])
def test_the_report_is_one_page_of_paper(page, hands, sex):
    page.give(hands[0])
    page.choose_sex(sex)
    page.set_age(9, 6)
    page.element("label").send_keys("study 12")
    page.wait_for(lambda: drawn(page))
    options = {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69}
    printed = page.driver.execute_cdp_cmd("Page.printToPDF", options)["data"]
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", base64.b64decode(printed))) == 1
    page.emulate(media="print")
    assert not [each for each in page.all(".no-print") if each.is_displayed()]
    for name in ("notice", "estimates", "whole-canvas", "framed-canvas", "report-model"):
        assert page.is_shown(name)
    assert "study 12" in page.script("return document.body.innerText")
