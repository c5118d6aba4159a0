// Frame a radiograph to one square of 8-bit grey levels; see framing.py.

import { findHand, slant, turned } from "./hand_detection.js";
import { finding } from "./image_quality.js";
import {
  chosen, cut, dilate, image, like, minAndMax, percentile, resize, round, turnedByQuarters, warp,
} from "./operations.js";
import { findOrientation } from "./orientation.js";

const LOW_RESOLUTION = 0.5;
const LOW_CONTRAST_LEVELS = 32;
const [CLIPPED_DARK, CLIPPED_BRIGHT] = [0.5, 0.02];
const SLANT = 15;

// The framed image: {pixels, box, rotation, isHand, gain, toRadiograph, clipped}.
export function frame(radiograph, framing) {
  const { height, width } = radiograph;
  const most = framing.source_pixels;
  const source =
    Math.max(height, width) <= most
      ? radiograph
      : resize(radiograph, Math.min(width, most), Math.min(height, most));
  const framed = frameSource(source, framing, width / height / (source.width / source.height));
  const [left, top, right, bottom] = framed.box;
  const box = [
    Math.floor((left * width) / source.width),
    Math.floor((top * height) / source.height),
    Math.ceil((right * width) / source.width),
    Math.ceil((bottom * height) / source.height),
  ];
  const scales = [width / source.width, height / source.height];
  const toRadiograph = framed.toRadiograph.map((row, i) => row.map((value) => value * scales[i]));
  return { ...framed, box, toRadiograph };
}

function frameSource(source, framing, widthOfPixel) {
  let [radiograph, hand, matrix] = [source, findHand(source), null];
  const clipped = clippedShares(hand);
  const aspect = 1 / widthOfPixel;
  let angle = round(slant(hand, aspect) ?? 0);
  if (Math.abs(angle) <= SLANT) angle = 0;
  if (angle) [radiograph, hand, matrix] = turned(source, hand, angle, aspect);
  const quarter = hand.isFound ? turnOf(hand) : 0;
  const [low, high] = levelsOf(radiograph, hand, framing.contrast_percentiles);
  let inner = scaled(radiograph, hand.box, framing.size, low, high);
  if (hand.isFound) {
    blackenUnexposed(inner, radiograph, hand);
    inner = turnedByQuarters(inner, quarter / 90);
  }
  let toRadiograph = fromFramed(hand.box, quarter, framing.size);
  let box = hand.box;
  if (matrix !== null) {
    const before = beforeTurn(matrix);
    toRadiograph = product(before, toRadiograph);
    box = boxBefore(box, before, source);
  }
  const gain = (stretch(low, high) * whiteOf(source)) / 255;
  const rotation = (((quarter + angle) % 360) + 360) % 360;
  return { pixels: inner, box, rotation, isHand: hand.isFound, gain, toRadiograph, clipped };
}

function fromFramed([left, top, right, bottom], quarter, size) {
  const corners = [
    [left, top],
    [left, bottom],
    [right, bottom],
    [right, top],
  ];
  const rolled = corners.map((_, i) => corners[(i + 4 - quarter / 90) % 4]);
  const [start, down, , across] = rolled;
  return [0, 1].map((axis) => [
    (across[axis] - start[axis]) / size,
    (down[axis] - start[axis]) / size,
    start[axis],
  ]);
}

// The matrix of positions from a turned canvas to the image.
function beforeTurn([[a, b, c], [d, e, f]]) {
  const area = a * e - b * d;
  const linear = [
    [e / area, -b / area],
    [-d / area, a / area],
  ];
  return linear.map(([x, y]) => [x, y, 0.5 - x * (c + 0.5) - y * (f + 0.5)]);
}

// The product of two matrices (2, 3), each with a third row of 0, 0, 1.
function product(one, other) {
  return one.map((row) =>
    [0, 1, 2].map((i) => row[0] * other[0][i] + row[1] * other[1][i] + (i === 2 ? row[2] : 0)),
  );
}

function boxBefore([left, top, right, bottom], before, { height, width }) {
  const corners = [left, right].flatMap((x) => [top, bottom].map((y) => [x, y]));
  const [across, down] = before.map((row) =>
    corners.map(([x, y]) => row[0] * x + row[1] * y + row[2]),
  );
  return [
    Math.floor(Math.max(Math.min(...across), 0)),
    Math.floor(Math.max(Math.min(...down), 0)),
    Math.ceil(Math.min(Math.max(...across), width)),
    Math.ceil(Math.min(Math.max(...down), height)),
  ];
}

// The largest value of a radiograph's depth, by its brightest pixel where unknown.
function whiteOf({ data }) {
  return data instanceof Uint8Array ? 255 : 2 ** (32 - Math.clz32(minAndMax(data)[1])) - 1;
}

function clippedShares(hand) {
  if (!hand.isFound) return [0, 0];
  const { mask, copy } = hand;
  const wide = dilate(mask, 2).data;
  const [low, high] = minAndMax(copy.data);
  const slack = (high - low) / 128;
  const around = chosen(copy.data, (i) => wide[i] > 0 && mask.data[i] === 0);
  const inside = chosen(copy.data, (i) => mask.data[i] > 0);
  const dark = around.filter((level) => level <= low + slack / 2).length;
  const bright = inside.filter((level) => level >= high - slack).length;
  return [around.length ? dark / around.length : 0, bright / inside.length];
}

