// What a person can do. Views and keys call these; each asks the box, and sets the state.

import * as box from "./box.js";
import * as store from "./store.js";
import { t } from "./words.js";

const TOAST_MS = 6_000; // shorter than the time for which the box keeps a deletion to itself

let toastTimer = null;
let wish = 0; // which message the person wants to see: what was asked for before that came too late

/** The view as the box is asked for it: an open message stays in a list of unread ones. */
export function view({ view, current } = store.get()) {
  return view.unread ? { ...view, keep: current } : view;
}

export function isWide() {
  return matchMedia("(min-width: 45rem)").matches;
}

/** Show a message, and mark it read. False if it isn't here, or the person went on to another. */
export async function open(id) {
  const mine = ++wish;
  store.set({ current: id });
  const message = await box.ask("message", id);
  if (message === null || mine !== wish) return false;
  store.set({ opened: message, holders: null, drawer: false });
  if (!message.read) await box.ask("mark", [{ id, status: "read" }]);
  return true;
}

export function closeMessage() {
  wish++;
  if (history.state?.inner) history.back();
  else store.set({ opened: null });
}

/** To the next message (1) or the one before (-1). */
export async function move(step) {
  const { current, opened } = store.get();
  const place = current === null ? -1 : await box.ask("place", view(), current);
  const wanted = place < 0 ? 0 : place + step;
  if (wanted < 0) return;
  const { rows } = await box.ask("page", view(), wanted, 1);
  if (rows.length === 0) return;
  if (isWide() || opened !== null) await open(rows[0].id);
  else store.set({ current: rows[0].id });
}

/** The message that keys and buttons mean; null if there is none. */
export async function target() {
  const { current } = store.get();
  return current === null ? null : box.ask("message", current);
}

export async function toggleStar(message) {
  await mark(message.id, message.starred ? "unstarred" : "starred");
}

export async function toggleRead(message) {
  await mark(message.id, message.read ? "unread" : "read");
}

/** Out of the inbox, and read with that; or back into it. */
export async function toggleArchive(message) {
  const { id } = message;
  const changes = [{ id, status: message.archived ? "unarchived" : "archived" }];
  const inverse = [{ id, status: message.archived ? "archived" : "unarchived" }];
  if (!message.archived && !message.read) {
    changes.push({ id, status: "read" });
    inverse.push({ id, status: "unread" });
  }
  const offer = () => toast(t(message.archived ? "didUnarchive" : "didArchive"), () => box.ask("mark", inverse));
  await away(id, () => box.ask("mark", changes), offer);
}

/** Delete for good, in a few seconds. */
export async function remove({ id }) {
  const offer = () => toast(t("didRemove"), () => box.ask("restore", [id]));
  await away(id, () => box.ask("remove", [id]), offer);
}

/** Everything in the inbox, or in the channel that is shown. */
export async function readAll() {
  const { place, channel } = store.get().view;
  const ids = await box.ask("readAll", place === "channel" ? channel : null);
  if (ids.length === 0) return toast(t("didNothing"));
  toast(t("didRead", ids.length), () =>
    box.ask(
      "mark",
      ids.map((id) => ({ id, status: "unread" })),
    ),
  );
}

export function undo() {
  const { toast: shown } = store.get();
  if (!shown?.undo) return;
  void shown.undo().then(() => toast(t("didUndo")));
}

/** Show another place: `{place, channel}`. Filters and what was searched for end with it. */
export function go(place, channel = null) {
  wish++;
  const view = { place, channel, unread: false, starred: false, priority: null, text: "" };
  store.set({ view, current: null, opened: null, drawer: false });
}

export function filter(some) {
  store.set({ view: { ...store.get().view, ...some } });
}

export function search(text) {
  filter({ text });
}

export function syncNow() {
  void box.ask("wake");
}

export function toast(text, undo = null) {
  clearTimeout(toastTimer);
  store.set({ toast: { text, undo } });
  toastTimer = setTimeout(() => store.set({ toast: null }), TOAST_MS);
}

async function mark(id, status) {
  await box.ask("mark", [{ id, status }]);
}

/** Do what takes `id` out of the list, offer to take it back, and go on with what comes to stand in its place. */
async function away(id, act, offer) {
  const { opened, current } = store.get();
  const before = wish;
  const place = await box.ask("place", view(), id);
  await act();
  offer(); // at once: whoever takes it back needn't wait for the next message to open
  if (current !== id || wish !== before) return;
  const stays = (await box.ask("place", view(), id)) >= 0;
  if (stays) return;
  let { rows, total } = await box.ask("page", view(), Math.max(0, place), 1);
  if (rows.length === 0 && total > 0) ({ rows } = await box.ask("page", view(), total - 1, 1));
  if (wish !== before) return;
  if (opened !== null && isWide() && rows.length) return open(rows[0].id);
  if (opened !== null && !isWide()) closeMessage();
  store.set({ current: rows[0]?.id ?? null, opened: null });
}
