// @ts-check
/** Rows by their tokens, and where they are cut off. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { count, plural } from "../words.js";

const HEIGHT = 150;
const BELOW = 22;
const ABOVE = 18;
const LABEL_WIDTH = 44;
// Empty bins show how far the cut-off is, unless it is very far.
const MOST_EMPTY = 3;

/**
 * @param {{bins: {up_to: number, rows: number}[], maxLength: number}} props Each bin ends at twice
 *   the tokens of the one before.
 */
export function Histogram({ bins, maxLength }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [width, setWidth] = useState(0);
  const [asTable, setAsTable] = useState(false);
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const sized = new ResizeObserver(() => {
      // Not at once: a size that changes while sizes are told is a fault of the page.
      frame = requestAnimationFrame(() => setWidth(element.clientWidth));
    });
    let frame = 0;
    sized.observe(element);
    return () => {
      sized.disconnect();
      cancelAnimationFrame(frame);
    };
  }, [asTable]);
  if (!bins.length) return null;
  const last = bins[bins.length - 1].up_to;
  const said = `Rows of ${count(from(bins[0]))} to ${count(last)} tokens; rows are cut off at ${count(maxLength)}.`;
  return html`
    <figure class="chart">
      <figcaption>
        <strong>Rows by tokens</strong>
        <button type="button" class="small" aria-pressed=${asTable} onClick=${() => setAsTable(!asTable)}>Table</button>
      </figcaption>
      ${asTable
        ? html`<${Numbers} bins=${bins} />`
        : html`<div ref=${box} role="img" aria-label=${said}>
            ${width > 0 && bars(upTo(bins, maxLength), maxLength, width)}
          </div>`}
      <p class="small quiet">Cut-off at ${plural(maxLength, "token")}${maxLength > last && ", which no row reaches"}.</p>
    </figure>
  `;
}

/** @param {{up_to: number}} bin The least tokens in it. */
const from = (bin) => Math.floor(bin.up_to / 2) + 1;

/** @param {{up_to: number, rows: number}[]} bins @param {number} maxLength With empty ones up to the cut-off. */
function upTo(bins, maxLength) {
  const all = [...bins];
  while (all[all.length - 1].up_to < maxLength) all.push({ up_to: all[all.length - 1].up_to * 2, rows: 0 });
  return all.length > bins.length + MOST_EMPTY ? bins : all;
}

/** @param {{up_to: number, rows: number}[]} bins @param {number} maxLength @param {number} width */
function bars(bins, maxLength, width) {
  const each = width / bins.length;
  const most = Math.max(...bins.map((bin) => bin.rows));
  const tall = HEIGHT - BELOW - ABOVE;
  const every = Math.ceil(LABEL_WIDTH / each);
  const cut = (Math.log2(maxLength) - Math.log2(bins[0].up_to / 2)) * each;
  return html`<svg class="histogram" width=${width} height=${HEIGHT} viewBox=${`0 0 ${width} ${HEIGHT}`} aria-hidden="true">
    ${bins.map((bin, i) => {
      const high = bin.rows ? Math.max(2, (bin.rows / most) * tall) : 0;
      const middle = (i + 0.5) * each;
      return html`
        <rect x=${i * each + 2} y=${HEIGHT - BELOW - high} width=${Math.max(1, each - 4)} height=${high} />
        ${i % every === 0 && html`<text x=${middle} y=${HEIGHT - 6}>≤ ${count(bin.up_to)}</text>`}
        ${bin.rows > 0 && each >= LABEL_WIDTH &&
        html`<text x=${middle} y=${HEIGHT - BELOW - high - 4}>${count(bin.rows)}</text>`}`;
    })}
    <line class="floor" x1="0" x2=${width} y1=${HEIGHT - BELOW} y2=${HEIGHT - BELOW} />
    ${cut >= 0 && cut <= width && html`<line class="cut" x1=${cut} x2=${cut} y1="2" y2=${HEIGHT - BELOW} />`}
  </svg>`;
}

const Numbers = ({ bins }) => html`
  <table class="table plain" aria-label="Rows by tokens">
    <thead><tr><th scope="col">Tokens</th><th scope="col" class="number">Rows</th></tr></thead>
    <tbody>${bins.map(
      (bin) => html`<tr>
        <td>${count(from(bin))} to ${count(bin.up_to)}</td><td class="number">${count(bin.rows)}</td>
      </tr>`,
    )}</tbody>
  </table>
`;
