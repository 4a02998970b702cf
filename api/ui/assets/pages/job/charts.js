// @ts-check
/** What each step of a training measured, drawn while it happens. */
import { html, useEffect, useMemo, useState } from "../../vendor/preact.js";
import { address, jobPath } from "../../api.js";
import { useLoaded } from "../../loaded.js";
import { Empty, FaultNotice, Field } from "../../parts/basics.js";
import { Chart } from "../../parts/chart.js";
import { smoothed } from "../../parts/spark.js";
import { meanings } from "../../parts/plot.js";
import { go } from "../../router.js";
import { count, duration, plural } from "../../words.js";
import { useAttempts } from "./overview.js";
import { ENDED, baseLoss } from "./state.js";

const AXES = {
  step: { name: "step", column: "step", format: count },
  epoch: { name: "epoch", column: "epoch", format: undefined },
  time: { name: "time", column: "elapsed_seconds", format: duration },
};
const SMOOTH = 0.6;
// More values than these are a line without dots.
const MOST_DOTS = 60;

/**
 * @typedef {import("../../parts/chart.js").Line} Line
 * @typedef {Record<string, (number | null)[]>} Columns
 */

export function Charts({ job, live, query }) {
  const axis = query.get("x") in AXES ? query.get("x") : "step";
  const log = query.get("log") === "1";
  const zoom = zoomOf(query.get("zoom"));
  const [weight, setWeight] = useState(Number(query.get("smooth") ?? SMOOTH));
  const checkpoints = useLoaded(jobPath(job.id, "/checkpoints"));
  const attempts = useAttempts(job);
  const { curves, fault, messages } = live;
  useEffect(() => checkpoints.reload(), [messages[0]?.id]);
  const turn = (/** @type {Record<string, any>} */ changed) =>
    go(
      `/jobs/${job.id}/charts`,
      { x: axis === "step" ? null : axis, log: log ? 1 : null, smooth: query.get("smooth"), zoom: query.get("zoom"), ...changed },
      { replace: true },
    );
  const onZoom = (/** @type {[number, number] | null} */ range) =>
    turn({ zoom: range && range.map((end) => Number(end.toPrecision(6))).join("~") });

  const { x, columns } = useMemo(
    () => along(curves?.columns ?? { step: [] }, AXES[/** @type {keyof typeof AXES} */ (axis)]),
    [curves, axis],
  );
  const base = baseLoss(messages);
  const marks = useMemo(
    () => marksOf(x.values, columns.step, checkpoints.data?.data ?? [], attempts.data?.data ?? []),
    [x, checkpoints.data, attempts.data],
  );

  if (!curves) {
    return fault ? html`<${FaultNotice} fault=${fault} />` : html`<p class="quiet" role="status">Loading …</p>`;
  }
  if (!columns.step.length) {
    return ENDED.has(job.status)
      ? html`<${Empty} title="No step was measured"><p>The job ended before its first step.</p></${Empty}>`
      : html`<${Empty} title="No step has been measured yet">
          <p>The curves begin with the first step of the training.</p>
        </${Empty}>`;
  }
  const charts = chartsOf(columns, weight, base);
  return html`
    <form class="row card" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()} aria-label="How the charts are drawn">
      <${Field} label="Over" name="chart-x">
        ${(/** @type {any} */ given) => html`<select ...${given} value=${axis}
          onChange=${(/** @type {any} */ event) => turn({ x: event.target.value, zoom: null })}>
          <option value="step">steps</option>
          <option value="epoch">epochs</option>
          <option value="time">time</option>
        </select>`}
      </${Field}>
      <${Field} label=${`Smoothing ${weight}`} name="chart-smooth">
        ${(/** @type {any} */ given) => html`<input ...${given} type="range" min="0" max="0.98" step="0.02" value=${weight}
          onInput=${(/** @type {any} */ event) => setWeight(Number(event.target.value))}
          onChange=${(/** @type {any} */ event) => turn({ smooth: event.target.value })} />`}
      </${Field}>
      <label class="check"><input type="checkbox" checked=${log} onChange=${() => turn({ log: log ? null : 1 })} /> Logarithmic</label>
      <a class="button" download href=${address(jobPath(job.id, "/metrics"), { format: "csv" })}>Download CSV</a>
    </form>
    <div class="charts">
      ${charts.map(
        ({ title, lines, growing }) => html`<div class="card" key=${title}>
          <${Chart} title=${title} x=${x} lines=${lines} marks=${marks} log=${log && !growing}
            zoom=${zoom} onZoom=${onZoom} />
        </div>`,
      )}
    </div>
    <p class="small quiet">${meanings(marks).map((words) => html`${words}; `)}${plural(curves.measured, "step")} measured${curves.thinned &&
      `, ${count(columns.step.length)} of them drawn, with the highest and lowest of each stretch`}.
      Drag over a chart to zoom in; a double click shows all.</p>
  `;
}

