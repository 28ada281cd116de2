// Uploads with Uppy's plugin for S3 as docs/uploads.md shows it, and does to it what the job says.
import { uppyForS3 } from "./snippet-uppy-s3.mjs";
import { uppyForS3 as uppy5ForS3 } from "./uppy-5.mjs";

export async function uploadToS3(file, job) {
  const make = job.version === 5 ? uppy5ForS3 : uppyForS3;
  const uppy = make(job.api, async () => job.token, { shouldUseMultipart: job.multipart });
  const parts = [];
  uppy.on("s3-multipart:part-uploaded", (_, part) => {
    parts.push(part.PartNumber);
    if (parts.length === job.pause_after) {
      uppy.pauseAll();
      setTimeout(() => uppy.resumeAll(), 10);
    }
    if (parts.length === job.cancel_after) uppy.cancelAll();
    if (parts.length === job.leave_after) uppy.pauseAll();
  });
  const id = uppy.addFile({ name: file.name, type: file.type, data: file });
  if (job.state) uppy.setFileState(id, { s3Multipart: job.state }); // as Golden Retriever does after a reload
  const done = uppy.upload().then(({ successful, failed }) => {
    if (failed.length && !job.retries) throw failed[0].error;
    return { urls: successful.map((one) => one.uploadURL), failed: failed.map((one) => one.error) };
  });
  if (job.leave_after) {
    while (parts.length < job.leave_after) await new Promise((resolve) => setTimeout(resolve, 10));
    return { parts, state: uppy.getFile(id).s3Multipart };
  }
  let result = await done;
  for (let left = job.retries ?? 0; left > 0 && result.failed.length; left -= 1) {
    const { successful, failed } = await uppy.retryAll();
    result = { urls: successful.map((one) => one.uploadURL), failed: failed.map((one) => one.error) };
  }
  return { ...result, parts };
}
