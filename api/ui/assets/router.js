// @ts-check
/** Where the reader is: everything is in the address behind the `#`, so a link or a reload leads
 * back to the same view. */
import { useEffect, useState } from "./vendor/preact.js";
import { address } from "./api.js";

/**
 * @typedef {{path: string, query: URLSearchParams}} Place
 * @typedef {{params: Record<string, string>, query: URLSearchParams}} PageProps
 * @typedef {(props: PageProps) => any} PageComponent
 * @typedef {{pattern: string, load: () => Promise<{default: PageComponent}>}} RouteEntry
 */

/** @returns {Place} */
export function place() {
  const hash = location.hash.slice(1) || "/";
  const [path, query = ""] = hash.split("?", 2);
  return { path, query: new URLSearchParams(query) };
}

/** @returns {Place} The reader's place, anew whenever it changes. */
export function usePlace() {
  const [here, setHere] = useState(place());
  useEffect(() => {
    const moved = () => setHere(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return here;
}

/**
 * @param {string} path
 * @param {Record<string, any>} [query] What is null, undefined or empty is left out.
 * @returns {string}
 */
export const href = (path, query = {}) => `#${address(path, query)}`;

/**
 * @param {string} path
 * @param {Record<string, any>} [query]
 * @param {{replace?: boolean}} [how] `replace`: the back button skips where the reader is now.
 */
export function go(path, query = {}, { replace = false } = {}) {
  const to = href(path, query);
  if (!replace) {
    location.hash = to;
    return;
  }
  history.replaceState(null, "", to);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/**
 * What the address means. Parts of a pattern that begin with `:` take any one part of the path, and
 * a last `:name*` takes all that is left: names of models hold slashes. A last `:name?` may be left
 * out, so that the page stays when it comes or goes.
 * @param {RouteEntry[]} routes
 * @param {string} path
 * @returns {{route: RouteEntry, params: Record<string, string>} | null}
 */
export function find(routes, path) {
  const parts = path.split("/").filter(Boolean);
  for (const route of routes) {
    const wanted = route.pattern.split("/").filter(Boolean);
    const rest = wanted.at(-1)?.endsWith("*");
    const least = wanted.filter((want) => !want.endsWith("?")).length;
    if (parts.length < least || (!rest && parts.length > wanted.length)) continue;
    /** @type {Record<string, string>} */
    const params = {};
    const fits = wanted.every((want, i) => {
      if (want.endsWith("*")) {
        params[want.slice(1, -1)] = parts.slice(i).map(plain).join("/");
        return true;
      }
      if (want.endsWith("?")) {
        if (i < parts.length) params[want.slice(1, -1)] = plain(parts[i]);
        return true;
      }
      if (!want.startsWith(":")) return want === parts[i];
      params[want.slice(1)] = plain(parts[i]);
      return true;
    });
    if (fits) return { route, params };
  }
  return null;
}

/** @param {string} part */
function plain(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