/** @param {string | null} written @returns {[number, number] | null} */
function zoomOf(written) {
  const ends = (written ?? "").split("~").map(Number);
  return ends.length === 2 && ends[0] < ends[1] ? [ends[0], ends[1]] : null;
}

/**
 * The points that have a place on the axis.
 * @param {Columns} columns @param {{name: string, column: string, format: any}} axis
 */
function along(columns, { name, column, format }) {
  const places = columns[column] ?? columns.step.map(() => null);
  const kept = places.map((_, i) => i).filter((i) => places[i] != null);
  const whole = kept.length === places.length;
  const pick = (/** @type {(number | null)[]} */ values) => (whole ? [...values] : kept.map((i) => values[i]));
  return {
    x: { name, values: /** @type {number[]} */ (pick(places)), format },
    columns: Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, pick(values)])),
  };
}

/**
 * @param {Columns} columns @param {number} weight @param {number | undefined} base
 * @returns {{title: string, lines: Line[], growing?: boolean}[]}
 */
function chartsOf(columns, weight, base) {
  const has = (/** @type {string} */ name) => columns[name]?.some((value) => value != null);
  const noisy = (/** @type {string} */ name, /** @type {string} */ words) =>
    !has(name)
      ? []
      : weight > 0
        ? [
            { name: `${words}, each step`, values: columns[name], faint: true, colour: 0 },
            { name: `${words}, smoothed`, values: smoothed(columns[name], weight), colour: 0 },
          ]
        : [{ name: words, values: columns[name], colour: 0 }];
  const few = (/** @type {string} */ name, /** @type {string} */ words) =>
    has(name) ? [{ name: words, values: columns[name], dots: columns[name].filter((v) => v != null).length <= MOST_DOTS, colour: 1 }] : [];
  const flat = base == null ? [] : [{ name: "the base, validation", values: columns.step.map(() => base), colour: 3 }];
  const groups = [
    { title: "Loss", lines: [...noisy("train_loss", "training"), ...few("valid_loss", "validation"), ...flat] },
    { title: "Token accuracy", lines: [...noisy("train_mean_token_accuracy", "training"), ...few("valid_mean_token_accuracy", "validation")] },
    { title: "Accuracy of preferences", lines: [...noisy("train_reward_accuracy", "training"), ...few("valid_reward_accuracy", "validation")] },
    { title: "Margin of preferences", lines: [...noisy("train_reward_margin", "training"), ...few("valid_reward_margin", "validation")] },
    { title: "Learning rate", lines: has("learning_rate") ? [{ name: "learning rate", values: columns.learning_rate }] : [] },
    { title: "Gradient norm", lines: noisy("grad_norm", "gradient norm") },
    { title: "Tokens per second", lines: noisy("tokens_per_second", "tokens per second") },
    { title: "Memory, GiB", lines: has("memory_bytes") ? [{ name: "allocated", values: columns.memory_bytes.map((v) => v && v / 2 ** 30) }] : [] },
  ];
  return groups.filter(({ lines }) => lines.length);
}

/**
 * Where checkpoints were kept and attempts began, along the axis.
 * @param {number[]} places @param {(number | null)[]} steps @param {any[]} checkpoints
 * @param {any[]} attempts Newest first.
 * @returns {import("../../parts/chart.js").Mark[]}
 */
function marksOf(places, steps, checkpoints, attempts) {
  const at = (/** @type {number} */ step) => {
    const i = steps.findIndex((each) => each != null && each >= step);
    return i < 0 ? null : places[i];
  };
  const best = bestOf(checkpoints);
  const found = [
    ...checkpoints.map((each) => ({
      at: at(each.step_number),
      kind: each === best ? "best" : "checkpoint",
      label: `checkpoint at step ${each.step_number}`,
    })),
    ...attempts.slice(1).map((each) => ({ at: at(each.step), kind: "attempt", label: `attempt ${each.number + 1}` })),
  ];
  return /** @type {any[]} */ (found.filter((mark) => mark.at != null));
}

/** The checkpoint with the lowest validation loss, if any was evaluated. @param {any[]} checkpoints */
export const bestOf = (checkpoints) =>
  checkpoints
    .filter((each) => each.metrics.valid_loss != null)
    .reduce((best, each) => (!best || each.metrics.valid_loss < best.metrics.valid_loss ? each : best), null);

