"""Many losses, one per example: Gramians and weighted gradients without the Jacobian."""

from mojd.torch.examples.engine import Engine
from mojd.torch.examples.gradients import PerExampleGradients

__all__ = ["Engine", "PerExampleGradients"]
