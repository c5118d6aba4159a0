// The quality of one image; see image_quality.py.

import {
  findOrientation, fourScores, gradientCells, highestScores, shrunk, unit, WINDOW_PIXELS, windowsOf,
} from "./orientation.js";
import { cut, image, mean, minAndMax, resize, round, turnedByQuarters } from "./operations.js";

const FLAT_LEVELS = 8;
const SATURATED_SHARE = 0.6;
const EMPTY_SHARE = 0.9;
const [PAIR_SURE, HALVES_SURE, INVERTED_SURE] = [-1.0, -0.5, -1.0];
const BANDS = [
  [0.7, 2.5],
  [1.0, 5.0],
  [2.5, 10.0],
];
const BAND_CELLS = 12;
const BACKGROUND = 0.05;

let polarityWeights = null;

// Gives this module the fitted weights of grey bands.
export function usePolarity(weights) {
  polarityWeights = weights;
}

export function finding(code, what, fix, isCorrected = false) {
  return { code, what, fix, isCorrected };
}

// Why an image shows too little to be used, or null.
export function findBlank(radiograph) {
  const [low, high] = minAndMax(radiograph.data);
  if (low === high) {
    return finding("blank-image", `every pixel is ${low}`, "Check the image, and export it again.");
  }
  const { spread, empty } = levelsOf(radiograph);
  if (spread < FLAT_LEVELS) {
    const what = `its grey levels span only ${spread.toFixed(1)} of 255`;
    const fix = "Check the image. Export it again with its full range.";
    return finding("flat-image", what, fix);
  }
  if (empty > EMPTY_SHARE) {
    const what = `${percent(empty)} of it is as dark or light as its background`;
    const fix = "Check the image. Export it again, or crop it to the hand.";
    return finding("nearly-empty-image", what, fix);
  }
  return null;
}

// What a person should check: a hand that is turned, two hands, inverted, saturated.
export function qualityFindings(quality) {
  const findings = [];
  const hasTwo = quality.hasTwoHands;
  if (quality.orientation.isTurned && !hasTwo) {
    const turn = quality.orientation.turn === 180 ? "upside down" : "sideways";
    const fix = "Check the image. Rotate the file.";
    findings.push(finding("turned-hand", `the hand is probably ${turn}`, fix));
  }
  if (hasTwo) {
    const fix = "Check the image. Cut out the left hand.";
    findings.push(finding("two-hands", "it probably shows two hands", fix));
  }
  if (quality.polarity < 0 && !hasTwo) {
    const fix = "Check the image. Export it again, or invert the file.";
    findings.push(finding("inverted", "it is probably inverted: bone is dark", fix));
  }
  if (quality.lightest > SATURATED_SHARE) {
    const fix = "Check the image. Export it again with another window.";
    findings.push(finding("saturated-image", `${percent(quality.lightest)} of it is saturated`, fix));
  }
  return findings;
}

function percent(share) {
  return `${Math.trunc(100 * share)} %`;
}

export function assessQuality(radiograph) {
  const small = shrunk(radiograph);
  const orientation = findOrientation(small);
  const polarity = polarityScore(small, orientation);
  const hasTwoHands = pairScore(small) > 0;
  return { orientation, polarity, hasTwoHands, ...levelsOf(radiograph) };
}

// The highest grey level of the bits in use: at least 255, for 12 bits 4,095.
export function highestLevel(data) {
  const bits = 32 - Math.clz32(minAndMax(data)[1]);
  return 2 ** Math.max(8, bits) - 1;
}

// How much lighter the image is than its surroundings, at three scales: 12 x 12 x 6 numbers.
function greyBands(radiograph) {
  const square = resize(radiograph, WINDOW_PIXELS, WINDOW_PIXELS).data;
  const out = new Float32Array(BAND_CELLS * BAND_CELLS * 2 * BANDS.length);
  BANDS.forEach(([fine, coarse], index) => {
    const [near, far] = [blurred(square, fine), blurred(square, coarse)];
    const band = near.map((value, i) => value - far[i]);
    const power = band.map((value) => value * value);
    const floor = 0.2 * Math.sqrt(mean(power)) + 1e-3;
    const around = blurred(power, 2 * coarse).map(Math.sqrt);
    const cell = WINDOW_PIXELS / BAND_CELLS;
    band.forEach((value, i) => {
      const level = Math.min(3, Math.max(-3, value / (around[i] + floor)));
      const row = Math.floor(Math.floor(i / WINDOW_PIXELS) / cell);
      const column = Math.floor((i % WINDOW_PIXELS) / cell);
      const at = (row * BAND_CELLS + column) * 2 * BANDS.length + 2 * index;
      out[at] += level / cell ** 2;
      out[at + 1] += level ** 3 / 3 / cell ** 2;
    });
  });
  return out;
}

