// @ts-check
/** Which page an address leads to; a page is loaded when it is first seen. */

/** @type {import("./router.js").RouteEntry[]} */
export const ROUTES = [
  { pattern: "/", load: () => import("./pages/jobs.js") },
  { pattern: "/jobs", load: () => import("./pages/jobs.js") },
  { pattern: "/jobs/:id/:view?", load: () => import("./pages/job.js") },
  { pattern: "/compare", load: () => import("./pages/compare.js") },
  { pattern: "/new", load: () => import("./pages/new.js") },
  { pattern: "/files", load: () => import("./pages/files.js") },
  { pattern: "/files/:id", load: () => import("./pages/file.js") },
  { pattern: "/models", load: () => import("./pages/models.js") },
  { pattern: "/models/:name*", load: () => import("./pages/model.js") },
  { pattern: "/playground", load: () => import("./pages/playground.js") },
  { pattern: "/usage", load: () => import("./pages/usage.js") },
  { pattern: "/program", load: () => import("./pages/program.js") },
  { pattern: "/keys", load: () => import("./pages/my_keys.js") },
  { pattern: "/webhooks", load: () => import("./pages/webhooks.js") },
  { pattern: "/webhooks/:id", load: () => import("./pages/webhooks.js") },
  { pattern: "/admin", load: () => import("./pages/admin/workers.js") },
  { pattern: "/admin/workers", load: () => import("./pages/admin/workers.js") },
  { pattern: "/admin/queue", load: () => import("./pages/admin/queue.js") },
  { pattern: "/admin/models", load: () => import("./pages/admin/models.js") },
  { pattern: "/admin/projects", load: () => import("./pages/admin/projects.js") },
  { pattern: "/admin/projects/:id", load: () => import("./pages/admin/project.js") },
  { pattern: "/admin/audit", load: () => import("./pages/admin/audit.js") },
];
