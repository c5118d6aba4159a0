// The page: the list of radiographs, what is known of each child, and the answer of the chosen one.
//
// Everything of a radiograph is in its own item. Only the chosen item is shown, and a reply is kept
// only by the item that still waits for it. So no radiograph shows anything of another.

import {fillAge, readAge, readDates} from "./age_fields.js";
import {dictation, element, estimateCard, estimatesOf, findingItems, modelText, refusalCard}
  from "./answer.js";
import * as client from "./client.js";
import {refusalText} from "./findings.js";
import {giveToken, patiently} from "./patience.js";
import {LANGUAGES, age, hasText, number, preferredLanguage, t, today, useLanguage}
  from "./texts.js";
import {Viewer} from "./viewer.js";

const SAMPLES = [
  {name: "girl-4-years", sex: "F", months: 50},
  {name: "boy-9-years", sex: "M", months: 118},
  {name: "girl-13-years", sex: "F", months: 158},
  {name: "boy-15-years", sex: "M", months: 184},
];
const TYPING_MS = 700;

const $ = (id) => document.getElementById(id);
const items = [];
let current = null;
let described = null; // what the models are
let viewers = {};
let typing = 0;

async function start() {
  viewers = {whole: new Viewer("whole"), framed: new Viewer("framed")};
  for (const [name, title] of Object.entries(LANGUAGES)) {
    const option = element("option", "", title);
    option.value = option.lang = name;
    $("language").append(option);
  }
  listen();
  await chooseLanguage(preferredLanguage());
  describeModels();
}

async function chooseLanguage(name) {
  await useLanguage(name);
  $("language").value = name;
  $("samples").replaceChildren(...SAMPLES.map(sampleItem));
  showModels();
  show();
}

async function describeModels() {
  try {
    described = await patiently(() => client.models());
  } catch {
    return; // a radiograph will say what is wrong
  }
  showModels();
  if (current) showActions();
}

function showModels() {
  if (!described) return;
  const software = described.software ? `, ${described.software}` : "";
  $("report-model").textContent = t("model", {model: modelText(described.models)}) + software;
  $("model-notes").textContent = (described.notes ?? []).join(" ");
}

// ------------------------------------------------------------------ radiographs

function add(files, known = {}) {
  const added = [...files].map((file) => ({
    file,
    title: known.title ?? null,
    sex: known.sex ?? "",
    months: known.months ?? null,
    isConfirmed: false,
    label: "",
    state: "waiting",
    answer: null,
    problem: null,
    heat: null,
    controller: null,
  }));
  if (!added.length) return;
  items.push(...added);
  choose(added[0]);
}

function choose(item) {
  current = item;
  clearTimeout(typing);
  fillForm();
  show();
  $("status").textContent = ""; // it was said of another radiograph
  if (item?.state === "waiting") ask(item);
  else announce();
}

function remove(item) {
  item.controller?.abort();
  item.heatController?.abort();
  const at = items.indexOf(item);
  items.splice(at, 1);
  choose(items[Math.min(at, items.length - 1)] ?? null);
  ($("list").querySelector("[aria-current]") ?? $("choose")).focus();
}

function clear() {
  for (const item of items.splice(0)) {
    item.controller?.abort();
    item.heatController?.abort();
  }
  choose(null);
  $("choose").focus();
}

function formOf(item) {
  return {file: item.file, sex: item.sex, months: item.months};
}

/** Ask for the answer of an item; an earlier question of it is dropped. */
async function ask(item) {
  item.controller?.abort();
  item.heatController?.abort();
  const controller = new AbortController();
  if (item === current) $("result").style.minHeight = `${$("result").offsetHeight}px`;
  Object.assign(item, {controller, state: "asking", answer: null, problem: null, heat: null});
  item.heatController = null;
  show();
  if (item === current) $("status").textContent = t("asking");
  try {
    const wait = (seconds) => say(item, t("busy", {seconds: number(seconds)}));
    const answer = await patiently(
      () => client.predict(formOf(item), controller.signal), controller.signal, wait);
    if (item.controller !== controller) return;
    receive(item, answer);
    if (!described) describeModels();
  } catch (problem) {
    if (item.controller !== controller || problem.name === "AbortError") return;
    item.state = "problem";
    item.problem = problem;
  }
  item.controller = null;
  show();
  announce();
  const next = items.find((each) => each.state === "waiting");
  if (next && !items.some((each) => each.state === "asking")) ask(next);
}

