// Puts the page together and looks at the node every two seconds. Only wires.

import { applyTheme } from "/inbox/settings.js";
import { locale } from "/inbox/words.js";
import * as address from "./address.js";
import * as api from "./api.js";
import { between, parsed } from "./figures.js";
import * as store from "./store.js";
import { frame } from "./views/frame.js";

const LOOK_MS = 2_000;
const HISTORY = 60;

document.documentElement.lang = locale;
applyTheme();
address.follow();
document.querySelector("#app").append(frame());

let before = null;
await look();
setInterval(() => document.visibilityState === "visible" && void look(), LOOK_MS);

/** Only while somebody sees it, and nobody is asked for a key. */
async function look() {
  if (store.get().locked || (before !== null && store.get().place !== "overview")) return;
  try {
    const [text, { alerts }] = await Promise.all([api.text("/metrics"), api.get(api.path("alerts"))]);
    const now = parsed(text, performance.now());
    const figures = between(before, now);
    const history = figures.known ? [...store.get().history, figures].slice(-HISTORY) : store.get().history;
    before = now;
    store.set({ figures, history, alerts, silent: null });
  } catch (problem) {
    store.set({ silent: problem.message });
  }
}
