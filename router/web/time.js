// Moments in words that fit how far away they are.

import { locale } from "./words.js";

const MINUTE = 60_000;
const DAY = 86_400_000;
const format = (options) => new Intl.DateTimeFormat(locale, options);
const CLOCK = format({ hour: "numeric", minute: "2-digit" });
const WEEKDAY = format({ weekday: "short" });
const DATE = format({ day: "numeric", month: "short" });
const DATE_AND_YEAR = format({ day: "numeric", month: "short", year: "numeric" });
const WHOLE = format({
  weekday: "long",
  day: "numeric",
  month: "long",
  year: "numeric",
  hour: "numeric",
  minute: "2-digit",
});
const DATE_AND_CLOCK = format({ day: "numeric", month: "short", hour: "numeric", minute: "2-digit" });
const AGO = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });

/** Short, for a list: the time of today, the weekday of this week, else the date. */
export function short(iso, now = new Date()) {
  const moment = new Date(iso);
  if (Number.isNaN(moment.getTime())) return "";
  const days = daysBetween(moment, now);
  if (days === 0) return CLOCK.format(moment);
  if (days === 1) return AGO.format(-1, "day");
  if (days > 1 && days < 7) return WEEKDAY.format(moment);
  return (moment.getFullYear() === now.getFullYear() ? DATE : DATE_AND_YEAR).format(moment);
}

/** In full, for one message. */
export function whole(iso) {
  const moment = new Date(iso);
  return Number.isNaN(moment.getTime()) ? "" : WHOLE.format(moment);
}

/** Of what is to come, as short as it can be: a clock time within a day, else with the date. */
export function moment(iso, now = new Date()) {
  const then = new Date(iso);
  return then - now < DAY ? CLOCK.format(then) : DATE_AND_CLOCK.format(then);
}

/** How long ago, in the largest unit that fits. */
export function ago(iso, now = new Date()) {
  const moment = new Date(iso);
  const passed = now - moment;
  if (Number.isNaN(passed)) return "";
  if (passed < MINUTE) return AGO.format(0, "second");
  if (passed < 60 * MINUTE) return AGO.format(-Math.floor(passed / MINUTE), "minute");
  const days = daysBetween(moment, now);
  if (days === 0) return AGO.format(-Math.floor(passed / (60 * MINUTE)), "hour");
  if (days < 30) return AGO.format(-days, "day");
  if (days < 365) return AGO.format(-Math.floor(days / 30), "month");
  return AGO.format(-Math.floor(days / 365), "year");
}

function daysBetween(moment, now) {
  const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate());
  return Math.round((midnight(now) - midnight(moment)) / DAY);
}
