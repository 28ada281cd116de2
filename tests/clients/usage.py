"""Uses the client that openapi-python-client makes of openapi.json as the package ``drive``: python usage.py URL."""

from __future__ import annotations

import io
import sys
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

from drive import AuthenticatedClient, Client
from drive.api.accounts import log_in, sign_up
from drive.api.changes import list_changes
from drive.api.content import get_content, put_content
from drive.api.files import (
    copy_file,
    download_file,
    get_by_path,
    list_children,
    list_files,
    make_folder,
    post_file,
    run_batch,
    trash_file,
    update_file,
)
from drive.api.search import search_files
from drive.api.trash import purge_file
from drive.api.tus import append_to_tus_upload, create_tus_upload, get_tus_upload
from drive.api.uploads import begin_upload, list_parts
from drive.api.versions import delete_version, get_version_content, list_versions, name_version, restore_version
from drive.models import (
    AppendToTusUploadTusResumable,
    BatchBody,
    BatchResults,
    ChangeList,
    Completed,
    CopyBody,
    CreateTusUploadTusResumable,
    Download,
    FileList,
    FileType,
    FolderBody,
    GetByPathChildren,
    Intent,
    IntentBody,
    LogInBody,
    MkdirStep,
    MkdirStepOp,
    MoveStep,
    MoveStepOp,
    OnConflict,
    PostFileFilesBody,
    Problem,
    SignUpBody,
    Tokens,
    Trashed,
    UpdateBody,
    UploadView,
    UserView,
    Version,
    VersionBody,
    VersionList,
)
from drive.models import File as Entry
from drive.types import File, Unset
from httpx import Timeout

URL = sys.argv[1]
ACCOUNT = {"email": "python@example.org", "password": "correct horse"}
BYTES = b"Hello, drive.\n"
PATIENT = Timeout(60)  # the client's own limit is 5 s, which a machine that is busy exceeds


