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

from collections import Counter
from collections.abc import Hashable, Mapping
from itertools import chain
from types import MappingProxyType

from kubeway.program.program import Change, Fragment, Key, Object, Origin

Name = Hashable
"""What a fragment is called; names of one linker can be ordered."""


class Linker:
    def __init__(self) -> None:
        self._fragments: dict[Name, Fragment] = {}
        self._objects: dict[Key, Object] = {}
        # How many fragments bring a key, where it is more than one.
        self._counts: dict[Key, int] = {}
        # Of these, the keys whose claimants do not agree.
        self._contested: set[Key] = set()
        self.objects: Mapping[Key, Object] = MappingProxyType(self._objects)

    def origin(self, key: Key) -> Origin | None:
        """Whose the object is; of a shared one, its first claimant's. Asks every fragment."""
        names = self.claimants(key)
        return self._fragments[names[0]].origin if names else None

    def origins(self) -> dict[Key, Origin]:
        """`origin` of every key, at the price of one walk through all fragments."""
        found: dict[Key, Origin] = {}
        for name in sorted(self._fragments, reverse=True):  # type: ignore[type-var]
            fragment = self._fragments[name]
            found.update(dict.fromkeys(fragment.objects, fragment.origin))
        return found

    def claimants(self, key: Key) -> list[Name]:
        """The names of all fragments that bring this key, in order. Asks every fragment."""
        if key not in self._objects:
            return []
        return sorted(name for name, one in self._fragments.items() if key in one.objects)  # type: ignore[type-var]

    def update(self, fragments: Mapping[Name, Fragment | None]) -> list[Change]:
        """Put these fragments in place of those of the same names (None: take it out).

        Returns what that changes in `objects`, which already shows it.
        """
        before: dict[Key, Object | None] = {}
        disputed: set[Key] = set()
        objects = self._objects
        for name, fragment in fragments.items():
            was = self._fragments.get(name)
            if was is fragment:
                continue
            if fragment is None:
                del self._fragments[name]
            else:
                self._fragments[name] = fragment
                if was is None:
                    self._enter(fragment, before, disputed)
                    continue
            assert was is not None
            had = was.objects
            now = fragment.objects if fragment is not None else {}
            for key, new in now.items():
                if key not in had:
                    self._claim(key, new, before, disputed)
                elif had[key] is not new:
                    before.setdefault(key, objects[key])
                    self._revise(key, new, disputed)
            for key in had:
                if key not in now:
                    before.setdefault(key, objects[key])
                    self._leave(key, disputed)
        self._judge(disputed)
        return [change for key, old in before.items() if (change := self._change(key, old))]

    def fill(self, fragments: Mapping[Name, Fragment]) -> None:
        """`update` of an empty linker, of which nobody asks what it changes: all is new."""
        assert not self._fragments
        self._fragments.update(fragments)
        for fragment in fragments.values():
            self._objects.update(fragment.objects)
        # Every fragment brings the way to its own, so nearly all they bring is shared: counted and compared
        # by loops in C, which take a third of the time.
        counts = Counter(chain.from_iterable(fragment.objects for fragment in fragments.values()))
        self._counts = {key: count for key, count in counts.items() if count > 1}
        held, disputed = self._objects, set[Key]()
        for fragment in fragments.values():
            if not fragment.objects.items() <= held.items():
                disputed.update(key for key, new in fragment.objects.items() if held[key] != new)
        self._judge(disputed)

    def _enter(self, fragment: Fragment, before: dict[Key, Object | None], disputed: set[Key]) -> None:
        """A fragment of a new name; nearly all its keys are its own."""
        objects = self._objects
        for key, new in fragment.objects.items():
            if key in objects:
                self._claim(key, new, before, disputed)
            else:
                objects[key] = new
                before.setdefault(key, None)

    def _claim(self, key: Key, new: Object, before: dict[Key, Object | None], disputed: set[Key]) -> None:
        """One more fragment brings this key."""
        held = self._objects.get(key)
        before.setdefault(key, held)
        if held is None:
            self._objects[key] = new
            return
        self._counts[key] = self._counts.get(key, 1) + 1
        if key in self._contested or (held is not new and held != new):
            disputed.add(key)

    def _revise(self, key: Key, new: Object, disputed: set[Key]) -> None:
        """A fragment that brought the key brings another object for it."""
        if key not in self._counts:
            self._objects[key] = new
        elif key in self._contested or self._objects[key] != new:
            disputed.add(key)

    def _leave(self, key: Key, disputed: set[Key]) -> None:
        count = self._counts.get(key)
        if count is None:
            del self._objects[key]
            return
        if count == 2:
            del self._counts[key]
        else:
            self._counts[key] = count - 1
        if key in self._contested:
            disputed.add(key)

    def _judge(self, disputed: set[Key]) -> None:
        """Of each key, ask all claimants, once: the smallest name holds it.

        Claims are settled in the model. So claimants disagree only while what they share
        changes for all of them, which costs one walk through the fragments for all keys.
        """
        claims: dict[Key, list[Name]] = {key: [] for key in disputed if key in self._objects}
        for name, fragment in self._fragments.items() if claims else ():
            for key in claims.keys() & fragment.objects.keys():
                claims[key].append(name)
        for key, names in claims.items():
            held = self._objects[key] = self._fragments[min(names)].objects[key]  # type: ignore[type-var]
            if all(self._fragments[name].objects[key] == held for name in names):
                self._contested.discard(key)
            else:
                self._contested.add(key)
        self._contested.difference_update(disputed - claims.keys())

    def _change(self, key: Key, old: Object | None) -> Change | None:
        new = self._objects.get(key)
        if old is None:
            return None if new is None else Change("add", key, None, new)
        if new is None:
            return Change("del", key, old, None)
        return None if old is new or old == new else Change("set", key, old, new)
