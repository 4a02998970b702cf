// @ts-check
/** Files, sent in parts: what was cut off goes on from the first part that did not arrive. */
import { Fault, ask, post } from "./api.js";

const PART_BYTES = 8 * 2 ** 20;
const TRIES = 5;
const LONGEST_PAUSE_MS = 8_000;
// The service has ended the upload in the meantime: it lives for an hour.
const OVER = new Set(["upload_expired", "upload_cancelled", "not_found"]);

/** One file on its way. It is sent by `send`, again after a fault, until it has arrived. */
export class Upload {
  /**
   * @param {File} file
   * @param {{purpose?: string, columns?: Record<string, string>,
   *   onProgress?: (bytes: number) => void}} [how] `onProgress` is told how much has arrived.
   */
  constructor(file, { purpose = "fine-tune", columns, onProgress = () => {} } = {}) {
    this.file = file;
    this.purpose = purpose;
    this.columns = columns;
    this.onProgress = onProgress;
    this.gone = new AbortController();
    /** @type {string | null} */
    this.id = null;
    /** @type {string[]} */
    this.parts = [];
  }

  /**
   * Sends what has not arrived yet.
   * @returns {Promise<any>} The file object, whose check may still be under way.
   */
  async send() {
    try {
      return await this.rest();
    } catch (fault) {
      if (!(this.id && fault instanceof Fault && OVER.has(fault.code ?? ""))) throw fault;
      this.id = null;
      return await this.rest();
    }
  }

  async rest() {
    if (this.id === null) {
      const begun = await this.persist(() => ask("POST", "/v1/uploads", { json: this.announced }));
      this.id = (await begun.json()).id;
      this.parts = [];
    }
    const path = `/v1/uploads/${this.id}`;
    const { size } = this.file;
    while (this.parts.length * PART_BYTES < size) {
      const start = this.parts.length * PART_BYTES;
      this.onProgress(start);
      const form = new FormData();
      form.append("data", this.file.slice(start, start + PART_BYTES), this.file.name);
      const part = await this.persist(() => ask("POST", `${path}/parts`, { body: form, signal: this.gone.signal }));
      this.parts.push((await part.json()).id);
    }
    this.onProgress(size);
    const json = { part_ids: this.parts };
    const done = await this.persist(() => ask("POST", `${path}/complete`, { json, signal: this.gone.signal }));
    return (await done.json()).file;
  }

  get announced() {
    return {
      filename: this.file.name,
      purpose: this.purpose,
      bytes: this.file.size,
      mime_type: this.file.type || "application/octet-stream",
      ...(this.columns ? { columns: this.columns } : {}),
    };
  }

  /** Gives it up. */
  cancel() {
    this.gone.abort();
    if (this.id) post(`/v1/uploads/${this.id}/cancel`).catch(() => {}); // it ends by itself, too
  }

  /**
   * Again and again while the service is away or busy, for about 20 seconds.
   * @param {() => Promise<Response>} send
   */
  async persist(send) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await send();
      } catch (fault) {
        const worth = fault instanceof Fault && [0, 429, 502, 503, 504].includes(fault.status);
        if (!worth || tries === TRIES || this.gone.signal.aborted) throw fault;
        await new Promise((go) => setTimeout(go, Math.min(500 * 2 ** tries, LONGEST_PAUSE_MS)));
      }
    }
  }
}
