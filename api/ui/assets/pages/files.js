// @ts-check
/** `#/files`: the project's data sets and its jobs' metrics, and where new ones are dropped. */
import { html, useState } from "../vendor/preact.js";
import { remove } from "../api.js";
import { useAction, useLoaded } from "../loaded.js";
import { AskFirst, Await, Empty, FaultNotice, LinkButton, Notice, Page, Section, Status, Table, Time } from "../parts/basics.js";
import { Drop, useUpload } from "../parts/drop.js";
import { formatName } from "../parts/report.js";
import { href } from "../router.js";
import { useMay } from "../session.js";
import { bytes, count, plural } from "../words.js";

const PAGE = 25;
const EVERY_MS = 5_000;
const PURPOSES = { "fine-tune": "data set", "fine-tune-results": "metrics of a job" };

/** @param {import("../router.js").PageProps} props */
export default function Files({ query }) {
  const writes = useMay("write");
  const purpose = query.get("purpose");
  const after = query.get("after");
  const files = useLoaded("/v1/files", { limit: PAGE, purpose, after }, { every: EVERY_MS });
  const [arrived, setArrived] = useState(/** @type {any[]} */ ([]));
  const upload = useUpload((file) => {
    setArrived((earlier) => [file, ...earlier]);
    files.reload();
  });
  const deleting = useAction(async (/** @type {string} */ id) => {
    await remove(`/v1/files/${encodeURIComponent(id)}`);
    setArrived((those) => those.filter((file) => file.id !== id));
    files.reload();
  });
  const named = (file) => html`<a href=${href(`/files/${file.id}`)}><bdi>${file.filename}</bdi></a>`;
  const users = (file) =>
    file.tunery?.jobs ? html`<a href=${href(`/files/${file.id}`)}>${plural(file.tunery.jobs, "job")}</a>` : "–";
  const deletion = (file) => html`<${Delete} file=${file} deleting=${deleting} />`;

  return html`
    <${Page} title="Files">
      ${writes && html`<${Drop} upload=${upload} many />`}
      ${arrived.map(
        (file) => html`<${Notice} key=${file.id} tone=${file.status === "error" ? "bad" : "good"}>
          <p>${named(file)} is here. ${file.status === "error"
            ? html`It has faults: <bdi>${file.status_details}</bdi>`
            : html`<a href=${href("/new", { file: file.id })}>Train on it</a>`}</p>
        </${Notice}>`,
      )}
      <${FaultNotice} fault=${deleting.fault} />
      <${Section} title="All files" actions=${html`<${Purposes} current=${purpose} />`}>
        <${Await} loaded=${files}>
          ${(found) =>
            found.data.length
              ? html`<${Table} label="Files" rows=${found.data} columns=${[
                  { name: "File", cell: named },
                  { name: "Holds", cell: (file) => PURPOSES[file.purpose] ?? file.purpose },
                  { name: "State", cell: (file) => html`<${Status} of=${file.status} />` },
                  { name: "Rows", number: true, cell: (file) => count(file.tunery?.rows) },
                  { name: "Format", cell: (file) => (file.tunery?.format ? formatName(file.tunery.format) : "–") },
                  { name: "Size", number: true, cell: (file) => bytes(file.bytes) },
                  { name: "Created", cell: (file) => html`<${Time} at=${file.created_at} />` },
                  { name: "Used by", cell: users },
                  ...(writes ? [{ name: "Delete", hidden: true, cell: deletion }] : []),
                ]} />`
              : html`<${Empty} title=${after ? "No more files" : "No files yet"}>
                  <p>${writes
                    ? "Drop a data set above. It is checked line by line as soon as it is here."
                    : "This key can only read. Someone with a key that writes uploads a data set."}</p>
                </${Empty}>`}
        </${Await}>
        <div class="actions">
          ${after && html`<${LinkButton} href=${href("/files", { purpose })}>Newest</${LinkButton}>`}
          ${files.data?.has_more &&
          html`<${LinkButton} href=${href("/files", { purpose, after: files.data.last_id })}>Older</${LinkButton}>`}
        </div>
      </${Section}>
    </${Page}>
  `;
}

const Purposes = ({ current }) => html`
  ${[[null, "All"], ["fine-tune", "Data sets"], ["fine-tune-results", "Metrics"]].map(
    ([purpose, name]) => html`<a class="button small" href=${href("/files", { purpose })}
      aria-current=${purpose === current ? "true" : undefined}>${name}</a>`,
  )}
`;

const Delete = ({ file, deleting }) => html`<${AskFirst} label="Delete" busy=${deleting.busy}
  question=${html`Delete <bdi>${file.filename}</bdi>? Its bytes are gone for good. Models that were trained on it stay.`}
  act=${() => deleting.run(file.id)} />`;
