// Operations on images {height, width, data}: OpenCV's where its exact result counts, else plain ones.

let cv = null;
const kernels = new Map();

// Gives this module the library, once.
export function useOpenCV(library) {
  cv = library;
}

export function image(height, width, data) {
  return { height, width, data };
}

export function like(other, data) {
  return { height: other.height, width: other.width, data };
}

function toMat(from) {
  const { height, width, data } = from;
  const [type, view] =
    data instanceof Uint8Array
      ? [cv.CV_8UC1, "data"]
      : data instanceof Uint16Array
        ? [cv.CV_16UC1, "data16U"]
        : [cv.CV_32FC1, "data32F"];
  const mat = new cv.Mat(height, width, type);
  mat[view].set(data);
  return mat;
}

function fromMat(mat) {
  const depth = mat.type() & 7;
  const view = { 0: "data", 2: "data16U", 4: "data32S", 5: "data32F" }[depth];
  return image(mat.rows, mat.cols, mat[view].slice());
}

// Computes with OpenCV, and frees its memory.
function withOpenCV(from, compute) {
  const source = toMat(from);
  const out = new cv.Mat();
  try {
    compute(source, out);
    return fromMat(out);
  } finally {
    source.delete();
    out.delete();
  }
}

// A round structuring element of at least one pixel around the middle.
function disk(radius) {
  const side = 2 * Math.max(1, round(radius)) + 1;
  if (!kernels.has(side)) {
    const size = new cv.Size(side, side);
    kernels.set(side, cv.getStructuringElement(cv.MORPH_ELLIPSE, size));
  }
  return kernels.get(side);
}

// Erodes a mask, also at the border of the image.
export function erode(mask, radius) {
  const [middle, zero] = [new cv.Point(-1, -1), new cv.Scalar(0)];
  return withOpenCV(mask, (from, out) =>
    cv.erode(from, out, disk(radius), middle, 1, cv.BORDER_CONSTANT, zero),
  );
}

export function dilate(mask, radius) {
  return withOpenCV(mask, (from, out) => cv.dilate(from, out, disk(radius)));
}

// Removes what is thinner than a disk, by erosion and dilation.
export function openedByDisk(mask, radius) {
  return withOpenCV(mask, (from, out) => cv.morphologyEx(from, out, cv.MORPH_OPEN, disk(radius)));
}

// The distance to the nearest 0 in steps within 5 x 5 pixels: OpenCV's DIST_L2 with mask 5, float32.
export function distances(mask) {
  const { height, width } = mask;
  const wide = width + 4;
  const out = new Float32Array((height + 4) * wide).fill(1e9);
  const steps = [1, 1.4, 2.1969].map(Math.fround);
  const before = [
    [-1, steps[0]], [-wide - 1, steps[1]], [-wide, steps[0]], [-wide + 1, steps[1]],
    [-wide - 2, steps[2]], [-wide + 2, steps[2]], [-2 * wide - 1, steps[2]],
    [-2 * wide + 1, steps[2]],
  ];
  const visit = (y, x, sign) => {
    const at = (y + 2) * wide + x + 2;
    if (mask.data[y * width + x] === 0) out[at] = 0;
    else for (const [way, step] of before) out[at] = Math.min(out[at], out[at + sign * way] + step);
  };
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) visit(y, x, 1);
  for (let y = height - 1; y >= 0; y--) for (let x = width - 1; x >= 0; x--) visit(y, x, -1);
  return cut(image(height + 4, wide, out), [2, 2, width + 2, height + 2]);
}

// Removes what is thinner than a disk, by distances.
export function opened(mask, radius) {
  const inner = distances(mask).data;
  const outside = new Uint8Array(inner.length);
  let empty = true;
  for (let i = 0; i < inner.length; i++) {
    if (inner[i] > radius) empty = false;
    else outside[i] = 1;
  }
  if (empty) return like(mask, outside.fill(0));
  const away = distances(like(mask, outside)).data;
  return like(mask, mask.data.map((value, i) => (value > 0 && away[i] <= radius ? 1 : 0)));
}

