"""Adam with SimREC's betas."""

from torch.optim import Adam

from rec.config import LazyCall

# optim.params is set before instantiating, by rec.training.build.build_optimizer.
optim = LazyCall(Adam)(lr=0.0001, betas=(0.9, 0.98), eps=1e-9, fused=True)
