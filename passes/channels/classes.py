"""Union-find over single channels: which of them can only be removed together, and which never.

A class that something depends on which is not followed is frozen, with the reason. What is made of
frozen parts is frozen too, and so are the parts of what is frozen.
"""

import math
from collections.abc import Sequence

import numpy as np

from passes.channels.inputs import NotFollowedError
from passes.channels.layout import Ids, Mask
from passes.channels.records import Contraction, Mixing, Product


class ChannelClasses:
    """Ids of channels, tied to equivalence classes.

    Attributes:
        flow: how needs flow, in graph order.
    """

    def __init__(self) -> None:
        self.flow: list[Mixing | Contraction | Product] = []
        self._parents: list[int] = []
        self._frozen: list[tuple[Ids, str]] = []

    @property
    def products(self) -> list[Product]:
        """Channels that are made of parts."""
        return [each for each in self.flow if isinstance(each, Product)]

    def new(self, *shape: int) -> Ids:
        """Ids of channels that are tied to nothing yet."""
        first, size = len(self._parents), math.prod(shape)
        self._parents.extend(range(first, first + size))
        return np.arange(first, first + size, dtype=np.int64).reshape(shape)

    def tie(self, one: Ids, other: Ids) -> None:
        """Makes channels the same, pair by pair; the arrays are broadcast unless they are flat.

        Raises:
            NotFollowedError: the lengths differ.
        """
        if one.ndim == other.ndim == 1 and len(one) != len(other):
            raise NotFollowedError(f"joins {len(one)} with {len(other)} channels")
        one, other = np.broadcast_arrays(one, other)
        differ = one != other
        for a, b in set(zip(one[differ].tolist(), other[differ].tolist(), strict=True)):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def freeze(self, ids: Ids, reason: str) -> None:
        """Forbids to remove channels."""
        self._frozen.append((ids.reshape(-1), reason))

    def roots(self) -> Ids:
        """Class of every id, (ids in all,): the lowest id tied to it."""
        roots = np.array(self._parents, dtype=np.int64)
        while True:
            above = roots[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def frozen(self) -> dict[int, str]:
        """First reason for every frozen class, by root."""
        reasons: dict[int, str] = {}
        roots = self.roots()
        for ids, reason in self._frozen:
            for root in np.unique(roots[ids]).tolist():
                reasons.setdefault(root, reason)
        while self._freeze_products(reasons, roots):
            pass
        return reasons

    def without(self, removed: Sequence[Ids]) -> Mask:
        """What is left without some classes, and without what they are parts of, (ids in all,)."""
        roots = self.roots()
        kept = np.ones(len(roots), bool)
        for classes in removed:
            kept[classes] = False
        before = -1
        while before != kept.sum():  # a part may itself be made of parts
            before = kept.sum()
            for product in self.products:
                gone = ~np.all([kept[roots[part]] for part in product.parts], axis=0)
                kept[roots[product.whole[gone]]] = False
        return kept[roots]

    def _freeze_products(self, reasons: dict[int, str], roots: Ids) -> bool:
        """What is made of frozen parts is frozen, and so are the parts of what is frozen."""
        before = len(reasons)
        fixed_ids = np.zeros(len(roots), bool)
        fixed_ids[list(reasons)] = True
        for product in self.products:
            whole, parts = roots[product.whole], [roots[part] for part in product.parts]
            for i in np.flatnonzero(fixed_ids[whole]).tolist():
                for part in parts:
                    reasons.setdefault(int(part[i]), reasons[int(whole[i])])
            for i in np.flatnonzero(np.all([fixed_ids[part] for part in parts], axis=0)).tolist():
                reasons.setdefault(int(whole[i]), reasons[int(parts[-1][i])])
        return len(reasons) > before

    def _root(self, i: int) -> int:
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i
