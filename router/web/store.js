// The state of the page: one object, replaced as a whole, and whoever shows a part of it.
//
// Nothing is shown that isn't in here, and nothing in here changes but by `set`.

let state = {
  user: null,
  news: null, // what the box says of itself (box/owner.js)
  view: { place: "inbox", channel: null, unread: false, starred: false, priority: null, text: "" },
  side: { channels: [], unread: 0, all: 0 },
  total: null, // messages in the view; null: not known yet
  current: null, // id of the message that is marked in the list
  opened: null, // the message that is shown, or null
  toast: null, // {text, undo}
  holders: null, // {id, devices}: which devices have the message that is shown, if the node said
  preferences: { open: null, devices: null, usage: null, busy: null, leaving: null }, // what the node said for the panel, and what is under way
  dialog: null, // "help", "settings", "preferences"
  drawer: false, // the side pane, where there is no room to show it always
};
const listeners = new Set();

export function get() {
  return state;
}

/** Replace some of the state and tell everybody, with what was before. */
export function set(some) {
  const before = state;
  state = { ...state, ...some };
  for (const listener of listeners) listener(state, before);
}

/** Call `listener(state, before)` after every change. */
export function subscribe(listener) {
  listeners.add(listener);
}
