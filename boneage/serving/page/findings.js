// Findings, refusals and reasons in the words of the chosen language.
//
// A text is found by its code. The numbers in it come from the English message. A message that
// doesn't match, or a code without a text, is shown as it is.

import {age, hasText, t} from "./texts.js";

const NUMBERS = {
  "age-in-years": /whole years/,
  "flat-image": /span only (?<levels>[\d.]+) of 255/,
  "inverted": /inverted/,
  "inverted.corrected": /were inverted/,
  "low-contrast": /only (?<levels>\d+) of 255/,
  "low-resolution": /only (?<width>\d+) x (?<height>\d+) pixels, enlarged to (?<size>\d+)/,
  "nearly-empty-image": /(?<share>\d+) % of it/,
  "other-age": /is (?<header>[\d.]+) months, not (?<given>[\d.]+)/,
  "other-body-part": /is (?<part>\w+)/,
  "other-modality": /is (?<modality>\w+)/,
  "other-sex": /is (?<header>[FM]), not (?<given>[FM])/,
  "rotated.half": /by 180 degrees/,
  "rotated.clockwise": /by (?<degrees>\d+) degrees clockwise/,
  "rotated.counter-clockwise": /by (?<degrees>\d+) degrees counter-clockwise/,
  "saturated-image": /(?<share>\d+) % of it/,
  "too-bright": /(?<share>\d+) % of the hand/,
  "turned-hand.sideways": /sideways/,
  "turned-hand.upside-down": /upside down/,
  "two-hands.half": /for the (?<half>left|right|upper|lower) half/,
  "unfamiliar": /not like the hands/,
};

const WORDS = ["F", "M", "left", "right", "upper", "lower"];

/** Return a finding in words. */
export function findingText(finding) {
  return worded("finding", finding.code, finding.message, finding.is_corrected);
}

/** Return why an answer was refused, in words. */
export function refusalText(answer) {
  const code = answer.reason_code ?? "";
  const as = hasText(`refusal.${code}`) ? "refusal" : "finding";
  return worded(as, code, answer.reason ?? "", false);
}

/** Return why there is no SD score, in words. */
export function noScoreText(reason) {
  const outside = /no SD score at .* expected (?<low>[\d.]+) to (?<high>[\d.]+)/.exec(reason);
  if (outside) {
    const {low, high} = outside.groups;
    return t("score.outside", {low: age(Number(low)), high: age(Number(high))});
  }
  if (/seems to be in years/.test(reason)) return t("score.years");
  return sentence(reason);
}

function worded(as, code, message, isCorrected) {
  const codes = Object.keys(NUMBERS).filter((each) => each.startsWith(`${code}.`));
  for (const each of [...codes, ...(isCorrected ? [`${code}.corrected`] : []), code]) {
    const found = NUMBERS[each] ? NUMBERS[each].exec(message) : [];
    const key = `${as}.${each}`;
    if (found && hasText(key)) {
      const values = Object.entries(found.groups ?? {});
      const inWords = code === "other-age" ? (value) => age(Number(value)) : word;
      return t(key, Object.fromEntries(values.map(([name, value]) => [name, inWords(value)])));
    }
  }
  return sentence(message);
}

function word(value) {
  return WORDS.includes(value) ? t(`word.${value}`) : value;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
