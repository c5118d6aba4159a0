// Answers for decoded radiographs; see predictor.py.

import { frame, framingFindings } from "./framing.js";
import {
  assessQuality, findBlank, finding, inverted, qualityFindings, usePolarity,
} from "./image_quality.js";
import { cut, mirrored, warp } from "./operations.js";
import { useClassifiers } from "./orientation.js";

const CLEAR = 2;
const MOST_DOUBT = 4;
const ROTATION_DEGREES = 10;

let site = null;
let session = null;
let Tensor = null;

// Gives this module the content of model.json, and a session of ONNX Runtime with its tensors.
export function useModel(content, network, tensors) {
  [site, session, Tensor] = [content, network, tensors];
  useClassifiers(content.classifiers);
  usePolarity(content.polarity);
}

// What the pixels show: {framed, findings, refusal, confidence, part, levels}.
// `part` is the box of the answered part of the radiograph, `levels` its grey levels.
export function assess(radiograph) {
  const { height, width } = radiograph;
  return assessPart(radiograph, [0, 0, width, height]);
}

function assessPart(radiograph, part) {
  const blank = findBlank(radiograph);
  if (blank !== null) return { framed: null, findings: [], refusal: blank, part, levels: radiograph };
  const seen = assessWhole(radiograph, part);
  if (seen.refusal !== null) {
    const half = assessHalf(radiograph, seen.refusal, part);
    if (half !== null) return half;
  }
  const doubt =
    seen.findings.find((each) => each.code === "inverted") ??
    seen.findings.find((each) => each.code === "no-hand");
  if (!doubt) return seen;
  const other = assessWhole(inverted(radiograph), part);
  if (!other.findings.some((each) => each.code === "inverted" || each.code === "no-hand")) {
    const why = doubt.code === "inverted" ? "bone was dark" : "only so a hand stands out";
    const what = `the grey levels were inverted, because ${why}`;
    const putRight = { ...doubt, what, isCorrected: true };
    return { ...other, findings: [putRight, ...other.findings] };
  }
  let what = "no hand stands out from its background";
  if (doubt.code === "inverted") what = `${doubt.what}, and no hand stands out`;
  else if (seen.confidence > CLEAR) return seen;
  const findings = seen.findings.filter((each) => each !== doubt);
  return { ...seen, findings, refusal: { ...doubt, what } };
}

// The first half of a radiograph of two hands that shows one of them alone, or null.
function assessHalf(radiograph, two, [x, y]) {
  const { height, width } = radiograph;
  const [middle, centre] = [Math.floor(width / 2), Math.floor(height / 2)];
  const boxes =
    width >= height
      ? { left: [0, 0, middle, height], right: [middle, 0, width, height] }
      : { upper: [0, 0, width, centre], lower: [0, centre, width, height] };
  for (const [name, box] of Object.entries(boxes)) {
    const half = cut(radiograph, box);
    if (findBlank(half) !== null || assessQuality(half).hasTwoHands) continue;
    const seen = assessPart(half, [x + box[0], y + box[1], x + box[2], y + box[3]]);
    if (seen.refusal !== null) continue;
    const what = `it shows two hands, and the answer is for the ${name} half of the image`;
    return { ...seen, findings: [{ ...two, what }, ...seen.findings] };
  }
  return null;
}

// Frames a radiograph, and finds all that a person should check.
function assessWhole(radiograph, part) {
  const framed = frame(radiograph, site.framing);
  const quality = assessQuality(radiograph);
  const doubts = framingFindings(framed);
  const isPutUpright = doubts.some((each) => each.code === "rotated");
  const found = new Map();
  for (const each of [...qualityFindings(quality), ...doubts]) found.set(each.code, each);
  if (isPutUpright) found.delete("turned-hand");
  let refusal = found.get("two-hands") ?? null;
  found.delete("two-hands");
  if (refusal !== null) {
    const what = "it shows two hands, and neither half shows one alone";
    refusal = { ...refusal, what };
  }
  const { confidence } = quality.orientation;
  return { framed, findings: [...found.values()], refusal, confidence, part, levels: radiograph };
}

// The mean over the views for one sex: {months, variance, pooled}.
export async function estimate(pixels, sex) {
  const outputs = [];
  for (const view of viewsOf(pixels).slice(0, site.views)) outputs.push(await compute(view, sex));
  return {
    months: average(outputs.map((each) => each.months)),
    variance: average(outputs.map((each) => each.variance)),
    pooled: outputs[0].pooled,
  };
}

function average(values) {
  return values.reduce((all, value) => all + value, 0) / values.length;
}

function viewsOf(pixels) {
  const mirror = mirrored(pixels);
  const angles = [ROTATION_DEGREES, -ROTATION_DEGREES];
  return [
    pixels,
    mirror,
    ...angles.map((angle) => rotated(pixels, angle)),
    ...angles.map((angle) => rotated(mirror, angle)),
  ];
}

function rotated(pixels, angle) {
  const { height, width } = pixels;
  const turn = (angle * Math.PI) / 180;
  const [cosine, sine] = [Math.cos(turn), Math.sin(turn)];
  const [x, y] = [(width - 1) / 2, (height - 1) / 2];
  const matrix = [
    [cosine, sine, (1 - cosine) * x - sine * y],
    [-sine, cosine, sine * x + (1 - cosine) * y],
  ];
  return warp(pixels, matrix, width, height, ["INTER_LINEAR"]);
}

async function compute(pixels, sex) {
  const found = await session.run({
    image: new Tensor("uint8", pixels.data, [1, pixels.height, pixels.width, 1]),
    gender: new Tensor("float32", Float32Array.of(sex === "M" ? 1 : 0), [1, 1]),
  });
  const shares = found.age_distribution.data;
  let mean = 0;
  let variance = 0;
  shares.forEach((share, age) => (mean += share * age));
  shares.forEach((share, age) => (variance += share * (age - mean) ** 2));
  return { months: found.age_months.data[0], variance, pooled: found.pooled.data };
}

// A finding of an image that the network does not know, or of a drawing; else null.
export function judge(pooled, confidence) {
  const { hands, drawings, typical, limit, drawing_limit: drawingLimit } = site.familiarity;
  const doubt = Math.min(Math.max(CLEAR - confidence, 0), MOST_DOUBT);
  const [toHand, toDrawing] = [distance(pooled, hands), distance(pooled, drawings)];
  const isDrawing = toDrawing < toHand && confidence > CLEAR && toDrawing <= drawingLimit;
  if (isDrawing) {
    const what = "it seems to be a drawn hand, so the answer means little";
    return finding("drawing", what, "Use a radiograph.");
  }
  const far = (toHand / typical + doubt) / limit;
  if (!(far > 1)) return null;
  const what =
    "it is not like the hands that the model was trained on" +
    ` (${far.toFixed(1)} times the allowed distance)`;
  return finding("unfamiliar", what, "Check the image. Is it a radiograph of one whole hand?");
}

// 1 minus the cosine to the nearest of some directions.
function distance(features, directions) {
  const norm = Math.sqrt(features.reduce((all, value) => all + value * value, 0)) + 1e-12;
  const nearest = directions.map((direction) =>
    direction.reduce((all, value, i) => all + (value * features[i]) / norm, 0),
  );
  return 1 - Math.max(...nearest);
}
