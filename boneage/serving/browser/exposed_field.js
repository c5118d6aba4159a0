// The exposed part of a radiograph, without collimators, frames and shading; see exposed_field.py.

import {
  both, components, countOf, erode, filled, histogram, hull, image, largest, like, mean, median,
  openedByDisk, round, shape, sum, dilate, without,
} from "./operations.js";

const MOST_TRIMMED = 0.12;
const PEELINGS = 3;
const SMALLEST_FIELD = 0.1;
const RING_SHARE = 0.5;
const TOLERANCE = 0.05;
const SAMPLES = 1500;
const NOISE_AT_LEAST = 0.35;

export function exposedField(grey, within) {
  let field = within ?? like(grey, new Uint8Array(grey.data.length).fill(1));
  for (let peeling = 0; peeling < PEELINGS; peeling++) {
    const ring = without(field, erode(field, 3));
    if (sum(ring.data) < 20) break;
    const [low, high] = percentiles(grey, field, [2, 90]);
    const tolerance = Math.max(1, round(TOLERANCE * (high - low)));
    const [level, share] = commonest(grey, ring, tolerance);
    if (share < RING_SHARE) break;
    const reach = 2 * tolerance + 1;
    const near = like(
      grey,
      grey.data.map((value, i) => (Math.abs(value - level) <= reach ? field.data[i] : 0)),
    );
    const labels = components(near, 4);
    const margin = new Set();
    ring.data.forEach((value, i) => value && labels[i] && margin.add(labels[i]));
    const inside = field.data.map((value, i) => (margin.has(labels[i]) ? 0 : value));
    let rest = filled(largest(like(field, inside)));
    rest = largest(openedByDisk(rest, 3));
    if (mean(rest.data) < SMALLEST_FIELD || sum(rest.data) > 0.97 * sum(field.data)) break;
    if (!isField(rest)) break;
    field = erode(hull(rest), 2);
  }
  return field;
}

// Cuts off the field's sides the lines that are bright all over.
export function trimmed(bright, field) {
  const { height, width } = field;
  const lit = both(bright, field);
  const out = image(height, width, new Uint8Array(height * width));
  const [rows, columns] = [sums(field, false), sums(field, true)];
  if (!sum(rows)) return out;
  const [top, bottom] = trim(sums(lit, false), rows);
  const [left, right] = trim(sums(lit, true), columns);
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++) out.data[y * width + x] = field.data[y * width + x];
  return out;
}

function sums({ height, width, data }, isOfColumns) {
  const out = new Array(isOfColumns ? width : height).fill(0);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) out[isOfColumns ? x : y] += data[y * width + x];
  return out;
}

function trim(bright, total) {
  const start = total.findIndex((count) => count > 0);
  const end = total.findLastIndex((count) => count > 0) + 1;
  const most = Math.trunc(MOST_TRIMMED * (end - start));
  let [first, last] = [start, end];
  while (first < start + most && bright[first] > 0.8 * total[first]) first += 1;
  while (last > end - most && bright[last - 1] > 0.8 * total[last - 1]) last -= 1;
  return [first, last];
}

// The share of the field's edge that a mask meets, and the number of long stretches.
export function contact(mask, field) {
  const total = Math.max(1, sum(edge(field).data));
  const lengths = contactStretches(mask, field).map((points) => points.length / total);
  return [sum(lengths), lengths.filter((length) => length > 0.06).length];
}

// Points [x, y] of each stretch of the field's edge in a mask, the longest first.
export function contactStretches(mask, field, atLeast = 0) {
  const touching = both(edge(field), mask);
  const labels = components(dilate(touching, 1), 8);
  const stretches = [];
  touching.data.forEach((value, i) => {
    if (value) (stretches[labels[i]] ??= []).push([i % mask.width, Math.floor(i / mask.width)]);
  });
  return stretches
    .filter((points) => points.length >= 2 * atLeast)
    .sort((one, other) => other.length - one.length);
}

function edge(field) {
  return without(field, erode(field, 2));
}

