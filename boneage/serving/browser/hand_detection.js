// Where the hand is on a radiograph; see hand_detection.py.

import {
  aboveBackground, contact, contactStretches, exposedField, trimmed,
} from "./exposed_field.js";
import {
  angleOf, both, chosen, cut, distances, enclosed, erode, filled, hull, largest, like, mean,
  median3, opened, openedByDisk, padded, percentile, resize, round, shape, sum, unpadded, warp,
  without,
} from "./operations.js";

const WORKING_SIDE = 160;
const WRIST = 2.3;
const MARGIN = 0.09;
const BELOW = 0.5;
const AXES_APART = 20;
const SMALLEST_HAND = 0.03;

// The hand: {isFound, box, copy, mask, field, forearm, palm}. The box is all where none was found.
export function findHand(radiograph) {
  const { height, width } = radiograph;
  const copy = workingCopy(radiograph);
  const grey = asGrey(copy);
  const [mask, field] = silhouette(grey, canvas(copy));
  if (mask === null) {
    const none = like(grey, new Uint8Array(grey.data.length));
    const box = [0, 0, width, height];
    return { isFound: false, box, copy, mask: none, field, forearm: null, palm: null };
  }
  const palm = findPalm(mask);
  const forearm = findForearm(mask, field, palm);
  const box = boxOf(mask, palm, forearm, radiograph);
  return { isFound: true, box, copy, mask, field, forearm, palm };
}

// Degrees by which a counter-clockwise turn makes the hand parallel to a side; null if not clear.
export function slant(hand, aspect) {
  if (hand.palm === null) return null;
  const [x, y, radius] = hand.palm;
  const fingers = thinAlone(hand.mask, radius)
    .map(([column, row]) => [column - x, row - y])
    .filter(
      ([across, down]) =>
        Math.hypot(across, down) > radius &&
        (hand.forearm === null ||
          across * hand.forearm[0] + down * hand.forearm[1] < 0.3 * radius),
    );
  if (fingers.length <= 20) return null;
  const [across, down] = [0, 1].map((axis) => mean(fingers.map((point) => point[axis])));
  const towards = degrees(Math.atan2(across, -down * aspect));
  const [mu20, mu11, mu02] = centralMoments(hand.mask);
  const axis = -degrees(Math.atan2(2 * mu11 * aspect, mu02 * aspect ** 2 - mu20)) / 2;
  const apart = modulo(axis - towards + 90, 180) - 90;
  return Math.abs(apart) > AXES_APART ? null : modulo(axis + 45, 90) - 45;
}

function thinAlone(mask, radius) {
  return points(without(mask, opened(mask, 0.55 * radius)));
}

function centralMoments(mask) {
  const all = points(mask);
  const x = mean(all.map((point) => point[0]));
  const y = mean(all.map((point) => point[1]));
  return [
    sum(all.map((point) => (point[0] - x) ** 2)),
    sum(all.map((point) => (point[0] - x) * (point[1] - y))),
    sum(all.map((point) => (point[1] - y) ** 2)),
  ];
}

// The radiograph and the hand, turned about the centre, and the matrix to the larger canvas.
export function turned(radiograph, hand, angle, aspect) {
  const [picture, matrix] = rotated(radiograph, angle, aspect, "INTER_LANCZOS4");
  const [copy, small] = rotated(hand.copy, angle, aspect, "INTER_LINEAR");
  const [mask] = rotated(hand.mask, angle, aspect, "INTER_NEAREST");
  const [field] = rotated(hand.field, angle, aspect, "INTER_NEAREST");
  const forearm =
    hand.forearm &&
    unit(...small.map((row) => row[0] * hand.forearm[0] + row[1] * hand.forearm[1]));
  const [x, y, radius] = hand.palm;
  const palm = [...small.map((row) => row[0] * x + row[1] * y + row[2]), radius];
  const box = boxOf(mask, palm, forearm, picture);
  return [picture, { ...hand, box, copy, mask, field, forearm, palm }, matrix];
}

