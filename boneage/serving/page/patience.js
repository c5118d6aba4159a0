// Calls that wait: while the server is busy, and for the access token.

import * as client from "./client.js";
import {t} from "./texts.js";

const MOST_TRIES = 5;
const LONGEST_WAIT = 30; // seconds

const $ = (id) => document.getElementById(id);

/** Repeat a call while the server is busy, and ask for the token where one is needed. */
export async function patiently(call, signal = undefined, onWait = () => {}) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call();
    } catch (problem) {
      if (problem.status === 401) {
        await askToken(tries > 1);
      } else if (problem.status === 503 && tries < MOST_TRIES) {
        const seconds = Math.min(LONGEST_WAIT, problem.retryAfter || 2);
        onWait(seconds);
        await pause(1000 * seconds, signal);
      } else {
        throw problem;
      }
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

let tokenAsked = null;

/** Ask for the token. All calls that need it wait for the same dialog; Escape ends them. */
function askToken(isWrong) {
  if (tokenAsked) return tokenAsked;
  const dialog = $("token-dialog");
  $("token-wrong").textContent = isWrong ? t("token.wrong") : "";
  $("token").value = dialog.returnValue = "";
  dialog.showModal();
  tokenAsked = new Promise((resolve, reject) => {
    dialog.onclose = () => {
      tokenAsked = null;
      if (dialog.returnValue === "given") resolve();
      else reject(new client.Problem(401));
    };
  });
  return tokenAsked;
}

export function giveToken(event) {
  event.preventDefault();
  client.useToken($("token").value);
  $("token").value = "";
  $("token-dialog").close("given");
}
