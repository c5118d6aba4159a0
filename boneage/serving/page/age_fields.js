// The fields of the chronological age: years and months, or the dates of birth and examination.

import {number} from "./texts.js";

const MOST_MONTHS = 480;
const DAYS_IN_MONTH = 365.2425 / 12;
const MS_IN_DAY = 86_400_000;

const $ = (id) => document.getElementById(id);

/** Write months into the age fields; null empties them. */
export function fillAge(value) {
  const tenths = Math.round(10 * value);
  const [years, rest] = [Math.floor(tenths / 120), tenths % 120];
  $("age-years").value = value === null ? "" : years;
  $("age-months").value = value === null ? "" : number(rest / 10, rest % 10 ? 1 : 0);
}

/** Return the months of the age fields: null if they are empty, NaN if they are no age. */
export function readAge() {
  const [years, rest] = ["age-years", "age-months"]
    .map((id) => $(id).value.trim().replace(",", "."));
  if (!years && !rest) return null;
  const isNumber = /^\d*$/.test(years) && /^\d*\.?\d*$/.test(rest);
  const total = isNumber ? 12 * Number(years) + Number(rest) : NaN;
  return possible(total);
}

/** Return the months from birth to examination: null without both dates, NaN if they are no age. */
export function readDates() {
  const [birth, study] = ["birth-date", "study-date"].map((id) => $(id).valueAsNumber);
  if (Number.isNaN(birth) || Number.isNaN(study)) return null;
  return possible((study - birth) / MS_IN_DAY / DAYS_IN_MONTH);
}

function possible(total) {
  return total >= 0 && total <= MOST_MONTHS ? total : NaN;
}
