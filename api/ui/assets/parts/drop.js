// @ts-check
/** Where a file is dropped or chosen, and how far it has come. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { Fault } from "../api.js";
import { Upload } from "../uploads.js";
import { bytes } from "../words.js";
import { FaultNotice, Meter } from "./basics.js";

/**
 * @typedef {{name: string, size: number, sent: number, busy: boolean, fault: Fault | null}} Shown
 *   `sent`: the bytes that have arrived.
 */

/**
 * One file after the other.
 * @param {(file: any, own: File) => void} arrived Called with each file object, and the file it was.
 */
export function useUpload(arrived) {
  const current = useRef(/** @type {Upload | null} */ (null));
  const waiting = useRef(/** @type {File[]} */ ([]));
  const [shown, setShown] = useState(/** @type {Shown | null} */ (null));
  const tell = (news) => setShown((was) => (was ? { ...was, ...news } : was));
  useEffect(() => () => current.current?.cancel(), []);

  async function goOn() {
    const upload = current.current;
    if (!upload) return;
    tell({ busy: true, fault: null });
    try {
      const file = await upload.send();
      current.current = null;
      setShown(null);
      arrived(file, upload.file);
      begin(waiting.current.shift());
    } catch (error) {
      if (upload.gone.signal.aborted) return;
      const unread = { message: `The file cannot be read any more: ${error}` };
      tell({ busy: false, fault: error instanceof Fault ? error : new Fault(0, unread, null) });
    }
  }

  /** @param {File | undefined} file @param {Record<string, string>} [columns] */
  function begin(file, columns) {
    if (!file) return;
    current.current = new Upload(file, { columns, onProgress: (sent) => tell({ sent }) });
    setShown({ name: file.name, size: file.size, sent: 0, busy: true, fault: null });
    goOn();
  }

  function giveUp() {
    current.current?.cancel();
    current.current = null;
    setShown(null);
    begin(waiting.current.shift());
  }

  /** @param {File[]} files @param {Record<string, string>} [columns] */
  function send(files, columns) {
    if (current.current) waiting.current.push(...files);
    else {
      waiting.current = files.slice(1);
      begin(files[0], columns);
    }
  }
  return { shown, send, goOn, giveUp };
}

/** @param {{upload: ReturnType<typeof useUpload>, many?: boolean, children?: any}} props */
export function Drop({ upload, many = false, children = null }) {
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [over, setOver] = useState(false);
  if (upload.shown) return html`<${Progress} upload=${upload} />`;
  const dropped = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setOver(false);
    const files = [...(event.dataTransfer?.files ?? [])];
    upload.send(many ? files : files.slice(0, 1));
  };
  const chosen = () => {
    upload.send([...(input.current?.files ?? [])]);
    if (input.current) input.current.value = "";
  };
  return html`
    <div class=${over ? "drop over" : "drop"} onDrop=${dropped} onDragLeave=${() => setOver(false)}
      onDragOver=${(/** @type {Event} */ event) => {
        event.preventDefault();
        setOver(true);
      }}>
      <p><strong>${many ? "Drop files here" : "Drop a file here"}</strong></p>
      <p class="small quiet">JSON lines, JSON, CSV, Excel, Parquet, Arrow or text, also in gzip or zstd.</p>
      <div class="actions">
        <button type="button" class="main" onClick=${() => input.current?.click()}>${many ? "Choose files" : "Choose a file"}</button>
        ${children}
      </div>
      <input ref=${input} type="file" hidden multiple=${many} aria-label="File" onChange=${chosen} />
    </div>
  `;
}

function Progress({ upload }) {
  const { name, size, sent, busy, fault } = upload.shown;
  // Another answer would be the same.
  const final = fault && fault.status >= 400 && fault.status < 500 && ![408, 429].includes(fault.status);
  return html`
    <div class="drop sending">
      <p><strong>${!fault ? "Sending" : final ? "Refused:" : "Not sent whole:"}</strong> <bdi>${name}</bdi></p>
      <${Meter} value=${sent} most=${size} label="Sent of the file" />
      <p class="small quiet">${bytes(sent)} of ${bytes(size)}
        <span role="status">${sent === size && busy && " are there; the file is being checked …"}</span></p>
      <${FaultNotice} fault=${fault} />
      ${fault && !final && html`<p class="small">What has arrived is kept for an hour.</p>`}
      <div class="actions">
        ${fault && !final && html`<button type="button" class="main" onClick=${upload.goOn}>Go on</button>`}
        <button type="button" onClick=${upload.giveUp}>${final ? "Take another" : "Give it up"}</button>
      </div>
    </div>
  `;
}
