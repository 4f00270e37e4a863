// Puts the page together and keeps it in step with the box. Only wires.

import * as actions from "./actions.js";
import * as address from "./address.js";
import * as box from "./box.js";
import { heard, nextEnd } from "./mutes.js";
import * as keys from "./keys.js";
import * as push from "./push.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { h } from "./dom.js";
import { locale, t } from "./words.js";
import { script } from "./trusted.js";
import { dialogs } from "./views/dialogs.js";
import { shell } from "./views/shell.js";
import { toasts } from "./views/toast.js";
import { welcome } from "./views/welcome.js";

const POLL_MS = 10_000;

addEventListener("unhandledrejection", () => actions.toast(t("failed")));

const app = document.querySelector("#app");
let muteTimer = null;
let wanted = null; // a message that the address or a notification names, until it is here
const live = h("div", { class: "unseen", "aria-live": "polite" });

document.documentElement.lang = locale;
settings.applyTheme();
if ("serviceWorker" in navigator)
  void navigator.serviceWorker.register(script("sw.js"), { updateViaCache: "none" }).catch(() => {});

const user = address.user();
if (user === null) {
  document.title = t("inbox");
  app.append(welcome());
} else {
  start(user);
}

function start(user) {
  settings.remember(user);
  const brought = address.takeToken();
  if (brought !== null) settings.keepToken(user, brought);
  const { place, channel, message } = address.read();
  history.replaceState(history.state, "", `?user=${encodeURIComponent(user)}${location.hash}`);
  store.set({ user, view: { ...store.get().view, place, channel } });
  app.append(shell(), toasts(), dialogs(), live);
  address.follow();
  keys.install();
  store.subscribe((now, before) => {
    if (now.side !== before.side)
      showUnread(now.side.unread, before.side.unread, before.news !== null && before.side.channels.length > 0);
  });
  showUnread(0);
  box.open(user, settings.device(), settings.token(user), hear);
  if (brought !== null) void box.ask("show", brought); // another tab may have the box open
  wanted = message;
  push.follow((id) => {
    wanted = id;
    actions.syncNow();
    void renew();
  });
  void push.renew(user).catch(() => {}); // the next start tries again
  setInterval(() => {
    if (document.visibilityState === "visible" && !store.get().news?.live) actions.syncNow();
  }, POLL_MS);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && actions.syncNow());
  addEventListener("online", actions.syncNow);
  addEventListener("hashchange", () => {
    const token = address.takeToken();
    if (token === null) return;
    settings.keepToken(user, token);
    void box.ask("show", token);
  });
}

/** What the box says of itself; when anything in it changed, what is shown of it is asked for again. */
function hear(news) {
  const before = store.get().news;
  store.set({ news: { ...before, ...news } });
  if (before?.generation !== news.generation || before?.phase !== news.phase) void renew();
}

async function renew() {
  const { opened } = store.get();
  try {
    const [side, message] = await Promise.all([box.ask("side"), opened && box.ask("message", opened.id)]);
    listen(side);
    if (opened !== null && store.get().opened?.id === opened.id) store.set({ opened: message });
    const named = wanted;
    if (named !== null && (await actions.open(named)) && wanted === named) wanted = null; // another may be wanted by now
  } catch {
    // the box is being mended, and will say so
  }
}

/** Show what stands beside the list; anew when a mute ends. */
function listen(side) {
  store.set({ side: heard(side) });
  clearTimeout(muteTimer);
  const end = nextEnd(side);
  if (end !== null) muteTimer = setTimeout(() => listen(side), end + 1);
}

function showUnread(unread, before = 0, announces = false) {
  document.title = `${unread ? `(${unread}) ` : ""}${t("inbox")} — ${store.get().user}`;
  if (navigator.setAppBadge) void (unread ? navigator.setAppBadge(unread) : navigator.clearAppBadge()).catch(() => {});
  if (announces && unread > before) live.textContent = t("nNew", unread - before);
}
