// The state of the page: one object, replaced as a whole, and whoever shows a part of it.
//
// `found` and `shown` belong to the place that is open: a list, and the one thing that was chosen of it.

let state = {
  place: "overview",
  chosen: null, // the id that the address names
  locked: false, // the node wants a key
  figures: null, // what the processes do now (figures.js)
  history: [], // of figures, the oldest first
  alerts: [],
  silent: null, // why there are no figures
  found: null, // {prefix, items, cursor, busy, problem}
  shown: null, // {…, problem}
  toast: null,
};
const listeners = new Set();

export function get() {
  return state;
}

/** Replace some of the state and tell everybody, with what was before. */
export function set(some) {
  const before = state;
  state = { ...state, ...some };
  for (const listener of [...listeners]) listener(state, before);
}

/** Call `listener(state, before)` after every change, as long as `element` is in the page; and once now. */
export function watch(element, listener) {
  let placed = false;
  const hear = (now, before) => {
    placed ||= element.isConnected;
    if (placed && !element.isConnected) listeners.delete(hear);
    else listener(now, before);
  };
  listeners.add(hear);
  listener(state, state);
  return element;
}
