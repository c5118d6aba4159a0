// An answer as elements, and as a sentence for dictation.

import {findingText, noScoreText, refusalText} from "./findings.js";
import {drawScale} from "./scale.js";
import {age, hasText, months, number, t} from "./texts.js";

/** Return an element with a class and content: text, or further elements. */
export function element(name, className = "", ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.filter((each) => each !== null && each !== ""));
  return made;
}

/** Return the estimates of an answer as pairs of a sex and its estimate. */
export function estimatesOf(answer) {
  if (answer.status !== "answered") return [];
  return answer.by_sex ? Object.entries(answer.by_sex) : [[answer.sex, answer]];
}

/** Return one estimate as an element. */
export function estimateCard(sex, estimate, answer) {
  const value = estimate.predicted_age_months;
  const chronological = answer.chronological_age_months;
  const atlas = answer.page?.atlas_ages?.[sex];
  const numbers = element("div", "numbers",
    element("h3", "", t("answer.for", {sex: t(`word.${sex}`)})),
    element("p", "age", age(value), " ", element("span", "months", months(value))),
    element("p", "interval", intervalText(estimate.interval)));
  if (atlas?.length) numbers.append(element("p", "atlas", atlasText(atlas)));
  if (estimate.calibration) {
    const {n, date, offset_months: offset} = estimate.calibration;
    const values = {n: number(n), date, offset: number(offset, 1, true)};
    numbers.append(element("p", "calibration", t("answer.calibrated", values)));
  }
  const scale = element("div", "on-scale",
    drawScale({months: value, interval: estimate.interval, chronological}),
    legend(estimate.interval, chronological));
  const parts = [numbers, scale];
  if (estimate.comparison) parts.push(comparisonBox(estimate.comparison));
  return element("article", "estimate", element("div", "parts", ...parts));
}

/** Return why there is no answer, as an element. */
export function refusalCard(answer) {
  return element("article", "refusal",
    element("h3", "", t("refusal.title")),
    element("p", "", refusalText(answer)),
    element("p", "hint", t("refusal.hint")));
}

/** Return the findings as list items: warnings first, then what was put right. */
export function findingItems(answer, isDrawn) {
  const notes = (answer.findings ?? []).filter((finding) => finding.is_corrected);
  return [
    ...warningsOf(answer, isDrawn).map(([code, text]) => findingItem("warning", code, text)),
    ...notes.map((finding) => findingItem("note", finding.code, findingText(finding))),
  ];
}

/** Return what a person should check, as pairs of a code and a text. */
function warningsOf(answer, isDrawn) {
  const found = (answer.findings ?? []).filter((finding) => !finding.is_corrected)
    .map((finding) => [finding.code, findingText(finding)]);
  if (answer.page?.header.laterality === "R") found.unshift(["right-hand", t("right-hand")]);
  if (isDrawn && !found.some(([code]) => code === "drawing")) {
    found.unshift(["drawing", t("finding.drawing")]);
  }
  return found;
}

function findingItem(kind, code, text) {
  const item = element("li", kind, element("strong", "", t(`findings.${kind}`)), " ", text);
  item.dataset.code = code;
  return item;
}

/** Return the answer as text for a report, a sentence or a few for each sex. */
export function dictation(answer, isDrawn) {
  const model = answer.models.map((each) => [each.name, each.version].join(" ").trim()).join(" + ");
  const two = Boolean(answer.by_sex);
  const sentences = [t("dictation.method", {model})];
  for (const [sex, estimate] of estimatesOf(answer)) {
    const values = {
      age: age(estimate.predicted_age_months),
      months: months(estimate.predicted_age_months),
      sex: t(`word.${sex}`),
    };
    sentences.push(t(two ? "dictation.age.for" : "dictation.age", values));
    if (estimate.interval) sentences.push(`${intervalText(estimate.interval)}.`);
    const compared = estimate.comparison;
    if (!compared) continue;
    sentences.push(t("dictation.chronological", {
      age: age(compared.chronological_age_months), difference: differenceText(compared),
    }));
    if (compared.sd_score !== null) {
      sentences.push(t("dictation.score", {
        score: scoreText(compared), word: t(`assessment.${compared.assessment}`),
        reference: referenceText(compared),
      }));
    }
  }
  for (const [, text] of warningsOf(answer, isDrawn)) {
    sentences.push(`${t("findings.warning")} ${text}`);
  }
  return [...sentences, t("dictation.notice")].join(" ");
}

/** Return models as text: name, version and the start of the digest. */
export function modelText(found) {
  return found.map(({name, version, digest}) =>
    [name, version, `(SHA-256 ${digest.slice(0, 12)})`].filter(Boolean).join(" ")).join(" + ");
}

function intervalText(interval) {
  if (!interval) return t("answer.no-interval");
  return t("answer.interval", {
    level: number(100 * interval.level),
    low: age(interval.low_months),
    high: age(interval.high_months),
  });
}

function legend(interval, chronological) {
  const list = element("ul", "legend", key("estimate", t("legend.estimate")));
  list.setAttribute("aria-hidden", "true"); // the scale has a description
  if (interval) {
    list.append(key("band", t("legend.interval", {level: number(100 * interval.level)})));
  }
  if (chronological !== null) list.append(key("chronological", t("legend.chronological")));
  return list;
}

function key(name, text) {
  return element("li", "", element("span", `key ${name}`), text);
}

function comparisonBox(compared) {
  const list = element("dl", "comparison");
  const box = element("div", "compared", list);
  const add = (name, ...content) => {
    list.append(element("div", "", element("dt", "", t(name)), element("dd", "", ...content)));
  };
  const word = compared.assessment;
  if (word) {
    const text = t(`assessment.${word}`);
    add("comparison.assessment", element("strong", `assessment ${word}`, text));
  }
  if (word) add("comparison.score", scoreText(compared));
  add("comparison.chronological", age(compared.chronological_age_months));
  const difference = number(compared.difference_months, 1, true);
  add("comparison.difference", t("months.other", {n: difference}));
  if (!word) {
    box.append(element("p", "why", noScoreText(compared.reason ?? "")));
    return box;
  }
  const score = number(compared.sd_score_from_mean, 1, true);
  box.append(
    element("p", "why", t(`assessment.${word}.why`)),
    element("details", "why",
      element("summary", "", t("comparison.reference", {reference: referenceText(compared)})),
      element("p", "", t("comparison.from-mean", {score})),
      element("p", "", t("comparison.groups"))));
  return box;
}

function differenceText(compared) {
  const off = compared.difference_months;
  if (Math.abs(off) < 0.05) return t("difference.none");
  return t(off < 0 ? "difference.below" : "difference.above", {months: months(Math.abs(off))});
}

function scoreText(compared) {
  const score = number(compared.sd_score, 1, true);
  const ends = compared.sd_interval;
  if (!ends) return t("score", {score});
  return t("score.interval", {
    score, low: number(ends.low, 1, true), high: number(ends.high, 1, true),
  });
}

function referenceText(compared) {
  const key = `reference.${compared.reference}`;
  return hasText(key) ? t(key) : compared.reference;
}

function atlasText([low, high]) {
  return low === high || high === undefined
    ? t("atlas.one", {age: age(low)})
    : t("atlas.two", {low: age(low), high: age(high)});
}