export function components(mask, connectivity) {
  return withOpenCV(mask, (from, out) => cv.connectedComponents(from, out, connectivity)).data;
}

// The largest connected part of a mask; all zero if it is empty.
export function largest(mask) {
  const labels = components(mask, 4);
  const areas = countOf(labels);
  let best = 1;
  for (let label = 2; label < areas.length; label++) if (areas[label] > areas[best]) best = label;
  return like(mask, Uint8Array.from(labels, (label) => (label === best ? 1 : 0)));
}

export function countOf(labels) {
  const counts = [];
  for (const label of labels) counts[label] = (counts[label] ?? 0) + 1;
  return counts;
}

export function padded(from, value) {
  const [height, width] = [from.height + 2, from.width + 2];
  const data = new from.data.constructor(height * width).fill(value);
  for (let y = 0; y < from.height; y++) {
    const row = from.data.subarray(y * from.width, (y + 1) * from.width);
    data.set(row, (y + 1) * width + 1);
  }
  return image(height, width, data);
}

export function unpadded(from) {
  return cut(from, [1, 1, from.width - 1, from.height - 1]);
}

// What is not reached from outside through pixels of this value: 1, else 0.
export function enclosed(mask, through) {
  const { height, width, data } = padded(mask, through);
  const stack = [0];
  data[0] = 2;
  while (stack.length) {
    const at = stack.pop();
    const x = at % width;
    const next = [at - width, at + width, x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1];
    for (const each of next) {
      if (each >= 0 && each < data.length && data[each] === through) {
        data[each] = 2;
        stack.push(each);
      }
    }
  }
  return unpadded(image(height, width, data.map((value) => (value === 2 ? 0 : 1))));
}

export function filled(mask) {
  return enclosed(mask, 0);
}

// Calls `use` with a mask's largest outline and the convex hull of it.
function withOutline(mask, use) {
  const [source, levels] = [toMat(mask), new cv.Mat()];
  const [outlines, hull] = [new cv.MatVector(), new cv.Mat()];
  let outline = null;
  try {
    cv.findContours(source, outlines, levels, cv.RETR_EXTERNAL, cv.CHAIN_APPROX_NONE);
    let most = -1;
    for (let index = 0; index < outlines.size(); index++) {
      const each = outlines.get(index);
      const area = cv.contourArea(each);
      if (area > most) {
        outline?.delete();
        [outline, most] = [each, area];
      } else each.delete();
    }
    cv.convexHull(outline, hull);
    return use(outline, hull);
  } finally {
    for (const each of [source, levels, outlines, hull, outline]) each?.delete();
  }
}

// The convex hull of a mask's largest outline.
export function hull(mask) {
  return withOutline(mask, (outline, corners) => {
    const out = toMat(like(mask, new Uint8Array(mask.data.length)));
    cv.fillConvexPoly(out, corners, new cv.Scalar(1));
    const drawn = fromMat(out);
    out.delete();
    return drawn;
  });
}

// The shares of its smallest rectangle, and of its convex hull, that a mask fills.
export function shape(mask) {
  return withOutline(mask, (outline, corners) => {
    const { width, height } = cv.minAreaRect(outline).size;
    const area = sum(mask.data);
    return [area / ((width + 1) * (height + 1)), area / Math.max(1, cv.contourArea(corners))];
  });
}

// The angle of the smallest rectangle around all pixels of a mask, degrees.
export function angleOf(mask) {
  const points = [];
  mask.data.forEach((value, i) => {
    if (value) points.push(i % mask.width, Math.floor(i / mask.width));
  });
  const mat = cv.matFromArray(points.length / 2, 1, cv.CV_32SC2, points);
  const { angle } = cv.minAreaRect(mat);
  mat.delete();
  return angle;
}

export function median3(grey) {
  return withOpenCV(grey, (from, out) => cv.medianBlur(from, out, 3));
}

