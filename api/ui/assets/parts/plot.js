// @ts-check
/** How uPlot draws our curves: colours, axes, marks, and how far the reader has zoomed in. */
import uPlot from "../vendor/uplot.js";
import { measure } from "../words.js";

export const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5"];
const DASHES = [undefined, [6, 4], [2, 3], [10, 4, 2, 4], [1, 4]];
const SIGNS = { checkpoint: "◆", best: "★", attempt: "▸" };

/**
 * @typedef {{name: string, values: (number | null)[], dots?: boolean, faint?: boolean,
 *   colour?: number}} Line `dots`: few values, each drawn; `faint`: behind the others; `colour`: the
 *   number of its colour, where two lines share one.
 * @typedef {{at: number, kind: "checkpoint" | "best" | "attempt", label: string}} Mark
 * @typedef {{name: string, values: number[], format?: (value: number) => string}} Axis
 * @typedef {[number, number]} Range
 */

/** @param {Line} line @param {number} i */
export const colourOf = (line, i) => (line.colour ?? i) % COLOURS.length;

/**
 * @param {HTMLElement} element
 * @param {{x: Axis, lines: Line[], height: number, log: boolean, hidden: Set<string>}} shown
 * @param {{marks: () => Mark[], zoom: (range: Range | null) => void,
 *   at: (index: number | null) => void}} tell
 * @returns {any} The plot, without data yet.
 */
export function drawn(element, { x, lines, height, log, hidden }, tell) {
  const style = getComputedStyle(element);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const colours = lines.map((line, i) => colour(COLOURS[colourOf(line, i)]));
  const font = `12px ${style.fontFamily}`;
  const axis = {
    stroke: colour("--quiet"),
    font,
    grid: { stroke: colour("--edge"), width: 1 },
    ticks: { show: false },
  };
  return new uPlot(
    {
      width: element.clientWidth || 600,
      height,
      legend: { show: false },
      cursor: {
        drag: { x: true, y: false, setScale: false },
        points: { size: 7, fill: (/** @type {any} */ _, /** @type {number} */ i) => colours[i - 1] },
        bind: { dblclick: () => () => (tell.zoom(null), null) },
      },
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [
        { ...axis, size: 34, values: (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map(x.format ?? label) },
        { ...axis, size: 62, values: (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map(label) },
      ],
      series: [
        {},
        ...lines.map((line, i) => ({
          show: !hidden.has(line.name),
          stroke: colours[i],
          dash: line.faint ? undefined : DASHES[colourOf(line, i)],
          width: line.faint ? 1 : 2,
          alpha: line.faint ? 0.35 : 1,
          spanGaps: true,
          points: { show: line.dots ?? false, size: 7, fill: colour("--card") },
        })),
      ],
      hooks: {
        drawClear: [(/** @type {any} */ plot) => markUp(plot, tell.marks(), colour, font)],
        setSelect: [
          (/** @type {any} */ plot) => {
            const { left, width } = plot.select;
            if (width < 4) return;
            tell.zoom([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
            plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
        setCursor: [(/** @type {any} */ plot) => tell.at(plot.cursor.idx ?? null)],
      },
    },
    [[], ...lines.map(() => [])],
    element,
  );
}

/** @param {number | null} value */
const label = (value) => (value == null ? "" : measure(value));

/**
 * @param {any} plot @param {Mark[]} marks @param {(name: string) => string} colour
 * @param {string} font
 */
function markUp(plot, marks, colour, font) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  const edge = 14 * devicePixelRatio; // half a sign may stand outside
  ctx.rect(bbox.left - edge / 2, bbox.top - edge, bbox.width + edge, bbox.height + edge);
  ctx.clip();
  ctx.font = font.replace("12", String(11 * devicePixelRatio));
  ctx.textAlign = "center";
  for (const mark of marks) {
    const across = plot.valToPos(mark.at, "x", true);
    ctx.strokeStyle = colour(mark.kind === "attempt" ? "--warn" : "--quiet");
    ctx.fillStyle = ctx.strokeStyle;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.lineWidth = devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(across, bbox.top);
    ctx.lineTo(across, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillText(SIGNS[mark.kind], across, bbox.top - 3 * devicePixelRatio);
  }
  ctx.restore();
}

/** What the marks mean, of the kinds that are there. @param {Mark[]} marks @returns {string[]} */
export const meanings = (marks) =>
  Object.entries({ checkpoint: "checkpoint", best: "best checkpoint", attempt: "new attempt" })
    .filter(([kind]) => marks.some((mark) => mark.kind === kind))
    .map(([kind, words]) => `${SIGNS[/** @type {keyof typeof SIGNS} */ (kind)]} ${words}`);

/**
 * Gives the plot its data and shows them, or the part that the reader has zoomed in to.
 * @param {any} plot @param {Axis} x @param {Line[]} lines @param {Range | null} zoom
 * @param {boolean} log
 */
export function fill(plot, x, lines, zoom, log) {
  const positive = (/** @type {(number | null)[]} */ values) =>
    log ? values.map((v) => (v != null && v > 0 ? v : null)) : values;
  plot.batch(() => {
    plot.setData([x.values, ...lines.map((line) => positive(line.values))], false);
    const [first, last] = zoom ?? [x.values[0] ?? 0, x.values.at(-1) ?? 1];
    plot.setScale("x", first < last ? { min: first, max: last } : { min: first - 0.5, max: first + 0.5 });
  });
}

/**
 * The part to show after one step of the keyboard in or out around a place.
 * @param {number[]} values @param {Range | null} zoom @param {number} centre @param {number} factor
 * @returns {Range | null} Null: all of it.
 */
export function zoomed(values, zoom, centre, factor) {
  const [first, last] = [values[0], values.at(-1) ?? values[0]];
  const [low, high] = zoom ?? [first, last];
  const width = (high - low) * factor;
  if (width >= last - first) return null;
  const from = Math.min(Math.max(centre - width / 2, first), last - width);
  return [from, from + width];
}
