// One radiograph on a canvas: zoom, pan, windowing, the outline of the crop and the heat map.

const OLDER = [255, 150, 30]; // orange and blue, for any colour vision
const YOUNGER = [60, 150, 255];
const MOST_ZOOM = 12;

/** A canvas with its buttons and sliders, made from the template in a figure. */
export class Viewer {
  constructor(name) {
    const figure = document.getElementById(name);
    figure.append(document.getElementById("viewer-template").content.cloneNode(true));
    for (const node of figure.querySelectorAll("[data-part]")) {
      node.id = `${name}-${node.dataset.part}`;
    }
    for (const node of figure.querySelectorAll("label")) {
      node.htmlFor = `${name}-${node.dataset.for}`;
    }
    const part = (each) => figure.querySelector(`[data-part="${each}"]`);
    this.canvas = part("canvas");
    this.level = part("level");
    this.width = part("width");
    this.canvas.setAttribute("aria-labelledby", `${name}-caption`);
    part("zoom-in").addEventListener("click", () => this.zoomBy(1.4));
    part("zoom-out").addEventListener("click", () => this.zoomBy(1 / 1.4));
    part("reset").addEventListener("click", () => this.reset());
    for (const slider of [this.level, this.width]) {
      slider.addEventListener("input", () => this.paint());
    }
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.clear();
  }

  /** Show nothing. */
  clear() {
    this.source = this.grey = this.heat = this.outline = null;
    this.opacity = 0;
    this.zoom = 1;
    this.shown = (this.shown ?? 0) + 1; // a picture that is still being decoded is not shown
    this.draw();
  }

  /** Show a grey PNG in base64. `outline`: corners of the crop, as shares of width and height. */
  async show(png, {outline = null, stretch = false} = {}) {
    this.clear();
    const turn = this.shown;
    const pixels = await decode(png);
    if (turn !== this.shown) return;
    this.source = pixels;
    this.outline = outline;
    this.first = stretch ? usedLevels(pixels) : [128, 256];
    this.reset();
  }

  /** Lay a heat map over the picture: a grey PNG in base64, where 128 is no effect. */
  async showHeat(png, opacity) {
    const turn = this.shown;
    const pixels = await decode(png);
    if (turn !== this.shown) return;
    for (let at = 0; at < pixels.data.length; at += 4) {
      const share = (pixels.data[at] - 128) / 127;
      pixels.data.set(share > 0 ? OLDER : YOUNGER, at);
      pixels.data[at + 3] = Math.min(255, 255 * Math.abs(share));
    }
    this.heat = canvasOf(pixels);
    this.setOpacity(opacity);
  }

  /** Draw the heat map with an opacity from 0 to 1. */
  setOpacity(opacity) {
    this.opacity = opacity;
    this.draw();
  }

  /** Show the whole picture in its first window. */
  reset() {
    if (!this.source) return;
    [this.level.value, this.width.value] = this.first;
    this.zoom = 1;
    this.centre = [this.source.width / 2, this.source.height / 2];
    this.paint();
  }

  /** Zoom, and keep a point of the canvas where it is; by default its middle. */
  zoomBy(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    if (!this.source) return;
    const before = this.#scale();
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    const change = 1 / before - 1 / this.#scale();
    this.centre[0] += (x - this.canvas.width / 2) * change;
    this.centre[1] += (y - this.canvas.height / 2) * change;
    this.draw();
  }

  /** Move the picture by pixels of the canvas. */
  panBy(x, y) {
    if (!this.source) return;
    this.centre[0] -= x / this.#scale();
    this.centre[1] -= y / this.#scale();
    this.draw();
  }

  /** Change level and width of the window. */
  windowBy(level, width) {
    this.level.value = Number(this.level.value) + level;
    this.width.value = Number(this.width.value) + width;
    this.paint();
  }

  /** Map the grey levels through the window, and draw. */
  paint() {
    if (!this.source) return;
    const width = Number(this.width.value);
    const low = Number(this.level.value) - width / 2;
    const table = Uint8ClampedArray.from({length: 256}, (_, at) => ((at - low) / width) * 255);
    const {data} = this.source;
    const image = new ImageData(this.source.width, this.source.height);
    for (let at = 0; at < data.length; at += 4) {
      image.data[at] = image.data[at + 1] = image.data[at + 2] = table[data[at]];
      image.data[at + 3] = 255;
    }
    this.grey = canvasOf(image);
    this.draw();
  }

