// @ts-check
/** Curves, by uPlot, with a table of the same numbers for those who cannot see them. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { measure } from "../words.js";
import { colourOf, drawn, fill, zoomed } from "./plot.js";

const TABLE_ROWS = 50;
const KEYS = "Left and right arrows read the values, plus and minus zoom, 0 shows all.";

/**
 * @typedef {import("./plot.js").Line} Line
 * @typedef {import("./plot.js").Mark} Mark
 * @typedef {import("./plot.js").Axis} Axis
 * @typedef {import("./plot.js").Range} Range
 */

/**
 * @param {{title: string, x: Axis, lines: Line[], marks?: Mark[], height?: number, log?: boolean,
 *   zoom?: Range | null, onZoom?: (range: Range | null) => void}} props `x` grows. All lines are as
 *   long as it. With `onZoom` several charts show the same part; else each keeps its own.
 */
export function Chart({ title, x, lines, marks = [], height = 240, log = false, zoom, onZoom }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const tellLegend = useRef((/** @type {number | null} */ _index) => {});
  const [asTable, setAsTable] = useState(false);
  const [hidden, setHidden] = useState(/** @type {Set<string>} */ (new Set()));
  const [own, setOwn] = useState(/** @type {Range | null} */ (null));
  const [read, setRead] = useState("");
  const scheme = useScheme();
  const shownZoom = onZoom ? (zoom ?? null) : own;
  const now = useRef(/** @type {any} */ (null));
  now.current = { x, lines, marks, zoom: onZoom ?? setOwn };

  const shape = JSON.stringify([lines.map((line) => [line.name, line.dots, line.faint, line.colour]), x.name, height, log, [...hidden], scheme]);
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const made = drawn(element, { x, lines, height, log, hidden }, {
      marks: () => now.current.marks,
      zoom: (range) => now.current.zoom(range),
      at: (index) => tellLegend.current(index),
    });
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    sized.observe(element);
    return () => {
      sized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, asTable]);

  useEffect(() => {
    if (plot.current) fill(plot.current, x, lines, shownZoom, log);
  });

  const keyed = (/** @type {KeyboardEvent} */ event) => {
    const made = plot.current;
    if (!made || !x.values.length) return;
    const index = made.cursor.idx ?? x.values.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -25, PageDown: 25 };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (step) {
      const to = Math.min(Math.max(index + step, 0), x.values.length - 1);
      made.setCursor({ left: made.valToPos(x.values[to], "x"), top: 10 });
      setRead(`${x.name} ${shown(x, to)}: ${lines.map((line) => `${line.name} ${valueAt(line, to)}`).join(", ")}`);
    } else if (event.key === "+" || event.key === "=") {
      now.current.zoom(zoomed(x.values, shownZoom, x.values[index], 0.5));
    } else if (event.key === "-") {
      now.current.zoom(zoomed(x.values, shownZoom, x.values[index], 2));
    } else if (event.key === "0" || event.key === "Escape") {
      now.current.zoom(null);
    } else return;
    event.preventDefault();
  };
  const toggle = (/** @type {string} */ name) => {
    const without = new Set(hidden);
    if (!without.delete(name)) without.add(name);
    setHidden(without);
  };

  return html`
    <figure class="chart">
      <figcaption>
        <strong>${title}</strong>
        <span class="actions">
          ${shownZoom && html`<button type="button" class="small" onClick=${() => now.current.zoom(null)}>Show all</button>`}
          <button type="button" class="small" aria-pressed=${asTable}
            aria-label=${`Table of ${title}`} onClick=${() => setAsTable(!asTable)}>Table</button>
        </span>
      </figcaption>
      ${asTable
        ? html`<${Numbers} title=${title} x=${x} lines=${lines} />`
        : html`
          <div class="plot" ref=${box} role="img" tabindex="0" onKeyDown=${keyed}
            aria-label=${`${spoken(title, x, lines)} ${KEYS}`}></div>
          <${Legend} x=${x} lines=${lines} hidden=${hidden} toggle=${toggle} told=${tellLegend} />
          <p class="unseen" role="status">${read}</p>`}
    </figure>
  `;
}

/** What each line is, with its value where the pointer is; a press hides it. */
function Legend({ x, lines, hidden, toggle, told }) {
  const [index, setIndex] = useState(/** @type {number | null} */ (null));
  told.current = setIndex;
  return html`
    <div class="legend small">
      ${lines.map(
        (/** @type {Line} */ line, /** @type {number} */ i) => html`<button type="button" key=${line.name}
          class=${`line line-${colourOf(line, i) + 1}${line.faint ? " faint" : ""}`}
          aria-pressed=${!hidden.has(line.name)} onClick=${() => toggle(line.name)}>
          <span aria-hidden="true" class="swatch"></span> <bdi>${line.name}</bdi> ${valueAt(line, index)}
        </button>`,
      )}
      ${index != null && html`<span class="quiet">${x.name} ${shown(x, index)}</span>`}
    </div>
  `;
}

/** Turns when the reader's colours do: what is drawn has its colours for good. */
function useScheme() {
  const [dark, setDark] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const turned = () => setDark(query.matches);
    query.addEventListener("change", turned);
    return () => query.removeEventListener("change", turned);
  }, []);
  return dark;
}

/** @param {Axis} x @param {number} index */
const shown = (x, index) => (x.format ?? measure)(x.values[index]);

/** @param {Line} line @param {number | null} index Null: the last one. */
const valueAt = (line, index) =>
  measure(index == null ? line.values.findLast((value) => value != null) : line.values[index]);

/** @param {string} title @param {Axis} x @param {Line[]} lines */
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
  const chosen = x.values.map((_, i) => i).filter((i) => i % step === 0 || i === x.values.length - 1);
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${`${title}, as a table`}>
      <table class="table plain">
        <thead><tr><th scope="col">${x.name}</th>${lines.map((line) => html`<th scope="col" class="number"><bdi>${line.name}</bdi></th>`)}</tr></thead>
        <tbody>
          ${chosen.map(
            (i) => html`<tr><td>${shown(x, i)}</td>${lines.map((line) => html`<td class="number">${measure(line.values[i])}</td>`)}</tr>`,
          )}
        </tbody>
      </table>
    </div>
  `;
}
