"""What a drive should be like: a model of the entries of one owner, for tests that compare every step."""

from __future__ import annotations

from dataclasses import dataclass, field

from godrive.messages.batches import Act, Step
from godrive.model import At, In, OnConflict, Root, Spot, UploadId, Which, name_key
from godrive.rules.names import numbered

QUOTA, MOST_ENTRIES = 600, 40
"""What the owner may have."""

Ids = dict[tuple[str, str], str]


@dataclass
class Node:
    """An entry.  *end* is "", "trashed" or "purging", and only of the entry itself.  *blobs* begin with the current."""

    id: str
    parent: str | None
    name: str
    is_folder: bool
    blobs: list[tuple[str, int]] = field(default_factory=list)
    end: str = ""

    @property
    def size(self) -> int:
        return self.blobs[0][1] if self.blobs else 0


@dataclass
class Model:
    """What one owner has."""

    nodes: dict[str, Node] = field(default_factory=dict)
    pending: dict[UploadId, int] = field(default_factory=dict)
    """The sizes of the uploads that have begun."""
    changes: list[tuple[str, str]] = field(default_factory=list)
    """What the client has not been told yet."""

    def path(self, id_: str | None) -> list[Node]:
        """The node and all above it."""
        found = []
        while id_ is not None:
            found.append(self.nodes[id_])
            id_ = found[-1].parent
        return found

    def visible(self, id_: str | None) -> bool:
        return all(not node.end for node in self.path(id_))

    def holder(self, parent: str | None, name: str) -> Node | None:
        """The live entry of that name."""
        for node in self.nodes.values():
            if node.parent == parent and not node.end and name_key(node.name) == name_key(name):
                return node
        return None

    def children(self, parent: str) -> list[Node]:
        return [node for node in self.nodes.values() if node.parent == parent and not node.end]

    def below(self, id_: str) -> list[Node]:
        """The live entries of a tree, from the top down."""
        found = [self.nodes[id_]]
        for node in found:
            found += self.children(node.id)
        return found

    def names(self, id_: str) -> tuple[str, ...]:
        return tuple(node.name for node in reversed(self.path(id_)))

    def settle_name(self, parent: str | None, name: str, on_conflict: OnConflict, but: str | None = None) -> str | None:
        """The name under which an entry is put into a folder, or ``None`` if it is taken."""

        def taken(candidate: str) -> bool:
            holder = self.holder(parent, candidate)
            return holder is not None and holder.id != but

        if not taken(name):
            return name
        if on_conflict is OnConflict.FAIL:
            return None
        low, high = 0, 1
        while taken(numbered(name, high)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if taken(numbered(name, middle)) else (low, middle)
        return numbered(name, high)

    @property
    def reserved(self) -> int:
        return sum(self.pending.values())

    @property
    def used(self) -> int:
        return sum(size for node in self.nodes.values() for _, size in node.blobs) + self.reserved

    def is_too_much(self, entries: int, size: int) -> bool:
        """Whether the owner may not have so many more."""
        return len(self.nodes) + len(self.pending) + entries > MOST_ENTRIES or self.used + size > QUOTA

    def do(self, step: Step, *, made: str = "", ids: Ids | None = None) -> str:
        """Carry out a step.  Return the code of the error that it must get, with nothing changed, or "".

        *made* is the id of the new entry, *ids* those of the entries in it, by parent and key of the name.
        """
        node = None if step.which is None else self.find(step.which)
        parent = self.place(step.where) if step.where is not None else None
        if step.act is Act.PURGE:
            if node is None or node.end != "trashed":
                return "not_found"
            node.end = "purging"
            return ""
        if step.act is Act.RESTORE:
            return self._restore(node, step.on_conflict)
        if step.act is Act.TRASH:
            return self._trash(node)
        if step.act is not Act.MKDIR and (node is None or not self.visible(node.id)):
            return "not_found"
        if step.where is not None and (parent == "missing" or not self.visible(parent)):
            return "not_found"
        if step.act is Act.MKDIR:
            assert step.name is not None
            if self.is_too_much(1, 0):
                return "quota_exceeded"
            if self.holder(parent, step.name) is not None:
                return "name_taken"
            self.nodes[made] = Node(made, parent, step.name, is_folder=True)
            self.changes.append(("created", made))
            return ""
        assert node is not None
        if step.where is None:
            parent = node.parent
        if step.act is not Act.RENAME and node.is_folder and any(above is node for above in self.path(parent)):
            return "cycle"
        return self._copy(node, parent, step, made, ids) if step.act is Act.COPY else self._move(node, parent, step)

    def find(self, which: Which) -> Node | None:
        """The entry that a message names."""
        if not isinstance(which, At):
            return self.nodes.get(which)
        found: Node | None = None
        for name in which.path:
            found = self.holder(None if found is None else found.id, name)
            if found is None:
                return None
        return found

    def place(self, where: Spot) -> str | None:
        """The id of the folder that a message names, ``None`` for the root, and "missing" for none."""
        if isinstance(where, Root):
            return None
        found = self.find(where.folder_id if isinstance(where, In) else where)
        return found.id if found is not None and found.is_folder else "missing"

    def _trash(self, node: Node | None) -> str:
        if node is None or (node.end != "trashed" and not self.visible(node.id)):
            return "not_found"
        if not node.end:
            node.end = "trashed"
            self.changes.append(("trashed", node.id))
        return ""

    def _restore(self, node: Node | None, on_conflict: OnConflict) -> str:
        if node is None or (node.end != "trashed" and not self.visible(node.id)):
            return "not_found"
        if not node.end:
            return ""
        parent = node.parent if self.visible(node.parent) else None
        if (name := self.settle_name(parent, node.name, on_conflict)) is None:
            return "name_taken"
        node.parent, node.name, node.end = parent, name, ""
        self.changes.append(("restored", node.id))
        return ""

    def _move(self, node: Node, parent: str | None, step: Step) -> str:
        if (node.parent, node.name) == (parent, step.name or node.name):
            return ""
        name = self.settle_name(parent, step.name or node.name, step.on_conflict, but=node.id)
        if name is None:
            return "name_taken"
        same = (node.parent, node.name) == (parent, name)  # "a (1)" renamed to "a", which is taken
        node.parent, node.name = parent, name
        self.changes.append(("updated" if same else "moved", node.id))
        return ""

    def _copy(self, node: Node, parent: str | None, step: Step, made: str, ids: Ids | None) -> str:
        name = self.settle_name(parent, step.name or node.name, step.on_conflict)
        if name is None:
            return "name_taken"
        sources = self.below(node.id)
        if self.is_too_much(len(sources), sum(source.size for source in sources)):
            return "quota_exceeded"
        new = {node.id: made}
        for source in sources[1:]:
            place = new[source.parent or ""], name_key(source.name)
            new[source.id] = f"{made}/{source.id}" if ids is None else ids[place]
        for source in sources:
            top = source is node
            copied = Node(new[source.id], parent, name, source.is_folder, source.blobs[:1])
            if not top:
                copied.parent, copied.name = new[source.parent or ""], source.name
            self.nodes[copied.id] = copied
        self.changes.append(("created", made))
        return ""
