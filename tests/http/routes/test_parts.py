"""Large uploads in parts, which the client sends to a real S3 store itself."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import aiohttp
import anyio
import pytest
from yarl import URL

from godrive.blobs.parts import MIB, SMALLEST_PART
from godrive.drive import GoDrive
from godrive.errors import DriveError, StoreUnavailable
from godrive.http.wire.server import serve
from godrive.messages.ingest import EventOutcome, IngestBlob, Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.storage import JoinParts
from godrive.messages.uploads import GetUpload
from godrive.model import ETag, ObjectKey, Upload, new_id
from godrive.testing import FaultPoints, ManualClock, open_drive
from tests.ceph import ProbedOnce, own_bucket
from tests.daemon import free_port
from tests.http.client import Answer, Json, Person
from tests.http.conftest import OpenSite
from tests.noise import noise
from tests.principals import SYSTEM
from tests.servers import CephGateway

pytestmark = pytest.mark.anyio

PARTS = [noise(SMALLEST_PART), os.urandom(SMALLEST_PART), b"the end"]
CONTENT = b"".join(PARTS)


class Store(ProbedOnce):
    """A store that can be down for one operation, before or after it has carried it out."""

    def __init__(self, gateway: CephGateway) -> None:
        super().__init__(own_bucket(gateway))
        self.down_before: set[str] = set()
        self.down_after: set[str] = set()
        call = self.client.call

        async def may_fail(operation: str, **arguments: Any) -> Any:
            if operation in self.down_before:
                raise StoreUnavailable("The store is down.")
            answer = await call(operation, **arguments)
            if operation in self.down_after:
                raise StoreUnavailable("The store went away.")
            return answer

        self.client.call = may_fail  # type: ignore[method-assign]

    async def unfinished(self) -> int:
        return len([upload async for upload in self.multipart.unfinished(("",))])

    async def keys(self) -> list[ObjectKey]:
        return [blob.key async for blob in self.list()]


class Served:
    """A served drive in front of the store, and Ann, who uses it."""

    def __init__(self, drive: GoDrive, store: Store, clock: ManualClock, ann: Person) -> None:
        self.drive = drive
        self.store = store
        self.clock = clock
        self.ann = ann

    async def intent(self, content: bytes = CONTENT, name: str = "film.bin", **more: Any) -> Json:
        body = {"filename": name, "size_bytes": len(content), "part_size": SMALLEST_PART, **more}
        answer = await self.ann("POST", "/v1/files/upload-intent", body)
        assert answer.status == 200, answer.json
        intent: Json = answer.json
        return intent

    async def send(self, intent: Json, numbers: Sequence[int] = (1, 2, 3), content: bytes = CONTENT) -> list[Json]:
        """Send parts as the intent says, and return what to complete the upload with."""
        sent = []
        for part in intent["parts"]:
            if part["number"] in numbers:
                first = (part["number"] - 1) * intent["part_size"]
                status, etag = await self.put(part, content[first : first + part["size_bytes"]])
                assert status == 200
                sent.append({"number": part["number"], "etag": etag})
        return sent

    async def put(self, part: Json, body: bytes) -> tuple[int, str | None]:
        """Send one part; status and ETag."""
        url, headers = URL(part["url"], encoded=True), {**part["headers"], "Content-Length": str(len(body))}
        async with self.ann.http.put(url, data=io.BytesIO(body), headers=headers) as answer:
            return answer.status, answer.headers.get("ETag")

    async def complete(self, intent: Json, parts: list[Json] | None = None) -> Answer:
        body = None if parts is None else {"parts": parts}
        return await self.ann("POST", f"/v1/uploads/{intent['upload_id']}/complete", body)

    async def upload(self, intent: Json) -> Upload:
        return await self.drive.metadata.ask(GetUpload(SYSTEM, intent["upload_id"]))

    async def view(self, intent: Json) -> Json:
        view: Json = (await self.ann("GET", f"/v1/uploads/{intent['upload_id']}")).json
        return view

    async def parts(self, intent: Json, query: str = "") -> Answer:
        return await self.ann("GET", f"/v1/uploads/{intent['upload_id']}/parts{query}")

    async def sign(self, intent: Json, *numbers: int) -> Answer:
        return await self.ann("POST", f"/v1/uploads/{intent['upload_id']}/parts", {"numbers": numbers})

    async def advance(self, seconds: float) -> None:
        """Let that much time pass, and log in again."""
        self.clock.advance(seconds)
        await self.ann.enter()

    async def names(self) -> list[str]:
        return [file["name"] for file in (await self.ann("GET", "/v1/files")).json["files"]]

    async def reserved(self) -> int:
        reserved: int = (await self.ann("GET", "/v1/me")).json["usage"]["reserved_bytes"]
        return reserved

    async def read(self, file: Json) -> bytes:
        url = (await self.ann("GET", f"/v1/files/{file['id']}/download")).json["url"]
        async with self.ann.http.get(URL(url, encoded=True)) as answer:
            return await answer.read()


@asynccontextmanager
async def serve_drive(store: Store, **tables: Any) -> AsyncIterator[Served]:
    port, clock = free_port(), ManualClock()
    async with (
        open_drive(blob_store=store, clock=clock, server={"public_url": f"http://127.0.0.1:{port}"}, **tables) as drive,
        serve(drive, "127.0.0.1", port) as (url,),
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        yield Served(drive, store, clock, await Person(http, url).enter())


@pytest.fixture
async def served(ceph_gateway: CephGateway) -> AsyncIterator[Served]:
    async with serve_drive(Store(ceph_gateway)) as served:
        yield served


async def test_parts_that_the_client_sends_to_the_store_become_a_file(served: Served) -> None:
    intent = await served.intent()
    assert [(part["number"], part["size_bytes"]) for part in intent["parts"]] == [
        (1, SMALLEST_PART),
        (2, SMALLEST_PART),
        (3, len(PARTS[2])),
    ]
    assert (intent["part_size"], intent["part_count"], intent["method"]) == (SMALLEST_PART, 3, "PUT")
    assert await served.reserved() == len(CONTENT)
    sent = await served.send(intent)
    assert await served.names() == []
    done = await served.complete(intent, sent)
    assert done.status == 200, done.json
    file = done.json["file"]
    assert (file["name"], file["size_bytes"], file["sha256"]) == ("film.bin", len(CONTENT), None)
    assert await served.names() == ["film.bin"]
    assert await served.read(file) == CONTENT
    assert await served.reserved() == 0
    assert await served.store.unfinished() == 0
    assert (await served.view(intent))["state"] == "committed"


async def test_only_a_file_over_the_threshold_is_offered_in_parts_unless_the_client_asks(
    ceph_gateway: CephGateway,
) -> None:
    async with serve_drive(Store(ceph_gateway), blobs={"s3": {"multipart_threshold": 100}}) as served:
        intent = await served.intent(b"x" * 101, part_size=None)
        assert (intent["part_size"], intent["part_count"], len(intent["parts"])) == (16 * MIB, 1, 1)
        for content, part_size in ((b"x" * 100, None), (b"", SMALLEST_PART)):
            intent = await served.intent(content, part_size=part_size, on_conflict="rename")
            assert not intent.keys() & {"part_size", "part_count", "parts"}
        assert await served.store.unfinished() == 1


async def test_the_default_threshold_is_100_mib(served: Served) -> None:
    async def offered(size: int) -> int:
        body = {"filename": "a", "size_bytes": size, "on_conflict": "rename"}
        return len((await served.ann("POST", "/v1/files/upload-intent", body)).json.get("parts", ()))

    assert [await offered(100 * MIB), await offered(100 * MIB + 1), await offered(10**13 // 2)] == [0, 7, 100]


async def test_a_store_that_takes_no_parts_is_sent_the_whole(open_site: OpenSite, ceph_gateway: CephGateway) -> None:
    body = {"filename": "a", "size_bytes": 200 * MIB, "part_size": SMALLEST_PART}
    async with open_site() as site, aiohttp.ClientSession() as http:
        ann = await Person(http, site.url).enter()
        intent = await ann("POST", "/v1/files/upload-intent", body)
        assert (intent.status, "parts" in intent.json) == (200, False)
        for method, path in (("GET", "parts"), ("POST", "parts")):
            numbers = {"numbers": [1]} if method == "POST" else None
            answer = await ann(method, f"/v1/uploads/{intent.json['upload_id']}/{path}", numbers)
            assert (answer.status, answer.json["code"]) == (409, "conflict")
    async with serve_drive(Store(ceph_gateway)) as served:
        served.store.capabilities = dataclasses.replace(served.store.capabilities, part_guards=None)
        assert "parts" not in await served.intent()


async def test_more_urls_are_signed_on_demand_and_extend_the_deadline(served: Served) -> None:
    size = 100 * SMALLEST_PART + 7
    answer = await served.ann(
        "POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": size, "part_size": SMALLEST_PART}
    )
    intent = answer.json
    assert (len(intent["parts"]), intent["part_count"]) == (100, 101)
    await served.advance(5000)
    before = (await served.view(intent))["expires_at"]
    more = await served.sign(intent, 101, 3)
    assert [(part["number"], part["size_bytes"]) for part in more.json["parts"]] == [(101, 7), (3, SMALLEST_PART)]
    assert before < (await served.view(intent))["expires_at"]
    assert more.json["expires_at"] > intent["expires_at"]
    assert more.headers["Cache-Control"] == "no-store"
    assert (await served.put(more.json["parts"][0], b"sevens!"))[0] == 200
    for numbers in ([], [0], [102], list(range(1, 102))):
        refused = await served.sign(intent, *numbers)
        assert refused.status == 422
        assert refused.json["code"] == "invalid"


async def test_an_upload_is_resumed_with_the_parts_that_the_store_has(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent, [1, 3])
    listed = (await served.parts(intent)).json
    assert [(part["number"], part["size_bytes"]) for part in listed["parts"]] == [(1, SMALLEST_PART), (3, 7)]
    assert (listed["part_size"], listed["part_count"], "next_after" in listed) == (SMALLEST_PART, 3, False)
    assert (await served.parts(intent, "?limit=1")).json["next_after"] == 1
    assert [part["number"] for part in (await served.parts(intent, "?after=1&limit=1")).json["parts"]] == [3]
    assert (await served.view(intent))["received_bytes"] == SMALLEST_PART + 7
    (part,) = (await served.sign(intent, 2)).json["parts"]
    assert (await served.put(part, PARTS[1]))[0] == 200
    assert await served.read((await served.complete(intent)).json["file"]) == CONTENT


async def test_completing_too_early_or_with_wrong_parts_names_the_part_and_ends_nothing(served: Served) -> None:
    intent = await served.intent()
    sent = await served.send(intent, [1, 3])

    async def refused(parts: list[Json] | None) -> tuple[int, str, str]:
        answer = (await served.complete(intent, parts)).json
        return answer["status"], answer["field"], answer["detail"]

    missing = (409, "parts", "Part 2 of 3 has not arrived.")
    assert await refused(None) == missing
    assert await refused(sent) == missing
    sent += await served.send(intent, [2])
    assert await refused(sent[:2]) == (422, "parts", "Part 2 of 3 is not among the parts to join.")
    wrong = [*sent[:2], {"number": 2, "etag": sent[0]["etag"]}]
    assert (await refused(wrong))[:2] == (422, "parts")
    assert (await refused(wrong))[2].startswith("Part 2 has another ETag at the store: ")
    assert (await refused([*sent, {"number": 4, "etag": "a"}]))[2] == (
        "The upload has the parts 1 to 3, and no part 4."
    )
    assert (await served.view(intent))["state"] == "pending"
    assert (await served.complete(intent, sent)).status == 200


async def test_completing_again_or_at_once_gives_the_same_file(served: Served) -> None:
    intent = await served.intent()
    sent = await served.send(intent)
    answers: list[Json] = []

    async def complete() -> None:
        answers.append((await served.complete(intent, sent)).json)

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(complete)
    await complete()
    await served.complete(intent, [{"number": 1, "etag": "whatever"}])
    assert [answer["file"] for answer in answers] == [answers[0]["file"]] * 7
    assert await served.names() == ["film.bin"]
    listed = (await served.parts(intent)).json["parts"]
    assert [part["number"] for part in listed] == [1, 2, 3]
    assert all(part["etag"] for part in listed)


@pytest.mark.parametrize("operation", ["list_parts", "complete_multipart_upload"])
async def test_an_outage_of_the_store_while_it_completes_costs_nothing(served: Served, operation: str) -> None:
    for down in (served.store.down_before, served.store.down_after):
        intent = await served.intent(on_conflict="rename")
        sent = await served.send(intent)
        down.add(operation)
        answer = await served.complete(intent, sent)
        assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
        assert (await served.view(intent))["state"] == "pending"
        down.clear()
        done = await served.complete(intent, sent)
        assert done.status == 200, done.json
        assert await served.read(done.json["file"]) == CONTENT


async def test_an_event_of_joined_parts_publishes_the_file_without_the_client(served: Served) -> None:
    """As after a kill between the two."""
    intent = await served.intent()
    await served.send(intent)
    await served.drive.storage.ask(JoinParts(await served.upload(intent)))
    assert await served.names() == []
    assert await served.drive.ingest.ask(IngestBlob(intent["object_key"])) is EventOutcome.PUBLISHED
    assert await served.names() == ["film.bin"]
    assert (await served.complete(intent)).status == 200


async def test_who_resumes_after_the_parts_were_joined_has_nothing_left_to_send(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent)
    await served.drive.storage.ask(JoinParts(await served.upload(intent)))
    assert [part["number"] for part in (await served.parts(intent)).json["parts"]] == [1, 2, 3]
    assert await served.names() == ["film.bin"]


async def test_a_declared_digest_is_compared_with_the_joined_bytes(served: Served) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    intent = await served.intent(sha256=digest)
    await served.send(intent)
    assert (await served.complete(intent)).json["file"]["sha256"] == digest
    intent = await served.intent(name="other", sha256=hashlib.sha256(b"other").hexdigest())
    await served.send(intent)
    refused = await served.complete(intent)
    assert (refused.status, refused.json["code"]) == (422, "digest_mismatch")
    assert (await served.view(intent))["state"] == "failed"
    assert await served.names() == ["film.bin"]
    assert len(await served.store.keys()) == 1


async def test_a_type_that_nobody_declared_is_found_in_the_joined_bytes(served: Served) -> None:
    content = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj" + bytes(SMALLEST_PART)
    intent = await served.intent(content)
    await served.send(intent, content=content)
    assert (await served.complete(intent)).json["file"]["mime"] == "application/pdf"


async def test_an_aborted_upload_takes_no_more_parts_and_leaves_nothing_at_the_store(served: Served) -> None:
    intent = await served.intent()
    sent = await served.send(intent, [1, 2])
    for _ in range(2):
        aborted = await served.ann("DELETE", f"/v1/uploads/{intent['upload_id']}")
        assert (aborted.status, aborted.json["state"]) == (200, "aborted")
    assert await served.store.unfinished() == 0
    assert await served.reserved() == 0
    assert (await served.put(intent["parts"][2], PARTS[2]))[0] == 404
    for answer in (await served.complete(intent, sent), await served.sign(intent, 3), await served.parts(intent)):
        assert answer.status == 410
        assert answer.json["code"] == "gone"


async def test_an_abort_while_the_store_is_down_is_repeated_by_the_janitor(served: Served) -> None:
    intent = await served.intent()
    served.store.down_before.add("abort_multipart_upload")
    assert (await served.ann("DELETE", f"/v1/uploads/{intent['upload_id']}")).status == 200
    assert (await served.drive.janitor.ask(Sweep())).failed > 0
    assert await served.store.unfinished() == 1
    served.store.down_before.clear()
    await served.advance(3600)
    await served.drive.janitor.ask(Sweep())
    assert await served.store.unfinished() == 0


async def test_an_upload_that_stops_growing_expires_and_its_parts_are_aborted(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent, [1])
    await served.advance(3700)
    await served.drive.ingest.ask(Reconcile())
    assert (await served.view(intent))["state"] == "pending"  # it has grown since the intent
    await served.send(intent, [2])
    await served.advance(3700)
    await served.drive.ingest.ask(Reconcile())
    assert (await served.view(intent))["state"] == "pending"
    await served.advance(3700)
    await served.drive.ingest.ask(Reconcile())
    view = await served.view(intent)
    assert (view["state"], view["reason"]) == ("expired", "No bytes arrived in time.")
    assert await served.reserved() == 0
    await served.drive.janitor.ask(Sweep())
    assert await served.store.unfinished() == 0
    assert (await served.put(intent["parts"][2], PARTS[2]))[0] in {403, 404}


async def test_a_sweep_aborts_the_parts_of_no_upload_and_leaves_those_of_a_pending_one_alone(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent, [1, 2])
    abandoned = ObjectKey(f"00000000/{new_id()}")
    await served.store.begin_parts(abandoned)
    await served.advance(3500)
    (part,) = (await served.sign(intent, 3)).json["parts"]
    await served.drive.janitor.ask(Sweep())
    assert await served.store.unfinished() == 2
    await served.advance(3500)  # the parts have not grown for longer than an upload may pause; a URL was signed since
    await served.drive.janitor.ask(Sweep())
    assert await served.store.unfinished() == 1
    assert (await served.put(part, PARTS[2]))[0] == 200
    assert await served.read((await served.complete(intent)).json["file"]) == CONTENT


async def test_an_outage_past_the_deadline_ends_no_upload(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent)
    operations = {"head_object", "list_parts", "list_objects_v2"}
    served.store.down_before |= operations
    await served.advance(9000)
    reconciled = await served.drive.ingest.ask(Reconcile())
    assert (reconciled.postponed, reconciled.expired) == (1, 0)
    served.store.down_before -= operations
    served.clock.advance(60)
    await served.drive.ingest.ask(Reconcile())
    assert await served.names() == ["film.bin"]


async def test_parts_whose_client_is_gone_are_joined_once_they_are_a_minute_old(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent)
    for seconds in (20, 20):
        served.clock.advance(seconds)
        await served.drive.ingest.ask(Reconcile())
        assert await served.names() == []
    served.clock.advance(120)
    await served.drive.ingest.ask(Reconcile())
    assert await served.names() == ["film.bin"]
    assert (await served.complete(intent)).status == 200


async def test_a_lost_answer_to_the_joining_of_parts_delays_the_file_until_the_next_look(
    ceph_gateway: CephGateway,
) -> None:
    faults = FaultPoints()
    async with serve_drive(Store(ceph_gateway), faults=faults) as served:
        intent = await served.intent()
        sent = await served.send(intent)
        faults.lose_answer(JoinParts)
        assert (await served.complete(intent, sent)).status == 504
        assert (await served.complete(intent, sent)).status == 200
        other = await served.intent(name="other.bin")
        await served.send(other)
        served.clock.advance(120)
        faults.lose_answer(JoinParts)
        assert (await served.drive.ingest.ask(Reconcile())).postponed == 1
        served.clock.advance(30)
        assert (await served.drive.ingest.ask(Reconcile())).published == 1
        assert sorted(await served.names()) == ["film.bin", "other.bin"]


async def test_a_client_that_knows_no_parts_sends_the_whole(served: Served) -> None:
    intent = await served.intent()
    url = URL(intent["upload_url"], encoded=True)
    async with served.ann.http.put(url, data=io.BytesIO(CONTENT), headers=intent["headers"]) as answer:
        assert answer.status == 200
    late = await served.send(intent)
    assert await served.read((await served.complete(intent, late)).json["file"]) == CONTENT
    assert await served.store.unfinished() == 0
    assert (await served.put(intent["parts"][2], PARTS[2]))[0] == 404, (
        "a refused body that is large would still be on its way"
    )


async def test_an_event_of_a_put_beside_the_parts_is_not_believed_but_ends_the_parts(served: Served) -> None:
    """Otherwise joining them could replace the file that the event had published."""
    intent = await served.intent(mime="video/mp4")
    url = URL(intent["upload_url"], encoded=True)
    async with served.ann.http.put(url, data=io.BytesIO(CONTENT), headers=intent["headers"]) as answer:
        etag = ETag(answer.headers["ETag"].strip('"'))
    metadata = {"godrive-sha256": "unverified"}
    at = datetime.now(UTC)
    event = IngestBlob(intent["object_key"], len(CONTENT), etag, at=at, metadata=metadata, certain=True)
    assert await served.drive.ingest.ask(event) is EventOutcome.PUBLISHED
    assert await served.store.unfinished() == 0
    assert await served.names() == ["film.bin"]


async def test_a_store_that_is_down_when_the_parts_begin_leaves_no_upload(served: Served) -> None:
    served.store.down_before.add("create_multipart_upload")
    body = {"filename": "film.bin", "size_bytes": len(CONTENT), "part_size": SMALLEST_PART}
    answer = await served.ann("POST", "/v1/files/upload-intent", body)
    assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
    assert await served.reserved() == 0
    served.store.down_before.clear()
    assert (await served.ann("POST", "/v1/files/upload-intent", body)).status == 200


async def test_parts_that_somebody_aborted_at_the_store_end_the_upload_with_a_reason(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent)
    upload = await served.upload(intent)
    await served.store.abort_parts(upload.object_key, upload.multipart)
    assert (await served.complete(intent)).status == 410
    view = await served.view(intent)
    assert (view["state"], view["reason"]) == ("failed", "The store no longer has the parts of the upload.")


async def test_the_quota_is_reserved_before_a_part_is_signed(ceph_gateway: CephGateway) -> None:
    async with serve_drive(Store(ceph_gateway), auth={"default_quota_bytes": 2 * len(CONTENT) - 1}) as served:
        intent = await served.intent()
        body = {"filename": "other", "size_bytes": len(CONTENT), "part_size": SMALLEST_PART}
        refused = await served.ann("POST", "/v1/files/upload-intent", body)
        assert (refused.status, refused.json["code"]) == (507, "quota_exceeded")
        assert await served.store.unfinished() == 1
        await served.ann("DELETE", f"/v1/uploads/{intent['upload_id']}")
        assert (await served.ann("POST", "/v1/files/upload-intent", body)).status == 200


async def test_to_others_the_parts_do_not_exist(served: Served) -> None:
    intent = await served.intent()
    await served.send(intent)
    bob = await Person(served.ann.http, served.ann.url).enter("bob@example.org")
    path = f"/v1/uploads/{intent['upload_id']}"
    for method, call, body in (
        ("GET", f"{path}/parts", None),
        ("POST", f"{path}/parts", {"numbers": [1]}),
        ("POST", f"{path}/s3", None),
        ("GET", f"{path}/s3", None),
        ("POST", f"{path}/s3/complete", None),
        ("POST", f"{path}/complete", {"parts": []}),
        ("DELETE", path, None),
    ):
        answer = await bob(method, call, body)
        assert (answer.status, answer.json["code"]) == (404, "not_found"), call
    assert (await served.view(intent))["state"] == "pending"
    assert (await served.complete(intent)).status == 200


async def test_the_calls_of_s3_mean_the_same_as_those_in_json(served: Served) -> None:
    intent = await served.intent()
    path = f"/v1/uploads/{intent['upload_id']}/s3"
    begun = await served.ann("POST", path)
    assert f"<UploadId>{intent['upload_id']}</UploadId>" in begun.content.decode()
    (sent,) = await served.send(intent, [2])
    listed = ElementTree.fromstring((await served.ann("GET", path)).content)
    assert [part.findtext("PartNumber") for part in listed.findall("Part")] == ["2"]
    assert listed.findtext("Part/ETag") == sent["etag"].strip('"')
    early = await served.ann("POST", f"{path}/complete")
    assert (early.status, early.json["detail"]) == (409, "Part 1 of 3 has not arrived.")
    await served.send(intent, [1, 3])
    done = await served.ann("POST", f"{path}/complete", data=b"<CompleteMultipartUpload/>")
    assert (done.status, done.headers["Content-Type"].partition(";")[0]) == (200, "application/xml")
    (file,) = (await served.ann("GET", "/v1/files")).json["files"]
    location = ElementTree.fromstring(done.content).findtext("Location")
    assert location == f"{served.ann.url}/v1/files/{file['id']}"
    assert len(ElementTree.fromstring((await served.ann("GET", path)).content).findall("Part")) == 3


async def test_a_part_never_holds_more_than_was_signed(served: Served) -> None:
    intent = await served.intent()
    assert (await served.put(intent["parts"][2], PARTS[2] + b"!"))[0] == 403
    assert (await served.put(intent["parts"][2], PARTS[2][:-1]))[0] == 403
    with pytest.raises(DriveError):
        await served.drive.storage.ask(JoinParts(await served.upload(intent)))
