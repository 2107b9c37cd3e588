"""Factors of one form, so that those of several batches or ranks can be put one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mojd.torch.examples.factors import Dense, Factor, Outer, Rows


class Form(NamedTuple):
    """What factors need to have in common for their examples to be put one after another.

    Attributes
    ----------
    kind : {'outer', 'rows', 'dense'}
    widths : tuple of int
        Sizes that do not depend on the batch: groups and both sides of outer products, or the length of rows.
    positions : int
        How many positions there are; what has fewer can be filled up. 0 if there is no such thing.
    dtype : torch.dtype
        Of the gradients.
    """

    kind: str
    widths: tuple[int, ...]
    positions: int
    dtype: torch.dtype

    def made_of(self, tensors: Sequence[Tensor], shape: torch.Size) -> Factor:
        """Return a factor of this form, of a parameter of that shape."""
        if self.kind == "outer":
            return Outer(tensors[0], tensors[1], shape)
        if self.kind == "rows":
            return Rows(tensors[0], tensors[1], shape)
        return Dense(tensors[0])


def form_of(factor: Factor) -> Form:
    """Return the form of a factor."""
    if isinstance(factor, Outer):
        _, groups, positions, width = factor.left.shape
        return Form("outer", (groups, width, factor.right.shape[3]), positions, factor.left.dtype)
    if isinstance(factor, Rows):
        return Form("rows", (factor.values.shape[2],), factor.indices.shape[1], factor.values.dtype)
    return Form("dense", (), 0, factor.tensors[0].dtype)


def common_form(first: Form, second: Form) -> Form:
    """Return the form in which the factors of both forms can be put."""
    dtype = torch.promote_types(first.dtype, second.dtype)
    if first[:2] != second[:2]:
        return Form("dense", (), 0, dtype)
    return Form(*first[:2], max(first.positions, second.positions), dtype)


def alike(factors: Sequence[tuple[int, Factor | None]], form: Form, parameter: Tensor) -> Factor:
    """Put the gradients of several batches one after another, in one form.

    Parameters
    ----------
    factors : sequence of pairs
        The number of losses of each batch, and the gradients of one parameter; None where they are zero.
    form : Form
        In which all of them can be put.
    parameter : Tensor
    """
    lots = [_tensors_of(size, factor, form, parameter) for size, factor in factors]
    if not lots:
        lots = [_tensors_of(0, None, form, parameter)]
    joined = lots[0] if len(lots) == 1 else [torch.cat(column) for column in zip(*lots, strict=True)]
    return form.made_of([tensor.contiguous() for tensor in joined], parameter.shape)


def _tensors_of(size: int, factor: Factor | None, form: Form, parameter: Tensor) -> list[Tensor]:
    """Return what the gradients of one batch consist of in that form."""
    if factor is None:
        return _zeros(size, form, parameter)
    if form.kind == "dense":
        return [factor.dense().to(form.dtype)]
    if isinstance(factor, Outer):
        missing = form.positions - factor.left.shape[2]
        sides = [pad(side, (0, 0, 0, missing)) if missing else side for side in factor.tensors]
        return [side.to(form.dtype) for side in sides]
    assert isinstance(factor, Rows)
    places, values = factor.tensors
    missing = form.positions - places.shape[1]
    if missing:
        places, values = pad(places, (0, missing)), pad(values, (0, 0, 0, missing))
    return [places, values.to(form.dtype)]


def _zeros(size: int, form: Form, parameter: Tensor) -> list[Tensor]:
    device, positions = parameter.device, form.positions
    if form.kind == "outer":
        groups, *sides = form.widths
        return [torch.zeros(size, groups, positions, n, dtype=form.dtype, device=device) for n in sides]
    if form.kind == "rows":
        places = torch.zeros(size, positions, dtype=torch.int64, device=device)
        return [places, torch.zeros(size, positions, *form.widths, dtype=form.dtype, device=device)]
    return [torch.zeros(size, *parameter.shape, dtype=form.dtype, device=device)]
