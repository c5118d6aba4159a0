"""The pieces of a report's page: numbers, words and pictures in, escaped HTML out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from boneage.errors import InputError
from boneage.evaluation.figures import FEW, plain, signed
from boneage.pipeline.store import open_store

ALT_TEXT = {
    "predicted-vs-true": "Predicted against labelled bone age, one point an image",
    "bland-altman": "Difference against mean of predicted and labelled age (Bland-Altman)",
    "error-by-group": "Mean absolute error and bias by sex and by age band, with intervals",
    "learning-curves": "Training and validation error by epoch, and the learning rate",
}
_THUMBNAIL_PIXELS = 256
_SEX_WORDS = {"F": "girl", "M": "boy"}


def interval(metric: Mapping[str, Any], write: Callable[[float], str] = plain) -> str:
    """Returns `95 % CI 4.5 to 5.6`, or nothing where there is no interval."""
    if metric["low"] is None:
        return ""
    return f"95 % CI {write(metric['low'])} to {write(metric['high'])}"


def duration(seconds: float) -> str:
    """Returns `48 s`, `12 min` or `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def hero(
    metrics: Mapping[str, Any], words: str, comparisons: Sequence[tuple[str, str, float]]
) -> str:
    """Returns the number of the page, large, and bars for what it stands beside."""
    mae = metrics["mae_months"]
    widest = max([mae["high"] or mae["value"], *(value for _, _, value in comparisons)])
    remark = f"{metrics['n']:,} {words}"
    bars = [_bar("This model", remark, mae["value"], widest, mae)]
    bars += [_bar(name, remark, value, widest) for name, remark, value in comparisons]
    two = interval(mae, lambda months: f"{months:.2f}")
    return (
        '<section class="hero"><div><p class="what">Mean absolute error</p>'
        f'<div class="big">{mae["value"]:.2f} <small>months</small></div>'
        f"<p>{escape(two)}<br>{escape(remark)}</p></div>"
        f'<div class="bars">{"".join(bars)}</div></section>'
    )


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Returns small figures in a grid, each with name, value and remark."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in facts
    )
    return f'<dl class="tiles">{cells}</dl>'


def notes(items: Sequence[tuple[str, str]]) -> str:
    """Returns what a reader must know before the number is used."""
    rows = "".join(f"<li><b>{escape(head)}</b> {escape(text)}</li>" for head, text in items)
    return f'<ul class="notes">{rows}</ul>' if rows else ""


def agreement_section(svgs: Mapping[str, str], words: str, metrics: Mapping[str, Any]) -> str:
    """Returns predicted-vs-true beside Bland-Altman."""
    limits = metrics["limits_of_agreement_months"]
    caption = "Middle line: the bias. "
    if limits["low"] is not None:
        caption += (
            "Dashed: limits between which 95 % of the differences are expected to lie, "
            f"{signed(limits['low'])} to {signed(limits['high'])} months."
        )
    pair = [
        _figure(
            svgs["predicted-vs-true"],
            "On the line, the answer equals the label.",
            "Predicted against labelled age",
        ),
        _figure(svgs["bland-altman"], caption, "Bland-Altman"),
    ]
    return section(
        "Agreement with the label",
        f"One point for each of the {metrics['n']:,} {words}.",
        f'<div class="pair">{"".join(pair)}</div>',
    )


def group_section(svgs: Mapping[str, str], words: str, metrics: Mapping[str, Any]) -> str:
    """Returns the errors by sex and age band."""
    groups = [group for kind in metrics["groups"].values() for group in kind.values()]
    few = any(0 < group["n"] < FEW for group in groups)
    return section(
        "For whom it errs",
        f"Means over the {words} with 95 % confidence intervals; age bands go by the label. A bias "
        "right of zero means that the model reads too old."
        + (
            f" Open circles: fewer than {FEW} images, too few for a trustworthy interval."
            if few
            else ""
        ),
        _figure(svgs["error-by-group"]),
    )


def curves_section(svgs: Mapping[str, str], info: Mapping[str, Any]) -> str:
    """Returns the learning curves, or nothing when there is no history."""
    if "learning-curves" not in svgs:
        return ""
    return section(
        "How it learned",
        "The training error is measured on augmented images while the weights still move, so it "
        "may lie above the validation error. The epoch with the lowest validation error was kept.",
        _figure(svgs["learning-curves"]),
    )


def worst_section(worst: pd.DataFrame, images: Mapping[str, str], missing: str, words: str) -> str:
    """Returns the images with the largest errors, each with its picture if there is one."""
    cards = "".join(_case(row, images) for row in worst.to_dict("records"))
    lead = f"The largest errors among the {words}, each framed as the model saw it. "
    return section(
        f"The {len(worst)} worst cases" if len(worst) > 1 else "The worst case",
        lead + (missing or "Look for poor exposure, odd position, several hands, wrong labels."),
        f'<ol class="cases">{cards}</ol>',
    )


def evaluations_section(others: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """Returns a table of what else the run was evaluated on."""
    if not others:
        return ""
    rows = "".join(
        f"<tr><td>{escape(words[0].upper() + words[1:])}</td><td>{escape(name)}</td>"
        f"<td>{metrics['n']:,}</td><td>{metrics['mae_months']['value']:.2f}</td>"
        f"<td>{escape(interval(metrics['mae_months'], lambda m: f'{m:.2f}')[8:])}</td>"
        f"<td>{signed(metrics['bias_months']['value'])}</td>"
        f"<td>{100 * metrics['within_12_months']['value']:.1f} %</td></tr>"
        for words, name, metrics in others
    )
    head = "<tr><th>Images</th><th>Evaluation</th><th>n</th><th>MAE, months</th><th>95 % CI</th>"
    head += "<th>Bias, months</th><th>Within 12 months</th></tr>"
    return section("Also evaluated", "", f"<table>{head}{rows}</table>")


def facts_section(recipe: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Returns recipe and provenance: what is needed to make this run again."""
    return section(
        "Recipe",
        "Every setting, defaults included.",
        f'<div class="facts short">{_fact_blocks("Recipe", recipe)}</div>',
    ) + section(
        "Provenance",
        "What this run was made from, with and on.",
        f'<div class="facts">{_fact_blocks("Run", info)}</div>',
    )


def facts_section_of(title: str, lead: str, values: Mapping[str, Any]) -> str:
    """Returns plain values under a title."""
    return section(title, lead, f'<div class="facts">{_facts("", values)}</div>')


def case_images(store: Mapping[str, Any], image_ids: Sequence[str]) -> tuple[dict[str, str], str]:
    """Fetches pictures from the store that a run records.

    Returns:
        PNGs as base64 by image id, and a sentence on why some or all are not there, or "".
    """
    folder = store.get("folder")
    if not folder:
        return {}, "This run records no store, so there are no pictures."
    try:
        opened = open_store(Path(folder))
    except InputError:
        return {}, f"The store {folder} is gone or damaged, so there are no pictures."
    if opened.differs_from(store):
        return {}, f"The store {folder} was made anew since, so there are no pictures."
    place = {image_id: row for row, image_id in enumerate(opened.image_ids)}
    found = [image_id for image_id in image_ids if image_id in place]
    images = {image_id: _png(np.asarray(opened[place[image_id]])) for image_id in found}
    return images, "" if len(found) == len(image_ids) else "Some are not in the run's own store."


def _png(picture: np.ndarray[Any, Any]) -> str:
    side = max(picture.shape[:2])
    if side > _THUMBNAIL_PIXELS:
        size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".png", picture)
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def _bar(
    name: str, remark: str, value: float, widest: float, span: Mapping[str, Any] | None = None
) -> str:
    end, whisker = 100 * value / widest, ""
    label = end
    if span is not None and span["low"] is not None:
        low, high = 100 * span["low"] / widest, 100 * span["high"] / widest
        whisker = f'<div class="span" style="left:{low:.2f}%;width:{high - low:.2f}%"></div>'
        label = high
    kind = "track own" if span is not None else "track"
    return (
        f'<div class="name">{escape(name)}<small>{escape(remark)}</small></div><div class="{kind}">'
        f'<div class="fill" style="width:{end:.2f}%"></div>{whisker}'
        f'<div class="value" style="left:{label:.2f}%">{value:.1f}</div></div>'
    )


def section(title: str, lead: str, body: str) -> str:
    """Returns a part of the page: title, a sentence in grey, and HTML."""
    paragraph = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{paragraph}{body}</section>"


def _figure(svg: str, caption: str = "", title: str = "") -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    foot = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{head}{svg}{foot}</figure>"


def _case(row: Mapping[Any, Any], images: Mapping[str, str]) -> str:
    image_id = str(row["image_id"])
    if image_id in images:
        alt = escape(f"Radiograph {image_id}", quote=True)
        picture = f'<img alt="{alt}" src="data:image/png;base64,{images[image_id]}">'
    else:
        picture = '<div class="none">no picture</div>'
    return (
        f'<li>{picture}<div class="error">{signed(row["error_months"])} <small>months</small></div>'
        f"<p>labelled <b>{row['age_months']:.1f}</b>, predicted "
        f"<b>{row['predicted_age_months']:.1f}</b></p>"
        f"<p>{escape(image_id)}, {_SEX_WORDS[row['sex']]}</p></li>"
    )


def _fact_blocks(title: str, values: Mapping[str, Any]) -> str:
    """Plain values under `title`, then every nested table under its own name."""
    single = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    blocks = [_facts(title, single)]
    blocks += [_facts(name[0].upper() + name[1:], value) for name, value in nested.items()]
    return "".join(blocks)


def _facts(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_text(value))}</dd>"
        for name, value in _flat(values)
    )
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<section>{head}<dl>{rows}</dl></section>" if rows else ""


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += [(f"{name} {inner}", deeper) for inner, deeper in _flat(value)]
        elif value is not None:
            flat.append((str(name), value))
    return flat


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
