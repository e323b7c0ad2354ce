"""One process or several: `torchrun` sets the variables, torch's own engine does the rest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from edgeseg.errors import TrainingError


@dataclass(frozen=True)
class World:
    """One process, `rank` among `size`; alone it exchanges nothing."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, without gradient."""
        total = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def gather(self, value: str) -> list[str]:
        """The texts of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        texts: list[str] = [""] * self.size
        dist.all_gather_object(texts, value)
        return texts

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the processes."""
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)


def join(device: str) -> World:
    """Join the processes that `torchrun` started, or stand alone. `device`: auto, cpu or cuda."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(chosen)
    if not dist.is_initialized():
        _meet("nccl" if chosen.type == "cuda" else "gloo")
    return World(chosen, dist.get_rank(), dist.get_world_size())


def _meet(backend: str) -> None:
    """`init_process_group`, with the addresses of each restart apart.

    torchrun keeps its store over a restart (seen in torch 2.13); without the prefix the new
    processes look for the old ones and fail.
    """
    store, rank, size = next(rendezvous("env://"))
    prefix = f"edgeseg/{restarts()}"
    dist.init_process_group(backend, store=PrefixStore(prefix, store), rank=rank, world_size=size)


def restarts() -> int:
    """How often torchrun started the processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """Say in one line that another process is gone; torch's engines raise plain RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if world.size == 1 or not any(name in text for name in ("gloo", "NCCL", "Gloo")):
            raise
        reason = text.splitlines()[0].partition("] ")[2].partition(". ")[0] or text
        raise TrainingError(
            f"process {world.rank} lost touch with another one ({reason}); "
            "look at its message, then go on with --resume"
        ) from error


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    able = torch.cuda.is_available()
    if name == "cuda" and not able:
        raise TrainingError(
            "device is 'cuda', and torch sees no GPU here; give --set device=cpu, or install "
            "torch for CUDA"
        )
    if name == "cpu" or not able:
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local} of this host has no GPU of its own (there are "
            f"{torch.cuda.device_count()}); start fewer with --nproc-per-node"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
