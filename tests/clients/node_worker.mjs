// Runs jobs with the clients that docs/uploads.md shows for Node.js: node node_worker.mjs DESK
import { optionsOf, work } from "./worker.mjs";
import { upload } from "./snippet-tus.mjs";

await work(process.argv[2], "node", {
  "tus-js-client": async (content, job) =>
    upload(Buffer.from(await content.arrayBuffer()), job.name, job.token, optionsOf(job)),
});
