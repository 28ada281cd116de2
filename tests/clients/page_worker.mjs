// Runs jobs with the clients that docs/uploads.md shows for browsers, in a page of another origin than the server's.
import { optionsOf, work } from "./worker.mjs";
import { upload as uploadWithTus } from "./snippet-tus.mjs";
import { upload as uploadWithUppy } from "./snippet-uppy.mjs";
import { uploadToS3 } from "./uppy_s3.mjs";

const file = (content, job) => new File([content], job.name);

work("", "page", {
  "tus-js-client": (content, job) =>
    uploadWithTus(file(content, job), job.name, job.token, optionsOf(job)),
  "uppy-s3": (content, job) => uploadToS3(file(content, job), job),
  uppy: (content, job) => uploadWithUppy(file(content, job), job.token, optionsOf(job)),
});