def query_of(url: str) -> dict[str, str]:
    """What a signed URL is signed for; all of it must be sent."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


anyone = Client(base_url=URL, timeout=PATIENT)
user = sign_up.sync(client=anyone, body=SignUpBody(**ACCOUNT))
assert isinstance(user, UserView), user
tokens = log_in.sync(client=anyone, body=LogInBody(**ACCOUNT))
assert isinstance(tokens, Tokens), tokens
client = AuthenticatedClient(base_url=URL, token=tokens.token, timeout=PATIENT)

intent = begin_upload.sync(
    client=client, body=IntentBody(filename="notes.txt", size_bytes=len(BYTES), mime="text/plain")
)
assert isinstance(intent, Intent), intent
assert isinstance(intent.parts, Unset)  # this store takes no parts
problem = list_parts.sync(intent.upload_id, client=client)
assert isinstance(problem, Problem), problem
assert problem.code == "conflict"
signed = query_of(intent.upload_url)
done = put_content.sync(intent.upload_id, client=anyone, body=File(payload=io.BytesIO(BYTES)), **signed)
assert isinstance(done, Completed), done
file = done.file

listed = list_files.sync(client=client, limit=10)
assert isinstance(listed, FileList)
assert [entry.name for entry in listed.files] == ["notes.txt"]

searched = search_files.sync(client=client, q="NOTES", type_=FileType.TEXT, in_="root", min_size=1)
assert isinstance(searched, FileList), searched
assert [entry.id for entry in searched.files] == [file.id]

folder = make_folder.sync(client=client, body=FolderBody(path="a/b", parents=True, exist_ok=True))
assert isinstance(folder, Entry), folder
by_path = get_by_path.sync("notes.txt", client=client)
assert isinstance(by_path, Entry), by_path
assert (by_path.id, by_path.path) == (file.id, "notes.txt")
children = get_by_path.sync("a", client=client, children=GetByPathChildren.TRUE)
assert isinstance(children, FileList), children
assert children == list_children.sync(str(folder.parent_id), client=client)

download = download_file.sync(file.id, client=client)
assert isinstance(download, Download), download
with urlopen(download.url) as response:
    assert response.read() == BYTES
content = get_content.sync(file.id, client=client)
assert isinstance(content, File), content
assert content.payload.read() == BYTES
part = get_content.sync(file.id, client=client, range_="bytes=0-4")
assert isinstance(part, File), part
assert part.payload.read() == b"Hello"

form = PostFileFilesBody(file=[File(payload=io.BytesIO(b"two"), file_name="two.txt", mime_type="text/plain")])
forms = post_file.sync(client=client, body=form)
assert isinstance(forms, FileList), forms
assert [(entry.name, entry.mime) for entry in forms.files] == [("two.txt", "text/plain")]

form = PostFileFilesBody(file=[File(payload=io.BytesIO(b"2"), file_name="two.txt", mime_type="text/plain")])
replaced = post_file.sync(client=client, body=form, on_conflict=OnConflict.REPLACE)
assert isinstance(replaced, FileList), replaced
two = replaced.files[0].id
versions = list_versions.sync(two, client=client)
assert isinstance(versions, VersionList), versions
assert [(version.size_bytes, version.current) for version in versions.versions] == [(1, True), (3, False)]
earlier = versions.versions[1].id
named = name_version.sync(two, earlier, client=client, body=VersionBody(name="first"))
assert isinstance(named, Version), named
content = get_version_content.sync(two, earlier, client=client)
assert isinstance(content, File), content
assert content.payload.read() == b"two"
restored = restore_version.sync(two, earlier, client=client)
assert isinstance(restored, Entry), restored
assert restored.size_bytes == 3
assert delete_version.sync_detailed(two, earlier, client=client).status_code == 204

copied = copy_file.sync(file.id, client=client, body=CopyBody(name="copy.txt"))
assert isinstance(copied, Entry), copied
assert (copied.name, copied.size_bytes) == ("copy.txt", len(BYTES))

batch = BatchBody(
    operations=[
        MkdirStep(op=MkdirStepOp.MKDIR, name="folder"),
        MoveStep(op=MoveStepOp.MOVE, id=copied.id, parent_path="folder"),
    ]
)
done_batch = run_batch.sync(client=client, body=batch)
assert isinstance(done_batch, BatchResults), done_batch
assert [result.status for result in done_batch.results] == [201, 200]

refused = update_file.sync(file.id, client=client, body=UpdateBody(name="a.txt"), if_match='"another"')
assert isinstance(refused, Problem), refused
assert (refused.status, refused.code) == (412, "precondition_failed")
trashed = trash_file.sync(file.id, client=client)
assert isinstance(trashed, Trashed)
assert trashed.deleted == file.id
assert purge_file.sync_detailed(file.id, client=client).status_code == 204
since = list_changes.sync(client=client)
assert isinstance(since, ChangeList), since
trash_file.sync(copied.id, client=client)
changed = list_changes.sync(client=client, cursor=since.cursor, wait=20)
assert isinstance(changed, ChangeList), changed
assert [(change.change, change.id) for change in changed.changes] == [("trashed", copied.id)]
V1 = CreateTusUploadTusResumable.VALUE_0
created = create_tus_upload.sync_detailed(
    client=client, tus_resumable=V1, upload_length=str(len(BYTES)), upload_metadata="filename dHVz"
)
assert created.status_code == 201, created
upload_id = created.headers["Location"].rpartition("/")[2]
for offset in (0, 5):
    piece = File(payload=io.BytesIO(BYTES[offset : 5 if offset == 0 else None]))
    version = AppendToTusUploadTusResumable.VALUE_0
    appended = append_to_tus_upload.sync_detailed(
        upload_id, client=client, body=piece, tus_resumable=version, upload_offset=str(offset)
    )
    assert appended.status_code == 204, appended
tus_upload = get_tus_upload.sync(upload_id, client=client)
assert isinstance(tus_upload, UploadView), tus_upload
assert tus_upload.file_id == appended.headers["Upload-File-Id"]

print("done")
