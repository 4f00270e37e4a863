// What is done here, and what is said of it.

import * as api from "./api.js";
import * as store from "./store.js";
import { t } from "./words.js";

const TOAST_MS = 5_000;
const PORTION = 5_000; // members of one request: within its 1 MB whatever their names
let timer = 0;

export function toast(text) {
  clearTimeout(timer);
  store.set({ toast: text });
  timer = setTimeout(() => store.set({ toast: null }), TOAST_MS);
}

/** Do `work` and say `done`; whatever is in the way is said instead. True if it was done. */
export async function attempt(work, done) {
  try {
    const result = await work();
    toast(typeof done === "function" ? done(result) : done);
    return true;
  } catch (problem) {
    toast(problem instanceof api.Problem ? problem.message : t("failed"));
    return false;
  }
}

/** Let `users` join `channel`; how many of them were not in it. */
export async function join(channel, users) {
  let added = 0;
  for (let at = 0; at < users.length; at += PORTION) {
    const answer = await api.send("POST", api.path("channels", channel, "members"), {
      add: users.slice(at, at + PORTION),
    });
    added += answer.added;
  }
  return added;
}

/** Make each channel of `{channel: [user]}` and let its users join. */
export async function importAll(channels) {
  let added = 0;
  for (const [channel, users] of Object.entries(channels)) {
    await api.send("PUT", api.path("channels", channel));
    added += await join(channel, users);
  }
  return added;
}
