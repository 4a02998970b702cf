// @ts-check
/** Files, sent in parts: a part that is cut off is sent again, and only that part. */
import { Fault, ask, post } from "./api.js";

const PART_BYTES = 8 * 2 ** 20;
const TRIES = 8;
const LONGEST_PAUSE_MS = 15_000;

/**
 * @param {File} file
 * @param {{purpose?: string, columns?: Record<string, string>, onProgress?: (bytes: number) => void,
 *   signal?: AbortSignal}} [how]
 * @returns {Promise<any>} The file object, whose check may still be under way.
 */
export async function upload(file, { purpose = "fine-tune", columns, onProgress, signal } = {}) {
  const begun = await post("/v1/uploads", {
    filename: file.name,
    purpose,
    bytes: file.size,
    mime_type: file.type || "application/octet-stream",
    ...(columns ? { columns } : {}),
  });
  try {
    const parts = [];
    for (let start = 0; start < file.size; start += PART_BYTES) {
      const piece = file.slice(start, start + PART_BYTES);
      const part = await persist(() => {
        const form = new FormData();
        form.append("data", piece, file.name);
        return ask("POST", `/v1/uploads/${begun.id}/parts`, { body: form, signal });
      }, signal);
      parts.push((await part.json()).id);
      onProgress?.(Math.min(start + PART_BYTES, file.size));
    }
    const done = await persist(
      () => ask("POST", `/v1/uploads/${begun.id}/complete`, { json: { part_ids: parts }, signal }),
      signal,
    );
    return (await done.json()).file;
  } catch (fault) {
    post(`/v1/uploads/${begun.id}/cancel`).catch(() => {}); // it ends by itself within an hour
    throw fault;
  }
}

/**
 * Again and again while the service is away or busy.
 * @param {() => Promise<Response>} send
 * @param {AbortSignal} [signal]
 */
async function persist(send, signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await send();
    } catch (fault) {
      const worth = fault instanceof Fault && [0, 429, 502, 503, 504].includes(fault.status);
      if (!worth || tries === TRIES || signal?.aborted) throw fault;
      await new Promise((go) => setTimeout(go, Math.min(500 * 2 ** tries, LONGEST_PAUSE_MS)));
    }
  }
}
