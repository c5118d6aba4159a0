// The answer for one radiograph, in the form of `POST /v1/predict`; see answers.py and predict.py.

import { round } from "./operations.js";
import { assess, estimate, judge } from "./predictor.js";

const MOST_MONTHS = 240;
const MARGIN_MONTHS = 12;
const LEAST_VARIANCE = 9;
const CHILDREN = { F: "girls", M: "boys" };

// What went wrong with what a person gave.
export class Refused extends Error {}

// Answers for decoded pixels, and says which part of them it is for.
export async function answer(radiograph, sex, months, site) {
  const sexes = sex === null ? ["F", "M"] : [sex];
  const seen = assess(radiograph);
  const values = emptyAnswer(months, site);
  if (seen.refusal !== null) return [refused(values, seen.refusal), seen];
  const outputs = [];
  for (const each of sexes) outputs.push(await estimate(seen.framed.pixels, each));
  const found = judge(outputs[0].pooled, seen.confidence);
  let { findings } = seen;
  if (found?.code === "unfamiliar") {
    const two = findings.find((each) => each.code === "two-hands");
    values.findings = findings.map(asValues);
    return [refused(values, two ?? found), seen];
  }
  if (found) findings = [found, ...findings];
  const estimates = sexes.map((each, i) => estimateOf(outputs[i], each, months, site));
  findings = [...findings, ...maturity(sexes, estimates, site)];
  const first = sexes.length === 1 ? { sex, ...estimates[0] } : {};
  const bySex = Object.fromEntries(sexes.map((each, i) => [each, estimates[i]]));
  return [
    {
      ...values,
      ...first,
      findings: findings.map(asValues),
      ...(sexes.length > 1 ? { by_sex: bySex } : {}),
    },
    { ...seen, estimates: bySex },
  ];
}

function emptyAnswer(months, site) {
  return {
    image: "radiograph",
    status: "answered",
    sex: null,
    predicted_age_months: null,
    age: null,
    interval: null,
    comparison: null,
    calibration: null,
    reason: null,
    reason_code: null,
    findings: [],
    chronological_age_months: months,
    models: site.models,
    notice: site.notice,
  };
}

function refused(values, why) {
  return { ...values, status: "refused", reason: `${why.what}. ${why.fix}`, reason_code: why.code };
}

function asValues({ code, what, fix, isCorrected = false }) {
  return { code, message: `${what}. ${fix}`, is_corrected: isCorrected };
}

function estimateOf(output, sex, age, site) {
  const months = limited(output.months);
  if (!(months >= 0 && months <= MOST_MONTHS)) {
    throw new Refused(`the model answers ${months.toPrecision(4)} months, which is no bone age.`);
  }
  const { level, quantile, spread } = site.intervals;
  const grown = spread.at_birth_months + spread.by_age * Math.max(output.months, 0);
  const training = spread.by_age ? Math.min(spread.months, grown) : spread.months;
  const own = Math.max(output.variance - training ** 2, LEAST_VARIANCE);
  const half = quantile * Math.sqrt(own);
  const clip = (value) => Math.min(MOST_MONTHS, Math.max(0, value));
  const ends = [clip(output.months - half), clip(output.months + half)];
  return {
    predicted_age_months: months,
    age: ageInWords(months),
    interval: { level, low_months: ends[0], high_months: ends[1] },
    comparison: age === null ? null : compared(months, sex, age, ends, site.reference),
    calibration: null,
  };
}

function limited(months) {
  const near = Math.min(MOST_MONTHS, Math.max(0, months));
  return Math.abs(months - near) <= MARGIN_MONTHS ? near : months;
}

export function ageInWords(months) {
  const total = round(Math.abs(months));
  const parts = [
    [Math.floor(total / 12), "year"],
    [total % 12, "month"],
  ]
    .filter(([count]) => count)
    .map(([count, unit]) => `${count} ${unit}${count === 1 ? "" : "s"}`);
  return parts.join(" ") || "0 months";
}

// The difference from the chronological age, and the SD score; see sd_score.py.
function compared(months, sex, age, ends, reference) {
  const values = {
    chronological_age_months: age,
    difference_months: months - age,
    sd_score: null,
    sd_interval: null,
    assessment: null,
    sd_score_from_mean: null,
    reference: reference.name,
    method: reference.method,
    note: reference.note,
    reason: noScore(months, sex, age, reference),
  };
  if (values.reason !== null) return values;
  const rows = reference.rows[sex];
  const at = Math.max(1, rows.findIndex((row) => row[0] >= age));
  const way = (age - rows[at - 1][0]) / (rows[at][0] - rows[at - 1][0]);
  const [mean, deviation] = [1, 2].map(
    (i) => rows[at - 1][i] + way * (rows[at][i] - rows[at - 1][i]),
  );
  const [score, low, high] = [months, ...ends].map((each) => (each - age) / deviation);
  const found = new Set([score, low, high].map(assessment));
  return {
    ...values,
    sd_score: score,
    sd_interval: { low, high },
    assessment: found.size === 1 ? assessment(score) : "indeterminate",
    sd_score_from_mean: (months - mean) / deviation,
  };
}

function assessment(score) {
  if (Math.abs(score) <= 2) return "normal";
  return score < 0 ? "delayed" : "advanced";
}

function noScore(months, sex, age, reference) {
  const isSmall = age <= 20 && months - age > 24;
  if (isSmall && Math.abs(months - 12 * age) < months - age) {
    return `the chronological age of ${age} months seems to be in years. Multiply it by 12, or correct it.`;
  }
  const rows = reference.rows[sex];
  const [first, last] = [rows[0][0], rows[rows.length - 1][0]];
  if (age >= first && age <= last) return null;
  return (
    `there is no SD score at a chronological age of ${age} months; ` +
    `expected ${first} to ${last} months for ${CHILDREN[sex]}. ` +
    "Use another reference, or correct the age."
  );
}

function maturity(sexes, estimates, site) {
  const mature = sexes.filter(
    (sex, i) => estimates[i].predicted_age_months >= site.mature_months[sex],
  );
  if (!mature.length) return [];
  const ends = mature.map((sex) => `${ageInWords(site.mature_months[sex])} for ${CHILDREN[sex]}`);
  const what = `near or at skeletal maturity: the scale ends soon after ${ends.join(" and ")}`;
  const fix = "Hands of later ages hardly differ, so the child may be older than the answer.";
  return [{ code: "near-maturity", what, fix }];
}

// The standards of the atlas next to a bone age; see atlas_ages.py.
export function nearestStandards(months, ages) {
  const near = round(months);
  if (ages.includes(near)) return [near];
  const above = ages.findIndex((age) => age >= months);
  const end = above < 0 ? ages.length : above;
  return ages.slice(Math.max(0, end - 1), end + 1);
}
