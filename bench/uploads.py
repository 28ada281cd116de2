"""Small uploads by wrk, the client that also measures the bare handler: a slower one would be the limit."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Protocol

from bench import stage
from bench.clients import Load, wrk

SIZE = 4096
CONNECTIONS = 32

_LUA = """
local tokens = {TOKENS}
local head = PLAIN
local body = string.rep("x", SIZE)
local count, puts, threads = 0, {}, {}
finished = 0

function setup(thread) thread:set("id", #threads); threads[#threads + 1] = thread end

local function send(line, fields)
    return line .. " HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nContent-Length: SIZE\\r\\n" .. fields .. "\\r\\n" .. body
end

local function bearer() return "Authorization: Bearer " .. tokens[count % #tokens + 1] .. "\\r\\n" end

local rows = {}

function rows.post(name)
    return send("POST /v1/files?name=" .. name, bearer() .. "Content-Type: application/x-data\\r\\n")
end

function rows.intent(name)
    local intent = '{"filename":"' .. name .. '","mime":"application/x-data","size_bytes":SIZE}'
    return "POST /v1/files/upload-intent HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n" .. bearer() ..
        "Content-Type: application/json\\r\\nContent-Length: " .. #intent .. "\\r\\n\\r\\n" .. intent
end

function rows.upload(name) return table.remove(puts) or rows.intent(name) end

function rows.plain(name) return (head:gsub("{n}", name)) .. "Host: 127.0.0.1\\r\\n\\r\\n" .. body end

function request()
    count = count + 1
    return rows.ROW("RUN-" .. id .. "-" .. count .. ".bin")
end

function response(status, headers, answer)
    if status >= 300 then return end
    local target = answer:match('"upload_url":"https?://[^/]*([^"]*)"')
    if not target or "ROW" == "intent" then
        finished = finished + 1
    else
        puts[#puts + 1] = send("PUT " .. target, "Content-Type: application/x-data\\r\\n")
    end
end

function done(summary)
    local units = 0
    for _, thread in ipairs(threads) do units = units + thread:get("finished") end
    io.write(string.format("Units: %d in %d us\\n", units, summary.duration))
end
"""


class Listens(Protocol):
    """A server: GoDrive, or one of others."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...


def send(
    server: Listens, row: str, people: Sequence[stage.Person], *, seconds: float, plain: str = "",
    connections: int = CONNECTIONS,
) -> Load:  # fmt: skip
    """Repeat a row: ``post`` (an upload in one request), ``upload`` (in two), ``intent``, or ``plain`` (to a peer).

    Its rate is that of units.  What is on its way in the end may be stored, but is not counted.
    Raises ``RuntimeError`` if a request was refused.
    """
    values = {
        "TOKENS": ", ".join(json.dumps(person.token) for person in people),
        "PLAIN": json.dumps(plain),
        "SIZE": str(SIZE),
        "ROW": row,
        "RUN": uuid.uuid4().hex[:8],
    }
    script = _LUA
    for name, value in values.items():
        script = script.replace(name, value)
    load = wrk(f"http://127.0.0.1:{server.port}", seconds=seconds, connections=connections, script=script)
    if load.refused:
        raise RuntimeError(f"{load.refused} requests were refused")
    return load
