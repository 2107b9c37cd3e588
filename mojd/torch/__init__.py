"""The PyTorch adapter: several losses, one direction in ``.grad``."""

from mojd.errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "mojd.torch needs PyTorch, which is not installed: pip install 'mojd[torch]'"
    ) from error

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
from mojd.torch.pcd import PCD, PCDInfo, PCDWeighting

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
    "FairGrad",
    "GradVac",
    "GradientMethod",
    "Krum",
    "LossGradients",
    "Mean",
    "NashMTL",
    "PCDInfo",
    "PCDWeighting",
    "PCGrad",
    "StepInfo",
    "Sum",
    "UPGrad",
    "backward",
]
