// Whether a channel is muted is a matter of time: the box says until when, and this says whether that is over.

const HOUR_MS = 3_600_000;
const FAR_MS = 2 ** 31 - 1; // a timer can't wait longer

/** Whether a channel of `side.channels` is muted at `now` (ms since 1970). */
export function isMuted({ muted, until }, now = Date.now()) {
  return Boolean(muted) && (until === null || Date.parse(until) > now);
}

/** `side` as the box tells it, with `unread` of what is heard at this moment. */
export function heard(side, now = Date.now()) {
  const loud = side.channels.filter((channel) => !isMuted(channel, now));
  return { ...side, all: sum(side.channels), unread: sum(loud) };
}

/** How long until the next mute ends, in ms; null if none does. */
export function nextEnd({ channels }, now = Date.now()) {
  const ends = channels.filter((one) => one.until !== null && isMuted(one, now)).map(({ until }) => Date.parse(until));
  return ends.length ? Math.min(FAR_MS, Math.min(...ends) - now) : null;
}

/** For how long one can mute: the name of its words, and the moment it ends (null: never). */
export const SPANS = {
  hour: (now) => new Date(now.getTime() + HOUR_MS),
  eightHours: (now) => new Date(now.getTime() + 8 * HOUR_MS),
  tomorrow: (now) => new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1, 8),
  forGood: () => null,
};

function sum(channels) {
  return channels.reduce((total, { unread }) => total + unread, 0);
}
