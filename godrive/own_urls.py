"""URLs of this server for the bytes of files, where clients cannot reach the store themselves."""

from __future__ import annotations

from godrive.credentials import UrlSigner
from godrive.model import SignedRequest, Upload
from godrive.principal import Principal, user_of


def sign_put(urls: UrlSigner, by: Principal, upload: Upload) -> SignedRequest:
    """Return the request that sends the bytes of a pending upload on the authority of the user behind *by*."""
    url = urls.sign(
        "PUT",
        f"/v1/uploads/{upload.id}/content",
        {"size": str(upload.size_bytes), "mime": upload.mime, "user": user_of(by)},
        expires_at=upload.expires_at,
    )
    headers = {"Content-Length": str(upload.size_bytes)}
    if upload.mime:  # otherwise the type is determined from the bytes
        headers["Content-Type"] = upload.mime
    return SignedRequest(method="PUT", url=url, headers=headers, expires_at=upload.expires_at)
