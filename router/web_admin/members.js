// A list of people that somebody pasted or uploaded, understood: names between spaces, commas or lines, a JSON list, or
// `{"channel": ["user"]}`. Nothing here asks or shows anything.

import { isName } from "./address.js";

/** `{users, channels, bad}`: one of the first two is null; `bad` is what is no name, the first few. */
export function understood(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("[") || trimmed.startsWith("{")) {
    const value = json(trimmed);
    if (Array.isArray(value)) return list(value);
    if (value !== null && typeof value === "object") return map(value);
    return { users: [], channels: null, bad: [trimmed.slice(0, 40)] };
  }
  return list(trimmed.split(/[\s,;]+/).filter(Boolean));
}

function list(names) {
  const bad = names.filter((name) => typeof name !== "string" || !isName(name));
  const users = [...new Set(names.filter((name) => typeof name === "string" && isName(name)))];
  return { users, channels: null, bad: bad.slice(0, 5).map(shown) };
}

function map(value) {
  const bad = [];
  const channels = {};
  for (const [channel, names] of Object.entries(value)) {
    const part = Array.isArray(names) ? list(names) : null;
    if (!isName(channel) || part === null) bad.push(shown(channel));
    else channels[channel] = part.users;
    bad.push(...(part?.bad ?? []));
  }
  return { users: null, channels, bad: bad.slice(0, 5) };
}

function shown(value) {
  return String(typeof value === "string" ? value : JSON.stringify(value)).slice(0, 40);
}

function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
