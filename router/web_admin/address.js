// Where one is, in the address: `#users/ada`, so that Back, reload and bookmarks work.

import * as store from "./store.js";

const PLACES = ["overview", "users", "channels", "deliver", "dead"];
const NAME = /^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$/;

export function isName(text) {
  return NAME.test(text);
}

/** `more` says in which way the place is to be opened. */
export function to(place, chosen = null, more = "") {
  return `#${place}${chosen === null ? "" : `/${encodeURIComponent(chosen)}`}${more && `?${more}`}`;
}

export function go(place, chosen = null) {
  location.hash = to(place, chosen);
}

/** Keep the state where the address is, from now on. */
export function follow() {
  const read = () => {
    const [place, chosen] = location.hash.slice(1).split("?")[0].split("/");
    const id = chosen ? decoded(chosen) : null;
    store.set({
      place: PLACES.includes(place) ? place : "overview",
      chosen: id !== null && isName(id) ? id : null,
      found: null,
      shown: null,
    });
  };
  addEventListener("hashchange", read);
  read();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
