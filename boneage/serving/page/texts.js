// The words of the page in the chosen language, and its numbers, ages and dates.

/** Every language: the name of its file in `texts/`, and what it calls itself. */
export const LANGUAGES = {en: "English", de: "Deutsch", pt: "Português"};

let texts = {};
let language = "en";

/** Return the language to begin with: `?lang=`, else the browser's first one that exists. */
export function preferredLanguage() {
  const asked = new URLSearchParams(location.search).get("lang");
  const wanted = [asked, ...navigator.languages].filter(Boolean).map((each) => each.slice(0, 2));
  return wanted.find((each) => each in LANGUAGES) ?? "en";
}

/** Load a language, and write it into every element that names a text. */
export async function useLanguage(name) {
  const response = await fetch(new URL(`texts/${name}.json`, import.meta.url));
  texts = await response.json();
  language = name;
  document.documentElement.lang = name;
  document.title = t("title");
  translate(document);
}

/** Write the texts of `data-text` (content) and `data-label` (accessible name) below a node. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
  }
}

/** Return whether there is a text of this key. */
export function hasText(key) {
  return Object.hasOwn(texts, key);
}

/** Return a text, with the values of its {places}. */
export function t(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
}

/** Return a number with so many decimals; `signed` writes + and −. */
export function number(value, decimals = 0, signed = false) {
  const style = {
    minimumFractionDigits: decimals, maximumFractionDigits: decimals,
    signDisplay: signed ? "exceptZero" : "negative",
  };
  return new Intl.NumberFormat(language, style).format(value).replace("-", "−");
}

/** Return months as years and months: `9 years 11 months`. */
export function age(months) {
  const total = Math.round(Math.abs(months));
  const parts = [["years", Math.floor(total / 12)], ["months", total % 12]]
    .filter(([, count]) => count)
    .map(([unit, count]) => counted(unit, count));
  return parts.length ? parts.join(t("age.join")) : counted("months", 0);
}

/** Return months with one decimal: `118.8 months`. */
export function months(value) {
  return t("months.other", {n: number(value, 1)});
}

/** Return today's date in words. */
export function today() {
  return new Intl.DateTimeFormat(language, {dateStyle: "long"}).format(new Date());
}

function counted(unit, count) {
  const rule = new Intl.PluralRules(language).select(count) === "one" && count === 1;
  return t(`${unit}.${rule ? "one" : "other"}`, {n: number(count)});
}