function rotated(image, angle, aspect, interpolation) {
  const { height, width } = image;
  const turn = (angle * Math.PI) / 180;
  const [cosine, sine] = [Math.cos(turn), Math.sin(turn)];
  const linear = [
    [cosine, sine * aspect],
    [-sine / aspect, cosine],
  ];
  const [across, down] = linear.map((row) =>
    Math.ceil(Math.abs(row[0]) * width + Math.abs(row[1]) * height),
  );
  const [x, y] = [(width - 1) / 2, (height - 1) / 2];
  const matrix = linear.map((row, index) => [
    ...row,
    ((index ? down : across) - 1) / 2 - (row[0] * x + row[1] * y),
  ]);
  return [warp(image, matrix, across, down, [interpolation]), matrix];
}

function boxOf(mask, palm, forearm, { height, width }) {
  const [left, top, right, bottom] = crop(mask, palm, forearm);
  const [x, y] = [width / mask.width, height / mask.height];
  return [
    Math.max(0, round(left * x)),
    Math.max(0, round(top * y)),
    Math.min(width, round(right * x)),
    Math.min(height, round(bottom * y)),
  ];
}

// The turned rectangle between corners of level 0, if it is one.
function canvas(copy) {
  const dark = like(copy, Uint8Array.from(copy.data, (value) => (value === 0 ? 1 : 0)));
  const inside = largest(enclosed(dark, 1));
  const share = mean(inside.data);
  if (!(share > 0.4 && share < 0.99) || shape(inside)[0] < 0.93) return null;
  if (Math.abs(modulo(angleOf(inside) + 45, 90) - 45) < 1) return null;
  return erode(hull(inside), 2);
}

function workingCopy(radiograph) {
  let { height, width } = radiograph;
  const scale = WORKING_SIDE / Math.max(height, width);
  if (scale >= 1) return radiograph;
  const size = [Math.max(8, round(width * scale)), Math.max(8, round(height * scale))];
  let copy = radiograph;
  while (width >= 4 * size[0] && height >= 4 * size[1]) {
    [width, height] = [width >> 1, height >> 1];
    copy = resize(cut(copy, [0, 0, 2 * width, 2 * height]), width, height);
  }
  return resize(copy, ...size);
}

function asGrey(copy) {
  let grey = copy;
  if (!(copy.data instanceof Uint8Array)) {
    const [low, high] = [0.5, 99.5].map((share) => percentile(copy.data, share));
    const factor = 255 / Math.max(1, high - low);
    const scaled = Uint8Array.from(copy.data, (value) => {
      const above = Math.fround(Math.fround(value - Math.fround(low)) * Math.fround(factor));
      return Math.min(255, Math.max(0, round(above)));
    });
    grey = like(copy, scaled);
  }
  return median3(grey);
}

// The silhouette, or null where nothing is like one, and the field that holds it.
function silhouette(grey, within) {
  const first = exposedField(grey, within);
  let field = first;
  let spare = null;
  let shrunk = 0;
  for (let attempt = 0; attempt < 5; attempt++) {
    const [above, noise] = aboveBackground(grey, field);
    const least = Math.max(4 * noise, 1.5);
    const bright = chosen(above, (i) => field.data[i] > 0 && above[i] > least);
    const typical = bright.length ? percentile(bright, 60) : 0;
    let threshold = Math.max(2.5 * noise, 0.14 * typical, 1.2);
    let nested = null;
    for (let step = 0; step < 4; step++) {
      const hot = like(grey, Uint8Array.from(above, (value) => (value > threshold ? 1 : 0)));
      const inner = trimmed(hot, field);
      const part = largest(openedByDisk(both(hot, inner), 1));
      const mask = filled(part);
      if (mean(mask.data) < SMALLEST_HAND) break;
      nested = nestedField(part, mask);
      if (nested !== null) break;
      const [share, stretches] = contact(mask, inner);
      if (share <= 0.25 || (share <= 0.33 && stretches <= 1)) return [mask, inner];
      if (spare === null && share <= 0.33) spare = [mask, inner];
      threshold *= 1.5;
    }
    if (nested === null) {
      if (spare !== null || shrunk === 2) break;
      shrunk += 1;
      nested = erode(field, 4);
    }
    if (mean(nested.data) < 0.1) break;
    field = nested;
  }
  return spare ?? [null, first];
}

