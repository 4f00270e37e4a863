// Addresses that came in a message: http, https and mailto are followed, nothing else is.

import { h, icon } from "./dom.js";

const PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const MANY = 12;

/** The address if it may be followed, else null. It must be whole: nothing is relative to this page. */
export function safe(address) {
  if (typeof address !== "string" || address.length > 4_096) return null;
  try {
    const url = new URL(address.trim());
    return PROTOCOLS.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** A link that opens elsewhere and tells nobody where it came from. */
export function link(address, properties, ...children) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer", ...properties }, ...children);
}

/** What `metadata` (JSON text) of a message offers: `actions` and `links` as `[{label, url}]`, the `rest` as text. */
export function offers(metadata) {
  let value = null;
  try {
    value = JSON.parse(metadata ?? "null");
  } catch {
    // then it offers nothing
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return { actions: [], links: [], rest: [] };
  const { actions, links, link: one, url, ...rest } = value;
  return {
    actions: labelled(actions),
    links: [...labelled(links), ...labelled([one, url])],
    rest: Object.entries(rest).map(([key, item]) => [key, typeof item === "string" ? item : JSON.stringify(item)]),
  };
}

/** A link with where it leads to, as a row of a list. */
export function linkRow({ label, url }) {
  return link(url, { class: "link-row" }, icon("link"), h("bdi", {}, label));
}

function labelled(list) {
  if (!Array.isArray(list)) return [];
  return list
    .map((item) => (typeof item === "string" ? { url: item } : (item ?? {})))
    .map(({ label, title, url, href }) => ({
      label: String(label ?? title ?? url ?? href).slice(0, 120),
      url: safe(url ?? href),
    }))
    .filter(({ url }) => url !== null)
    .slice(0, MANY);
}
