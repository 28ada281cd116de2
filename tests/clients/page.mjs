// Opens /docs as a browser does, pastes a signed URL, chooses a file and presses Send: node page.mjs SERVER SIGNED_URL FILE
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { JSDOM, VirtualConsole } from "jsdom";

const [server, signedUrl, path] = process.argv.slice(2);
const errors = new VirtualConsole();
errors.on("jsdomError", (error) => { throw error; });

const dom = await JSDOM.fromURL(`${server}/docs`, {
  runScripts: "dangerously",
  resources: "usable",
  virtualConsole: errors,
  beforeParse(window) {
    // What a browser has and jsdom has not.
    window.matchMedia = () => ({ matches: false, addEventListener() {} });
    window.Element.prototype.scrollIntoView = () => {};
    window.fetch = async (target, options = {}) => {
      const body = options.body instanceof window.Blob ? await bytesOf(window, options.body) : options.body;
      return fetch(new URL(target, server), { ...options, body });
    };
  },
});
const { document, File, Event } = dom.window;

function bytesOf(window, blob) {
  return new Promise((resolve, reject) => {
    const reader = new window.FileReader();
    reader.onload = () => resolve(Buffer.from(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsArrayBuffer(blob);
  });
}

function shown(selector, within = document) {
  return new Promise((resolve) => {
    const look = () => {
      const found = within.querySelector(selector);
      if (!found) return false;
      observer.disconnect();
      resolve(found);
      return true;
    };
    const observer = new dom.window.MutationObserver(look);
    observer.observe(document, { childList: true, subtree: true });
    look();
  });
}

const operation = await shown("#put_content");
operation.open = true;
operation.dispatchEvent(new Event("toggle"));
const form = await shown("form", operation);
form.querySelector("input[name=url]").value = signedUrl;
const file = new File([await readFile(path)], basename(path));
Object.defineProperty(form.querySelector("input[type=file]"), "files", { value: [file] });
form.dispatchEvent(new Event("submit", { cancelable: true }));
const status = await shown(".answer .status", form);
console.log(status.textContent);
console.log(form.querySelector(".answer").textContent);
dom.window.close();