function nestedField(part, mask) {
  if (mean(mask.data) <= 0.15) return null;
  if (sum(part.data) < 0.8 * sum(mask.data)) return erode(mask, 4);
  const [rectangle, solid] = shape(mask);
  return rectangle > 0.8 && solid > 0.9 ? erode(hull(mask), 4) : null;
}

// Centre and radius of the largest inscribed circle that is near the fingers.
function findPalm(mask) {
  const { width } = mask;
  const depth = unpadded(distances(padded(mask, 0))).data;
  let best = 0;
  for (let i = 1; i < depth.length; i++) if (depth[i] > depth[best]) best = i;
  const radius = depth[best];
  const thin = points(openedByDisk(without(mask, opened(mask, 0.55 * radius)), 1));
  if (thin.length > 0.5 * radius ** 2) {
    const [x, y] = [0, 1].map((axis) => mean(thin.map((point) => point[axis])));
    let most = -Infinity;
    for (let i = 0; i < depth.length; i++) {
      if (!(depth[i] > 0.5 * radius)) continue;
      const value = depth[i] - 0.1 * Math.hypot((i % width) - x, Math.floor(i / width) - y);
      if (value > most) [best, most] = [i, value];
    }
  }
  return [best % width, Math.floor(best / width), depth[best]];
}

// The direction of the silhouette's thick part, to where it leaves the field.
function findForearm(mask, field, [x, y, radius]) {
  const exits = contactStretches(mask, field, 0.6 * radius).map((each) =>
    [mean(each.map((point) => point[0])) - x, mean(each.map((point) => point[1])) - y],
  );
  if (!exits.length) return null;
  const far = points(opened(mask, 0.5 * radius))
    .map(([column, row]) => [column - x, row - y])
    .filter((point) => Math.hypot(...point) > 1.5 * radius);
  if (far.length > 0.15 * radius ** 2) {
    const along = unit(...[0, 1].map((axis) => mean(far.map((point) => point[axis]))));
    const agrees = (exit) => along[0] * unit(...exit)[0] + along[1] * unit(...exit)[1] > 0.5;
    if (exits.some(agrees)) return along;
  }
  return Math.hypot(...exits[0]) > radius ? unit(...exits[0]) : null;
}

// Left, top, right and bottom of the crop on the working copy, or beyond its border.
function crop(mask, [x, y, radius], forearm) {
  const outward = [-1, -1, 1, 1];
  const slack = Math.max(mask.height, mask.width) / WORKING_SIDE;
  const all = points(mask);
  const margin = new Array(4).fill(MARGIN * radius + slack);
  if (forearm === null) return bounds(all).map((side, i) => side + outward[i] * margin[i]);
  const isKept = ([column, row]) =>
    (column - x) * forearm[0] + (row - y) * forearm[1] <= WRIST * radius;
  const box = bounds(all.filter(isKept));
  const towards = [-forearm[0], -forearm[1], forearm[0], forearm[1]];
  return box.map((side, i) => {
    let away = margin[i];
    if (towards[i] < -0.7) away = slack;
    if (towards[i] > 0.7) away = BELOW * radius + slack;
    const end = side + outward[i] * away;
    if (!(towards[i] > 0.7)) return end;
    const wrist = [x, y, x, y][i] + outward[i] * (WRIST * radius + slack);
    return outward[i] * Math.max(outward[i] * side, Math.min(outward[i] * end, outward[i] * wrist));
  });
}

function bounds(all) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of all) {
    [left, top] = [Math.min(left, x), Math.min(top, y)];
    [right, bottom] = [Math.max(right, x + 1), Math.max(bottom, y + 1)];
  }
  return [left, top, right, bottom];
}

function points(mask) {
  const found = [];
  mask.data.forEach((value, i) => {
    if (value) found.push([i % mask.width, Math.floor(i / mask.width)]);
  });
  return found;
}

function unit(x, y) {
  const length = Math.max(1e-6, Math.hypot(x, y));
  return [x / length, y / length];
}

function degrees(radians) {
  return (radians * 180) / Math.PI;
}

function modulo(value, by) {
  return ((value % by) + by) % by;
}
