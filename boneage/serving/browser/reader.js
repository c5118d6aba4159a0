// PNG and JPEG files, decoded to grey levels of 8 or 16 bits.

import { Refused } from "./answers.js";
import { image } from "./operations.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const SAVE_AS_PNG = "Save it as a grey PNG of 8 or 16 bits, with one image in the file.";
const DAMAGED = "the file is truncated or damaged. Download or export it again.";

// Decodes a file, or throws `Refused` with the reason.
export async function readRadiograph(bytes, limits) {
  if (SIGNATURE.every((value, i) => bytes[i] === value)) return readPng(bytes, limits);
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) {
    if (!hasEnd(bytes)) throw new Refused(DAMAGED);
    return readWithBrowser(bytes, "image/jpeg", limits);
  }
  const isDicom = String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
  if (isDicom) {
    throw new Refused("this page reads no DICOM. Save a PNG, or use the command boneage serve.");
  }
  throw new Refused(`this page reads PNG and JPEG only. ${SAVE_AS_PNG}`);
}

// Whether a JPEG file has the marker of its end.
function hasEnd(bytes) {
  for (let i = bytes.length - 2; i > 2; i--)
    if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return true;
  return false;
}

function checkSize(width, height, { smallest_side: least, largest_side: most, largest_pixels: all }) {
  const isUsable = Math.min(width, height) >= least && Math.max(width, height) <= most;
  if (isUsable && width * height <= all) return;
  throw new Refused(`the image has ${width} x ${height} pixels. Sides have ${least} to ${most}.`);
}

async function readPng(bytes, limits) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [data, kinds] = [[], []];
  for (let at = 8; at < bytes.length; ) {
    if (at + 12 > bytes.length) throw new Refused(DAMAGED);
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw new Refused(DAMAGED);
    kinds.push(kind);
    if (kind === "IDAT") data.push(bytes.subarray(at + 8, at + 8 + length));
    if (kind === "IEND") break;
    at += 12 + length;
  }
  if (kinds[0] !== "IHDR" || kinds.at(-1) !== "IEND") throw new Refused(DAMAGED);
  if (kinds.includes("acTL")) throw new Refused(`the file is an animation. ${SAVE_AS_PNG}`);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, colour, , , interlace] = bytes.subarray(24, 29);
  checkSize(width, height, limits);
  const channels = { 0: 1, 2: 3, 4: 2, 6: 4 }[colour];
  const isPlain = channels && bits >= 8 && !interlace && !kinds.includes("eXIf");
  if (!isPlain && bits === 16) throw new Refused(`the PNG is interlaced. ${SAVE_AS_PNG}`);
  if (!isPlain) return readWithBrowser(bytes, "image/png", limits);
  const pixelBytes = (channels * bits) / 8;
  const rows = unfiltered(await inflated(data), width * pixelBytes, height, pixelBytes);
  return image(height, width, greyOf(rows, width * height, channels, bits));
}

async function inflated(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Refused(DAMAGED);
  }
}

// Undoes the filters of PNG (ISO/IEC 15948, section 9).
function unfiltered(packed, rowBytes, height, pixelBytes) {
  if (packed.length !== (rowBytes + 1) * height) throw new Refused(DAMAGED);
  const out = new Uint8Array(rowBytes * height);
  for (let y = 0; y < height; y++) {
    const [filter, from, to] = [packed[y * (rowBytes + 1)], y * (rowBytes + 1) + 1, y * rowBytes];
    if (filter > 4) throw new Refused(DAMAGED);
    for (let x = 0; x < rowBytes; x++) {
      const left = x >= pixelBytes ? out[to + x - pixelBytes] : 0;
      const up = y ? out[to + x - rowBytes] : 0;
      const corner = y && x >= pixelBytes ? out[to + x - rowBytes - pixelBytes] : 0;
      const guess =
        filter === 1 ? left
        : filter === 2 ? up
        : filter === 3 ? (left + up) >> 1
        : filter === 4 ? paeth(left, up, corner)
        : 0;
      out[to + x] = packed[from + x] + guess;
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const [a, b, c] = [up - corner, left - corner, left + up - 2 * corner].map(Math.abs);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function greyOf(rows, count, channels, bits) {
  const isDeep = bits === 16;
  const sample = isDeep ? (i) => (rows[2 * i] << 8) | rows[2 * i + 1] : (i) => rows[i];
  const out = isDeep ? new Uint16Array(count) : new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const at = i * channels;
    const colour = channels > 2 ? [sample(at), sample(at + 1), sample(at + 2)] : [];
    out[i] = channels > 2 ? luma(...colour, isDeep ? 0.5 : 0) : sample(at);
  }
  return out;
}

// Grey as libpng makes it: it cuts 8 bits off, and rounds 16.
function luma(red, green, blue, rounding = 0) {
  return Math.floor((9797 * red + 19234 * green + 3737 * blue) / 32768 + rounding);
}

async function readWithBrowser(bytes, type, limits) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes], { type }), {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new Refused(DAMAGED);
  }
  const { width, height } = bitmap;
  checkSize(width, height, limits);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const out = new Uint8Array(width * height);
  for (let i = 0; i < out.length; i++)
    out[i] = luma(data[4 * i], data[4 * i + 1], data[4 * i + 2], 0.5);
  return image(height, width, out);
}
