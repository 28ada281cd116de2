"""Backups of a whole drive: snapshots of the catalog, and every blob that one of them names.

Theory of operation.  A backup is a blob store of its own, a folder or a bucket,
that has

- the blobs of the drive under their own keys, each once, however many snapshots name it;
- ``part/DIGEST``, the parts of the catalogs, which are SQLite databases: also each once;
- ``catalog/ID``, which parts make the catalog of a snapshot;
- ``snapshot/ID``, its description, written last.

Neither blobs nor parts ever change, so a backup adds only those that it lacks,
and one that was interrupted continues where it was.  The snapshot of the catalog
comes first, and meanwhile nothing is purged: the process that makes the backup
holds the lease of the sweep.  So every blob that the snapshot names is still
there when it is copied.  A snapshot without a description does not count, and
the next ``prune`` removes its remains.
"""
