"""mojd's solver in TorchJD: a projector for its UPGrad and DualProj."""

from __future__ import annotations

from torch import Tensor

from mojd.errors import MissingDependencyError
from mojd.torch.weightings import project

try:
    from torchjd.linalg import DualConeProjector
except ImportError as error:
    raise MissingDependencyError(
        "mojd.torch.MojdProjector plugs into TorchJD 0.18 or newer: pip install 'mojd[torchjd]'"
    ) from error


class MojdProjector(DualConeProjector):
    r"""Project onto the dual cone exactly, for TorchJD's UPGrad and DualProj.

    .. math:: \operatorname*{arg\,min}_{v \in \mathbb{R}^K,\; v \ge u} v^\top G v \quad \text{for every row u}

    ``torchjd.aggregation.UPGrad(projector=MojdProjector())`` has the weights of :func:`mojd.upgrad`, and
    ``DualProj(projector=MojdProjector())`` those of :func:`mojd.dualproj`.

    Raises
    ------
    MissingDependencyError
        On import, if TorchJD is not installed or older than 0.18.

    Notes
    -----
    TorchJD 0.18 has two constants, ``norm_eps`` and ``reg_eps``, and both belong to its own projector: the
    Gramian is divided by its trace, or taken for zero if that is below 10⁻⁴, and 10⁻⁴ is added to its
    diagonal. With this projector neither happens, and no other regularisation or normalisation is left:
    UPGrad and DualProj hand over the preferences and the Gramian as they are. What is left is the rounding of
    that Gramian, which TorchJD computes in the dtype of the Jacobian.

    Scale-free, and exact for gradients that depend on each other. NaN and infinity give NaN, so that a
    GradScaler skips the step, where TorchJD's projector raises.

    There is no state: instances can be shared, copied and pickled. Calls can be compiled and differentiated;
    TorchJD's own UPGrad and DualProj run under ``torch.no_grad()``.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, Proposition 1.

    Examples
    --------
    At this size TorchJD's default takes the Gramian for zero, and returns the mean, which opposes the first
    gradient:

    >>> import mojd.torch, torch
    >>> from torchjd.aggregation import UPGrad
    >>> J = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]) / 1000
    >>> J @ UPGrad()(J) >= 0
    tensor([False,  True])
    >>> J @ UPGrad(projector=mojd.torch.MojdProjector())(J) >= 0
    tensor([True, True])
    """

    def __repr__(self) -> str:
        """Show that there is nothing to set."""
        return f"{type(self).__name__}()"

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        """Return the weights of the projections of Jᵀu.

        Parameters
        ----------
        U : tensor, shape (..., K)
            Weights u of the directions to project.
        G : tensor, shape (K, K)
            The Gramian.

        Returns
        -------
        tensor, of the shape of U
            v ≥ u, in the dtype and on the device of G.

        Raises
        ------
        InvalidInputError
            If shapes do not fit, or G is no Gramian.
        """
        return project(U, G)
