"""Render pages from the templates of this package, and write values as text for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2

from boneage.datasets.label_rules import years_and_months
from boneage.evaluation.metrics import format_interval, is_few

Rows = list[tuple[str, str]]


def render(template: str, **values: Any) -> str:
    """Return a filled template. In HTML, all values but figures are escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("boneage.evaluation"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "months": months,
        "signed": signed,
        "interval": interval,
        "bare_interval": format_interval,
        "value_and_interval": value_and_interval,
        "is_few": is_few,
        "count": lambda number: f"{number:,}",
        "share": share,
        "duration": duration,
        "age": age,
        "years": years,
        "direction": amount_and_direction,
        "certainty": certainty,
    }
    return environment


def months(value: float) -> str:
    """Return months to one decimal."""
    return f"{value:.1f}"


def signed(value: float) -> str:
    """Return months to one decimal with a sign, and a minus as wide as the plus."""
    return f"{value:+.1f}".replace("-", "−")


def age(value: float) -> str:
    """Return an age in both units, such as `151.3 months (12 y 7 m)`."""
    return f"{value:.1f} months ({years(value)})"


def years(value: float) -> str:
    """Return an age as `12 y 7 m`, in one line of a page."""
    return years_and_months(value).replace(" ", "\N{NO-BREAK SPACE}")


def amount_and_direction(error: float) -> str:
    """Return a signed error in words, such as `3.0 months too old`."""
    return f"{abs(error):.1f} months too {'old' if error > 0 else 'young'}"


def certainty(bias: Mapping[str, Any]) -> str:
    """Return the direction of a bias with its interval, unless the interval includes zero."""
    if bias["low"] is None:
        return ""
    is_sure = bias["low"] > 0 or bias["high"] < 0
    direction = amount_and_direction(bias["value"]).partition("months ")[2] if is_sure else ""
    return f"{direction or 'may be chance'}; {interval(bias, '+.1f')}"


def interval(metric: Mapping[str, Any], spec: str = ".1f") -> str:
    """Return an interval such as `95 % CI [4.5, 5.6]`, or "" where there is none."""
    text = format_interval(metric, spec).replace("-", "−")
    return f"95 % CI {text}" if text else ""


def value_and_interval(metric: Mapping[str, Any], spec: str = ".2f") -> str:
    """Return a value such as `5.00 [4.46, 5.55]`, without the interval where there is none."""
    return f"{metric['value']:{spec}} {format_interval(metric, spec)}".strip()


def share(part: int, whole: int) -> str:
    """Return a share such as `46 %`, or "" if the whole is empty."""
    return f"{100 * part / whole:.0f} %" if whole else ""


def duration(seconds: float) -> str:
    """Return a duration such as `48 s`, `12 min` or `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def fact_blocks(title: str, values: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """Return titled rows of names and texts: the plain values first, then each nested table."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    return [(title, _rows(plain))] + [
        (name[0].upper() + name[1:], _rows(table)) for name, table in nested.items()
    ]


def _rows(values: Mapping[str, Any]) -> Rows:
    rows: Rows = []
    for name, value in values.items():
        name = str(name).replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{name} {inner}", text) for inner, text in _rows(value)]
        elif value is not None:
            rows.append((name, _text(value)))
    return rows


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