function receive(item, answer) {
  const isAnswer = answer.status === "answered" || answer.status === "refused";
  item.state = isAnswer ? answer.status : "problem";
  item.problem = isAnswer ? null : new client.Problem(422, answer.reason ?? "");
  item.answer = isAnswer ? answer : null;
  item.pictures = answer.page ?? null;
  item.header = answer.page?.header ?? null;
  if (item === current) fillFromHeader();
}

// ------------------------------------------------------------------ what is known of the child

function sexOf(item) {
  return item.sex || item.header?.sex || "";
}

function monthsOf(item) {
  return item.months ?? item.header?.chronological_age_months ?? null;
}

function fillForm() {
  $("child").hidden = !current;
  $("birth-date").value = $("study-date").value = $("age-problem").textContent = "";
  if (!current) return;
  const sex = sexOf(current);
  $(sex ? `sex-${sex}` : "sex-unknown").checked = true;
  fillAge(monthsOf(current));
  $("label").value = current.label;
  fillFromHeader();
}

/** Show what the DICOM header says, and leave what somebody is typing. */
function fillFromHeader() {
  const {sex = null, chronological_age_months: months = null} = current.header ?? {};
  const isEmpty = !$("age-years").value && !$("age-months").value;
  const usesSex = Boolean(sex) && !current.sex;
  const usesAge = months !== null && current.months === null;
  if (usesSex) $(`sex-${sex}`).checked = true;
  if (usesAge && isEmpty) fillAge(months);
  $("sex-unknown").disabled = Boolean(sex);
  $("sex-from-header").hidden = !usesSex || current.isConfirmed;
  $("age-from-header").hidden = !usesAge;
}

function useDates() {
  const total = readDates();
  if (total === null) return;
  if (!Number.isNaN(total)) fillAge(total);
  changeAge(Number.isNaN(total) ? NaN : readAge());
}

function changeAge(value) {
  clearTimeout(typing);
  $("age-problem").textContent = Number.isNaN(value) ? t("age.problem") : "";
  for (const id of ["age-years", "age-months"]) $(id).ariaInvalid = String(Number.isNaN(value));
  if (Number.isNaN(value) || value === current.months) return;
  if (value === null && current.months === null) return;
  current.months = value;
  $("age-from-header").hidden = true;
  ask(current);
}

// ------------------------------------------------------------------ what is shown

function show() {
  showList();
  const item = current;
  const isDone = Boolean(item?.answer);
  $("empty").hidden = Boolean(item);
  $("result").hidden = !item;
  $("waiting").hidden = item?.state !== "asking" && item?.state !== "waiting";
  $("waiting").textContent = item ? t("asking") : "";
  $("result").ariaBusy = String(item?.state === "asking");
  if (item?.state !== "asking") $("result").style.minHeight = ""; // else nothing jumps meanwhile
  $("problem").hidden = !item?.problem;
  $("estimates").replaceChildren();
  $("findings").replaceChildren();
  $("sentence").value = $("copied").textContent = "";
  $("report").hidden = !isDone;
  showPictures(item);
  showHeat(item);
  $("report-label").textContent = item?.label ?? "";
  $("report-date").textContent = today();
  $("report-child").textContent = item ? childText(item) : "";
  if (item?.problem) showProblem(item.problem);
  if (!isDone) return;
  const cards = estimatesOf(item.answer).map((each) => estimateCard(...each, item.answer));
  $("estimates").append(...(cards.length ? cards : [refusalCard(item.answer)]));
  $("estimates").classList.toggle("two", cards.length > 1);
  if (cards.length > 1) $("estimates").prepend(element("p", "both", t("answer.both")));
  const isDrawn = Boolean(item.title); // a sample
  $("findings").append(...findingItems(item.answer, isDrawn));
  $("sentence").value = cards.length ? dictation(item.answer, isDrawn) : refusal(item);
  showActions();
}

function showList() {
  $("list").replaceChildren(...items.map((item, at) => {
    const title = item.title ? t(item.title.key, item.title.values) : item.file.name;
    const button = element("button", `state-${item.state}`,
      element("span", "name", title || t("pasted", {n: number(at + 1)})),
      element("span", "state", stateText(item)));
    button.type = "button";
    if (item === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      choose(item);
      $("list").querySelector("[aria-current]")?.focus();
    });
    return element("li", "", button);
  }));
  $("list-actions").hidden = !items.length;
  $("clear").hidden = items.length < 2;
}

