"""Who holds which slot: immutable handles to cached sequences, and what to give up when all slots
are taken."""

from collections.abc import Collection

from butwait.engines.slots import NoFreeSlotError, SlotModel


class Tenant:
    """A taken slot. While it is busy somebody writes behind its parked handles."""

    __slots__ = ("busy", "handles", "last_use", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.handles: set[Handle] = set()
        self.busy = True
        self.last_use = 0


class Handle:
    """The first ``length`` tokens of a cached sequence.

    It never changes: whoever extends the sequence writes behind it, or in a copy. It may be lost
    when its slot is needed (``SlotPool.alive``); then its tokens have to be run again.
    """

    __slots__ = ("length", "tenant")

    def __init__(self, tenant: Tenant, length: int) -> None:
        self.tenant = tenant
        self.length = length


class SlotPool:
    """Hands out the slots of a ``SlotModel`` and remembers what they hold."""

    def __init__(self, model: SlotModel) -> None:
        self._model = model
        self._tenants: set[Tenant] = set()
        self._clock = 0
        self.lost = 0
        """Handles that were lost so far because their slot was needed."""

    def alive(self, handle: Handle | None) -> bool:
        """Whether the handle's tokens are still in the cache and it was not released."""
        return handle is not None and handle in handle.tenant.handles

    def take(
        self, source: Handle | None, *, evict: bool = True, keep: Collection[Handle] = ()
    ) -> Tenant | None:
        """A busy tenant that starts with the tokens of ``source`` (none: empty).

        The sequence of ``source`` itself is taken over where nobody needs what lies behind it,
        else it is copied.

        Args:
            source: a handle that is alive, or None. It stays alive.
            evict: whether parked sequences may be given up for it: the one longest unused goes,
                one of ``keep`` only if there is no other.
            keep: handles that will be wanted soon.

        Returns:
            None where no slot is to be had now.
        """
        if source is not None and self._is_tip(source):
            source.tenant.busy = True
            return source.tenant
        if self._model.free == 0 and evict:
            self._evict(keep, source)
        try:
            slot = (
                self._model.acquire()
                if source is None
                else self._model.fork(source.tenant.slot, source.length)
            )
        except NoFreeSlotError:
            return self._cut_back(source) if evict else None
        tenant = Tenant(slot)
        self._tenants.add(tenant)
        return tenant

    def share(self, tenant: Tenant, length: int) -> Handle:
        """A handle to the first ``length`` tokens of a tenant, busy or not."""
        handle = Handle(tenant, length)
        tenant.handles.add(handle)
        return handle

    def leave(self, tenant: Tenant) -> None:
        """Ends a tenant's work. It stays parked while there are handles to it."""
        tenant.busy = False
        self._clock += 1
        tenant.last_use = self._clock
        self._free_if_unused(tenant)

    def release(self, handle: Handle) -> None:
        """Gives a handle up; a second time does nothing."""
        handle.tenant.handles.discard(handle)
        self._free_if_unused(handle.tenant)

    def clear(self) -> None:
        """Frees every slot; all handles are lost."""
        for tenant in list(self._tenants):
            tenant.handles.clear()
            self.leave(tenant)

    def _is_tip(self, handle: Handle) -> bool:
        tenant = handle.tenant
        return not tenant.busy and all(other.length <= handle.length for other in tenant.handles)

    def _evict(self, keep: Collection[Handle], source: Handle | None) -> None:
        wanted = {handle.tenant for handle in keep}
        parked = [
            tenant
            for tenant in self._tenants
            if not tenant.busy and (source is None or tenant is not source.tenant)
        ]
        if parked:
            oldest = min(parked, key=lambda tenant: (tenant in wanted, tenant.last_use))
            self.lost += len(oldest.handles)
            oldest.handles.clear()
            self._free_if_unused(oldest)

    def _cut_back(self, source: Handle | None) -> Tenant | None:
        """The source's own slot, at the price of the longer handles to it: there is no other."""
        if source is None or source.tenant.busy:
            return None
        longer = {other for other in source.tenant.handles if other.length > source.length}
        self.lost += len(longer)
        source.tenant.handles -= longer
        source.tenant.busy = True
        return source.tenant

    def _free_if_unused(self, tenant: Tenant) -> None:
        if not tenant.busy and not tenant.handles and tenant in self._tenants:
            self._tenants.remove(tenant)
            self._model.release(tenant.slot)
