// Markdown of strangers, made harmless: parsed by marked, and of that only what DOMPurify lets through.
//
// What is let through is listed: elements of text, and links that `links.safe` would follow. Of the HTML in it only
// bare tags are taken as such, everything else is shown as it was written, so that no parser ever meets a handler.
// Pictures become links, since fetching one tells its server who reads. The page's Content-Security-Policy
// would stop all of that too.

import DOMPurify from "./vendor/dompurify/purify.es.mjs";
import { Marked } from "./vendor/marked/marked.esm.js";
import { safe } from "./links.js";

const TAGS = `a b blockquote br code del em h3 h4 h5 h6 hr i kbd li ol p pre s strong sub sup table tbody td th thead tr
  ul`.split(/\s+/);
const ATTRIBUTES = ["href", "title", "start", "align"];
const BARE =
  /<!--[^]*?-->|<\/?(?:a|b|blockquote|br|code|del|em|hr|i|kbd|li|ol|p|pre|s|strong|sub|sup|ul)\s*\/?>|<a href="https?:\/\/[^"<>\s]*">/gi;
const MANY = 100_000; // characters; more is shown as it came

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2); // h1 and h2 are the page's own
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    html({ text }) {
      const tags = text.match(BARE) ?? [];
      return text
        .split(BARE)
        .map((between, index) => written(between) + keptTag(tags[index]))
        .join("");
    },
    image({ href, text }) {
      return `<a href="${escaped(href)}">${escaped(text || href)}</a>`;
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  const address = safe(node.getAttribute("href"));
  if (address === null) return node.removeAttribute("href");
  node.setAttribute("href", address);
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

/** `text` as a fragment to put into the page; null if it is too long for that. */
export function rendered(text) {
  if (text.length > MANY) return null;
  return DOMPurify.sanitize(marked.parse(text), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}

/** The beginning of `text` as one line without marks. */
export function flat(text) {
  return text
    .replace(/```\w*|[*~`#>|]+|^\s*[-+]\s+/gm, "")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/<[^>]{1,200}>/g, "")
    .replace(/\s+/g, " ")
    .trim();
}

/** Text between tags: its entities stay what they are. */
function written(text) {
  return text.replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function keptTag(tag = "") {
  return tag.startsWith("<!--") ? "" : tag;
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
