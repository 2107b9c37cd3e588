"""What is run on every rank: a step across ranks against the same step in one process."""

from tests.torch.distributed_cases import broken, examples, fsdp, meshes, replicas, rows, steps
from tests.torch.distributed_cases.setting import CASES

__all__ = ["CASES", "broken", "examples", "fsdp", "meshes", "replicas", "rows", "steps"]
