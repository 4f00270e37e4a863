// Elements by hand: text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with `properties` (`class`, `on<event>`, `aria-…`, `data-…`, else DOM properties) and children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...given(children));
  return element;
}

/** `children` without lists in them, and without what is missing. */
function given(children) {
  return children.flat().filter((child) => child !== null && child !== undefined);
}

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM20 20l-4-4",
  inbox: "M4 13l2.5-8h11L20 13v6H4zM4 13h4.5l1.5 2.5h4l1.5-2.5H20",
  star: "M12 4l2.5 5.1 5.6.8-4.1 3.9 1 5.6-5-2.6-5 2.6 1-5.6-4.1-3.9 5.6-.8z",
  archive: "M4 5h16v4H4zM5.5 9v10h13V9M10 13h4",
  unarchive: "M4 5h16v4H4zM5.5 9v10h13V9M12 17v-5M9.7 14l2.3-2.3 2.3 2.3",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.3 10.5v5.5M13.7 10.5v5.5",
  unread: "M4 6h16v12H4zM4 7l8 6 8-6",
  read: "M4 10l8-6 8 6v9H4zM4 10.500l8 5 8-5",
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  check: "M4 12.500l5 5L20 6.500",
  settings: "M4 8h9M17 8h3M4 16h3M11 16h9M15 5.800v4.400M9 13.800v4.400",
  hash: "M9 4L7 20M17 4l-2 16M4.500 9h16M3.500 15h16",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.500 20c.8-3.500 3.800-5.500 7.500-5.500s6.700 2 7.500 5.500",
  down: "M12 5v14M6 13l6 6 6-6",
  pulse: "M3 13h4l2.500-8 4.500 14 2.500-6H21",
  send: "M4 11.500L20 4l-6.500 16-3-6.500zM10.500 13.500L20 4",
  stuck: "M12 4l9 15.500H3zM12 10v4.500M12 17v.100",
  again: "M19 12a7 7 0 1 1-2.200-5.100M19 4v4h-4",
  upload: "M12 16V5M7 9.500L12 4.500l5 5M5 19.500h14",
  muted: "M6 17h12l-1.500-2.500V11a4.500 4.500 0 0 0-9 0v3.500zM10.500 19.500h3M4 4l16 16",
  device: "M4 5h16v11H4zM9 20h6M12 16v4",
  link: "M14 5h5v5M19 5l-9 9M11 6H5v13h13v-6",
};

/** A line drawing of 24 by 24; it says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon", `icon-${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows only a drawing; `label` is its name, and `key` the key that does the same. */
export function iconButton(name, label, onclick, { key, ...more } = {}) {
  return h(
    "button",
    {
      type: "button",
      class: "icon-button",
      title: key ? `${label} (${key})` : label,
      "aria-label": label,
      "aria-keyshortcuts": key,
      onclick,
      ...more,
    },
    icon(name),
  );
}

/** Put `children` in the place of what `element` holds. */
export function fill(element, ...children) {
  element.replaceChildren(...given(children));
}

/** The same with elements, but what is equal to what stands in its place stays: a click that has begun on it is not
 * lost. So what `children` do when they are clicked must be the same for equal ones. */
export function renew(element, ...children) {
  const there = [...element.childNodes];
  const wanted = given(children);
  for (const [place, child] of wanted.entries()) {
    const old = there[place];
    if (old === undefined) element.append(child);
    else if (!old.isEqualNode(child)) old.replaceWith(child);
  }
  for (const old of there.slice(wanted.length)) old.remove();
}
