// The worker: it holds the model, and answers for one radiograph after another.

importScripts("../runtime/opencv.js");

const ready = start();
let last = Promise.resolve();

async function start() {
  const address = (path) => new URL(path, self.location.href).href;
  const [ort, operations, predictor, answers, reader, pictures] = await Promise.all([
    import(address("../runtime/ort.wasm.min.mjs")),
    ...["operations", "predictor", "answers", "reader", "pictures"].map(
      (name) => import(address(`${name}.js`)),
    ),
  ]);
  const [content, network] = await Promise.all([
    fetch(address("../model/model.json")).then((response) => response.json()),
    fetch(address("../model/model.onnx")).then((response) => response.arrayBuffer()),
    openCV().then(({ library }) => operations.useOpenCV(library)),
  ]);
  ort.env.wasm.wasmPaths = address("../runtime/");
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  predictor.useModel(content, session, ort.Tensor);
  return { content, answers, reader, pictures };
}

// The library, in an object: it has a method `then`, which `await` would call.
function openCV() {
  return new Promise((resolve) => {
    if (self.cv instanceof Promise) self.cv.then((library) => resolve({ library }));
    else if (self.cv.Mat) resolve({ library: self.cv });
    else self.cv.onRuntimeInitialized = () => resolve({ library: self.cv });
  });
}

async function respond({ kind, bytes, sex, months }) {
  const { content, answers, reader, pictures } = await ready;
  if (kind === "models") return content.described;
  if (!["F", "M", ""].includes(sex)) throw new answers.Refused("The sex is F or M.");
  const radiograph = await reader.readRadiograph(new Uint8Array(bytes), content.limits);
  const [found, seen] = await answers.answer(radiograph, sex || null, months, content);
  return { ...found, page: await pictures.pageOf(radiograph, seen, content.atlas_ages) };
}

self.onmessage = ({ data }) => {
  const answered = last.then(() => respond(data));
  last = answered.then(
    (value) => self.postMessage({ id: data.id, value }),
    (error) => {
      const isRefused = error.constructor.name === "Refused";
      const detail = isRefused ? error.message : "";
      self.postMessage({ id: data.id, problem: { status: isRefused ? 422 : 500, detail } });
    },
  );
};
