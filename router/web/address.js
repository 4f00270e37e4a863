// Where the person is, in the address: `?user=ada#channel/ops/m/<id>`, so that Back, reload and bookmarks work.
// Who comes for the first time may bring a token there, `?user=ada#token=…`: behind the # it is sent to nobody.

import * as actions from "./actions.js";
import * as store from "./store.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$/;
const TOKEN = "#token=";
const PLACES = ["inbox", "starred", "archived"];

let going = false; // the state follows the address, not the other way round

export function isName(text) {
  return NAME.test(text);
}

/** The user that the address names, or that was here last; null if there is neither. */
export function user() {
  const named = new URLSearchParams(location.search).get("user");
  const found = named ?? localStorage.getItem("pobox.user");
  return found !== null && isName(found) ? found : null;
}

/** The token that the address brings, which is taken out of it; null if there is none. */
export function takeToken() {
  const brought = location.hash.startsWith(TOKEN) ? location.hash.slice(TOKEN.length) : null;
  if (brought !== null) history.replaceState(history.state, "", location.pathname + location.search);
  return brought;
}

/** `{place, channel, message}` of the address. */
export function read() {
  const [path, message] = location.hash.slice(1).split("/m/");
  const [place, channel] = path.split("/");
  const parts = { place: "inbox", channel: null, message: message ? decodeURIComponent(message) : null };
  if (place === "channel" && channel) return { ...parts, place, channel: decodeURIComponent(channel) };
  return PLACES.includes(place) ? { ...parts, place } : parts;
}

/** Keep address and state together from now on. */
export function follow() {
  store.subscribe((state, before) => {
    if (state.user === null || going) return;
    const moved = state.view.place !== before.view.place || state.view.channel !== before.view.channel;
    const opened = state.opened?.id !== before.opened?.id;
    if (!moved && !opened) return;
    const wanted = address(state);
    if (wanted === location.search + location.hash) return;
    const inner = state.opened !== null && before.opened === null && !actions.isWide();
    if (moved || inner) history.pushState({ inner }, "", wanted);
    else history.replaceState(history.state, "", wanted);
  });
  addEventListener("popstate", () => void go(read()));
}

/** Bring the state to what the address says. */
export async function go({ place, channel, message }) {
  going = true;
  const { view } = store.get();
  if (view.place !== place || view.channel !== channel) actions.go(place, channel);
  if (message === null) store.set({ opened: null });
  else await actions.open(message);
  going = false;
}

/** The address of a message in the view that is shown. */
export function ofMessage(id) {
  return address({ ...store.get(), opened: { id } });
}

function address({ user, view, opened }) {
  const path = view.place === "channel" ? `channel/${encodeURIComponent(view.channel)}` : view.place;
  return `?user=${encodeURIComponent(user)}#${path}${opened ? `/m/${encodeURIComponent(opened.id)}` : ""}`;
}
