// The page without a network: its files are kept, all of one version or none.
//
// `files.js` names them and their version; when it changes, the browser starts a new worker, which fetches the whole
// set under a new name and takes over. The node's data isn't touched here: the box has its own place.

importScripts("files.js");

const { version, files } = self.POBOX;
const CACHE = `inbox-${version}`;
const SCOPE = new URL("./", self.location);
const NEEDLESS = /LICENSE|vendor\.json|^sw\.js$/;

self.addEventListener("install", (event) => event.waitUntil(fetchAll().then(() => self.skipWaiting())));
self.addEventListener("activate", (event) => event.waitUntil(dropOthers().then(() => self.clients.claim())));
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== SCOPE.origin || !url.pathname.startsWith(SCOPE.pathname)) return;
  const name = url.pathname.slice(SCOPE.pathname.length) || "index.html";
  if (files.includes(name) && !NEEDLESS.test(name)) event.respondWith(kept(name, event.request));
});

async function fetchAll() {
  const cache = await caches.open(CACHE);
  await cache.addAll(
    files
      .filter((name) => !NEEDLESS.test(name))
      .map((name) => new Request(new URL(name, SCOPE), { cache: "no-cache" })),
  );
}

async function dropOthers() {
  for (const name of await caches.keys()) if (name.startsWith("inbox-") && name !== CACHE) await caches.delete(name);
}

async function kept(name, request) {
  const found = await caches.match(new URL(name, SCOPE), { cacheName: CACHE });
  return found ?? fetch(request);
}
