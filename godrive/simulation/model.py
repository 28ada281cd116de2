"""What one user must have: the entries that were acknowledged.

The model knows what each request must do, and predicts the code of the error
where one must be refused.  It knows nothing of how the server works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from godrive.model import name_key
from godrive.rules.names import numbered

Bytes = tuple[str, int]
"""The SHA-256 and the size of the bytes of a version.  Begins with "?" if the server does not know the digest."""


def known(digest: str) -> str | None:
    """What the server says of a digest."""
    return None if digest.startswith("?") else digest


@dataclass
class Node:
    """An entry.  *versions* begin with the current one.  Only the top of a trashed tree is *trashed*."""

    id: str
    parent: str | None
    name: str
    is_folder: bool
    versions: list[Bytes] = field(default_factory=list)
    trashed: bool = False

    def seen(self) -> tuple[Any, ...]:
        """What a list shows of it."""
        sha256, size = self.versions[0] if self.versions else ("?", 0)
        return (self.parent, self.name, self.is_folder, size, known(sha256))


_key = cache(name_key)


class Refusal(Exception):
    """The request must be refused with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Tree:
    """The entries of one user, by id."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def copy(self) -> Tree:
        other = Tree()
        other.nodes = {
            node.id: Node(node.id, node.parent, node.name, node.is_folder, list(node.versions), node.trashed)
            for node in self.nodes.values()
        }
        return other

    # Questions

    def above(self, id_: str | None) -> Iterator[Node]:
        """The node and all that it lies in."""
        while id_ is not None:
            node = self.nodes[id_]
            yield node
            id_ = node.parent

    def is_live(self, id_: str | None) -> bool:
        while id_ is not None:  # without a generator, because each request asks it of every entry
            node = self.nodes[id_]
            if node.trashed:
                return False
            id_ = node.parent
        return True

    def live(self) -> list[Node]:
        return [node for node in self.nodes.values() if self.is_live(node.id)]

    def trashed(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.trashed]

    def holder(self, parent: str | None, name: str) -> Node | None:
        wanted = _key(name)
        for node in self.nodes.values():
            if node.parent == parent and not node.trashed and _key(node.name) == wanted:
                return node
        return None

    def below(self, id_: str, *, live: bool = True) -> list[Node]:
        """The node and what lies in it, from the top down; only what is not in the trash by itself, if *live*."""
        found = [self.nodes[id_]]
        for above in found:
            found += [n for n in self.nodes.values() if n.parent == above.id and not (live and n.trashed)]
        return found

    def path(self, id_: str | None) -> str:
        return "/".join(reversed([node.name for node in self.above(id_)]))

    def free_name(self, parent: str | None, name: str, on_conflict: str, *, but: str | None = None) -> str:
        """The name that an entry gets in a folder.  Raises :class:`Refusal`."""

        def taken(candidate: str) -> bool:
            holder = self.holder(parent, candidate)
            return holder is not None and holder.id != but

        if not taken(name):
            return name
        if on_conflict != "rename":
            raise Refusal("name_taken")
        low, high = 0, 1
        while taken(numbered(name, high)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if taken(numbered(name, middle)) else (low, middle)
        return numbered(name, high)

    def need(self, id_: str) -> Node:
        """The entry, which must be visible."""
        if id_ not in self.nodes or not self.is_live(id_):
            raise Refusal("not_found")
        return self.nodes[id_]

    def need_folder(self, id_: str | None) -> None:
        if id_ is not None and not self.need(id_).is_folder:
            raise Refusal("not_found")

    # Changes

    def make_folder(self, parent: str | None, name: str, made: str) -> None:
        self.need_folder(parent)
        if self.holder(parent, name) is not None:
            raise Refusal("name_taken")
        self.nodes[made] = Node(made, parent, name, is_folder=True)

    def put(
        self, parent: str | None, name: str, content: Bytes, on_conflict: str, made: str, *, has_bytes: bool = True
    ) -> str:
        """Store bytes at a place; the id of the file.

        A request that *has_bytes* and that would store what is there already is answered as one that is sent again.
        The same bytes make no version, if the server knows that they are the same.
        """
        self.need_folder(parent)
        holder = self.holder(parent, name)
        if holder is not None and on_conflict == "fail" and has_bytes and holder.versions[:1] == [content]:
            return holder.id
        if holder is not None and on_conflict == "replace":
            if holder.is_folder:
                raise Refusal("name_taken")
            if holder.versions[0] != content or known(content[0]) is None:
                holder.versions.insert(0, content)
            return holder.id
        name = self.free_name(parent, name, on_conflict)
        self.nodes[made] = Node(made, parent, name, is_folder=False, versions=[content])
        return made

    def move(self, id_: str, parent: str | None, name: str, on_conflict: str) -> None:
        node = self.need(id_)
        self.need_folder(parent)
        if node.is_folder and any(above is node for above in self.above(parent)):
            raise Refusal("cycle")
        if (node.parent, node.name) == (parent, name):
            return
        node.name = self.free_name(parent, name, on_conflict, but=id_)
        node.parent = parent

    def duplicate(self, id_: str, parent: str | None, name: str, on_conflict: str, made: str) -> None:
        """Copy; the entries below the copy get ids of the model's own until they are seen."""
        node = self.need(id_)
        self.need_folder(parent)
        if node.is_folder and any(above is node for above in self.above(parent)):
            raise Refusal("cycle")
        name = self.free_name(parent, name, on_conflict)
        new = {id_: made}
        sources = self.below(id_)
        for source in sources[1:]:
            new[source.id] = f"{made}/{source.id}"
        for source in sources:
            top = source.id == id_
            place = parent if top else new[str(source.parent)]
            self.nodes[new[source.id]] = Node(
                new[source.id], place, name if top else source.name, source.is_folder, source.versions[:1]
            )

    def trash(self, id_: str) -> None:
        node = self.nodes.get(id_)
        if node is None or not (node.trashed or self.is_live(id_)):
            raise Refusal("not_found")
        node.trashed = True

    def restore(self, id_: str, on_conflict: str) -> None:
        node = self.nodes.get(id_)
        if node is None or not (node.trashed or self.is_live(id_)):
            raise Refusal("not_found")
        if not node.trashed:
            return
        parent = node.parent if node.parent is None or self.is_live(node.parent) else None
        node.name = self.free_name(parent, node.name, on_conflict)
        node.parent, node.trashed = parent, False

    def purge(self, id_: str) -> None:
        """Purge what is in the trash.  What was trashed by itself inside of it stays in the trash."""
        if id_ not in self.nodes or not self.nodes[id_].trashed:
            raise Refusal("not_found")
        gone = {node.id for node in self.below(id_)}
        for node in self.nodes.values():
            if node.parent in gone and node.id not in gone:
                node.parent = None
        for each in gone:
            del self.nodes[each]

    def empty_trash(self) -> None:
        while trashed := self.trashed():
            self.purge(trashed[0].id)

    def restore_version(self, id_: str, index: int) -> None:
        node = self.need(id_)
        if index:
            node.versions.insert(0, node.versions[index])

    def delete_version(self, id_: str, index: int) -> None:
        node = self.need(id_)
        if not index:
            raise Refusal("conflict")
        del node.versions[index]

    # Comparison

    def apart(self, other: Tree) -> list[str]:
        """Files that both trees have, with other versions: lists show only the current one."""
        both = self.nodes.keys() & other.nodes.keys()
        return sorted(id_ for id_ in both if self.nodes[id_].versions != other.nodes[id_].versions)

    def shown(self) -> dict[str, tuple[Any, ...]]:
        """What lists of folders show, by id."""
        return {node.id: node.seen() for node in self.live()}

    def adopt(self, seen: dict[str, tuple[Any, ...]]) -> None:
        """Give entries whose ids the model made up the ids under which they are seen."""
        by_place = {(row[0], row[1]): id_ for id_, row in seen.items()}
        for node in list(self.nodes.values()):
            if node.id in seen or not ("/" in node.id or node.id.startswith("?")) or not self.is_live(node.id):
                continue
            real = by_place.get((node.parent, node.name))
            if real is not None and real not in self.nodes:
                self.rename_id(node.id, real)

    def rename_id(self, old: str, new: str) -> None:
        node = self.nodes.pop(old)
        node.id = new
        self.nodes[new] = node
        for child in self.nodes.values():
            if child.parent == old:
                child.parent = new
