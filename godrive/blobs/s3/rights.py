"""The rights of the access key, each tried by an operation that needs it."""

from __future__ import annotations

from typing import Any

from godrive.blobs.s3.bucket import Bucket
from godrive.blobs.s3.faults import RIGHTS, is_denied
from godrive.errors import DriveError, StoreUnavailable
from godrive.model import new_id


class Rights(Bucket):
    """What the access key may do."""

    async def missing_rights(self) -> list[str]:
        """Connect and return the rights that the access key lacks, for ``godrive doctor``.

        Does not need :meth:`open` first, which fails at the first right that is missing.
        """
        await self.client.open()
        key, missing = f"{self.layout.probes}{new_id()}", []

        async def may(operation: str, method: str, **arguments: Any) -> Any:
            """The answer, or ``None`` if the store denies the operation."""
            try:
                return await self.client.call(method, **arguments)
            except StoreUnavailable as error:
                if not is_denied(error.__cause__):
                    raise
                missing.append(RIGHTS[operation])
            except DriveError:
                pass  # another answer than a denial
            return None

        await may("PutObject", "put_object", Key=key, Body=b"probe")
        await may("GetObject", "get_object", Key=key)
        await may("ListMultipartUploads", "list_multipart_uploads", MaxUploads=1)
        begun = await may("CreateMultipartUpload", "create_multipart_upload", Key=key)
        if begun is not None:
            await may("ListParts", "list_parts", Key=key, UploadId=begun["UploadId"])
            await may("AbortMultipartUpload", "abort_multipart_upload", Key=key, UploadId=begun["UploadId"])
        await may("DeleteObject", "delete_object", Key=key)
        return sorted(set(missing))
