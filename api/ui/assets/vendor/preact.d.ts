export { h, html, render, Component } from "htm/preact";
export { createContext } from "preact";
export * from "preact/hooks";
