// The only scripts that this page may load by name: its own. The page's policy lets no other text become a script.

const policy = globalThis.trustedTypes?.createPolicy("pobox", { createScriptURL: own });

/** The address of one of our scripts, as the browser wants it. */
export function script(path) {
  return policy ? policy.createScriptURL(path) : own(path);
}

function own(path) {
  const url = new URL(path, import.meta.url);
  if (!url.href.startsWith(new URL("./", import.meta.url).href)) throw new TypeError("not one of ours");
  return url.href;
}