// Subtracts the background, a quadratic surface; also gives the standard deviation of its noise.
export function aboveBackground(grey, field) {
  const { height, width } = grey;
  const values = Float64Array.from(grey.data);
  const ring = without(field, erode(field, 6));
  const [low, high] = percentiles(grey, field, [5, 90]);
  const tolerance = Math.max(1, round(TOLERANCE * (high - low)));
  const [level] = commonest(grey, ring, tolerance);
  let above = values.map((value) => value - level);
  let noise = 1;
  let background = (i) => ring.data[i] > 0 && Math.abs(above[i]) <= 2 * tolerance + 1;
  const terms = quadraticTerms(height, width);
  for (let step = 0; step < 4; step++) {
    const all = [];
    for (let i = 0; i < values.length; i++) if (background(i)) all.push(i);
    if (all.length < 60) break;
    const stride = Math.floor(all.length / SAMPLES) + 1;
    const samples = all.filter((_, order) => order % stride === 0);
    const weights = fitted(terms, samples, values);
    if (weights === null) break;
    above = new Float64Array(values.length);
    for (let i = 0; i < values.length; i++) {
      let surface = 0;
      for (let term = 0; term < 6; term++) surface += terms[6 * i + term] * weights[term];
      above[i] = values[i] - surface;
    }
    const residual = Float64Array.from(samples, (i) => above[i]);
    const middle = median(residual);
    const spread = 1.4826 * median(residual.map((value) => Math.abs(value - middle)));
    noise = Math.min(Math.max(NOISE_AT_LEAST, spread), tolerance + 0.5);
    const [surface, limit] = [above, Math.max(3 * noise, 1)];
    background = (i) => field.data[i] > 0 && Math.abs(surface[i]) <= limit;
  }
  return [Float32Array.from(above), noise];
}

// Weights of the terms, by least squares. A little stiffness keeps the surface flat.
function fitted(terms, samples, values) {
  const matrix = Array.from({ length: 6 }, () => new Array(7).fill(0));
  for (const i of samples)
    for (let row = 0; row < 6; row++) {
      const term = terms[6 * i + row];
      for (let column = 0; column < 6; column++) matrix[row][column] += term * terms[6 * i + column];
      matrix[row][6] += term * values[i];
    }
  for (let row = 3; row < 6; row++) matrix[row][row] += samples.length * 7.5e-4;
  return solved(matrix);
}

// The solution of linear equations, or null.
function solved(matrix) {
  const count = matrix.length;
  for (let column = 0; column < count; column++) {
    let pivot = column;
    for (let row = column + 1; row < count; row++)
      if (Math.abs(matrix[row][column]) > Math.abs(matrix[pivot][column])) pivot = row;
    if (matrix[pivot][column] === 0) return null;
    [matrix[column], matrix[pivot]] = [matrix[pivot], matrix[column]];
    for (let row = 0; row < count; row++) {
      if (row === column) continue;
      const factor = matrix[row][column] / matrix[column][column];
      for (let each = column; each <= count; each++)
        matrix[row][each] -= factor * matrix[column][each];
    }
  }
  return matrix.map((row, index) => row[count] / row[index]);
}

function quadraticTerms(height, width) {
  const terms = new Float64Array(6 * height * width);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const y = row / height - 0.5;
      const x = column / width - 0.5;
      terms.set([1, x, y, x * x, x * y, y * y], 6 * (row * width + column));
    }
  return terms;
}

// The grey level within whose tolerance most of a mask lies, and that share.
export function commonest(grey, mask, tolerance) {
  const counts = histogram(grey, mask);
  let [best, most] = [0, -1];
  for (let level = 0; level < 256; level++) {
    let near = 0;
    for (let each = level - tolerance; each <= level + tolerance; each++) near += counts[each] ?? 0;
    if (near > most) [best, most] = [level, near];
  }
  return [best, most / Math.max(1, sum(counts))];
}

export function percentiles(grey, mask, shares) {
  const counts = histogram(grey, mask);
  const total = sum(counts);
  const levelAt = (rank) => {
    let upTo = 0;
    for (let level = 0; level < 256; level++) {
      upTo += counts[level];
      if (upTo > rank) return level;
    }
    return 256;
  };
  return shares.map((share) => {
    const position = (total - 1) * (share / 100);
    const before = Math.trunc(position);
    const way = position - before;
    const low = levelAt(before);
    const after = levelAt(before + 1);
    const high = after > 255 ? low : after;
    return way >= 0.5 ? high - (high - low) * (1 - way) : low + (high - low) * way;
  });
}

function isField(mask) {
  const [rectangle, solid] = shape(mask);
  return (
    rectangle > 0.86 ||
    (rectangle / solid > 0.88 && solid > 0.85) ||
    (solid > 0.95 && mean(mask.data) > 0.25)
  );
}