export function resize(from, width, height, isLinear = false) {
  const [size, way] = [new cv.Size(width, height), isLinear ? cv.INTER_LINEAR : cv.INTER_AREA];
  return withOpenCV(from, (source, out) => cv.resize(source, out, size, 0, 0, way));
}

// Moves the pixels of an image by a matrix [[a, b, c], [d, e, f]]; flags are names of OpenCV's.
export function warp(from, matrix, width, height, flags, border = "BORDER_CONSTANT") {
  const mat = cv.matFromArray(2, 3, cv.CV_64FC1, matrix.flat());
  const flag = flags.reduce((all, name) => all | cv[name], 0);
  const size = new cv.Size(width, height);
  try {
    return withOpenCV(from, (source, out) =>
      cv.warpAffine(source, out, mat, size, flag, cv[border], new cv.Scalar(0)),
    );
  } finally {
    mat.delete();
  }
}

// The derivative along x or y, float32.
export function sobel(from, isAcross) {
  const [across, down] = isAcross ? [1, 0] : [0, 1];
  return withOpenCV(from, (source, out) =>
    cv.Sobel(source, out, cv.CV_32F, across, down, 3, 1, 0, cv.BORDER_REPLICATE),
  );
}

export function boxBlur(from, side) {
  return withOpenCV(from, (source, out) => cv.blur(source, out, new cv.Size(side, side)));
}

// Everything below is plain arithmetic.

export function cut(from, [left, top, right, bottom]) {
  const [width, height] = [right - left, bottom - top];
  const data = new from.data.constructor(width * height);
  for (let y = 0; y < height; y++) {
    const start = (top + y) * from.width + left;
    data.set(from.data.subarray(start, start + width), y * width);
  }
  return image(height, width, data);
}

// Turns an image counter-clockwise by quarters, as numpy's rot90 does.
export function turnedByQuarters(from, quarters) {
  let out = from;
  for (let turn = 0; turn < ((quarters % 4) + 4) % 4; turn++) {
    const { height, width, data } = out;
    const next = new data.constructor(data.length);
    for (let y = 0; y < width; y++)
      for (let x = 0; x < height; x++) next[y * height + x] = data[x * width + width - 1 - y];
    out = image(width, height, next);
  }
  return out;
}

export function mirrored({ height, width, data }) {
  const out = new data.constructor(data.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) out[y * width + x] = data[(y + 1) * width - 1 - x];
  return image(height, width, out);
}

export function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

export function mean(values) {
  return sum(values) / values.length;
}

export function both(one, other) {
  return like(one, one.data.map((value, i) => value & other.data[i]));
}

export function without(one, other) {
  return like(one, one.data.map((value, i) => value & (1 - other.data[i])));
}

// Rounds as Python does: a half to the even number.
export function round(value) {
  const down = Math.floor(value);
  const rest = value - down;
  if (rest !== 0.5) return Math.round(value);
  return down % 2 === 0 ? down : down + 1;
}

function between(low, high, way) {
  return way >= 0.5 ? high - (high - low) * (1 - way) : low + (high - low) * way;
}

// A percentile of numbers in ascending order, as numpy computes it.
export function percentileOfSorted(sorted, share) {
  const position = (sorted.length - 1) * (share / 100);
  const before = Math.floor(position);
  const after = Math.min(before + 1, sorted.length - 1);
  return between(sorted[before], sorted[after], position - before);
}

export function percentile(values, share) {
  return percentileOfSorted(values.slice().sort(), share);
}

export function median(values) {
  const sorted = values.slice().sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// The numbers of an image where `keep` says so, in a typed array.
export function chosen(data, keep) {
  return data.filter((value, i) => keep(i));
}

export function histogram(grey, mask) {
  const counts = new Array(256).fill(0);
  grey.data.forEach((level, i) => {
    if (mask.data[i]) counts[level] += 1;
  });
  return counts;
}

export function minAndMax(data) {
  let [low, high] = [data[0], data[0]];
  for (const value of data) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}