  /** Draw what there is, at the resolution of the screen. */
  draw() {
    const {canvas} = this;
    const ratio = Math.max(window.devicePixelRatio, 1);
    const side = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
    if (side[0] && (canvas.width !== side[0] || canvas.height !== side[1])) {
      [canvas.width, canvas.height] = side;
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    canvas.classList.toggle("zoomed", this.zoom > 1);
    if (!this.grey) return;
    const scale = this.#scale();
    const {width, height} = this.grey;
    this.centre = [[this.centre[0], width], [this.centre[1], height]].map(([at, most]) =>
      this.zoom === 1 ? most / 2 : Math.min(most, Math.max(0, at)));
    context.translate(canvas.width / 2, canvas.height / 2);
    context.scale(scale, scale);
    context.translate(-this.centre[0], -this.centre[1]);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.grey, 0, 0);
    if (this.heat && this.opacity) {
      context.globalAlpha = this.opacity;
      context.drawImage(this.heat, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    if (this.outline) this.#drawOutline(context, 1 / scale, ratio);
  }

  #drawOutline(context, pixel, ratio) {
    context.beginPath();
    for (const [x, y] of this.outline) context.lineTo(x * this.grey.width, y * this.grey.height);
    context.closePath();
    for (const [colour, width] of [["#000", 4], ["#00d9a0", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio * pixel;
      context.stroke();
    }
  }

  #scale() {
    const {width, height} = this.source;
    return this.zoom * Math.min(this.canvas.width / width, this.canvas.height / height);
  }

  #listen() {
    const {canvas} = this;
    const pointers = new Map();
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const ratio = canvas.width / box.width;
      return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    };
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      const out = event.deltaY > 0;
      if (!this.source || (out && this.zoom === 1)) return; // then the page scrolls
      event.preventDefault();
      this.zoomBy(out ? 1 / 1.15 : 1.15, ...at(event));
    }, {passive: false});
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const others = [...pointers].filter(([id]) => id !== event.pointerId);
      pointers.set(event.pointerId, now);
      const [x, y] = [now[0] - before[0], now[1] - before[1]];
      if (others.length) { // two fingers
        const other = others[0][1];
        const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        this.zoomBy(distance(now) / distance(before), ...other);
      } else if (event.buttons & 2 || event.shiftKey) {
        this.windowBy(-y / 2, x / 2);
      } else {
        this.panBy(x, y);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("keydown", (event) => this.#press(event));
  }

  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = this.canvas.width / 10;
    const actions = {
      "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8),
      0: () => this.reset(),
      ArrowLeft: () => this.panBy(step, 0), ArrowRight: () => this.panBy(-step, 0),
      ArrowUp: () => this.panBy(0, step), ArrowDown: () => this.panBy(0, -step),
      "[": () => this.windowBy(-8, 0), "]": () => this.windowBy(8, 0),
      "{": () => this.windowBy(0, -8), "}": () => this.windowBy(0, 8),
    };
    const isArrow = event.key.startsWith("Arrow");
    if (!(event.key in actions) || (isArrow && this.zoom === 1)) return;
    event.preventDefault();
    actions[event.key]();
  }
}

async function decode(png) {
  const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
  const blob = new Blob([bytes], {type: "image/png"});
  const bitmap = await createImageBitmap(blob, {colorSpaceConversion: "none"});
  const context = new OffscreenCanvas(bitmap.width, bitmap.height)
    .getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
}

function canvasOf(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Return level and width of the window that holds nearly all pixels. */
function usedLevels({data}) {
  const counts = new Uint32Array(256);
  for (let at = 0; at < data.length; at += 4) counts[data[at]] += 1;
  const total = data.length / 4;
  const percentile = (share) => {
    let sum = 0;
    return counts.findIndex((count) => (sum += count) > share * total);
  };
  const [low, high] = [percentile(0.005), percentile(0.998)];
  return [Math.round((low + high) / 2), Math.max(16, high - low)];
}
