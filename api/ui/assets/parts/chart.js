// @ts-check
/** Curves, by uPlot, with a table of the same numbers for those who cannot see them. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import uPlot from "../vendor/uplot.js";
import { measure } from "../words.js";

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5"];
const DASHES = [undefined, [6, 4], [2, 3], [10, 4, 2, 4], [1, 4]];
const TABLE_ROWS = 50;

/**
 * @typedef {{name: string, values: (number | null)[], dots?: boolean, faint?: boolean}} Line
 *   `dots`: few values, each drawn; `faint`: behind the others.
 */

/**
 * @param {{title: string, x: {name: string, values: number[]}, lines: Line[], height?: number,
 *   log?: boolean}} props `x` grows. All lines are as long as it.
 */
export function Chart({ title, x, lines, height = 240, log = false }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {uPlot | null} */ (null));
  const shape = JSON.stringify([lines.map((line) => [line.name, line.dots, line.faint]), height, log]);
  const [asTable, setAsTable] = useState(false);

  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    plot.current = new uPlot(options(element, title, x, lines, height, log), data(x, lines), element);
    const sized = new ResizeObserver(() =>
      plot.current?.setSize({ width: element.clientWidth, height }),
    );
    sized.observe(element);
    return () => {
      sized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape, asTable]);

  useEffect(() => {
    // Not while the reader has zoomed in.
    const now = plot.current;
    if (!now) return;
    const [first, last] = [now.data[0][0], now.data[0].at(-1)];
    const { min, max } = now.scales.x;
    now.setData(data(x, lines), min === first && max === last);
    if (!(min === first && max === last)) now.redraw();
  });

  return html`
    <figure class="chart">
      <figcaption>
        <strong>${title}</strong>
        <button type="button" class="small" aria-pressed=${asTable} onClick=${() => setAsTable(!asTable)}>
          Table
        </button>
      </figcaption>
      ${asTable
        ? html`<${Numbers} title=${title} x=${x} lines=${lines} />`
        : html`<div ref=${box} role="img" aria-label=${spoken(title, x, lines)}></div>`}
    </figure>
  `;
}

/** @param {{name: string, values: number[]}} x @param {Line[]} lines @returns {any} */
const data = (x, lines) => [x.values, ...lines.map((line) => line.values)];

/**
 * @param {HTMLElement} element @param {string} title @param {{name: string, values: number[]}} x
 * @param {Line[]} lines @param {number} height @param {boolean} log @returns {any}
 */
function options(element, title, x, lines, height, log) {
  const style = getComputedStyle(element);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--edge") }, ticks: { show: false } };
  return {
    width: element.clientWidth || 600,
    height,
    cursor: { drag: { x: true, y: false } },
    scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
    axes: [axis, { ...axis, size: 64, values: (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map((t) => (t == null ? "" : measure(t))) }],
    series: [
      { label: x.name },
      ...lines.map((line, i) => ({
        label: line.name,
        stroke: colour(COLOURS[i % COLOURS.length]),
        dash: DASHES[i % DASHES.length],
        width: line.faint ? 1 : 2,
        alpha: line.faint ? 0.45 : 1,
        spanGaps: true,
        points: { show: line.dots ?? false, size: 7 },
        value: (/** @type {any} */ _, /** @type {number | null} */ v) => measure(v),
      })),
    ],
  };
}

/** @param {string} title @param {{name: string, values: number[]}} x @param {Line[]} lines */
function spoken(title, x, lines) {
  const said = lines.map((line) => {
    const values = line.values.filter((v) => v != null);
    return values.length
      ? `${line.name} from ${measure(values[0])} to ${measure(values.at(-1))}`
      : `${line.name} not measured`;
  });
  return `${title} over ${x.name}: ${said.join("; ")}.`;
}

function Numbers({ title, x, lines }) {
  const step = Math.max(1, Math.ceil(x.values.length / TABLE_ROWS));
  const rows = x.values.map((_, i) => i).filter((i) => i % step === 0 || i === x.values.length - 1);
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${`${title}, as a table`}>
      <table class="table plain">
        <thead><tr><th scope="col">${x.name}</th>${lines.map((line) => html`<th scope="col" class="number">${line.name}</th>`)}</tr></thead>
        <tbody>
          ${rows.map(
            (i) => html`<tr><td>${measure(x.values[i])}</td>${lines.map((line) => html`<td class="number">${measure(line.values[i])}</td>`)}</tr>`,
          )}
        </tbody>
      </table>
    </div>
  `;
}

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
