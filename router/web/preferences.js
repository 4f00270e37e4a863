// Which channels a person is in, which they hear, and which devices they have: asked of the node, and changed there.
//
// What is changed comes back with the box, here as on every other device; until then the row that was touched waits.

import * as box from "./box.js";
import * as store from "./store.js";
import { SPANS } from "./mutes.js";
import { toast } from "./actions.js";
import { t } from "./words.js";

const PATIENCE_MS = 5_000; // for a change to come back with the box
const LOOK_MS = 50;

export function open() {
  store.set({ dialog: "preferences", drawer: false });
  void load();
}

/** What only the node knows. Without it the rest is shown all the same. */
export async function load() {
  const [openChannels, devices, usage] = await Promise.all([node("openChannels"), node("devices"), node("usage")]);
  set({ open: openChannels.result ?? null, devices: devices.result ?? null, usage: usage.result ?? null });
}

/** Mute for one of the spans, or hear it again (""). */
export function mute(channel, span) {
  const until = span && SPANS[span](new Date())?.toISOString();
  const settled = (now) => now !== undefined && (span ? now.muted && now.until?.slice(0, 19) === until?.slice(0, 19) : !now.muted);
  return change(channel, span ? ["mute", channel, until ?? null] : ["unmute", channel], settled);
}

export function join(channel) {
  return change(channel, ["join", channel], (now) => Boolean(now?.joined));
}

/** Out of a channel; out of one that isn't open only when asked twice. */
export function leave(channel) {
  const { open: known, leaving } = store.get().preferences;
  if (leaving !== channel && !known?.some(({ id }) => id === channel)) return set({ leaving: channel });
  return change(channel, ["leave", channel], (now) => !now?.joined);
}

export function stay() {
  set({ leaving: null });
}

export async function forget(device) {
  if ((await node("forget", device)).failed) return toast(t("failed"));
  await load();
}

/** Which devices have a message, for the one that is read. */
export async function holders(id) {
  const { result } = await node("holders", id);
  if (store.get().opened?.id === id) store.set({ holders: result ? { id, devices: result } : null });
}

async function change(channel, request, settled) {
  set({ busy: channel, leaving: null });
  const { failed } = await node(...request);
  if (failed) toast(t(failed === "offline" ? "needsNetwork" : "failed"));
  else await come(() => settled(store.get().side.channels.find(({ id }) => id === channel)));
  set({ busy: null });
  if (!failed && request[0] !== "mute") void load();
}

async function come(settled) {
  for (let passed = 0; !settled() && passed < PATIENCE_MS; passed += LOOK_MS) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

function node(...request) {
  return box.ask("node", ...request);
}

function set(some) {
  store.set({ preferences: { ...store.get().preferences, ...some } });
}
