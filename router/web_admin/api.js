// The node, as this page asks it. With a key if one was given; a 401 asks for one.

import * as store from "./store.js";
import { t } from "./words.js";

const KEY = "pobox.key";
const PATIENCE_MS = 15_000;

/** Why something was not done: `message` for people, `field` if one is wrong, `status` 0 if nobody answered. */
export class Problem extends Error {
  constructor(message, status = 0, field = null) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

/** Use `key` from now on, in this tab alone. */
export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export const get = async (path, query = {}) => (await fetched("GET", path, { query })).json();
export const text = async (path) => (await fetched("GET", path, {})).text();
export const remove = (path) => fetched("DELETE", path, {});

/** `body` is sent as JSON, if there is one. */
export async function send(method, path, body = undefined) {
  const answer = await fetched(method, path, { body });
  return answer.status === 204 ? null : answer.json();
}

/** A path of the API; every part is made safe. */
export function path(...parts) {
  return `/api/v3/${parts.map(encodeURIComponent).join("/")}`;
}

async function fetched(method, path, { query = {}, body }) {
  const asked = Object.entries(query).filter(([, value]) => value !== null && value !== "");
  const url = asked.length ? `${path}?${new URLSearchParams(asked)}` : path;
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Problem(t("noAnswer"));
  }
  if (answer.ok) return answer;
  if (answer.status === 401) store.set({ locked: true });
  throw await problem(answer);
}

async function problem(answer) {
  try {
    const { title, detail, field } = await answer.json();
    return new Problem(detail && detail !== title ? `${title}: ${detail}` : title, answer.status, field ?? null);
  } catch {
    return new Problem(`${answer.status} ${answer.statusText}`, answer.status);
  }
}
