// How the newest version of the box gets here: check, then pages or a download, then the sha256, and only then
// is it put in the place of the old one. Cut off anywhere, the old one is what there is.

import { Offline } from "./server.js";
import { checksum, hashes, patched } from "./pages.js";

const TRIES = 4;
const STALL_MS = 20_000;

/** Bring `files` up to date. `report(phase, done, total)`. True if there was something new. */
export async function sync(server, files, part, report) {
  const { needSync, serverVersion } = await server.check(files.version);
  if (!needSync) return false;
  await part.load();
  const resumes = part.version === serverVersion;
  const fresh =
    (files.bytes > 0 && !resumes && (await byDelta(server, files, report))) || (await byDownload(server, part, report));
  await files.replace(fresh.content, fresh.version, fresh.checksum);
  await part.drop();
  await server.check(fresh.version).catch(() => {}); // so that the node knows it arrived; else the next check says it
  return true;
}

/** The old file with the pages that differ; null if that can't be had or isn't right. */
async function byDelta(server, files, report) {
  report("updating", 0, 0);
  const old = files.read();
  const sums = old && (await hashes(old));
  const response = sums && (await server.delta(sums));
  if (!response) return null;
  const about = described(response);
  const content = patched(old, about.size, new Uint8Array(await response.arrayBuffer().catch(offline)));
  return content && (await checksum(content)) === about.checksum ? { content, ...about } : null;
}

async function byDownload(server, part, report) {
  let about = null;
  for (let attempt = 1; ; attempt++) {
    try {
      about = await fetchRest(server, part, report);
      if ((await checksum(part.bytes)) === about.checksum) return { content: part.bytes, ...about };
      await part.drop();
      if (attempt === TRIES) throw new Error("what was downloaded isn't what was announced");
    } catch (error) {
      if (!(error instanceof Offline) || attempt === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
    }
  }
}

/** Download what is missing of `part`, or all of a newer version. */
async function fetchRest(server, part, report) {
  const control = new AbortController();
  let clock = setTimeout(() => control.abort(), STALL_MS);
  try {
    const response = await server.download(part.got, part.version, control.signal);
    const about = described(response);
    if (response.status !== 206) await part.begin(about.version, about.size);
    const reader = response.body.getReader();
    for (;;) {
      report("downloading", part.got, part.size);
      clearTimeout(clock);
      clock = setTimeout(() => control.abort(), STALL_MS);
      const { done, value } = await reader.read().catch(offline);
      if (done) break;
      part.append(value);
    }
    if (!part.complete) throw new Offline("the download ended early");
    return about;
  } finally {
    clearTimeout(clock);
  }
}

function described({ headers }) {
  return {
    version: headers.get("Pobox-Version"),
    size: Number(headers.get("Pobox-Size")),
    checksum: headers.get("Pobox-Checksum"),
  };
}

function offline(error) {
  throw new Offline(error.message);
}
