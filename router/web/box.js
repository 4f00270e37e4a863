// The box, for the page: everything it can be asked goes through the worker.

import { script } from "./trusted.js";

const worker = new Worker(script("box/worker.js"), { type: "module", name: "box" });
const waiting = new Map();
let last = 0;

/** Open the box of `user`, with a `token` if the node asks for one; `hear(news)` is told how it fares (see box/owner.js). */
export function open(user, device, token, hear) {
  worker.onmessage = ({ data }) => {
    if (data.kind === "news") return hear(data.news);
    const { resolve, reject } = waiting.get(data.number);
    waiting.delete(data.number);
    if ("error" in data) reject(new Error(data.error));
    else resolve(data.result);
  };
  worker.onerror = () => hear({ phase: "broken" });
  worker.postMessage({ kind: "start", user, device, token });
}

/** Ask the box (the `on_…` methods of box/owner.js). */
export function ask(method, ...args) {
  return new Promise((resolve, reject) => {
    const number = ++last;
    waiting.set(number, { resolve, reject });
    worker.postMessage({ number, method, args });
  });
}
