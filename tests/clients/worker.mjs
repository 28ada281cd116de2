// Asks the tests for jobs and runs them: the part that Node.js and a browser have in common (jobs.py is the other side).
export async function work(desk, name, clients) {
  for (;;) {
    const answer = await fetch(`${desk}/next/${name}`);
    if (answer.status === 200) run(desk, await answer.json(), clients); // beside those that run already
  }
}

async function run(desk, job, clients) {
  let outcome;
  try {
    if (job.key) job.token = async () => (await fetch(`${desk}/token/${job.key}`)).text();
    const content = await (await fetch(`${desk}/content/${job.number}`)).blob();
    outcome = { result: await clients[job.client](content, job) };
  } catch (error) {
    const status = error.originalResponse?.getStatus?.();
    outcome = { error: `${status === undefined ? "" : `${status} `}${error.message ?? error} ${error.stack ?? ""}` };
  }
  await fetch(`${desk}/done/${job.number}`, { method: "POST", body: JSON.stringify(outcome) });
}

// The options of tus-js-client for a job: those of its test, and a hook that sends a wrong checksum with the second chunk.
export function optionsOf(job) {
  const options = { ...job.options };
  if (job.checksum) options.onBeforeRequest = (request) => sendChecksum(request, job);
  return options;
}

async function sendChecksum(request, job) {
  request.setHeader("Authorization", `Bearer ${await job.token()}`);
  if (request.getMethod() === "PATCH" && request.getHeader("Upload-Offset") !== "0") request.setHeader("Upload-Checksum", job.checksum);
}
