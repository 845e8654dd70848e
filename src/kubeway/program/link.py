"""
From fragments to one program, and what each change of a fragment changes in it.

Every service port brings its fragment; the linker keeps the union. A key that
several fragments bring is held once and counted, so that a chain that many
service ports share goes when the last of them goes. Where fragments bring
different objects for one key, the one with the smallest name holds the key,
whatever the order in which they came, and the others wait.

The cost of an update depends on the fragments that changed, not on how many there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType

from kubeway.program.program import Change, Fragment, Key, Object, Origin

Name = Hashable
"""What a fragment is called; names of one linker can be ordered."""


class Linker:
    def __init__(self) -> None:
        self._fragments: dict[Name, Fragment] = {}
        self._objects: dict[Key, Object] = {}
        self._holder: dict[Key, Name] = {}
        # Only keys that more than one fragment brings: all their claimants.
        self._shared: dict[Key, dict[Name, None]] = {}
        # Of these, the keys whose claimants do not agree.
        self._contested: set[Key] = set()
        self.objects: Mapping[Key, Object] = MappingProxyType(self._objects)

    def origin(self, key: Key) -> Origin | None:
        """Whose the object is; of a shared one, its holder's origin."""
        name = self._holder.get(key)
        return None if name is None else self._fragments[name].origin

    def claimants(self, key: Key) -> list[Name]:
        """The names of all fragments that bring this key, the holder first."""
        if key in self._shared:
            return sorted(self._shared[key])  # type: ignore[type-var]
        return [self._holder[key]] if key in self._holder else []

    def update(self, fragments: Mapping[Name, Fragment | None]) -> list[Change]:
        """Put these fragments in place of those of the same names (None: take it out).

        Returns what that changes in `objects`, which already shows it.
        """
        before: dict[Key, Object | None] = {}
        objects, holder = self._objects, self._holder
        for name, fragment in fragments.items():
            was = self._fragments.get(name)
            if was is fragment:
                continue
            had = was.objects if was is not None else {}
            now = fragment.objects if fragment is not None else {}
            if fragment is not None:
                self._fragments[name] = fragment
            for key, new in now.items():
                if key not in holder:
                    before.setdefault(key, None)
                    holder[key] = name
                    objects[key] = new
                elif key not in had:
                    before.setdefault(key, objects[key])
                    self._shared.setdefault(key, {holder[key]: None})[name] = None
                    self._settle(key, new)
                elif had[key] is not new:
                    before.setdefault(key, objects[key])
                    self._settle(key, new)
            for key in had:
                if key not in now:
                    before.setdefault(key, objects.get(key))
                    self._leave(key, name)
            if fragment is None and was is not None:
                del self._fragments[name]
        return [change for key, old in before.items() if (change := self._change(key, old))]

    def _settle(self, key: Key, new: Object) -> None:
        """Some claimant brings `new` now: let who is to hold the key hold it."""
        names = self._shared.get(key)
        if names is None:
            self._objects[key] = new
            return
        # Nearly always all agree, and then it does not matter who holds the key.
        if key not in self._contested and self._objects[key] == new and len(names) > 1:
            held = self._fragments[self._holder[key]].objects.get(key)
            if held == new:
                return
        self._judge(key, names)

    def _judge(self, key: Key, names: dict[Name, None]) -> None:
        """Ask all claimants: the smallest name holds the key."""
        winner = min(names)  # type: ignore[type-var]
        self._holder[key] = winner
        self._objects[key] = held = self._fragments[winner].objects[key]
        if all(self._fragments[name].objects[key] == held for name in names):
            self._contested.discard(key)
        else:
            self._contested.add(key)

    def _leave(self, key: Key, name: Name) -> None:
        names = self._shared.get(key)
        if names is None:
            del self._holder[key]
            del self._objects[key]
            return
        names.pop(name, None)
        if key in self._contested:
            self._judge(key, names)
        elif self._holder[key] == name:
            self._holder[key] = next(iter(names))
            self._objects[key] = self._fragments[self._holder[key]].objects[key]
        if len(names) == 1:
            del self._shared[key]

    def _change(self, key: Key, old: Object | None) -> Change | None:
        new = self._objects.get(key)
        if old is None:
            return None if new is None else Change("add", key, None, new)
        if new is None:
            return Change("del", key, old, None)
        return None if old is new or old == new else Change("set", key, old, new)
