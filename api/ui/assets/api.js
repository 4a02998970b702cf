// @ts-check
/** The service's public API, as the console asks it: the session's cookie goes along by itself. */

/** An answer that says no, or none at all (`status` 0). */
export class Fault extends Error {
  /**
   * @param {number} status
   * @param {{message?: string, code?: string | null, param?: string | null}} said
   * @param {string | null} requestId
   */
  constructor(status, said, requestId) {
    super(said.message ?? `The service answered with status ${status}.`);
    this.status = status;
    this.code = said.code ?? null;
    this.param = said.param ?? null;
    this.requestId = requestId;
  }
}

/** Tells the shell: `signed-out` (with the fault), `away` (the service does not answer), `back`. */
export const news = new EventTarget();

/** What changes something says in which project it is meant: another window may have moved on. */
const CHANGES = { "x-tunery-console": "1" };

/** @param {string | null} projectId */
export const actIn = (projectId) => {
  CHANGES["x-tunery-console"] = projectId ?? "1";
};

/**
 * @param {string} path
 * @param {Record<string, any>} [query] Lists become several parameters; null and undefined none.
 */
export function address(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") words.append(name, String(one));
    }
  }
  const tail = words.toString();
  return tail ? `${path}?${tail}` : path;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{query?: Record<string, any>, json?: any, body?: BodyInit, signal?: AbortSignal,
 *   once?: string}} [sent] `once`: a key under which the same request makes something once only.
 * @returns {Promise<Response>} Its status is below 400.
 */
export async function ask(method, path, { query, json, body, signal, once } = {}) {
  /** @type {Record<string, string>} */
  const headers = method === "GET" ? {} : { ...CHANGES };
  if (json !== undefined) headers["content-type"] = "application/json";
  if (once) headers["idempotency-key"] = once;
  let answer;
  try {
    answer = await fetch(address(path, query), {
      method,
      headers,
      body: json === undefined ? body : JSON.stringify(json),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    news.dispatchEvent(new Event("away"));
    throw new Fault(0, { message: "The service does not answer. Is it running?" }, null);
  }
  news.dispatchEvent(new Event("back"));
  if (answer.ok) return answer;
  const said = await answer.json().then((it) => it.error ?? {}, () => ({}));
  const fault = new Fault(answer.status, said, answer.headers.get("x-request-id"));
  if (answer.status === 401 && !path.startsWith("/ui/")) {
    news.dispatchEvent(new CustomEvent("signed-out", { detail: fault }));
  }
  throw fault;
}

/**
 * @param {string} path
 * @param {Record<string, any>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export const get = (path, query, signal) =>
  ask("GET", path, { query, signal }).then((answer) => answer.json());

/**
 * @param {string} path
 * @param {any} [json]
 * @returns {Promise<any>}
 */
export const post = (path, json) => ask("POST", path, { json }).then((answer) => answer.json());

/**
 * @param {string} path
 * @returns {Promise<void>}
 */
export const remove = (path) => ask("DELETE", path).then(() => undefined);

/** @param {string} jobId */
export const jobPath = (jobId, below = "") =>
  `/v1/fine_tuning/jobs/${encodeURIComponent(jobId)}${below}`;

/** A model's name in a path: its slashes stay. @param {string} name */
export const inPath = (name) => name.split("/").map(encodeURIComponent).join("/");

/** @param {string} name */
export const modelPath = (name) => `/v1/models/${inPath(name)}`;

const STREAM_PAUSE_MS = 1_000;

/**
 * Does something while the page is looked at, and breaks it off when it is hidden: a browser has
 * six connections to a service for all its windows, and a stream keeps one.
 * @template T
 * @param {AbortSignal} gone
 * @param {(signal: AbortSignal) => Promise<T>} act
 * @returns {Promise<T>} Rejects when it was broken off.
 */
export async function whileSeen(gone, act) {
  await seen(gone);
  const hidden = new AbortController();
  const look = () => document.hidden && hidden.abort();
  document.addEventListener("visibilitychange", look);
  try {
    return await act(AbortSignal.any([gone, hidden.signal]));
  } finally {
    document.removeEventListener("visibilitychange", look);
  }
}

/** Waits until the page is looked at, or gone. @param {AbortSignal} gone @returns {Promise<void>} */
function seen(gone) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((go) => {
    document.addEventListener("visibilitychange", () => go(), { once: true, signal: gone });
    gone.addEventListener("abort", () => go(), { once: true });
  });
}

/**
 * Follows a job's events until it ends, over restarts of the service.
 * @param {string} jobId
 * @param {{after?: string | null, tail?: number}} from
 * @param {(event: any, kind: string) => void} onEvent Called with each event object in order.
 * @param {() => void} [onEnd] The job has ended, and that was its last event.
 * @returns {() => void} Stops it.
 */
export function follow(jobId, from, onEvent, onEnd = () => {}) {
  let last = from.after ?? null;
  const gone = new AbortController();

  /** @param {AbortSignal} signal @returns {Promise<boolean>} Whether that was all. */
  async function read(signal) {
    const query = last ? { after: last } : { tail: from.tail };
    const answer = await ask("GET", jobPath(jobId, "/stream"), { query, signal });
    if (answer.status === 204) return true;
    for await (const said of messages(answer)) {
      if (said.event === "error") break;
      if (said.id) last = said.id;
      if (said.data) onEvent(JSON.parse(said.data), said.event);
    }
    return false;
  }
  async function run() {
    while (!gone.signal.aborted) {
      try {
        if (await whileSeen(gone.signal, read)) return onEnd();
      } catch (fault) {
        const refused = fault instanceof Fault && fault.status >= 400 && fault.status < 500;
        if (gone.signal.aborted || (refused && fault.status !== 429)) return;
      }
      await new Promise((go) => setTimeout(go, STREAM_PAUSE_MS));
    }
  }

  run();
  return () => gone.abort();
}

/**
 * The server-sent events of an answer (WHATWG HTML, 9.2), as far as ours use them.
 * @param {Response} answer
 */
export async function* messages(answer) {
  let said = { id: "", event: "message", data: "" };
  for await (const line of lines(answer)) {
    if (line === "") {
      if (said.data || said.id) yield said;
      said = { id: "", event: "message", data: "" };
      continue;
    }
    const [name, ...rest] = line.split(": ");
    const value = rest.join(": ");
    if (name === "data") said.data += (said.data ? "\n" : "") + value;
    else if (name === "id" || name === "event") said[name] = value;
  }
}

/**
 * @param {Response} answer
 * @returns {AsyncGenerator<string>} Its lines as they come, without their ends.
 */
export async function* lines(answer) {
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const found = (rest + value).split("\n");
      rest = found.pop() ?? "";
      yield* found;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}
