// @ts-check
/** What a page shows of the service: asked for, and asked for again while the page is looked at. */
import { useCallback, useEffect, useRef, useState } from "./vendor/preact.js";
import { Fault, get } from "./api.js";

/**
 * @typedef {{data: any, fault: Fault | null, reload: () => void}} Loaded `data` is null until the
 *   first answer, and stays when a later one fails.
 */

/**
 * @param {string | null} path Null: nothing is asked for yet.
 * @param {Record<string, any>} [query]
 * @param {{every?: number, until?: (data: any) => boolean}} [how] `every`: milliseconds between an
 *   answer and the next question; `until`: the answer after which no more are asked.
 * @returns {Loaded}
 */
export function useLoaded(path, query = {}, { every, until } = {}) {
  const asked = path === null ? null : `${path} ${JSON.stringify(query)}`;
  const [state, setState] = useState(
    /** @type {{of: string | null, data: any, fault: Fault | null}} */ ({
      of: null,
      data: null,
      fault: null,
    }),
  );
  const [round, setRound] = useState(0);
  const stop = useRef(until);
  stop.current = until;

  useEffect(() => {
    if (path === null) return undefined;
    const gone = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;

    const again = () => {
      clearTimeout(timer);
      if (every && !document.hidden) timer = setTimeout(look, every);
    };
    const look = () =>
      get(path, query, gone.signal).then(
        (data) => {
          if (gone.signal.aborted) return;
          setState({ of: asked, data, fault: null });
          if (!stop.current?.(data)) again();
        },
        (fault) => {
          if (gone.signal.aborted) return;
          setState((was) => ({ of: asked, data: was.of === asked ? was.data : null, fault }));
          if (fault.status === 0 || fault.status === 429 || fault.status >= 500) {
            timer = setTimeout(look, Math.max(every ?? 0, 2_000));
          }
        },
      );
    const seen = () => {
      if (!document.hidden && every) look();
    };

    look();
    document.addEventListener("visibilitychange", seen);
    return () => {
      gone.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [asked, every, round]);

  const reload = useCallback(() => setRound((n) => n + 1), []);
  const fresh = state.of === asked;
  return { data: fresh ? state.data : null, fault: fresh ? state.fault : null, reload };
}

/**
 * A thing that a press of a button does: one at a time, with what went wrong.
 * @template T
 * @param {(...args: any[]) => Promise<T>} act
 * @returns {{run: (...args: any[]) => Promise<T | undefined>, busy: boolean, fault: Fault | null}}
 */
export function useAction(act) {
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState(/** @type {Fault | null} */ (null));
  const run = async (/** @type {any[]} */ ...args) => {
    if (busy) return undefined;
    setBusy(true);
    setFault(null);
    try {
      return await act(...args);
    } catch (error) {
      setFault(error instanceof Fault ? error : new Fault(0, { message: String(error) }, null));
      return undefined;
    } finally {
      setBusy(false);
    }
  };
  return { run, busy, fault };
}
