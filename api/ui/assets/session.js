// @ts-check
/** Who the reader is signed in as. */
import { createContext, useContext } from "./vendor/preact.js";

/**
 * @typedef {{project_id: string, project: string, key_id: string, scopes: string[],
 *   person_id: string | null, person: string | null}} Me
 */

/** @type {any} */
export const Session = createContext(null);

/** @returns {Me} */
export const useMe = () => useContext(Session);

/** @param {"read" | "write" | "admin"} scope @returns {boolean} Whether the reader may do such things. */
export const useMay = (scope) => useMe().scopes.includes(scope);
