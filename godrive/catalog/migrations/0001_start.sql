-- Users, sessions, entries (files and folders), versions, uploads, and what keeps them honest.
-- Instants are microseconds since 1970, sizes bytes, '' is the root as a parent.
-- {text} is text compared byte by byte, {number} the type of a key that is a number,
-- {clustered} where the database can do it a table whose rows lie in the order of its primary key.

-- One row.  nonce tells this catalog from every other: it is part of every validator that clients keep.
-- time_noted_at is what the clock showed at the last sweep; 0 before the first.  clock_doubt is how much longer it was not
-- trusted then, and clock_due_by by which time things were due instead.  At clock_accepted_at an operator confirmed it.
-- clock_latest is the latest time that it has shown to a sweep since it was trusted last.
CREATE TABLE catalog (
    nonce {text} NOT NULL,
    time_noted_at BIGINT NOT NULL DEFAULT 0,
    clock_doubt BIGINT NOT NULL DEFAULT 0,
    clock_due_by BIGINT,
    clock_latest BIGINT NOT NULL DEFAULT 0,
    clock_accepted_at BIGINT
);
INSERT INTO catalog (nonce) VALUES ({nonce});

-- version_bytes and version_count are those of earlier versions; the current one of a file is in live_bytes or trash_bytes.
-- changes is the number of the last change to what the lists of a user show: the same number, the same lists.
-- log_rows counts the user's rows in the table changes; those up to the number log_start have been deleted.
-- What came into the trash no later than trash_cleared_at is on its way out.
-- The rows of names of a user have the numbers after names_after.
-- A user who is disabled and has delete_at is deleted then.
-- A user of a host application has an external_id; such a user may have no e-mail address and no password ('').
CREATE TABLE users (
    id {text} PRIMARY KEY,
    external_id {text},
    email {text} NOT NULL,
    email_key {text} NOT NULL,
    password_hash {text} NOT NULL,
    state {text} NOT NULL,
    created_at BIGINT NOT NULL,
    quota_bytes BIGINT,
    live_bytes BIGINT NOT NULL DEFAULT 0,
    trash_bytes BIGINT NOT NULL DEFAULT 0,
    version_bytes BIGINT NOT NULL DEFAULT 0,
    reserved_bytes BIGINT NOT NULL DEFAULT 0,
    entry_count BIGINT NOT NULL DEFAULT 0,
    upload_count BIGINT NOT NULL DEFAULT 0,
    version_count BIGINT NOT NULL DEFAULT 0,
    changes BIGINT NOT NULL DEFAULT 0,
    log_rows BIGINT NOT NULL DEFAULT 0,
    log_start BIGINT NOT NULL DEFAULT 0,
    trash_cleared_at BIGINT,
    delete_at BIGINT,
    names_after BIGINT
);
CREATE INDEX users_cleared ON users (id) WHERE trash_cleared_at IS NOT NULL;
CREATE UNIQUE INDEX users_email ON users (email_key) WHERE email_key <> '';
CREATE UNIQUE INDEX users_external ON users (external_id) WHERE external_id IS NOT NULL;
-- Characters 5 and 6 of a bcrypt hash are its cost: the highest one decides how long every failed log-in takes.
CREATE INDEX users_hash_cost ON users (substr(password_hash, 5, 2));
CREATE INDEX users_due ON users (delete_at) WHERE delete_at IS NOT NULL;
CREATE INDEX users_deleted ON users (id) WHERE state = 'deleted';

CREATE TABLE invites (
    digest {text} PRIMARY KEY,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    used_at BIGINT,
    used_by {text}
);

-- last_used_at is the time of the last refresh, refreshed_by the User-Agent that asked for it.
CREATE TABLE sessions (
    id {text} PRIMARY KEY,
    user_id {text} NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    address {text} NOT NULL,
    user_agent {text} NOT NULL,
    refreshed_by {text} NOT NULL DEFAULT ''
);
CREATE INDEX sessions_user ON sessions (user_id, last_used_at);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- Networks that sessions of a user came from.  They outlive the sessions: attacks on the account do not lock them out.
-- forwarded is 1 when the last request came through a proxy that is not trusted, so the network is the proxy's.
CREATE TABLE session_networks (
    user_id {text} NOT NULL,
    network {text} NOT NULL,
    last_seen_at BIGINT NOT NULL,
    forwarded INTEGER NOT NULL,
    PRIMARY KEY (user_id, network)
) {clustered};
CREATE INDEX session_networks_age ON session_networks (last_seen_at);
CREATE INDEX session_networks_forwarded ON session_networks (network, user_id) WHERE forwarded = 1;

