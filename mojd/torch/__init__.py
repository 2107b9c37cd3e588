"""The PyTorch adapter: several losses, one direction in ``.grad``."""

from typing import TYPE_CHECKING, Any

from mojd.errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "mojd.torch needs PyTorch, which is not installed: pip install 'mojd[torch]'"
    ) from error

from mojd.torch.examples import Engine, PerExampleGradients
from mojd.torch.gradvac import GradVac
from mojd.torch.info import StepInfo
from mojd.torch.loss_gradients import LossGradients
from mojd.torch.losses import backward
from mojd.torch.methods import (
    IMTLG,
    MGDA,
    RGW,
    AlignedMTL,
    AuxiNash,
    CAGrad,
    ConFIG,
    Constant,
    DualProj,
    FairGrad,
    GradientMethod,
    Krum,
    Mean,
    NashMTL,
    PCGrad,
    Sum,
    UPGrad,
)
from mojd.torch.pcd import PCD, PCDInfo
from mojd.torch.pcd_weighting import PCDWeighting
from mojd.torch.registered import weighting
from mojd.torch.weightings import (
    dualproj,
    mgda,
    pcd,
    project,
    upgrad,
)

if TYPE_CHECKING:
    from mojd.torch.torchjd import MojdProjector

__all__ = [
    "IMTLG",
    "MGDA",
    "PCD",
    "RGW",
    "AlignedMTL",
    "AuxiNash",
    "CAGrad",
    "ConFIG",
    "Constant",
    "DualProj",
    "Engine",
    "FairGrad",
    "GradVac",
    "GradientMethod",
    "Krum",
    "LossGradients",
    "Mean",
    "MojdProjector",
    "NashMTL",
    "PCDInfo",
    "PCDWeighting",
    "PCGrad",
    "PerExampleGradients",
    "StepInfo",
    "Sum",
    "UPGrad",
    "backward",
    "dualproj",
    "mgda",
    "pcd",
    "project",
    "upgrad",
    "weighting",
]


def __dir__() -> list[str]:
    """List the names that are loaded on first use too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load the plug-in for TorchJD on first use: the rest needs no TorchJD."""
    if name == "MojdProjector":
        from mojd.torch.torchjd import MojdProjector

        return MojdProjector
    raise AttributeError(f"module 'mojd.torch' has no attribute {name!r}")
