"""Runs a script under FSDP on CPU processes, where Accelerate would quietly run DDP: it is told that they are GPUs' processes.

torchrun --nproc_per_node 2 fsdp_on_cpu.py scripts/train.py ...
"""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType


class GpuProcesses(PartialState):
    def __init__(self, *args, **kwargs) -> None:
        _init(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU


_init = PartialState.__init__
PartialState.__init__ = GpuProcesses.__init__
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
