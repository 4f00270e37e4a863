// Single keys, as in every mail program; not while something is being typed, or with a modifier.

import * as actions from "./actions.js";
import * as preferences from "./preferences.js";
import * as store from "./store.js";

/** Key, what it does, and the name of its words. The help is made of this list. */
export const KEYS = [
  { keys: ["j", "ArrowDown"], words: "keyNext", act: () => actions.move(1) },
  { keys: ["k", "ArrowUp"], words: "keyPrevious", act: () => actions.move(-1) },
  { keys: ["Enter", "o"], words: "keyOpen", act: openCurrent },
  { keys: ["e"], words: "archive", act: () => withTarget(actions.toggleArchive) },
  { keys: ["s"], words: "star", act: () => withTarget(actions.toggleStar) },
  { keys: ["u"], words: "markUnread", act: () => withTarget(actions.toggleRead) },
  { keys: ["#", "Delete"], words: "remove", act: () => withTarget(actions.remove) },
  { keys: ["z"], words: "undo", act: actions.undo },
  { keys: ["A"], words: "keyMarkAll", act: actions.readAll },
  { keys: ["/"], words: "search", act: () => focusSearch() },
  { keys: ["Escape"], words: "keyClose", act: leave },
  { keys: ["p"], words: "preferences", act: preferences.open },
  { keys: ["?"], words: "keyHelp", act: () => store.set({ dialog: "help" }) },
];

export function install() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]") || store.get().user === null) return;
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (typing && event.key !== "Escape") return;
    const found = KEYS.find(({ keys }) => keys.includes(event.key));
    if (!found) return;
    const onControl = event.target.closest("button, a[href], summary");
    if (onControl && event.key === "Enter") return;
    const inList = event.target === document.body || event.target.closest(".rows");
    if (event.key.startsWith("Arrow") && !inList) return; // the message that is read scrolls
    event.preventDefault();
    void found.act();
  });
}

function focusSearch() {
  const field = document.querySelector("#search");
  field.focus();
  field.select();
}

async function withTarget(act) {
  const message = await actions.target();
  if (message !== null) await act(message);
}

async function openCurrent() {
  const { current } = store.get();
  if (current !== null) await actions.open(current);
}

/** One thing at a time: the drawer, the search, the message. */
function leave() {
  const { drawer, view, opened } = store.get();
  if (drawer) return store.set({ drawer: false });
  if (document.activeElement?.id === "search" || view.text) {
    document.activeElement?.blur();
    return store.set({ view: { ...view, text: "" } });
  }
  if (opened !== null) actions.closeMessage();
}