function stateText(item) {
  const found = item.answer ? estimatesOf(item.answer) : [];
  if (!found.length) return t(`state.${item.state}`);
  return found.map(([, estimate]) => age(estimate.predicted_age_months)).join(" / ");
}

function childText(item) {
  const [sex, months] = [sexOf(item), monthsOf(item)];
  const isOwn = item.sex || item.isConfirmed;
  const parts = [`${t("sex")}: ${t(sex ? `sex.${sex}` : "sex.unknown")}`];
  if (sex && !isOwn) parts[0] += ` (${t("unconfirmed")})`;
  if (months !== null) parts.push(`${t("chronological")}: ${age(months)}`);
  return parts.join(" · ");
}

function showPictures(item) {
  const pictures = item?.pictures?.radiograph ? item.pictures : null;
  $("pictures").hidden = !pictures;
  if (showPictures.shown === pictures) return;
  const same = pictures && showPictures.of === item
    && showPictures.shown?.radiograph.png === pictures.radiograph.png;
  showPictures.shown = pictures;
  showPictures.of = item;
  if (same) return; // the view is kept
  viewers.whole.clear();
  viewers.framed.clear();
  if (!pictures) return;
  viewers.whole.show(pictures.radiograph.png, {outline: pictures.outline, stretch: true});
  $("framed").hidden = !pictures.framed;
  $("whole-caption").dataset.text = pictures.framed ? "whole" : "whole.alone";
  $("whole-caption").textContent = t($("whole-caption").dataset.text);
  if (!pictures.framed) return;
  viewers.framed.show(pictures.framed).then(() => {
    if (item === current && item.heat) paintHeat();
  });
}

function showProblem(problem) {
  const {status = 500, detail = ""} = problem;
  const key = hasText(`problem.${status}`) ? `problem.${status}` : "problem.500";
  $("problem-text").textContent = t(key);
  $("problem-detail").textContent = detail.charAt(0).toUpperCase() + detail.slice(1);
  $("retry").hidden = ![0, 401, 408, 429, 500, 502, 503, 504].includes(status);
}

function showActions() {
  const isAnswered = current.answer?.status === "answered";
  const isDicom = isAnswered && Boolean(current.header?.is_dicom);
  $("save-report").hidden = $("save-image").hidden = !isDicom || !described?.can_write_dicom;
  $("no-dicom").hidden = !isDicom || described?.can_write_dicom !== false;
}

function refusal(item) {
  return `${t("refusal.title")}: ${refusalText(item.answer)}`;
}

function say(item, text) {
  if (item !== current) return;
  $("status").textContent = text;
  $("waiting").textContent = text;
  $("waiting").hidden = false;
}

/** Say the outcome of the chosen item to a screen reader. */
function announce() {
  if (!current || current.state === "asking") return;
  if (current.problem) {
    $("status").textContent = $("problem-text").textContent;
  } else if (current.state === "refused") {
    $("status").textContent = refusal(current);
  } else if (current.answer) {
    const findings = t("announce.findings", {n: number($("findings").childElementCount)});
    $("status").textContent = `${t("title")}: ${stateText(current)}. ${findings}`;
  }
}

// ------------------------------------------------------------------ heat map

function showHeat(item) {
  const canAsk = item?.state === "answered" && Boolean(item.pictures?.framed);
  $("heat").hidden = !canAsk;
  $("heat-ask").hidden = !canAsk || Boolean(item.heat) || Boolean(item.heatController);
  $("heat-wait").hidden = !item?.heatController;
  $("heat-wait").textContent = t("heat.wait");
  $("heat-shown").hidden = !item?.heat;
  if (!item?.heat) {
    viewers.framed.heat = null;
    viewers.framed.draw();
    return;
  }
  const limit = number(item.heat.limit_months, Number.isInteger(item.heat.limit_months) ? 0 : 1);
  $("heat-low").textContent = t("heat.younger", {limit});
  $("heat-high").textContent = t("heat.older", {limit});
}

async function askHeat() {
  const item = current;
  const controller = new AbortController();
  item.heatController = controller;
  show();
  $("status").textContent = t("heat.wait");
  let problem = null;
  try {
    const heat = await patiently(
      () => client.explain(formOf(item), controller.signal), controller.signal);
    if (item.heatController !== controller) return;
    item.heat = heat;
  } catch (error) {
    if (item.heatController !== controller || error.name === "AbortError") return;
    problem = error;
  }
  item.heatController = null;
  if (item !== current) return;
  show();
  if (problem) {
    $("heat-wait").hidden = false;
    $("heat-wait").textContent = t("heat.problem");
    return;
  }
  $("status").textContent = t("heat.done");
  await paintHeat();
  $("heat-opacity").focus({preventScroll: true});
}