-- state: live -> trashed -> purging (claimed for removal, never to return), or building -> live or purging: the top of
-- a copy (copies).  Only the top of a tree that was trashed
-- has another state than live; an entry is visible when no folder above it has.
-- list_state: file and folder in the lists of the whole drive, hidden when it is in the trash, by itself or with a
-- folder.  Below a folder it follows the truth within seconds (unsettled); live_bytes and trash_bytes follow it exactly.
-- modified_at is when the content was last modified, as the client says; by default when it was uploaded.
-- properties is a JSON object, NULL when it is empty; the table properties is its index.
-- height is at least the number of levels below the entry: it rises when something is put in, and never falls.
-- The key is the order of the list that is asked for most, so a page of it is one or two reads of the disk.
CREATE TABLE entries (
    id {text} NOT NULL UNIQUE,
    owner_id {text} NOT NULL,
    list_state {text} NOT NULL,
    parent_id {text} NOT NULL,
    kind {text} NOT NULL,
    name {text} NOT NULL,
    name_key {text} NOT NULL,
    search_key {text} NOT NULL,
    mime {text} NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 {text},
    version_id {text},
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    favorite INTEGER NOT NULL DEFAULT 0,
    properties {text},
    height INTEGER NOT NULL DEFAULT 0,
    state {text} NOT NULL,
    trashed_at BIGINT,
    purge_at BIGINT,
    next_purge_at BIGINT,
    purge_attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (owner_id, list_state, created_at, id)
) {clustered};
CREATE UNIQUE INDEX entries_name ON entries (owner_id, parent_id, name_key) WHERE state = 'live';
CREATE INDEX entries_sorted ON entries (owner_id, list_state, search_key, id);
CREATE INDEX entries_folder_created ON entries (owner_id, parent_id, created_at, id) WHERE state = 'live';
CREATE INDEX entries_folder_sorted ON entries (owner_id, parent_id, search_key, id) WHERE state = 'live';
CREATE INDEX entries_folder_size ON entries (owner_id, parent_id, size_bytes, id) WHERE state = 'live';
CREATE INDEX entries_folder_modified ON entries (owner_id, parent_id, modified_at, id) WHERE state = 'live';
CREATE INDEX entries_folders_created ON entries (owner_id, parent_id, created_at, id)
    WHERE state = 'live' AND kind = 'folder';
CREATE INDEX entries_folders_sorted ON entries (owner_id, parent_id, search_key, id)
    WHERE state = 'live' AND kind = 'folder';
CREATE INDEX entries_folders_size ON entries (owner_id, parent_id, size_bytes, id)
    WHERE state = 'live' AND kind = 'folder';
CREATE INDEX entries_folders_modified ON entries (owner_id, parent_id, modified_at, id)
    WHERE state = 'live' AND kind = 'folder';
CREATE INDEX entries_folder_ended ON entries (parent_id) WHERE state <> 'live';
CREATE INDEX entries_trash ON entries (owner_id, trashed_at, id) WHERE state = 'trashed';
CREATE INDEX entries_due ON entries (next_purge_at) WHERE state = 'trashed';
CREATE INDEX entries_purging ON entries (next_purge_at) WHERE state = 'purging';
CREATE INDEX entries_favorite ON entries (owner_id, id) WHERE favorite = 1 AND list_state <> 'hidden';

-- Finds entries by a property.  value is the JSON of the value; a number that is whole is written as an integer.
CREATE TABLE properties (
    entry_id {text} NOT NULL,
    key {text} NOT NULL,
    owner_id {text} NOT NULL,
    value {text} NOT NULL,
    PRIMARY KEY (entry_id, key)
) {clustered};
CREATE INDEX properties_key ON properties (owner_id, key, entry_id);
CREATE INDEX properties_value ON properties (owner_id, key, value, entry_id);

