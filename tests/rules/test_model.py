"""Random lives of files against a model that fits on a screen."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.errors import DriveError, NameTaken, QuotaExceeded
from godrive.messages.files import PurgeFile, RestoreFile, TrashFile, UpdateFile
from godrive.messages.uploads import AbortUpload
from godrive.model import FileId, OnConflict, Sort, Upload, UserId, name_key
from tests.contracts.rig import Rig, host

pytestmark = pytest.mark.anyio

QUOTA = 100
NAMES = ["a", "b", "é", "e\u0301", "A"]


@dataclass
class Model:
    """What one owner should have."""

    live: dict[FileId, str] = field(default_factory=dict)
    trashed: dict[FileId, str] = field(default_factory=dict)
    sizes: dict[FileId, int] = field(default_factory=dict)
    earlier: dict[FileId, list[int]] = field(default_factory=dict)
    pending: dict[str, Upload] = field(default_factory=dict)

    @property
    def used(self) -> int:
        return (
            sum(self.sizes.values())
            + sum(map(sum, self.earlier.values()))
            + sum(upload.size_bytes for upload in self.pending.values())
        )

    def named(self, name: str) -> FileId | None:
        """The live file of that name."""
        return next((key for key, other in self.live.items() if name_key(other) == name_key(name)), None)

    def taken(self, name: str) -> bool:
        return self.named(name) is not None


class Life:
    """Does random things to one owner's files, and to the model."""

    def __init__(self, rig: Rig, owner: UserId, seed: int) -> None:
        self.rig, self.owner, self.model, self.chance = rig, owner, Model(), random.Random(seed)
        self.by = host(owner)

    async def step(self) -> None:
        actions = [self.begin, self.publish, self.publish, self.end, self.rename, self.trash, self.restore, self.purge]
        await self.chance.choice(actions)()
        self.rig.clock.advance(self.chance.choice([0, 0, 1]))
        await self.compare()

    async def begin(self) -> None:
        model, name, size = self.model, self.chance.choice(NAMES), self.chance.choice([0, 10, 30])
        on_conflict = self.chance.choice(list(OnConflict))
        try:
            upload = await self.rig.begin(self.owner, name, size=size, on_conflict=on_conflict)
        except QuotaExceeded:
            assert model.used + size > QUOTA
        except NameTaken:
            assert on_conflict is OnConflict.FAIL
            assert model.taken(name)
        else:
            assert model.used + size <= QUOTA
            assert on_conflict is not OnConflict.FAIL or not model.taken(name)
            model.pending[upload.id] = upload

    async def publish(self) -> None:
        model = self.model
        if not model.pending:
            return
        upload = self.chance.choice(list(model.pending.values()))
        try:
            file = await self.rig.publish(upload)
        except NameTaken:
            assert upload.on_conflict is OnConflict.FAIL
            assert model.taken(upload.name)
            return
        if upload.on_conflict is OnConflict.REPLACE and (old := model.named(upload.name)) is not None:
            assert file.id == old
            model.earlier.setdefault(old, []).append(model.sizes[old])
        else:
            assert not model.taken(file.name)
        del model.pending[upload.id]
        model.live[file.id], model.sizes[file.id] = file.name, file.size_bytes

    async def end(self) -> None:
        if self.model.pending:
            upload = self.model.pending.pop(self.chance.choice(list(self.model.pending)))
            await self.rig.ask(AbortUpload(by=self.by, upload_id=upload.id))

    async def rename(self) -> None:
        model, name = self.model, self.chance.choice(NAMES)
        if not model.live:
            return
        file_id = self.chance.choice(list(model.live))
        others = {name_key(other) for key, other in model.live.items() if key != file_id}
        try:
            await self.rig.ask(UpdateFile(by=self.by, file_id=file_id, name=name))
        except NameTaken:
            assert name_key(name) in others
        else:
            assert name_key(name) not in others
            model.live[file_id] = name

    async def trash(self) -> None:
        model = self.model
        if model.live:
            file_id = self.chance.choice(list(model.live))
            await self.rig.ask(TrashFile(by=self.by, file_id=file_id))
            model.trashed[file_id] = model.live.pop(file_id)

    async def restore(self) -> None:
        model, on_conflict = self.model, self.chance.choice([OnConflict.FAIL, OnConflict.RENAME])
        if not model.trashed:
            return
        file_id = self.chance.choice(list(model.trashed))
        try:
            file = await self.rig.ask(RestoreFile(by=self.by, file_id=file_id, on_conflict=on_conflict))
        except NameTaken:
            assert on_conflict is OnConflict.FAIL
            assert model.taken(model.trashed[file_id])
            return
        assert not model.taken(file.name)
        del model.trashed[file_id]
        model.live[file_id] = file.name

    async def purge(self) -> None:
        model = self.model
        if not model.trashed:
            return
        file_id = self.chance.choice(list(model.trashed))
        await self.rig.ask(PurgeFile(by=self.by, file_id=file_id))
        with pytest.raises(DriveError):
            await self.rig.ask(RestoreFile(by=self.by, file_id=file_id))
        assert file_id in {purge.file_id for purge in await self.rig.purge_all()}
        del model.trashed[file_id], model.sizes[file_id]
        model.earlier.pop(file_id, None)

    async def compare(self) -> None:
        rig, model = self.rig, self.model
        assert sorted(await rig.names(self.owner, limit=2)) == sorted(model.live.values())
        assert sorted(await rig.names(self.owner, sort=Sort.NAME)) == sorted(model.live.values())
        assert {file.id: file.name for file in await rig.binned(self.owner)} == model.trashed
        usage = await rig.usage(self.owner)
        assert usage.live_bytes == sum(model.sizes[file_id] for file_id in model.live)
        assert usage.trash_bytes == sum(model.sizes[file_id] for file_id in model.trashed)
        assert usage.version_bytes == sum(map(sum, model.earlier.values()))
        assert usage.reserved_bytes == sum(upload.size_bytes for upload in model.pending.values())
        assert await rig.drift() == 0


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_life_of_files_agrees_with_the_model(rig: Rig, seed: int) -> None:
    life = Life(rig, await rig.user(quota=QUOTA), seed)
    for _ in range(40):
        await life.step()
