"""Draw the figures of the report and the data card, and turn them into SVG or PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from boneage.datasets.label_rules import MAX_AGE_MONTHS
from boneage.evaluation.html import months, signed
from boneage.evaluation.metrics import BAND_WORDS, is_few

INK, GREY, RULE, ACCENT, BAND = "#1c2733", "#5b6773", "#dde3e9", "#0b5394", "#e1eaf4"
_FAILED = "#d55e00"
# Blue and vermilion are distinct in every common colour blindness (Okabe & Ito 2008, Color
# Universal Design). Markers, hatches and dashes are distinct on a black-and-white printer.
SEX_STYLE = {
    "F": {"label": "Girls", "colour": "#d55e00", "marker": "^", "hatch": ""},
    "M": {"label": "Boys", "colour": "#0072b2", "marker": "o", "hatch": "////"},
}
CSS_COLOURS = {
    INK: "ink",
    GREY: "grey",
    RULE: "rule",
    ACCENT: "accent",
    BAND: "shade",
    "#ffffff": "page",
    SEX_STYLE["F"]["colour"]: "girls",
    SEX_STYLE["M"]["colour"]: "boys",
}
"""The colours of a page that replace those of a figure, so that a dark page has its own."""

_TEXT = 14  # points; a figure of 5 inches has 360, so text on a telephone has 14 pixels or more
_WIDTH = 5.0  # inches
_LONGEST_NAME = 36  # characters of a model's name that fit
_RASTER_ABOVE = 3000  # points: more of them would make the SVG heavy, so they become pixels
_PNG_DPI = 200
_Row = tuple[str, Mapping[str, Any], str, float]  # label, scores, colour and height of a group
_STYLE: Any = {
    "font.size": _TEXT,
    "axes.labelsize": _TEXT,
    "axes.titlesize": _TEXT,
    "xtick.labelsize": _TEXT,
    "ytick.labelsize": _TEXT,
    "legend.fontsize": _TEXT,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "hatch.color": "#ffffff",
    "hatch.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, in the font of the page
}


_styled = matplotlib.rc_context(_STYLE)


@_styled
def predicted_vs_true(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Figure:
    """Draw predicted against labelled age, with the identity line and ±12 months.

    A dashed line shows the mean label for each answer, if the scores have its slope.

    Args:
        table: Columns `age_months`, `predicted_age_months` (months) and `sex`.
        metrics: The answer of `metrics.score` for the same images.
    """
    figure, axes = _square()
    low, high = _age_range(table)
    line, span = np.array([low, high]), high - low
    axes.fill_between(line, line - 12, line + 12, color=BAND, linewidth=0, zorder=0)
    axes.plot(line, line, color=INK, linewidth=0.9, zorder=1)
    _scatter(axes, table, table["age_months"], table["predicted_age_months"])
    calibration = metrics.get("calibration") or {}
    slope, intercept = (
        (calibration.get(name) or {}).get("value") for name in ("slope", "intercept_months")
    )
    if slope is not None and intercept is not None:
        dashed: Any = (0, (4, 3))
        answers = table["predicted_age_months"].agg(["min", "max"]).to_numpy(np.float64)
        axes.plot(intercept + slope * answers, answers, color=INK, linestyle=dashed, zorder=3)
        what = "dashed: mean label\nof each answer"
        axes.text(0.98, 0.02, what, transform=axes.transAxes, ha="right", va="bottom", color=GREY)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="Labelled age, months and years", ylabel="Predicted age")
    for axis in (axes.xaxis, axes.yaxis):
        _age_axis(axis, span)
    _sex_legend(axes, table)
    return figure


@_styled
def bland_altman(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Figure:
    """Draw the difference against the mean of both ages (Bland & Altman 1986).

    Args:
        table: As for `predicted_vs_true`.
        metrics: The answer of `metrics.score` for the same images, with bias and limits.
    """
    figure, axes = _square()
    low, high = _age_range(table)
    difference = table["predicted_age_months"] - table["age_months"]
    mean = (table["predicted_age_months"] + table["age_months"]) / 2
    limits = metrics["limits_of_agreement_months"]
    ends = [abs(limits[end]) for end in ("low", "high") if limits[end] is not None]
    reach = 1.12 * max(float(difference.abs().max()), *ends, 6.0)
    axes.axhline(0, color=RULE, linewidth=1, zorder=0)
    _scatter(axes, table, mean, difference)
    dashed: Any = (0, (4, 3))
    for level, style in (
        (limits["high"], dashed),
        (limits["low"], dashed),
        (metrics["bias_months"]["value"], "-"),
    ):
        if level is None:
            continue
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=style, zorder=3)
        axes.annotate(
            signed(level), (1.015, level), xycoords=("axes fraction", "data"), va="center",
            annotation_clip=False,
        )  # fmt: skip
    axes.set(xlim=(low, high), ylim=(-reach, reach))
    axes.set_xlabel("Mean of both ages, months and years")
    axes.set_ylabel("Predicted − labelled, months")
    _age_axis(axes.xaxis, high - low)
    axes.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 3, 6, 10]))
    _sex_legend(axes, table)
    return figure


@_styled
def error_by_group(metrics: Mapping[str, Any]) -> Figure:
    """Draw mean absolute error and bias with their 95 % intervals for every sex and age band.

    Args:
        metrics: The answer of `metrics.score`.
    """
    rows = all_sexes_and_ages(metrics)
    figure = Figure(figsize=(_WIDTH, 9.4), layout="constrained")
    errors, biases = figure.subplots(2, 1)
    _whiskers(errors, rows, "mae_months", months)
    _whiskers(biases, rows, "bias_months", signed)
    errors.set_xlim(left=0)
    reach = max(abs(end) for end in biases.get_xlim())
    biases.set_xlim(-reach, reach)
    biases.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    errors.set_title("Mean absolute error, months", loc="left")
    biases.set_title("Bias, months", loc="left")
    for axes in (errors, biases):
        _name_rows(axes, rows)
    return figure


@_styled
def bias_by_band(metrics: Mapping[str, Any]) -> Figure:
    """Draw the bias by band of the answer and of the label, with what dilution alone predicts.

    Args:
        metrics: The answer of `metrics.score`.
    """
    figure = Figure(figsize=(_WIDTH, 5.2), layout="constrained")
    axes = figure.subplots()
    rows: list[_Row] = []
    for y, (band, words) in enumerate(BAND_WORDS.items()):
        for kind, colour, shift in (("answer_band", ACCENT, 0.0), ("age_band", GREY, 0.5)):
            part = metrics["groups"][kind][band]
            rows.append((words.capitalize(), part, colour, 1.5 * y + shift))
    _whiskers(axes, rows, "bias_months", signed)
    expected = [(part.get("dilution_bias_months"), y) for _, part, colour, y in rows]
    drawn = [(value, y) for value, y in expected if value is not None]
    style: Any = {"marker": "D", "s": 42, "facecolors": "none", "edgecolors": INK, "zorder": 3}
    if drawn:
        axes.scatter(*zip(*drawn, strict=True), **style)
    for colour, label in ((ACCENT, "answer"), (GREY, "label")):
        axes.plot([], [], color=colour, marker="o", linewidth=2, label=f"band of the {label}")
    axes.scatter([], [], label="dilution alone", **style)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.42, 1), ncols=2, handlelength=1.2, borderaxespad=0.1,
        columnspacing=1.0,
    )  # fmt: skip
    reach = max(abs(end) for end in axes.get_xlim())
    axes.set_xlim(-reach, reach)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([y + 0.25 for *_, y in rows[::2]], [label for label, *_ in rows[::2]])
    axes.set_ylim(rows[-1][3] + 0.5, -0.7)
    axes.set_xlabel("Bias, months")
    return figure


@_styled
def learning_curves(history: pd.DataFrame, best_epoch: int | None) -> Figure:
    """Draw training and validation error by epoch, and the learning rate below them.

    Args:
        history: `history.csv`: `epoch`, `mae` and `val_mae` in months, `learning_rate`.
        best_epoch: The epoch whose weights were kept.
    """
    figure = Figure(figsize=(_WIDTH, 4.9), layout="constrained")
    errors, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    epochs, rate = history["epoch"], history["learning_rate"]
    marker = "o" if len(history) < 4 else None
    dotted: Any = (0, (1, 1.2))
    for key, label, colour, style in (
        ("mae", "training", GREY, dotted),
        ("val_mae", "validation", ACCENT, "-"),
    ):
        errors.plot(
            epochs, history[key], color=colour, linestyle=style, linewidth=1.8, label=label,
            marker=marker, markersize=4,
        )  # fmt: skip
    _error_scale(errors, history[["mae", "val_mae"]])
    _mark_best(errors, history, best_epoch)
    errors.set_ylabel("MAE, months")
    errors.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=1.4, borderaxespad=0.1,
        columnspacing=1.2,
    )  # fmt: skip
    rates.plot(epochs, rate, color=INK, linewidth=1.2)
    rates.set(xlabel="Epoch", ylabel="Rate", ylim=(0, 1.15 * float(rate.max())))
    rates.set_yticks([0, float(rate.max())], ["0", f"{rate.max():.2g}"])
    rates.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    first, last = epochs.min(), epochs.max()
    margin = min(0.5, 0.3 + 0.02 * (last - first))  # no tick at epoch 0
    rates.set_xlim(first - margin, last + margin)
    for axes in (errors, rates):
        axes.grid(axis="y", color=RULE, linewidth=0.7)
    return figure


@_styled
def paired_differences(comparison: Mapping[str, Any]) -> Figure:
    """Draw the difference of two models' MAE with its interval, for all images and by group.

    Args:
        comparison: The answer of `comparison.compare_predictions`.
    """
    rows = [row for row in all_sexes_and_ages(comparison) if "difference_months" in row[1]]
    figure = Figure(figsize=(_WIDTH, 1.7 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    _whiskers(axes, rows, "difference_months", lambda value: f"{value:+.2f}".replace("-", "−"))
    margin = comparison["non_inferiority"]["margin_months"]
    reach = 1.05 * max(*(abs(end) for end in axes.get_xlim()), 1.4 * margin)
    axes.axvspan(margin, reach, color=BAND, linewidth=0, zorder=-1)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(margin, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    _name_rows(axes, rows)
    axes.set_xlim(-reach, reach)
    names = [f"{side.upper()}: {comparison[side]['name']}" for side in "ab"]
    figure.suptitle("\n".join(name[:_LONGEST_NAME] for name in names), x=0.02, ha="left")
    axes.set_xlabel("MAE of A − MAE of B, months\n← A better     B better →")
    axes.annotate(
        f"margin {margin:g}", (margin, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
        textcoords="offset points", ha="center", va="bottom", color=GREY,
    )  # fmt: skip
    return figure


@_styled
def age_histogram(ages: NDArray[np.float64], sexes: NDArray[np.str_]) -> Figure:
    """Draw the number of images for each year of age, for girls and boys.

    Args:
        ages: Months. Impossible ages and NaN are left out.
        sexes: "F" or "M". Other values are left out.
    """
    figure = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    possible = (ages >= 0) & (ages <= MAX_AGE_MONTHS)
    edges = np.arange(0, ages[possible].max(initial=12 * 19) + 13, 12)
    width = 0.42
    for (sex, style), side in zip(SEX_STYLE.items(), (-0.5, 0.5), strict=True):
        chosen = ages[(sexes == sex) & possible]
        counts, _ = np.histogram(chosen, edges)
        centres = edges[:-1] / 12 + 0.5 + side * width
        label = f"{style['label']} ({len(chosen):,})"
        axes.bar(centres, counts, width, color=style["colour"], hatch=style["hatch"], label=label)
    axes.set_xlim(-0.2, edges[-1] / 12)
    axes.xaxis.set_major_locator(MultipleLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set(xlabel="Labelled bone age, years", ylabel="Images")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, columnspacing=1.2, borderaxespad=0.1
    )
    return figure


@_styled
def mae_by_change(changes: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the difference of the MAE that each change of the radiographs makes, with its gate.

    Differences far above all gates end at the edge, with their value. Failed gates are red.

    Args:
        changes: `changes` of `stress-<split>.json`; see `stress.stress_run`.
    """
    figure = Figure(figsize=(1.4 * _WIDTH, 0.36 * len(changes) + 1.2), layout="constrained")
    axes = figure.subplots()
    edge = 2.5 * max([change["gate"] for change in changes if change["gate"]], default=1.0)
    for y, change in enumerate(changes):
        colour = {True: ACCENT, False: _FAILED, None: GREY}[change["passed"]]
        difference, gate = change["mae_difference_months"], change["gate"]
        ends = [difference[key] for key in ("low", "high") if difference[key] is not None]
        axes.plot(np.clip(ends, -edge, edge), [y] * len(ends), color=colour, linewidth=2, alpha=0.5)
        note = "" if difference["value"] is None else signed(round(difference["value"], 1) + 0.0)
        if change["refused"]:
            note += f" ({change['refused']:,} refused)"
        if difference["value"] is not None:
            value = float(np.clip(difference["value"], -edge, edge))
            marker = "o" if value == difference["value"] else ">"
            axes.plot([value], [y], marker=marker, markersize=6, color=colour)
        if gate is not None:
            axes.plot([gate, gate], [y - 0.35, y + 0.35], color=INK, linewidth=1.4)
        failed = {False: " failed"}.get(change["passed"], "")
        axes.annotate(
            f"{note}{failed}".strip(), (1.02, y), xycoords=("axes fraction", "data"), va="center",
            color=colour, annotation_clip=False,
        )  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set(xlim=(-0.5 * edge, 1.05 * edge), ylim=(len(changes) - 0.4, -0.6))
    axes.set_yticks(range(len(changes)), [change["name"] for change in changes])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Difference of the MAE, months; upright line: gate")
    return figure


