// Uses the types that openapi-typescript makes of openapi.json: node out/usage.mjs URL
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const url = process.argv[2] ?? "";
const client = createClient<paths>({ baseUrl: url });
const account = { email: "node@example.org", password: "correct horse" };

const signedUp = await client.POST("/v1/signup", { body: account });
assert.equal(signedUp.data?.email, account.email);
const tokens = await client.POST("/v1/login", { body: account });
assert.ok(tokens.data);
client.use({
  onRequest({ request }) {
    request.headers.set("Authorization", `Bearer ${tokens.data.token}`);
    return request;
  },
});

// Fields with a default may be left out: mime, on_conflict, parent_id, sha256.
const bytes = new TextEncoder().encode("Hello, drive.\n");
const intent = await client.POST("/v1/files/upload-intent", { body: { filename: "notes.txt", size_bytes: bytes.length } });
assert.ok(intent.data);
const target = new URL(intent.data.upload_url);
const signed = (name: string): string => target.searchParams.get(name) ?? "";
const sent = await client.PUT("/v1/uploads/{upload_id}/content", {
  params: {
    path: { upload_id: intent.data.upload_id },
    query: {
      size: Number(signed("size")),
      mime: signed("mime"),
      user: signed("user"),
      expires: Number(signed("expires")),
      key: signed("key"),
      signature: signed("signature"),
    },
  },
  body: "",
  bodySerializer: () => bytes,
  headers: { "Content-Type": "application/octet-stream" },
});
assert.equal(sent.response.status, 201);
assert.ok(sent.data);
const file = sent.data.file;
assert.equal(file.mime, "text/plain");

const listed = await client.GET("/v1/files", { params: { query: { limit: 10, sort: "name" } } });
assert.deepEqual(listed.data?.files.map((entry) => entry.name), ["notes.txt"]);

const download = await client.GET("/v1/files/{file_id}/download", { params: { path: { file_id: file.id } } });
assert.ok(download.data);
assert.equal(await (await fetch(download.data.url)).text(), "Hello, drive.\n");

const posted = await client.POST("/v1/files", {
  params: { query: { name: "one.txt" } },
  body: "",
  bodySerializer: () => bytes,
  headers: { "Content-Type": "application/octet-stream" },
});
assert.ok(posted.data && "id" in posted.data);
const content = await client.GET("/v1/files/{file_id}/content", {
  params: { path: { file_id: posted.data.id } },
  parseAs: "text",
});
assert.equal(content.data, "Hello, drive.\n");

const taken = await client.PATCH("/v1/files/{file_id}", {
  params: { path: { file_id: file.id }, header: { "If-Match": '"another"' } },
  body: { name: "letter.txt" },
});
assert.equal(taken.error?.code, "precondition_failed");

const trashed = await client.DELETE("/v1/files/{file_id}", { params: { path: { file_id: file.id } } });
assert.equal(trashed.data?.deleted, file.id);
const purged = await client.DELETE("/v1/trash/{file_id}", { params: { path: { file_id: file.id } } });
assert.equal(purged.response.status, 204);
console.log("done");
