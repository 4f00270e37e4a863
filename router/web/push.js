// Notifications on this device while the page is closed: the browser's push service, the node, and our consent.
//
// A browser has one subscription for this page, so it is for one person at a time: whose it is, is remembered here.

import * as settings from "./settings.js";
import { t } from "./words.js";
import { Server } from "./box/server.js";

const OWNER = "pobox.push"; // whose messages this browser tells of, and the address that the node was given
const WORDS = "push-words"; // for sw.js, which can't load the words itself

/** `on`, `off`, `denied` (the person has forbidden it in the browser), or `impossible` here. */
export async function state(user) {
  if (!("PushManager" in window) || !("serviceWorker" in navigator)) return "impossible";
  if (Notification.permission === "denied") return "denied";
  return owner()?.user === user && (await subscription()) !== null ? "on" : "off";
}

/** Ask the person, the push service and the node; the state afterwards. Fails if the node or the push service does. */
export async function turnOn(user) {
  if ((await Notification.requestPermission()) !== "granted") return state(user);
  const server = serverFor(user);
  const key = bytes(await server.pushKey());
  const { pushManager } = await navigator.serviceWorker.ready;
  const before = await pushManager.getSubscription();
  if (before !== null && !same(before.options.applicationServerKey, key)) await before.unsubscribe();
  await tell(user, server, await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key }));
  return state(user);
}

/** Nothing more is told on this device; the state afterwards. */
export async function turnOff() {
  const known = owner();
  localStorage.removeItem(OWNER);
  await (await subscription())?.unsubscribe();
  if (known !== null) await serverFor(known.user).unsubscribe();
  return "off";
}

/** At the start of the page: what the browser changed meanwhile is told to the node, and the words may be others. */
export async function renew(user) {
  if ((await state(user)) !== "on") return;
  const now = await subscription();
  if (now.endpoint === owner().endpoint) await keepWords();
  else await tell(user, serverFor(user), now);
}

/** Call `open(id)` when the person has clicked a notification. */
export function follow(open) {
  navigator.serviceWorker?.addEventListener("message", ({ data }) => data?.opened && open(data.opened));
}

async function tell(user, server, now) {
  const { endpoint, keys } = now.toJSON();
  await server.subscribe({ endpoint, keys });
  localStorage.setItem(OWNER, JSON.stringify({ user, endpoint }));
  await keepWords();
}

async function keepWords() {
  const words = { one: t("pushOne"), many: t("pushMany", "{n}") };
  await (await caches.open(WORDS)).put(new URL(WORDS, import.meta.url), new Response(JSON.stringify(words)));
}

async function subscription() {
  const registration = await navigator.serviceWorker.getRegistration();
  return (await registration?.pushManager.getSubscription()) ?? null;
}

function serverFor(user) {
  return new Server(user, settings.device(), settings.token(user));
}

function owner() {
  return JSON.parse(localStorage.getItem(OWNER));
}

function bytes(base64url) {
  return Uint8Array.from(atob(base64url.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
}

function same(buffer, other) {
  return buffer !== null && new Uint8Array(buffer).toString() === other.toString();
}