def changed_radiographs(
    cells: Sequence[tuple[str, NDArray[Any], NDArray[np.uint8] | None]], side: int = 160
) -> Figure:
    """Draw a radiograph under every change, each with the framed image that the model gets.

    Args:
        cells: Name, changed radiograph `(h, w)` and framed image; None if it is refused.
        side: Pixels of each drawn image.
    """
    columns = 5
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(3.0 * columns, 1.8 * rows), layout="constrained")
    for axes, cell in zip_longest(figure.subplots(rows, columns).flat, cells):
        axes.set_axis_off()
        if cell is None:
            continue
        name, radiograph, framed = cell
        top = 2.0 ** max(8, int(radiograph.max()).bit_length()) - 1
        scale = side / max(radiograph.shape)
        size = [max(1, round(length * scale)) for length in radiograph.shape[::-1]]
        pair = np.full((side, 2 * side + 4), 1.0, np.float32)
        pair[: size[1], : size[0]] = cv2.resize(np.divide(radiograph, top, dtype="f4"), size)
        if framed is not None:
            pair[:, side + 4 :] = cv2.resize(np.divide(framed, 255, dtype="f4"), (side, side))
        axes.imshow(pair, cmap="gray", vmin=0, vmax=1)
        axes.set_title(name if framed is not None else f"{name}: refused", fontsize=9)
    return figure


