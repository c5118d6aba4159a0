// Where answers come from on a page without a server: from a worker in the browser itself.
//
// It has the functions of the page's own client.js, and takes its place in the folder `page`. The
// radiograph never leaves the computer.

import {Problem} from "./problem.js";

export {Problem};

/** What this page can't do, so that it hides it. */
document.documentElement.classList.add("no-server");

const waiting = new Map();
const worker = startWorker();
let count = 0;

async function startWorker() {
  if (navigator.serviceWorker) {
    // Then every file is in the browser's cache before the worker asks for the model.
    const offline = navigator.serviceWorker.register(new URL("../service_worker.js", import.meta.url));
    await offline.then(() => navigator.serviceWorker.ready).catch(() => {});
  }
  const started = new Worker(new URL("../browser/worker.js", import.meta.url));
  started.onmessage = ({data}) => {
    const {resolve, reject} = waiting.get(data.id) ?? {};
    waiting.delete(data.id);
    if (data.problem) reject?.(new Problem(data.problem.status, data.problem.detail));
    else resolve?.(data.value);
  };
  started.onerror = () => {
    for (const {reject} of waiting.values()) reject(new Problem(500));
    waiting.clear();
  };
  return started;
}

async function ask(message, signal) {
  const id = ++count;
  const started = await worker;
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    waiting.set(id, {resolve, reject});
    signal?.addEventListener("abort", () => {
      waiting.delete(id);
      reject(signal.reason);
    });
    started.postMessage({...message, id});
  });
}

/** There is no server that needs a token. */
export function useToken() {}

/** Return what the models are. */
export function models(signal) {
  return ask({kind: "models"}, signal);
}

/** Return the answer for a radiograph, with the pictures of the page. */
export async function predict({file, sex, months}, signal) {
  const bytes = await file.arrayBuffer();
  return ask({kind: "predict", bytes, sex, months}, signal);
}

/** There is no heat map without a server. */
export async function explain() {
  throw new Problem(404);
}

/** There is no DICOM without a server. */
export async function dicom() {
  throw new Problem(404);
}
