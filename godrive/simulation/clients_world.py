"""A world of users who do all that the API can, and of the server that receives their webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from godrive.config import Config
from godrive.simulation.account import Violation
from godrive.simulation.hooks import ADDRESS, HookServer
from godrive.simulation.invariants import LONGEST_RETRY, let_pass
from godrive.simulation.machine import with_tables
from godrive.simulation.wide_user import WideUser
from godrive.simulation.world import Plan, World


class ClientsWorld(World):
    """One server with its bytes on a disk."""

    user: type[WideUser] = WideUser
    users: list[WideUser]  # type: ignore[assignment]

    def __init__(self, plan: Plan, folder: Path, write: Callable[[str], None] | None) -> None:
        super().__init__(plan, folder, write)
        self.hooks = HookServer(self.loop, self.chance("hooks"))

    def _config(self, folder: Path) -> Config:
        return with_tables(super()._config(folder), webhooks={"allow_networks": [f"{ADDRESS[0]}/32"]})

    def end_faults(self) -> None:
        super().end_faults()
        self.hooks.is_rough = False

    async def check_more(self) -> None:
        """Every change since a webhook was made is delivered to it, in order."""
        problems = [""]
        for _ in range(4):
            for _ in range(30):
                problems = [problem for user in self.users if (problem := await user.undelivered(self.hooks))]
                if not problems:
                    return
                await asyncio.sleep(2.0)
            await let_pass(self, LONGEST_RETRY)  # what has failed is tried again after up to an hour
        raise Violation(problems[0])
