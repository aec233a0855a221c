"""The commits of a store, by number, and the names that lead to them.

    HEAD            where the session is; what a new process may go back to
    branch:<name>   the newest commit of a branch
    tag:<name>      a checkpoint

Threads: written on the main thread; reading is safe on any.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from ..exceptions import CheckpointNotFound
from . import table
from .commit import Commit, as_number, decode
from .store import CommitRecord, Store

MAIN = "main"
"""Name of the first branch."""

_HEAD, _TAG, _BRANCH = "HEAD", "tag:", "branch:"


class CommitLog:
    """All commits of a store.

    Args:
        store: where they are.

    Attributes:
        previous: where another process with this session left off; None if there was none.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._commits: dict[int, Commit] = {}
        self._ids: dict[int, bytes] = {}
        for record in store.commits():
            commit = decode(record.manifest)
            self._commits[commit.number] = commit
            self._ids[commit.number] = record.id
        self._by_id = {known: number for number, known in self._ids.items()}
        self.previous = self._refs(_HEAD).get("")

    @property
    def commits(self) -> list[Commit]:
        """All commits, oldest first."""
        return list(self._commits.values())

    @property
    def next_number(self) -> int:
        """The number the next commit will have."""
        return next(reversed(self._commits), 0) + 1

    def add(self, commit: Commit) -> None:
        """Store a commit; its branch and HEAD lead to it then."""
        parent = None if commit.parent is None else self._ids[commit.parent]
        # A process that has only started is nothing to come back to.
        refs = () if commit.kind == "start" else (_HEAD, _BRANCH + commit.branch)
        made = self._store.commit(commit.encode(), parent=parent, refs=refs)
        self._commits[commit.number] = commit
        self._ids[commit.number] = made
        self._by_id[made] = commit.number

    def remove(self, commits: Collection[Commit]) -> int:
        """Remove commits that no name leads to, and free what no other one needs.

        Returns:
            Bytes freed on disk.

        Raises:
            CorruptStore: what the others need can't be told; nothing was removed.
            OSError: the disk fails.
        """
        before = self._store.stats().disk_bytes
        self._store.gc([self._ids[commit.number] for commit in commits], references)
        for commit in commits:
            del self._by_id[self._ids.pop(commit.number)]
            del self._commits[commit.number]
        return max(before - self._store.stats().disk_bytes, 0)

    def parent(self, commit: Commit) -> Commit | None:
        """Return the commit before; None if there is none."""
        return None if commit.parent is None else self._commits.get(commit.parent)

    def set_head(self, commit: Commit) -> None:
        """Take note that the session is at a commit."""
        self._store.set_ref(_HEAD, self._ids[commit.number])

    # -- names

    @property
    def branches(self) -> dict[str, Commit]:
        """The newest commit of each branch."""
        return self._refs(_BRANCH)

    @property
    def checkpoints(self) -> dict[str, Commit]:
        """The named commits."""
        return self._refs(_TAG)

    def _refs(self, prefix: str) -> dict[str, Commit]:
        return {
            name[len(prefix) :]: self._commits[self._by_id[made]]
            for name, made in self._store.refs().items()
            if name.startswith(prefix) and made in self._by_id
        }

    def name(self, name: str, commit: Commit) -> None:
        """Give a commit a name, which another one may have had."""
        self._store.set_ref(_TAG + name, self._ids[commit.number])

    def begin_branch(self, name: str, commit: Commit) -> None:
        """Let a branch begin at a commit."""
        self._store.set_ref(_BRANCH + name, self._ids[commit.number])

    def branch_after(self, head: Commit | None, branch: str) -> str:
        """Return the branch of a commit made after ``head``: a new one if that is not its tip."""
        tip = self._store.refs().get(_BRANCH + branch)
        if tip is None or (head is not None and tip == self._ids[head.number]):
            return branch
        return f"{branch.partition('~')[0]}~{self.next_number}"

    def find(self, wanted: str) -> Commit:
        """Return a commit by name, branch or number.

        Raises:
            CheckpointNotFound: there is none.
        """
        found = self.checkpoints.get(wanted) or self.branches.get(wanted)
        if found is None and (number := as_number(wanted)) is not None:
            found = self._commits.get(number)
            if found is None and 0 < number < self.next_number:
                raise CheckpointNotFound(
                    f"commit {number} was removed, by %savepoint gc or for Savepoints.quota"
                )
        if found is None:
            names = ", ".join(sorted({*self.checkpoints, *self.branches})) or "none"
            raise CheckpointNotFound(
                f"there is no checkpoint, branch or commit {wanted!r}; names: {names}; "
                f"numbers: 1 to {self.next_number - 1}. %timeline lists them"
            )
        return found


def checkpoint_names(refs: Iterable[str]) -> list[str]:
    """Return those of a store's refs that are checkpoints, by name."""
    return sorted(ref[len(_TAG) :] for ref in refs if ref.startswith(_TAG))


def references(record: CommitRecord, read: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Yield the address of every chunk that a commit needs; see `store.References`."""
    commit = decode(record.manifest)
    yield from table.references(map(bytes.fromhex, commit.buckets), read)
    yield from map(bytes.fromhex, filter(None, commit.process.values()))
