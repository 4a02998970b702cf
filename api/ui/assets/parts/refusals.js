// @ts-check
/** Which field of a form a refusal is about. */

/** @typedef {import("../api.js").Fault} Fault */

/** @param {Fault | null} fault @param {string} field @returns {boolean} */
const isAt = (fault, field) => fault?.param === field || !!fault?.param?.startsWith(`${field}.`);

/**
 * @param {Fault | null} fault @param {string} field
 * @returns {string | null} What the service says of this field.
 */
export const at = (fault, field) => (fault && isAt(fault, field) ? fault.message : null);

/**
 * @param {Fault | null} fault @param {string[]} fields
 * @returns {Fault | null} The fault, unless it is about one of these fields, where it is shown.
 */
export const elsewhere = (fault, fields) =>
  fields.some((field) => isAt(fault, field)) ? null : fault;