// OpenCV's Gaussian blur of a square, by a matrix from both sides.
function blurred(square, sigma) {
  const matrix = blurMatrix(sigma);
  return byMatrix(matrix, transposed(byMatrix(matrix, transposed(square))));
}

// The product of the matrix and a square.
function byMatrix(matrix, square) {
  const side = WINDOW_PIXELS;
  const out = new Float32Array(side * side);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      let total = 0;
      for (let k = 0; k < side; k++) total += matrix[y * side + k] * square[k * side + x];
      out[y * side + x] = total;
    }
  return out;
}

function transposed(square) {
  const side = WINDOW_PIXELS;
  return square.map((_, i) => square[(i % side) * side + Math.floor(i / side)]);
}

const blurMatrices = new Map();

function blurMatrix(sigma) {
  if (blurMatrices.has(sigma)) return blurMatrices.get(sigma);
  const side = WINDOW_PIXELS;
  const taps = round(8 * sigma + 1) | 1;
  const reach = (taps - 1) / 2;
  const kernel = Array.from({ length: taps }, (_, i) =>
    Math.exp(-((i - reach) ** 2) / (2 * sigma ** 2)),
  );
  const total = kernel.reduce((all, value) => all + value, 0);
  const matrix = new Float32Array(side * side);
  for (let y = 0; y < side; y++)
    kernel.forEach((value, i) => {
      let x = y + i - reach;
      while (x < 0 || x >= side) x = x < 0 ? -x : 2 * (side - 1) - x;
      matrix[y * side + x] += value / total;
    });
  blurMatrices.set(sigma, matrix);
  return matrix;
}

// The spread in 8-bit levels, and the shares of the highest level and of background.
function levelsOf({ height, width, data }) {
  const step = Math.max(1, Math.floor(Math.max(height, width) / 512));
  const taken = [];
  for (let y = 0; y < height; y += step)
    for (let x = 0; x < width; x += step) taken.push(data[y * width + x]);
  const levels = Uint16Array.from(taken).sort();
  const count = levels.length;
  const hundredth = Math.floor(count / 100);
  const [low, high] = [levels[hundredth], levels[count - 1 - hundredth]];
  const top = levels[count - 1];
  const lightest = levels.reduce((all, level) => all + (level === top ? 1 : 0), 0);
  let empty = 0;
  for (const ordered of [levels, levels.map((_, i) => top - levels[count - 1 - i])]) {
    const [first, last] = [ordered[0], ordered[count - 1 - Math.floor(count / 1000)]];
    const limit = Math.trunc(first + BACKGROUND * (last - first));
    const within = ordered.reduce((all, level) => all + (level <= limit ? 1 : 0), 0);
    empty = Math.max(empty, within);
  }
  const scale = highestLevel(levels) / 255;
  return { spread: (high - low) / scale, lightest: lightest / count, empty: empty / count };
}

// The lower of two classifiers' scores of two hands; above 0, both agree.
function pairScore(radiograph) {
  const cells = unit(gradientCells(radiograph, WINDOW_PIXELS));
  const pairScores = fourScores([cells], "pair")[0].map((score) => score - PAIR_SURE);
  const most = Math.max(...pairScores);
  if (most < 0) return most;
  const whole = Math.max(...handScores(radiograph));
  const scores = [];
  pairScores.forEach((score, turn) => {
    if (score < 0) return;
    const upright = turnedByQuarters(radiograph, turn);
    const { height, width } = upright;
    const middle = width >> 1;
    const halves = [
      [0, 0, middle, height],
      [middle, 0, width, height],
    ].map((box) => handScores(cut(upright, box))[0]);
    scores.push(Math.min(score, Math.min(...halves) - whole - HALVES_SURE));
  });
  return Math.max(...scores);
}

function handScores(radiograph) {
  return highestScores(fourScores(windowsOf(radiograph, [1.0, 1.25])[0], "window"));
}

// The higher of two scores of dense being bright; below 0, the image is inverted.
function polarityScore(radiograph, orientation) {
  const { height, width } = radiograph;
  const [left, top, right, bottom] = orientation.window;
  const window = cut(radiograph, [
    Math.trunc(left * width),
    Math.trunc(top * height),
    Math.min(width, Math.max(Math.trunc(right * width), 1)),
    Math.min(height, Math.max(Math.trunc(bottom * height), 1)),
  ]);
  const parts = [radiograph, Math.min(window.height, window.width) > 1 ? window : radiograph];
  const scores = parts.map((part) => {
    const bands = greyBands(turnedByQuarters(part, orientation.turn / 90));
    return bands.reduce((all, value, i) => all + value * polarityWeights[i], 0);
  });
  return Math.max(...scores) - INVERTED_SURE;
}

// The image with its grey levels inverted.
export function inverted({ height, width, data }) {
  const top = highestLevel(data);
  return image(height, width, data.map((level) => top - level));
}
