"""Rows that must stay together, which a split of a data set never separates."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from protocol.errors import DataError

_MOST_ROWS = 10  # in a message


@dataclass(frozen=True, eq=False)
class Units:
    """Rows 0 to N-1 of a data set in U units: single rows, or all rows of one group, such as a patient.

    Parameters
    ----------
    members
        Int64 CPU tensor of shape (N,): all rows, unit after unit and ascending within each.
    sizes
        Int64 CPU tensor of shape (U,), above 0: how many rows each unit has.
    """

    members: Tensor
    sizes: Tensor

    @classmethod
    def of_rows(cls, count: int) -> Self:
        """Make each of ``count`` rows a unit of its own, which has the row's number."""
        return cls(torch.arange(count), torch.ones(count, dtype=torch.int64))

    @classmethod
    def of_groups(cls, groups: Tensor) -> Self:
        """Make all rows of a group one unit.

        Parameters
        ----------
        groups
            Int64 tensor of shape (N,): each row's group number. Numbers may have gaps; units are
            in their ascending order.
        """
        _, units, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
        return cls(units.argsort(stable=True), sizes)

    @property
    def _starts(self) -> Tensor:
        """Where each unit's rows start in ``members``, shape (U,)."""
        return self.sizes.cumsum(0) - self.sizes

    @property
    def _owners(self) -> Tensor:
        """The unit of each of ``members``, shape (N,)."""
        return torch.arange(len(self)).repeat_interleave(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def rows(self, chosen: Tensor) -> Tensor:
        """Return the rows of some units.

        Parameters
        ----------
        chosen
            Int64 tensor of shape (K,): unit numbers, in any order.

        Returns
        -------
        Tensor
            Int64 row numbers, shape (sum of the chosen units' sizes,): in the order of ``chosen``,
            ascending within a unit. If each row is a unit of its own, ``chosen`` again.
        """
        sizes = self.sizes[chosen]
        # Rows of the k-th chosen unit lie in `members` from its start on, and in the result from where
        # the units chosen before it end; the difference turns places in the result into those in `members`.
        shifts = self._starts[chosen] - (sizes.cumsum(0) - sizes)
        return self.members[torch.arange(int(sizes.sum())) + shifts.repeat_interleave(sizes)]

    def majority(self, targets: Tensor) -> Tensor:
        """Return the most common class of each unit; ties go to the largest class.

        Parameters
        ----------
        targets
            Int64 tensor of shape (N,): the class of each row.

        Returns
        -------
        Tensor
            Int64, shape (U,). If each row is a unit of its own, the values of ``targets``.
        """
        classes: Tensor
        classes, labels = torch.unique(targets, return_inverse=True)
        # A number for each pair of unit and class that occurs; a table of all pairs may be too large.
        pairs, counts = torch.unique(self._owners * len(classes) + labels[self.members], return_counts=True)
        # A unit's largest rank is that of its most common class, and of several the largest class's.
        ranks = counts * len(classes) + pairs % len(classes)
        best = torch.zeros_like(self.sizes).scatter_reduce(0, pairs // len(classes), ranks, "amax")
        return classes[best % len(classes)]

    def common(self, values: Tensor, what: str) -> Tensor:
        """Return the value that all rows of a unit share.

        Parameters
        ----------
        values
            Tensor of shape (N,): a value of each row, such as the number of its site.
        what
            The setting that the values belong to, for the message: ``data.site = "hospital"``.

        Returns
        -------
        Tensor
            Shape (U,), of the type of ``values``.

        Raises
        ------
        DataError
            If rows of one unit differ; the message names the rows of the first such unit.
        """
        shared = values[self.members[self._starts]]
        differs = values[self.members] != shared.repeat_interleave(self.sizes)
        if not differs.any():
            return shared
        rows = self.members[self._owners == self._owners[differs][0]].tolist()
        listed = ", ".join(map(str, [*rows[:_MOST_ROWS], "..."] if len(rows) > _MOST_ROWS else rows))
        raise DataError(
            f"{what}: must be the same in all rows of a group, but rows {listed} (from 0), which are one "
            f"group, have {len(torch.unique(values[rows]))} values"
        )

    def first_with(self, order: Tensor, size: int) -> int:
        """Return how many units, taken in order, have at least ``size`` rows together.

        Parameters
        ----------
        order
            Int64 tensor of shape (K,): units in random order.
        size
            Rows wanted, at most as many as the units of ``order`` have together.

        Returns
        -------
        int
            0 to K: 0 for no rows, ``size`` itself if each row is a unit of its own.

        Raises
        ------
        ValueError
            If the units have fewer rows.
        """
        needed = int((self.sizes[order].cumsum(0) < size).sum()) + 1 if size > 0 else 0
        if needed > len(order):
            raise ValueError(
                f"size = {size}: the {len(order)} units have only {int(self.sizes[order].sum())} rows"
            )
        return needed
