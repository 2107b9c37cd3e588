"""Modules, inputs and per-example losses on which the engine must agree with the explicit Jacobian.

A new case is a function from the number of examples to a problem, added to the table of its file.
"""

from __future__ import annotations

from tests.torch.examples.zoo._case import Case, Problem, score
from tests.torch.examples.zoo.attention import attention
from tests.torch.examples.zoo.convolutional import convolutional
from tests.torch.examples.zoo.linear import linear
from tests.torch.examples.zoo.normalisation import normalisation
from tests.torch.examples.zoo.parameters import parameters
from tests.torch.examples.zoo.recurrent import recurrent
from tests.torch.examples.zoo.shapes import shapes
from tests.torch.examples.zoo.sharing import sharing
from tests.torch.examples.zoo.training import training
from tests.torch.examples.zoo.unusual import unusual

_TABLES = (linear, convolutional, normalisation, attention, recurrent, sharing, parameters, training, shapes)
CASES: dict[str, Case] = {name: case for table in _TABLES for name, case in table.cases.items()}
UNUSUAL: dict[str, Case] = unusual.cases

__all__ = ["CASES", "UNUSUAL", "Case", "Problem", "score"]