// Degrees, counter-clockwise, that put the forearm below the fingers.
function turnOf(hand) {
  if (hand.forearm === null) return 0;
  const [x, y] = hand.forearm;
  const isUpright = Math.abs(y) >= Math.abs(x);
  const turn = isUpright ? (y > 0 ? 0 : 180) : x < 0 ? 90 : 270;
  return turn && findOrientation(hand.copy).turn === turn ? turn : 0;
}

function levelsOf(radiograph, hand, shares) {
  if (!hand.isFound) return radiographLevels(radiograph, shares);
  const { copy } = hand;
  const [y, x] = [copy.height / radiograph.height, copy.width / radiograph.width];
  const [left, top, right, bottom] = hand.box;
  const part = [
    Math.trunc(left * x),
    Math.trunc(top * y),
    Math.min(copy.width, round(right * x) || 1),
    Math.min(copy.height, round(bottom * y) || 1),
  ];
  const [levels, field, mask] = [copy, hand.field, hand.mask].map((each) => cut(each, part).data);
  const exposed = chosen(levels, (i) => field[i] > 0);
  const silhouette = chosen(levels, (i) => mask[i] > 0);
  const low = exposed.length ? percentile(exposed, shares[0]) : 0;
  return [low, percentile(silhouette, shares[1])];
}

function radiographLevels({ data }, shares) {
  const counts = new Array(data instanceof Uint8Array ? 256 : 65536).fill(0);
  for (const level of data) counts[level] += 1;
  return shares.map((share) => {
    const wanted = Math.max((share / 100) * data.length, 1);
    let upTo = 0;
    return counts.findIndex((count) => (upTo += count) >= wanted);
  });
}

// Resizes the part in the box to a square, and stretches its contrast.
function scaled(radiograph, box, size, low, high) {
  let part = cut(radiograph, box);
  const isFine = part.data instanceof Uint8Array;
  if (isFine) part = like(part, Uint16Array.from(part.data, (level) => level << 8));
  const [width, height] = [Math.min(size, part.width), Math.min(size, part.height)];
  if (width !== part.width || height !== part.height) part = resize(part, width, height);
  if (width !== size || height !== size) part = resize(part, size, size, true);
  const [black, factor] = [Math.fround(low), Math.fround(stretch(low, high))];
  const pixels = Uint8Array.from(part.data, (value) => {
    const above = Math.max(Math.fround((isFine ? value / 256 : value) - black), 0);
    return Math.min(255, round(Math.fround(above * factor)));
  });
  return image(size, size, pixels);
}

function stretch(low, high) {
  return 255 / Math.max(1, high - low);
}

// Makes black, in place, what is neither in the exposed field nor near the hand.
function blackenUnexposed(inner, radiograph, hand) {
  if (hand.field.data.every((value) => value > 0)) return;
  const [field, mask] = [dilate(hand.field, 2).data, dilate(hand.mask, 4)];
  const keep = like(mask, mask.data.map((value, i) => value | field[i]));
  const [left, top, right, bottom] = hand.box;
  const [across, down] = [keep.width / radiograph.width, keep.height / radiograph.height];
  const matrix = [
    [((right - left) / inner.width) * across, 0, left * across],
    [0, ((bottom - top) / inner.height) * down, top * down],
  ];
  const flags = ["INTER_NEAREST", "WARP_INVERSE_MAP"];
  const kept = warp(keep, matrix, inner.width, inner.height, flags, "BORDER_REPLICATE");
  kept.data.forEach((value, i) => {
    if (value === 0) inner.data[i] = 0;
  });
}

// What is doubtful about the part of an image that was framed.
export function framingFindings(framed) {
  const findings = [];
  if (!framed.isHand) {
    const what = "no hand stands out from its background, so all of it is used";
    findings.push(finding("no-hand", what, "Check the image. Is it a radiograph of one hand?"));
  }
  const [left, top, right, bottom] = framed.box;
  const [width, height, size] = [right - left, bottom - top, framed.pixels.width];
  if (Math.max(width, height) < LOW_RESOLUTION * size) {
    const what = `the hand has only ${width} x ${height} pixels, enlarged to ${size} x ${size}`;
    findings.push(finding("low-resolution", what, "Use the original image."));
  }
  if (framed.rotation) {
    const isClockwise = framed.rotation > 180;
    const angle = isClockwise ? 360 - framed.rotation : framed.rotation;
    const way = `${isClockwise ? "" : "counter-"}clockwise`;
    const what = `the hand was turned by ${angle} degrees ${way}, to put it upright`;
    findings.push(finding("rotated", what, "Check the image.", true));
  }
  return [...findings, ...exposureFindings(framed)];
}

function exposureFindings(framed) {
  const findings = [];
  const fix = "Check the image. Export it again with its full range.";
  if (framed.isHand && framed.gain > 255 / LOW_CONTRAST_LEVELS) {
    const what = `the hand spans only ${round(255 / framed.gain)} of 255 grey levels`;
    findings.push(finding("low-contrast", what, fix));
  }
  const [dark, bright] = framed.clipped;
  if (dark > CLIPPED_DARK) {
    const what = "the edge of the hand may be lost: all around it is black";
    findings.push(finding("too-dark", what, fix));
  }
  if (bright > CLIPPED_BRIGHT) {
    const share = `${round(100 * bright)} % of the hand`;
    const what = `${share} is as bright as the image can be, so bone is lost there`;
    findings.push(finding("too-bright", what, fix));
  }
  return findings;
}
