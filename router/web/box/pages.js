// What differs between two versions of a file, by page: the device's end of `node/pages.py`. Pure.
//
// Hashes are XXH64, seed 0, big endian, of each 4,096 bytes. A delta is a list of pages: four bytes of page
// number, big endian, then the page. That the result is right is proved by its sha256 and nothing else.

import xxhash from "../vendor/xxhash-wasm/xxhash-wasm.js";
import { sha256 as slowSha256 } from "../vendor/noble-hashes/sha2.js";

const PAGE = 4096;
const RECORD = 4 + PAGE;

/** The hash of each page of `content`, one after the other; null if it isn't made of whole pages. */
export async function hashes(content) {
  if (content.length % PAGE) return null;
  const { h64Raw } = await xxhash();
  const found = new DataView(new ArrayBuffer((content.length / PAGE) * 8));
  for (let page = 0; page * PAGE < content.length; page++) {
    found.setBigUint64(page * 8, h64Raw(content.subarray(page * PAGE, (page + 1) * PAGE)));
  }
  return new Uint8Array(found.buffer);
}

/** `old`, cut or extended to `size`, with the pages of `delta` written over it; null if the delta is cut. */
export function patched(old, size, delta) {
  if (delta.length % RECORD) return null;
  const made = new Uint8Array(size);
  made.set(old.subarray(0, size));
  const numbers = new DataView(delta.buffer, delta.byteOffset, delta.byteLength);
  for (let at = 0; at < delta.length; at += RECORD) {
    const begin = numbers.getUint32(at) * PAGE;
    if (begin + PAGE > size) return null;
    made.set(delta.subarray(at + 4, at + RECORD), begin);
  }
  return made;
}

/** `sha256:<hex>`. A page that came over plain HTTP has no `crypto.subtle`. */
export async function checksum(content) {
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest("SHA-256", content))
    : slowSha256(content);
  return "sha256:" + Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
