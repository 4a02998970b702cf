// @ts-check
/** What happens to a job while it is looked at: one stream of its events, over what was there. */
import { useEffect, useRef, useState } from "../../vendor/preact.js";
import { follow, get, jobPath } from "../../api.js";

const POINTS = 1_500;
// With more than these in the page they are asked for anew, thinned.
const MOST_POINTS = 4_000;
const MESSAGES = 200;
const MOST_MESSAGES = 2_000;
const TAIL = 300;
const PAINT_MS = 250;

/**
 * @typedef {{columns: Record<string, (number | null)[]>, measured: number, thinned: boolean,
 *   totalSteps: number | null}} Curves Each column has a value for each step of `step`.
 * @typedef {{messages: any[], most: number, more: boolean, curves: Curves | null, fault: any}} Live
 *   `messages`: the newest first, `most` of them at most; `more`: there are older ones.
 */

/**
 * @param {string} jobId
 * @param {() => void} moved Called when the job may be another by now.
 * @returns {Live & {older: () => Promise<void>}}
 */
export function useLive(jobId, moved) {
  const [shown, setShown] = useState(/** @type {Live} */ (nothing()));
  const known = useRef(nothing());

  useEffect(() => {
    const gone = new AbortController();
    const now = nothing();
    known.current = now;
    /** @type {any[]} Steps that came before the curves. */
    let early = [];
    let asking = false;
    /** @type {ReturnType<typeof setTimeout> | null} */
    let painting = null;
    let hasMoved = false;
    const paint = () => {
      painting ??= setTimeout(() => {
        painting = null;
        setShown({ ...now, curves: now.curves && { ...now.curves } });
        if (hasMoved) moved();
        hasMoved = false;
      }, PAINT_MS);
    };

    const askCurves = async () => {
      if (asking) return;
      asking = true;
      try {
        const answer = await get(jobPath(jobId, "/metrics"), { limit: POINTS }, gone.signal);
        now.curves = curvesOf(answer);
        now.fault = null;
        for (const step of early) append(now.curves, step);
        early = [];
        paint();
      } catch (fault) {
        if (gone.signal.aborted) return;
        now.fault = fault;
        paint();
        if (mayPass(fault)) setTimeout(askCurves, 3_000);
      } finally {
        asking = false;
      }
    };
    const askMessages = async () => {
      try {
        const page = await get(
          jobPath(jobId, "/events"),
          { type: "message", limit: MESSAGES },
          gone.signal,
        );
        merge(now, page.data);
        now.more = page.has_more;
        paint();
      } catch (fault) {
        if (!gone.signal.aborted && mayPass(fault)) setTimeout(askMessages, 3_000);
      }
    };
    askCurves();
    askMessages();
    const take = (/** @type {any} */ event, /** @type {string} */ kind) => {
      if (kind === "status") {
        hasMoved = true;
      } else if (event.type !== "metrics") {
        merge(now, [event]);
        hasMoved = true;
      } else if (!now.curves || asking) {
        early.push(event.data);
      } else {
        append(now.curves, event.data);
        if (now.curves.columns.step.length > MOST_POINTS) askCurves();
      }
      paint();
    };
    const stop = follow(jobId, { tail: TAIL }, take);
    return () => {
      gone.abort();
      stop();
      if (painting) clearTimeout(painting);
      setShown(nothing());
    };
  }, [jobId]);

  const older = async () => {
    const now = known.current;
    const page = await get(jobPath(jobId, "/events"), {
      type: "message",
      limit: MESSAGES,
      after: now.messages.at(-1)?.id,
    });
    now.most += page.data.length;
    merge(now, page.data);
    now.more = page.has_more;
    setShown((was) => ({ ...was, messages: now.messages, more: now.more }));
  };
  return { ...shown, older };
}

/** Whether the same question may have an answer later. @param {any} fault */
const mayPass = ({ status }) => status === 0 || status === 429 || status >= 500;

/** @returns {Live} */
const nothing = () => ({ messages: [], most: MOST_MESSAGES, more: false, curves: null, fault: null });

/** @param {any} answer @returns {Curves} */
function curvesOf(answer) {
  /** @type {Record<string, (number | null)[]>} */
  const columns = { step: [] };
  answer.columns.forEach((/** @type {string} */ name, /** @type {number} */ i) => {
    columns[name] = answer.points.map((/** @type {any[]} */ point) => point[i]);
  });
  return {
    columns,
    measured: answer.measured_points,
    thinned: answer.thinned,
    totalSteps: answer.total_steps,
  };
}

/** @param {Curves} curves @param {Record<string, number>} step What it measured; twice is once. */
function append(curves, step) {
  const steps = curves.columns.step;
  if (steps.length && step.step <= /** @type {number} */ (steps.at(-1))) return;
  for (const name of Object.keys(step)) {
    if (name !== "total_steps") curves.columns[name] ??= steps.map(() => null);
  }
  for (const [name, values] of Object.entries(curves.columns)) values.push(step[name] ?? null);
  curves.measured += 1;
  curves.totalSteps = step.total_steps ?? curves.totalSteps;
}

/** @param {any} event */
const numberOf = (event) => Number(event.id.slice(event.id.lastIndexOf("-") + 1));

/** @param {Live} now @param {any[]} events */
function merge(now, events) {
  const known = new Map(now.messages.map((event) => [event.id, event]));
  for (const event of events) known.set(event.id, event);
  const all = [...known.values()].sort((one, other) => numberOf(other) - numberOf(one));
  now.more ||= all.length > now.most;
  now.messages = all.slice(0, now.most);
}
