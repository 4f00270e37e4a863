// What this browser remembers for itself: the appearance, the language, whose box it is, and its own name.

const TOKEN = "pobox.token."; // and the user
const COLOURS = { light: "#f6f4f0", dark: "#141312" };

export function theme() {
  const kept = localStorage.getItem("pobox.theme");
  return kept in COLOURS ? kept : "auto";
}

export function setTheme(name) {
  localStorage.setItem("pobox.theme", name);
  applyTheme();
}

/** Show the chosen appearance, also around the page. */
export function applyTheme() {
  const name = theme();
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  for (const meta of document.querySelectorAll("meta[name=theme-color]")) {
    meta.content = COLOURS[name] ?? COLOURS[meta.media.includes("dark") ? "dark" : "light"];
  }
}

export function setLanguage(name) {
  localStorage.setItem("pobox.language", name);
  location.reload();
}

/** Forget whose box this is and how that was shown, and ask. What is stored of the box stays for the next time. */
export function leave() {
  localStorage.removeItem(TOKEN + localStorage.getItem("pobox.user"));
  localStorage.removeItem("pobox.user");
  location.assign(location.pathname);
}

export function remember(user) {
  localStorage.setItem("pobox.user", user);
}

/** What shows the node that it is `user`; null if nothing does. */
export function token(user) {
  return localStorage.getItem(TOKEN + user);
}

export function keepToken(user, token) {
  localStorage.setItem(TOKEN + user, token);
}

/** The name by which the node knows this browser; always the same. */
export function device() {
  let name = localStorage.getItem("pobox.device");
  if (name === null) {
    const random = crypto.getRandomValues(new Uint16Array(1))[0].toString(16).padStart(4, "0");
    name = `${browser()} ${random}`;
    localStorage.setItem("pobox.device", name);
  }
  return name;
}

function browser() {
  const agent = navigator.userAgent;
  const program = /Firefox|Edg|OPR|Chrome|Safari/.exec(agent)?.[0] ?? "Browser";
  const system = /Android|iPhone|iPad|Windows|Mac OS|Linux/.exec(agent)?.[0] ?? "";
  return `${{ Edg: "Edge", OPR: "Opera" }[program] ?? program} ${system}`.trim();
}
