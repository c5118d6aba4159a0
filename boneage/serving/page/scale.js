// A bone age on a scale from 0 to 19 years, with its interval and the chronological age.

import {age, t} from "./texts.js";

const YEARS = 19;
const SVG = "http://www.w3.org/2000/svg";
const [TOP, TRACK, HEIGHT] = [16, 18, 62]; // pixels

/** Return an SVG as wide as its box. */
export function drawScale({months, interval, chronological}) {
  const svg = node("svg", {class: "scale", height: HEIGHT, role: "img"});
  svg.setAttribute("aria-label", describe({months, interval, chronological}));
  const middle = TOP + TRACK / 2;
  svg.append(node("rect", {class: "track", x: 0, y: TOP, width: "100%", height: TRACK, rx: 3}));
  for (let year = 0; year <= YEARS; year += 1) {
    const isLong = year % 3 === 0 || year === YEARS;
    const x = share(12 * year);
    svg.append(node("line", {class: "tick", x1: x, x2: x, y1: TOP + TRACK,
      y2: TOP + TRACK + (isLong ? 8 : 4)}));
    const anchor = year === 0 ? "start" : year === YEARS ? "end" : "middle";
    const kind = isLong && year !== 18 ? "long" : "short"; // short: where there is room
    const place = {x, y: TOP + TRACK + 22, "text-anchor": anchor};
    const label = node("text", {class: `year ${kind}`, ...place});
    label.textContent = year;
    svg.append(label);
  }
  if (interval) {
    const [low, high] = [interval.low_months, interval.high_months].map(share);
    const width = `${parseFloat(high) - parseFloat(low)}%`;
    svg.append(node("rect", {class: "band", x: low, y: TOP, width, height: TRACK, rx: 3}));
  }
  if (chronological !== null) {
    svg.append(marker("chronological", chronological, TOP, "M0 0 L7 -13 L-7 -13 Z"));
    svg.append(node("line", {class: "chronological", x1: share(chronological),
      x2: share(chronological), y1: TOP, y2: TOP + TRACK}));
  }
  svg.append(node("line", {class: "estimate", x1: share(months), x2: share(months),
    y1: TOP - 5, y2: TOP + TRACK + 5}));
  const dot = node("circle", {class: "estimate", cx: share(months), cy: middle, r: 7});
  svg.append(dot);
  return svg;
}

function describe({months, interval, chronological}) {
  const parts = [t("scale.estimate", {age: age(months)})];
  if (interval) {
    const [low, high] = [interval.low_months, interval.high_months].map(age);
    parts.push(t("scale.interval", {low, high, level: Math.round(100 * interval.level)}));
  }
  if (chronological !== null) parts.push(t("scale.chronological", {age: age(chronological)}));
  return `${t("scale.label")}: ${parts.join(", ")}`;
}

function marker(name, months, y, path) {
  const svg = node("svg", {class: name, x: share(months), y, overflow: "visible"});
  svg.append(node("path", {d: path}));
  return svg;
}

function share(months) {
  return `${Math.min(100, Math.max(0, (100 * months) / (12 * YEARS)))}%`;
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