def as_svg(figure: Figure, label: str, name: str) -> Markup:
    """Return a figure as an `<svg>` element of a page, with `label` for screen readers.

    Its colours are those of the page, if the page has names for them.
    """
    buffer = io.StringIO()
    # Without a salt of its own, two SVGs in a page would share clip-path ids.
    salt: Any = {"svg.hashsalt": f"boneage-{name}"}
    with matplotlib.rc_context({**_STYLE, **salt}):
        FigureCanvasSVG(figure)
        figure.savefig(
            buffer, format="svg", dpi=_PNG_DPI, transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )  # fmt: skip
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # "axes_1" in every figure is not unique in a page
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for colour, name in CSS_COLOURS.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)  # the page sets the width
    return Markup(f'{opening} role="img" aria-label="{escape(label)}">{rest}')


@_styled
def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG on white."""
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=_PNG_DPI, facecolor="white")


def all_sexes_and_ages(scores: Mapping[str, Any]) -> list[_Row]:
    """Return a row for all images, each sex and each band of the label.

    Args:
        scores: The answer of `metrics.score` or of `comparison.compare_predictions`.
    """
    sexes, bands = (scores["groups"][kind] for kind in ("sex", "age_band"))
    rows: list[_Row] = [("All images", scores, ACCENT, 0.0)]
    for y, (sex, style) in enumerate(SEX_STYLE.items()):
        rows.append((style["label"], sexes[sex], style["colour"], y + 1.3))
    for y, (band, words) in enumerate(BAND_WORDS.items()):
        rows.append((words.capitalize(), bands[band], INK, y + 3.6))
    return rows


def _name_rows(axes: Axes, rows: list[_Row]) -> None:
    labels = [f"{label}\nn = {group['n']:,}" for label, group, _, _ in rows]
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([y for _, _, _, y in rows], labels, linespacing=1.0)
    axes.set_ylim(rows[-1][3] + 0.6, -0.7)


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, 4.9), layout="constrained")
    return figure, figure.subplots()


def _age_range(table: pd.DataFrame) -> tuple[float, float]:
    ages = table[["age_months", "predicted_age_months"]].to_numpy()
    return min(0.0, 12 * np.floor(ages.min() / 12)), 12 * np.ceil((ages.max() + 1) / 12)


def _age_axis(axis: Axis, span: float) -> None:
    """Mark ages in months with the years below them."""
    axis.set_major_locator(MultipleLocator(36 if span > 120 else 12))
    axis.set_major_formatter(lambda age, _: f"{age:.0f}\n{age / 12:g} y".replace("-", "−"))


def _scatter(axes: Axes, table: pd.DataFrame, x: pd.Series[float], y: pd.Series[float]) -> None:
    opacity = float(np.clip(12 / np.sqrt(len(table)), 0.3, 0.8))
    for sex, style in SEX_STYLE.items():
        chosen = table["sex"] == sex
        axes.scatter(
            x[chosen], y[chosen], s=13 if len(table) > 400 else 20, marker=style["marker"],
            color=style["colour"], alpha=opacity, linewidths=0, zorder=2,
            rasterized=len(table) > _RASTER_ABOVE,
        )  # fmt: skip


def _sex_legend(axes: Axes, table: pd.DataFrame) -> None:
    for sex, style in SEX_STYLE.items():
        if count := int((table["sex"] == sex).sum()):
            axes.scatter(
                [], [], s=26, marker=style["marker"], color=style["colour"], linewidths=0,
                label=f"{style['label']} ({count:,})",
            )  # fmt: skip
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handletextpad=0.1,
        columnspacing=1.2, borderaxespad=0.1, borderpad=0.2,
    )  # fmt: skip


def _whiskers(axes: Axes, rows: list[_Row], metric: str, as_text: Callable[[float], str]) -> None:
    for _, group, colour, y in rows:
        value, low, high = (group[metric][key] for key in ("value", "low", "high"))
        if value is None:
            axes.text(0, y, " none", va="center", color=GREY)
            continue
        if low is not None:
            axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.45)
        inside = "white" if is_few(group) else colour
        axes.plot([value], [y], marker="o", markersize=6, color=colour, markerfacecolor=inside)
        axes.annotate(
            as_text(value), (value, y), xytext=(0, 5), textcoords="offset points",
            ha="center", color=colour,
        )  # fmt: skip
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 4, 5, 10]))


def _error_scale(axes: Axes, errors: pd.DataFrame) -> None:
    values = errors.to_numpy(dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values) or values.max() < 4 * values.min():
        axes.set_ylim(bottom=0)
        return
    # The errors of the first epochs are so large that a linear scale would flatten the others.
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0.9 * values.min(), 1.1 * values.max())


def _mark_best(axes: Axes, history: pd.DataFrame, best_epoch: int | None) -> None:
    best = history.loc[history["epoch"] == best_epoch]
    if best_epoch is None or best.empty:
        return
    value = float(best["val_mae"].iloc[0])
    late = best_epoch > float(history["epoch"].mean())
    axes.axvline(best_epoch, color=ACCENT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    axes.plot([best_epoch], [value], marker="o", markersize=7, color=ACCENT, zorder=4)
    axes.annotate(
        f"kept: epoch {best_epoch}, {value:.1f}", (best_epoch, 1),
        xycoords=("data", "axes fraction"), xytext=(-6 if late else 6, -3),
        textcoords="offset points", ha="right" if late else "left", va="top", color=ACCENT,
    )  # fmt: skip
