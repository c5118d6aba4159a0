// The orientation of the hand on a radiograph; see orientation.py.

import { boxBlur, image, mean, resize, round, sobel } from "./operations.js";

const CELLS = 8;
const DIRECTIONS = 8;
const CELL_PIXELS = 6;
export const WINDOW_PIXELS = CELLS * CELL_PIXELS;
const RATIOS = [1.0, 1.25, 1.56, 1.95, 2.44];
const SURE = 1.0;
const WORKING_PIXELS = 256;
const WINDOW_WEIGHT = 2.0;
const FAINTEST = 1e-3;

let classifiers = null;

// Gives this module the fitted classifiers: {whole, window, pair: {template, bias}}.
export function useClassifiers(fitted) {
  classifiers = Object.fromEntries(
    Object.entries(fitted).map(([name, { template, bias }]) => {
      const columns = [0, 1, 2, 3].map((quarters) => turnedCells(template, (4 - quarters) % 4));
      return [name, { columns, bias }];
    }),
  );
}

function turnedCells(template, quarters) {
  let cells = template;
  for (let turn = 0; turn < quarters; turn++) {
    const next = new Float32Array(cells.length);
    for (let y = 0; y < CELLS; y++)
      for (let x = 0; x < CELLS; x++)
        for (let direction = 0; direction < DIRECTIONS; direction++) {
          const to = (direction + DIRECTIONS / 2) % DIRECTIONS;
          const from = (x * CELLS + CELLS - 1 - y) * DIRECTIONS + direction;
          next[(y * CELLS + x) * DIRECTIONS + to] = cells[from];
        }
    cells = next;
  }
  return cells;
}

// The turn, counter-clockwise, that puts the hand upright; its confidence; the window of the hand.
export function findOrientation(radiograph) {
  const small = shrunk(radiograph);
  const whole = fourScores([unit(gradientCells(small, WINDOW_PIXELS))], "whole")[0];
  const [windows, positions] = windowsOf(small, RATIOS);
  const scores = fourScores(windows, "window");
  let best = 0;
  scores.forEach((each, i) => {
    if (Math.max(...each) > Math.max(...scores[best])) best = i;
  });
  const seen = highestScores(scores);
  const together = whole.map((score, i) => score + WINDOW_WEIGHT * seen[i]);
  const turn = together.indexOf(Math.max(...together));
  const confidence = Math.min(lead(whole, turn), WINDOW_WEIGHT * lead(seen, turn));
  const [left, top, side] = positions[best];
  const isTurned = turn !== 0 && confidence > SURE;
  return { turn: 90 * turn, confidence, isTurned, window: [left, top, left + side, top + side] };
}

// A radiograph as float32, its long side at most 256 pixels.
export function shrunk(radiograph) {
  const { height, width } = radiograph;
  const scale = WORKING_PIXELS / Math.max(height, width);
  let small = radiograph;
  if (scale < 1) {
    const size = [width, height].map((side) => Math.max(1, round(side * scale)));
    small = resize(radiograph, ...size);
  }
  return image(small.height, small.width, Float32Array.from(small.data));
}

// The strengths of the edges of a radiograph, by cell and direction.
export function gradientCells(radiograph, side) {
  const isShrinking = Math.max(radiograph.height, radiograph.width) >= side;
  const square = resize(radiograph, side, side, !isShrinking);
  const [dx, dy] = [sobel(square, true).data, sobel(square, false).data];
  const strength = dx.map((across, i) => Math.hypot(across, dy[i]));
  const around = boxBlur(image(side, side, strength), (WINDOW_PIXELS >> 2) + 1).data;
  const floor = 0.3 * mean(around) + FAINTEST;
  const count = side / CELL_PIXELS;
  const cells = new Float32Array(count * count * DIRECTIONS);
  const angles = Array.from({ length: DIRECTIONS }, (_, i) => (2 * Math.PI * i) / DIRECTIONS);
  const turns = angles.map((angle) => [Math.cos(angle), Math.sin(angle)]);
  for (let i = 0; i < dx.length; i++) {
    const scale = 1 / (around[i] + floor) / (strength[i] + FAINTEST);
    const cosine = (dx[i] * dx[i] - dy[i] * dy[i]) * scale;
    const sine = 2 * dx[i] * dy[i] * scale;
    const row = Math.floor(Math.floor(i / side) / CELL_PIXELS);
    const cell = row * count + Math.floor((i % side) / CELL_PIXELS);
    turns.forEach(([x, y], direction) => {
      cells[cell * DIRECTIONS + direction] += Math.max(cosine * x + sine * y, 0);
    });
  }
  return cells.map((value) => Math.sqrt(value / CELL_PIXELS ** 2));
}

export function unit(cells) {
  const norm = Math.hypot(...cells) + 1e-6;
  return cells.map((value) => value / norm);
}

// Every square window of a radiograph, in steps of one cell, at several scales.
export function windowsOf(radiograph, ratios) {
  const [windows, positions] = [[], []];
  for (const ratio of ratios) {
    const side = round((WINDOW_PIXELS * ratio) / CELL_PIXELS) * CELL_PIXELS;
    const cells = gradientCells(radiograph, side);
    const count = side / CELL_PIXELS;
    for (let top = 0; top + CELLS <= count; top++)
      for (let left = 0; left + CELLS <= count; left++) {
        const window = new Float32Array(CELLS * CELLS * DIRECTIONS);
        for (let y = 0; y < CELLS; y++) {
          const start = ((top + y) * count + left) * DIRECTIONS;
          const row = cells.subarray(start, start + CELLS * DIRECTIONS);
          window.set(row, y * CELLS * DIRECTIONS);
        }
        windows.push(unit(window));
        positions.push([left / count, top / count, CELLS / count].map(Math.fround));
      }
  }
  return [windows, positions];
}

// A classifier's score of each window, turned by 0 to 3 quarters.
export function fourScores(windows, name) {
  const { columns, bias } = classifiers[name];
  return windows.map((window) =>
    columns.map((column) => {
      let score = 0;
      for (let i = 0; i < window.length; i++) score += window[i] * column[i];
      return score + bias;
    }),
  );
}

export function highestScores(scores) {
  return [0, 1, 2, 3].map((turn) => Math.max(...scores.map((each) => each[turn])));
}

function lead(scores, turn) {
  return scores[turn] - Math.max(...scores.filter((_, i) => i !== turn));
}
