"""A drive whose actors reach one another through a real NATS server, as if each ran in a process of its own."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self

import anyio
import msgspec

from godrive.bridge.exposer import Exposer
from godrive.bridge.nats import NatsRef
from godrive.config import Config, Nats
from godrive.drive import GoDrive
from godrive.errors import DeliveryError
from godrive.runtime import Ref
from godrive.runtime.message import A
from godrive.tree import CONTRACTS


async def until_answered(ref: NatsRef[Any]) -> None:
    """Until a process that runs the actor answers."""
    with anyio.fail_after(30):
        while True:
            try:
                await ref.ping(timeout=1)
            except DeliveryError:
                await anyio.sleep(0.005)
            else:
                return


class NatsDrive(GoDrive):
    """Its actors know one another, and are known to you, by ``NatsRef`` only.  A subclass says where the server is."""

    server_url: ClassVar[str]
    _outside: AsyncExitStack

    def __init__(self, config: Config, **options: Any) -> None:
        nats = Nats(url=self.server_url, namespace=f"t{uuid.uuid4().hex[:12]}")
        super().__init__(msgspec.structs.replace(config, nats=nats), **options)

    def ref(self, contract: type[A]) -> Ref[A]:
        far = self._far(contract)
        return far if self.tracing is None else self.tracing.ref(far, contract.name)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await super().__aenter__()
            stack.push_async_exit(super().__aexit__)
            serving = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(serving.cancel_scope.cancel)
            assert self._link is not None
            for contract in CONTRACTS:
                exposer = Exposer(
                    contract,
                    self._link,
                    namespace=self.config.nats.namespace,
                    on_event=self._on_event,
                    receive=None if self.tracing is None else self.tracing.receive,
                )
                serving.start_soon(partial(exposer.run, super().ref(contract)))
                await until_answered(self._far(contract))
            self._outside = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._outside.__aexit__(kind, error, trace)
