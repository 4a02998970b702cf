// @ts-check
/** Curves that need no library: a small one, and the smoothing of all. */
import { html } from "../vendor/preact.js";

/**
 * The running mean of a noisy curve, as Weights & Biases and TensorBoard have it: an exponential
 * moving average, corrected for its start (Kingma & Ba 2015, section 3).
 * @param {(number | null)[]} values @param {number} weight 0: none, towards 1: smoother.
 */
export function smoothed(values, weight) {
  let mean = 0;
  let n = 0;
  return values.map((value) => {
    if (value == null) return null;
    mean = weight * mean + (1 - weight) * value;
    n += 1;
    return mean / (1 - weight ** n);
  });
}

/** A small curve without axes. @param {{values: number[], label: string}} props */
export function Spark({ values, label }) {
  if (values.length < 2) return html`<span class="quiet">–</span>`;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const points = values.map((value, i) => {
    const across = (i / (values.length - 1)) * 96 + 2;
    const down = high === low ? 12 : 22 - ((value - low) / (high - low)) * 20;
    return `${across.toFixed(1)},${down.toFixed(1)}`;
  });
  return html`<svg class="spark" viewBox="0 0 100 24" role="img" aria-label=${label}>
    <polyline points=${points.join(" ")} />
  </svg>`;
}