-- The index of names follows entries in small batches (rules/name_index.py).
-- unindexed: entries whose name, or whose place in the lists, has changed since they were indexed.  Triggers write it, so
-- no statement that changes entries can forget to.  seq tells one change from the next where several may commit at once.
CREATE TABLE unindexed (
    owner_id {text} NOT NULL,
    entry_id {text} NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (owner_id, entry_id, seq)
) {clustered};
{watch_entries};

-- What is indexed of an entry.  The numbers of a user are consecutive and rise in order of time.
-- text is the search key and the beginnings of its words (rules/names.py); '' while the entry is hidden.
CREATE TABLE names (
    number {number} PRIMARY KEY,
    entry_id {text} NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    text {text} NOT NULL
);
CREATE TABLE name_index (
    id INTEGER PRIMARY KEY,
    users BIGINT NOT NULL
);
{index_names};

-- Folders that went into the trash, or came out of it, and whose children have still to follow in list_state:
-- those after (after_created_at, after_id).
CREATE TABLE unsettled (
    folder_id {text} PRIMARY KEY,
    owner_id {text} NOT NULL,
    after_created_at BIGINT NOT NULL,
    after_id {text} NOT NULL
);
CREATE INDEX unsettled_owner ON unsettled (owner_id);

-- Copies of trees that are being built below a top that is not live.  What is reserved was charged to the owner in
-- advance; of that, what is built are rows below the top, and the top itself.
CREATE TABLE copies (
    id {text} PRIMARY KEY,
    owner_id {text} NOT NULL,
    reserved_bytes BIGINT NOT NULL,
    reserved_entries BIGINT NOT NULL,
    built_bytes BIGINT NOT NULL,
    built_entries BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX copies_owner ON copies (owner_id);
CREATE INDEX copies_expiry ON copies (expires_at);

-- Folders of such copies whose children have still to be copied: those of the source after (after_created_at, after_id).
CREATE TABLE uncopied (
    copy_id {text} NOT NULL,
    folder_id {text} NOT NULL,
    source_id {text} NOT NULL,
    after_created_at BIGINT NOT NULL,
    after_id {text} NOT NULL,
    PRIMARY KEY (copy_id, folder_id)
) {clustered};

-- A version is one state of a file's bytes.  Several may share a blob, so the key is not unique here.
-- revision is that of the file when it got these bytes: the order of versions, whatever the clock does.
-- An earlier version has replaced_at, and until it is named review_at: when retention looks at it next.
-- next_purge_at is set once the version is claimed for removal, never to return; its quota is released with the row.
CREATE TABLE versions (
    id {text} PRIMARY KEY,
    file_id {text} NOT NULL,
    revision BIGINT NOT NULL,
    object_key {text} NOT NULL,
    mime {text} NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 {text},
    created_at BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    name {text},
    replaced_at BIGINT,
    review_at BIGINT,
    next_purge_at BIGINT,
    purge_attempts INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX versions_file ON versions (file_id, revision);
CREATE INDEX versions_object ON versions (object_key);
CREATE INDEX versions_review ON versions (review_at) WHERE review_at IS NOT NULL;
CREATE INDEX versions_purging ON versions (next_purge_at) WHERE next_purge_at IS NOT NULL;

-- kind: whole (the bytes come in one PUT), resumable (in any number of appends), or part (of which others are joined).
-- Unless it is whole, received_bytes is the offset: all bytes before it are durable.  It rises only in the statement that
-- compares it and the writer, which is the append that claimed the upload last.
-- deferred is 1 while the length is not declared; size_bytes is then what is reserved.
-- note is what a protocol keeps with the upload, for the client to read again.
-- staging is how the store goes on with the bytes; '' before the first ones.
-- A part that was joined with others is committed without a file, and joined_into is the upload that has its bytes.
-- part_size is 0 unless clients send the bytes to the store in parts; multipart is then the store's id of these.
CREATE TABLE uploads (
    id {text} PRIMARY KEY,
    owner_id {text} NOT NULL,
    object_key {text} NOT NULL UNIQUE,
    parent_id {text} NOT NULL,
    name {text} NOT NULL,
    mime {text} NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 {text},
    modified_at BIGINT,
    on_conflict {text} NOT NULL,
    if_match {text},
    state {text} NOT NULL,
    received_bytes BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    finished_at BIGINT,
    reason {text},
    file_id {text},
    kind {text} NOT NULL DEFAULT 'whole',
    deferred INTEGER NOT NULL DEFAULT 0,
    staging {text} NOT NULL DEFAULT '',
    writer {text} NOT NULL DEFAULT '',
    note {text} NOT NULL DEFAULT '',
    joined_into {text},
    part_size BIGINT NOT NULL DEFAULT 0,
    multipart {text} NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    next_check_at BIGINT NOT NULL,
    cleanup_at BIGINT,
    cleanup_attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX uploads_owner ON uploads (owner_id, created_at, id);
CREATE INDEX uploads_due ON uploads (next_check_at) WHERE state = 'pending';
CREATE INDEX uploads_cleanup ON uploads (cleanup_at) WHERE cleanup_at IS NOT NULL;
CREATE INDEX uploads_finished ON uploads (finished_at) WHERE finished_at IS NOT NULL;
{hold_folders};

-- status is absent while the first request with the key is being served.
CREATE TABLE idempotency_keys (
    owner_id {text} NOT NULL,
    key {text} NOT NULL,
    fingerprint {text} NOT NULL,
    expires_at BIGINT NOT NULL,
    status INTEGER,
    headers {text},
    body BYTEA,
    PRIMARY KEY (owner_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- The log of changes: one row for each change of an entry, or of the top of a tree, written in its transaction.
-- change is the number that the change gave to users.changes.  It is raised under the lock of the user's row, so the
-- order of numbers is the order of commits.  parent_id is the folder of the entry after the change, from_id the one
-- before it.  published is 0 until NATS has the event, delivered is 0 until the webhook for all users has it.
-- file is the state after the change, kept until the event is published.
CREATE TABLE changes (
    owner_id {text} NOT NULL,
    change BIGINT NOT NULL,
    at BIGINT NOT NULL,
    what {text} NOT NULL,
    entry_id {text} NOT NULL,
    kind {text} NOT NULL,
    parent_id {text} NOT NULL,
    from_id {text} NOT NULL,
    published INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    file {text},
    PRIMARY KEY (owner_id, change)
) {clustered};
CREATE INDEX changes_unpublished ON changes (change, owner_id) WHERE published = 0;
CREATE INDEX changes_undelivered ON changes (change, owner_id) WHERE delivered = 0;

-- cursor is the position in the log of changes up to which everything is delivered.  seen is the number of the owner's
-- last change when nothing was left.
CREATE TABLE webhooks (
    id {text} PRIMARY KEY,
    owner_id {text} NOT NULL,
    url {text} NOT NULL,
    secret {text} NOT NULL,
    cursor {text} NOT NULL,
    seen BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    next_at BIGINT NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    failing_since BIGINT,
    problem {text},
    disabled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX webhooks_owner ON webhooks (owner_id, id);
CREATE INDEX webhooks_due ON webhooks (next_at) WHERE disabled = 0;

CREATE TABLE leases (
    name {text} PRIMARY KEY,
    holder {text} NOT NULL,
    expires_at BIGINT NOT NULL
);

-- One row: how far the scrub is, which reads every blob again (scrub.py).  after_key is '' between two passes.
CREATE TABLE scrub (
    begun_at BIGINT,
    ended_at BIGINT,
    after_key {text} NOT NULL,
    blobs BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);
INSERT INTO scrub (after_key, blobs, bytes) VALUES ('', 0, 0);

-- Blobs that the scrub found damaged, until they are well again.
CREATE TABLE damage (
    object_key {text} PRIMARY KEY,
    fault {text} NOT NULL,
    detail {text} NOT NULL,
    size_bytes BIGINT NOT NULL,
    file_id {text} NOT NULL,
    found_at BIGINT NOT NULL
);

-- The newest snapshot of this drive in each backup.
CREATE TABLE backups (
    target {text} PRIMARY KEY,
    snapshot_id {text} NOT NULL,
    made_at BIGINT NOT NULL,
    blobs BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);
