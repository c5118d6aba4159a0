// What the page shows besides the answer; see answering.py.

import { nearestStandards } from "./answers.js";
import { highestLevel } from "./image_quality.js";
import { image, percentileOfSorted, resize, round } from "./operations.js";

const LONG_SIDE = 1024;
const CUT_OFF = [0.05, 99.95];

// The key `page` of an answer.
export async function pageOf(radiograph, seen, atlasAges) {
  const { height, width } = radiograph;
  return {
    header: { is_dicom: false, sex: null, chronological_age_months: null, laterality: "" },
    radiograph: { png: await png(eightBits(shownLevels(radiograph, seen))), width, height },
    framed: seen.framed === null ? null : await png(seen.framed.pixels),
    outline: seen.framed === null ? null : outlineOf(seen, width, height),
    atlas_ages: Object.fromEntries(
      Object.entries(seen.estimates ?? {}).map(([sex, each]) => [
        sex,
        nearestStandards(each.predicted_age_months, atlasAges[sex]),
      ]),
    ),
  };
}

// The radiograph, inverted if the answer is for inverted levels.
function shownLevels(radiograph, seen) {
  const isInverted = seen.findings.some((each) => each.what.startsWith("the grey levels were"));
  if (!isInverted) return radiograph;
  const top = highestLevel(radiograph.data);
  const data = radiograph.data.map((level) => top - level);
  return image(radiograph.height, radiograph.width, data);
}

function outlineOf({ framed, part }, width, height) {
  const size = framed.pixels.width;
  const corners = [
    [0, 0],
    [size, 0],
    [size, size],
    [0, size],
  ];
  const [across, down] = framed.toRadiograph;
  return corners.map(([x, y]) => [
    (across[0] * x + across[1] * y + across[2] + part[0]) / width,
    (down[0] * x + down[1] * y + down[2] + part[1]) / height,
  ]);
}

// A radiograph of at most `LONG_SIDE` pixels, with all of its grey levels in 8 bits.
function eightBits(radiograph) {
  const { height, width } = radiograph;
  const scale = LONG_SIDE / Math.max(height, width);
  const sides = [width, height].map((side) => Math.max(1, round(side * scale)));
  const small = scale < 1 ? resize(radiograph, ...sides) : radiograph;
  if (small.data instanceof Uint8Array) return small;
  const sorted = small.data.slice().sort();
  const [low, high] = CUT_OFF.map((share) => percentileOfSorted(sorted, share));
  const factor = 255 / Math.max(high - low, 1);
  const grey = Uint8Array.from(small.data, (level) =>
    round(Math.min(255, Math.max(0, (level - low) * factor))),
  );
  return image(small.height, small.width, grey);
}

async function png({ height, width, data }) {
  const pixels = new ImageData(width, height);
  data.forEach((level, i) => pixels.data.set([level, level, level, 255], 4 * i));
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const bytes = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192)
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
