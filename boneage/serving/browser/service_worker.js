// Keeps every file of the page in the browser, so that it works without a network.
//
// `boneage site` writes FILES and VERSION above this line. Nothing else is ever fetched.

const CACHE = `boneage-${VERSION}`;

// A worker does not have the policy of its page. OpenCV makes functions of text (unsafe-eval), and
// reads itself from an address that holds its data.
const POLICY = "default-src 'none'; connect-src 'self' data:; script-src 'self' 'unsafe-eval'";

self.addEventListener("install", (event) => {
  const requests = FILES.map((path) => new Request(path, { cache: "no-cache" }));
  const added = caches.open(CACHE).then((cache) => cache.addAll(requests));
  event.waitUntil(added.then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name.startsWith("boneage-") && name !== CACHE;
  const removed = caches
    .keys()
    .then((names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name))));
  event.waitUntil(removed.then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const found = caches
    .open(CACHE)
    .then((cache) => cache.match(event.request, { ignoreSearch: true }))
    .then((response) => (response ? withPolicy(response, event.request) : Response.error()));
  event.respondWith(found);
});

function withPolicy(response, request) {
  if (request.destination !== "worker") return response;
  const headers = new Headers(response.headers);
  headers.set("Content-Security-Policy", POLICY);
  return new Response(response.body, { headers });
}
