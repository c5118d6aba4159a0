// Where answers come from. Nothing else in the page knows that there is a server.
//
// A form is {file, sex: "F" | "M" | "", months: number | null}. Each function takes an AbortSignal,
// and throws a Problem, or an AbortError.

import {Problem} from "./problem.js";

export {Problem};

let token = "";

/** Use an access token from now on. It is in memory only. */
export function useToken(value) {
  token = value;
}

/** Return what the models are. */
export async function models(signal) {
  return (await request("v1/models", {signal})).json();
}

/** Return the answer for a radiograph, with the pictures of the page. */
export async function predict(form, signal) {
  return (await post("v1/predict", form, signal)).json();
}

/** Return the heat map of a radiograph. */
export async function explain(form, signal) {
  return (await post("v1/explain", form, signal)).json();
}

/** Return a DICOM file as a Blob; `kind` is `report` or `image`. */
export async function dicom(kind, form, signal) {
  return (await post(`v1/dicom/${kind}`, form, signal)).blob();
}

function post(path, form, signal) {
  const body = new FormData();
  // The name of the file may be that of the child. It stays here, but for its ending.
  const ending = /\.[a-z0-9]{1,5}$/i.exec(form.file.name)?.[0] ?? "";
  body.append("image", form.file, `radiograph${ending}`);
  if (form.sex) body.append("sex", form.sex);
  if (form.months !== null) body.append("chronological_age_months", String(form.months));
  body.append("pictures", "true");
  return request(path, {method: "POST", body, signal});
}

async function request(path, options) {
  const headers = token ? {Authorization: `Bearer ${token}`} : {};
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      ...options, headers, cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : "";
  throw new Problem(response.status, detail, Number(response.headers.get("Retry-After")) || 0);
}
