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

// -- push: the node says that something came, the device may be asleep (docs/push.md) --

const WORDS = new URL("push-words", SCOPE); // kept by push.js, in the language of the page

self.addEventListener("push", (event) => event.waitUntil(show(event.data)));
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(lead(event.notification.data));
});

/** A notification for what came; something is always shown, browsers ask for that. */
async function show(data) {
  const { user, count = 1, priority = 5, id, channelId, title, text } = parsed(data);
  const words = await (await caches.match(WORDS))?.json().catch(() => null);
  const number = (words?.many ?? "{n}").replace("{n}", count);
  const looking = (await pages(user)).some((page) => page.focused);
  const urgent = priority >= 8;
  await self.registration.showNotification(title ?? words?.one ?? "pobox", {
    body: [text, count > 1 ? number : null].filter(Boolean).join("\n"),
    tag: urgent && id ? `message ${user} ${id}` : `channel ${user} ${channelId ?? ""}`, // one a channel
    renotify: !looking,
    silent: looking, // the page shows it already
    icon: "icons/icon-192.png",
    badge: "icons/icon-192.png",
    data: { user, id },
  });
}

/** To the message: in a page of that person that is open already, or in a new one. */
async function lead({ user, id }) {
  const [page] = await pages(user);
  if (!page) return self.clients.openWindow(address(user, id));
  page.postMessage({ opened: id });
  return page.focus().catch(() => {});
}

function address(user, id) {
  const query = user ? `?user=${encodeURIComponent(user)}` : "";
  return new URL(`./${query}${id ? `#inbox/m/${encodeURIComponent(id)}` : ""}`, SCOPE).href;
}

/** The open pages of `user`, the one that was looked at last first. */
async function pages(user) {
  const all = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  return all.filter(({ url }) => url.startsWith(SCOPE.href) && new URL(url).searchParams.get("user") === user);
}

function parsed(data) {
  try {
    return data.json();
  } catch {
    return {};
  }
}
