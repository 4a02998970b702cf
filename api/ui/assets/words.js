// @ts-check
/** Numbers, sizes and times as they are shown. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** @param {number | null | undefined} value */
export const count = (value) => (value == null ? "–" : whole.format(value));

/** @param {number} value @param {string} currency As ISO 4217 calls it. */
export const money = (value, currency) => value.toLocaleString("en", { style: "currency", currency });

/** @param {number | null | undefined} value A loss and the like, with four digits that count. */
export function measure(value) {
  if (value == null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.0001 && size < 100_000 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let unit = 0;
  for (; size >= 1024 && unit < units.length - 1; unit += 1) size /= 1024;
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** @param {number | null | undefined} seconds Two units at most: `2 h 5 min`. */
export function duration(seconds) {
  if (seconds == null) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return minutes < 10 ? join(minutes, "min", s % 60, "s") : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return join(hours, "h", minutes % 60, "min");
  return join(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** @param {number} a @param {string} aUnit @param {number} b @param {string} bUnit */
const join = (a, aUnit, b, bUnit) => (b ? `${a} ${aUnit} ${b} ${bUnit}` : `${a} ${aUnit}`);

/** @param {[number, number] | null | undefined} range Seconds, at least and at most. */
export function span(range) {
  if (!range) return "not known";
  const [least, most] = range.map(duration);
  return least === most ? least : `${least} to ${most}`;
}

const exactly = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const today = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const earlier = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** @param {number} at Unix seconds. In the reader's zone. */
export const exact = (at) => exactly.format(at * 1000);

/** @param {number} at Unix seconds. @param {number} [now] Milliseconds. */
export function ago(at, now = Date.now()) {
  const seconds = Math.round(now / 1000 - at);
  if (seconds < -5) return `in ${duration(-seconds)}`;
  if (seconds < 5) return "just now";
  if (seconds < 3600) return `${duration(Math.floor(seconds / 60) * 60 || seconds)} ago`;
  const then = new Date(at * 1000);
  return then.toDateString() === new Date(now).toDateString()
    ? today.format(then)
    : earlier.format(then);
}

/** @param {number} n @param {string} one @param {string} [many] */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
