"""One scene on many processes: every rank holds a shard of the Gaussians and renders a part of the pictures.

Works in any torch.distributed process group (start with torchrun, call init_process_group). Gaussians that may touch a
rank's part travel there, their gradients travel home; nothing else is exchanged. The scene's order is that of the
ranks, and within a rank that of its shard.
"""

from voge.distributed.checkpoint import Checkpoint, load, save
from voge.distributed.ranks import shard
from voge.distributed.render import Part, render

__all__ = ["Checkpoint", "Part", "load", "render", "save", "shard"]
