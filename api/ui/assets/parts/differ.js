// @ts-check
/** Which words of two texts differ. */

const MOST_WORDS = 600;

/**
 * @typedef {{text: string, differs: boolean}[]} Marked
 * @param {string} one @param {string} other
 * @returns {[Marked, Marked]} Both texts, whole, in runs; what is in both in the same order does not
 *   differ (longest common subsequence of words).
 */
export function differing(one, other) {
  const [a, b] = [one, other].map((text) => text.match(/\s*\S+|\s+$/g) ?? []);
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) {
    return [[{ text: one, differs: one !== other }], [{ text: other, differs: one !== other }]];
  }
  const same = (/** @type {number} */ i, /** @type {number} */ j) => a[i].trim() === b[j].trim();
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      length[i][j] = same(i, j) ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  /** @type {[Marked, Marked]} */
  const found = [[], []];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && same(i, j)) {
      add(found[0], a[i++], false);
      add(found[1], b[j++], false);
    } else if (j === b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) {
      add(found[0], a[i++], true);
    } else {
      add(found[1], b[j++], true);
    }
  }
  return found;
}

/** @param {Marked} runs @param {string} text @param {boolean} differs */
function add(runs, text, differs) {
  const last = runs.at(-1);
  if (last?.differs === differs) last.text += text;
  else runs.push({ text, differs });
}
