// The worker of one tab: passes on what the page asks, and what the owner of the box says. Only wires.

import { Election } from "./election.js";
import { Owner } from "./owner.js";

let election = null;

self.onmessage = async ({ data }) => {
  if (data.kind === "start") {
    const { user, device, token } = data;
    election = new Election(
      (say) => Owner.open(user, device, token, say),
      (news) => self.postMessage({ kind: "news", news }),
    );
    election.run(user);
    return;
  }
  const { number, method, args } = data;
  try {
    self.postMessage({ kind: "answer", number, result: await election.call(method, args) });
  } catch (error) {
    self.postMessage({ kind: "answer", number, error: error.message });
  }
};
