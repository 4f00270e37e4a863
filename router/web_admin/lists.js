// Pages of what the node lists, one after the other, searched by the beginning of a name.

import * as api from "./api.js";
import * as store from "./store.js";

const LIMIT = 50;
let asked = 0; // only the newest question may answer

/** Begin a list anew: `key` is where the items are in the answers of `path`. */
export async function begin(path, key, prefix = "", more = {}) {
  store.set({ found: { path, key, prefix, more, items: [], cursor: null, busy: true, problem: null } });
  await next();
}

/** One more page of the list that is shown. */
export async function next() {
  const number = ++asked;
  const { found } = store.get();
  const { path, key, prefix, more, items, cursor } = found;
  store.set({ found: { ...found, busy: true, problem: null } });
  let change;
  try {
    const page = await api.get(path, { prefix, limit: LIMIT, cursor, ...more });
    change = { items: [...items, ...page[key]], cursor: page.cursor };
  } catch (problem) {
    change = { problem };
  }
  const now = store.get().found;
  if (number === asked && now?.path === path) store.set({ found: { ...now, ...change, busy: false } });
}

/** The same again, as it is now. */
export function renew() {
  const { path, key, prefix, more } = store.get().found;
  return begin(path, key, prefix, more);
}