function paintHeat() {
  return viewers.framed.showHeat(current.heat.heat, Number($("heat-opacity").value) / 100);
}

// ------------------------------------------------------------------ files to keep

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = element("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

async function saveDicom(kind, name) {
  const item = current;
  try {
    save(await patiently(() => client.dicom(kind, formOf(item))), name);
  } catch (problem) {
    if (item === current) $("copied").textContent = problem.detail || t("problem.500");
  }
}

function saveJson() {
  const {page, ...answer} = current.answer;
  save(new Blob([JSON.stringify(answer, null, 1)], {type: "application/json"}), "bone-age.json");
}

async function copy() {
  $("sentence").select();
  try {
    await navigator.clipboard.writeText($("sentence").value);
  } catch {
    document.execCommand("copy"); // where there is no clipboard without HTTPS
  }
  $("copied").textContent = t("copied");
}

// ------------------------------------------------------------------ what a person does

function sampleItem({name, sex, months}) {
  const title = {key: `sample.${sex}`, values: {age: age(12 * Math.floor(months / 12))}};
  const address = new URL(`samples/${name}.png`, import.meta.url);
  const picture = element("img");
  Object.assign(picture, {src: address.href, alt: "", width: 40, height: 40});
  const button = element("button", "", picture, t(title.key, title.values));
  button.type = "button";
  button.dataset.sample = name;
  button.addEventListener("click", async () => {
    const blob = await (await fetch(address)).blob();
    add([new File([blob], `${name}.png`, {type: "image/png"})], {title, sex, months});
  });
  return element("li", "", button);
}

function listen() {
  $("language").addEventListener("change", () => chooseLanguage($("language").value));
  $("choose").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    add($("files").files);
    $("files").value = "";
  });
  $("remove").addEventListener("click", () => remove(current));
  $("clear").addEventListener("click", clear);
  $("retry").addEventListener("click", () => ask(current));
  $("token-form").addEventListener("submit", giveToken);
  listenDrop();
  listenChild();
  $("heat-ask").addEventListener("click", askHeat);
  $("heat-opacity").addEventListener("input", () => {
    viewers.framed.setOpacity(Number($("heat-opacity").value) / 100);
  });
  $("copy").addEventListener("click", copy);
  $("print").addEventListener("click", () => window.print());
  $("save-json").addEventListener("click", saveJson);
  $("save-report").addEventListener("click", () => saveDicom("report", "bone-age-report.dcm"));
  $("save-image").addEventListener("click", () => saveDicom("image", "bone-age-image.dcm"));
}

function listenDrop() {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    for (const id of ["drop", "empty"]) $(id).classList.add("over");
  });
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, () => {
      for (const id of ["drop", "empty"]) $(id).classList.remove("over");
    });
  }
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const entries = [...event.dataTransfer.items].map((each) => each.webkitGetAsEntry?.());
    const files = [...event.dataTransfer.files];
    add(files.filter((_, at) => !entries[at]?.isDirectory)); // a folder can't be sent
  });
  document.addEventListener("paste", (event) => add(event.clipboardData.files));
}

function listenChild() {
  $("child").addEventListener("submit", (event) => event.preventDefault());
  for (const radio of document.getElementsByName("sex")) {
    radio.addEventListener("change", () => {
      current.sex = radio.value;
      $("sex-from-header").hidden = true;
      ask(current);
    });
  }
  $("sex-confirm").addEventListener("click", () => {
    current.isConfirmed = true;
    $("sex-from-header").hidden = true;
    $("report-child").textContent = childText(current);
    $(`sex-${sexOf(current)}`).focus();
  });
  for (const id of ["age-years", "age-months"]) {
    $(id).addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => changeAge(readAge()), TYPING_MS);
    });
    $(id).addEventListener("change", () => changeAge(readAge()));
  }
  $("age-clear").addEventListener("click", () => {
    fillAge(null);
    changeAge(null);
    $("age-years").focus();
  });
  for (const id of ["birth-date", "study-date"]) $(id).addEventListener("change", useDates);
  $("label").addEventListener("input", () => {
    current.label = $("label").value;
    $("report-label").textContent = current.label;
  });
}

start();
