"""Batches on the device: compact rows travel, the matrix is assembled there, pictures become numbers there.

feed = Feed(loader, layout, "cuda", dropout_seed=0)
for inputs in feed:                  # epoch after epoch, as the loader
    loss = model(inputs.matrix, inputs.target)

A thread prepares the next batch while the trainer has this one: on a GPU on a stream of its own, so that copies and
assembly run beside the trainer's work and nobody waits; the loader's slabs are pinned then.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featurestore.assembly import Assembler, zeros
from featurestore.conditioning import Layout
from featurestore.cores import spread
from featurestore.draws import attribute_dropout
from featurestore.errors import UsageError
from featurestore.loader import Loader, Timing
from featurestore.records import Batch

AT_ONCE = 1 << 18
"""Numbers of pictures that a core of a CPU converts at once."""


@dataclass
class Inputs:
    """A batch on the device. Its tensors are the feed's, until the next is asked for.

    batch: where it comes from; its arrays stayed with the loader. matrix: (B, 256, 768). pictures: by their names in
    `records.PICTURES`, (B, 3, H, W) float32 in 0..1, channels last in memory; `bottom` is the face with 0 outside its
    bottom. beside: what records hold beside the matrix, as it is stored.
    """

    batch: Batch
    matrix: Tensor
    pictures: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def target(self) -> Tensor:
        return self.pictures["target"]

    @property
    def guide(self) -> Tensor:
        return self.pictures["guide"]


class Room:
    """A place for one batch on a device, used again and again. Arguments as of `Assembler`.

    arrived: when its copies of the loader's arrays are made; ready: when all of it is; left: when the trainer is done.
    held: seconds for which the last batch had to wait until the trainer was done.
    """

    def __init__(self, layout: Layout, device: torch.device, dtype: torch.dtype, allow_missing: bool, reuse: bool):
        self.layout, self.device, self.reuse = layout, device, reuse
        self.arrived, self.ready, self.left = (_event(device) for _ in range(3))
        self.held = 0.0
        self._in_matrix = {block.constituent for block in layout.blocks} - {*layout.beside}
        self._assemble = Assembler(layout, device, allow_missing, dtype, reuse)
        self._buffers: dict[str, Tensor] = {}

    def wait(self) -> None:
        """Until the trainer is done with the batch that was here."""
        began = time.perf_counter()
        self.left.synchronize()
        self.held = time.perf_counter() - began

    def take(self, batch: Batch, dropout_seed: int | None = None) -> Inputs:
        """The batch on the device, by the current stream. With a seed attributes are dropped as in training."""
        compact = {key: self._bring(key, values) for key, values in batch.compact.items()}
        raw = {name: self._bring(name, values) for name, values in batch.pictures.items()}
        draws: dict[str, np.ndarray] = {}
        if dropout_seed is not None:
            draws = attribute_dropout(self.layout, dropout_seed, batch.epoch, batch.positions)
        dropped = {key: self._bring(f"dropped {key}", values) for key, values in draws.items()}
        self.arrived.record()
        matrix = self._assemble(compact, dropped, len(batch))
        beside = {key: values for key, values in compact.items() if key not in self._in_matrix}
        return Inputs(replace(batch, compact={}, pictures={}), matrix, self._units(raw), beside)

    def _bring(self, name: str, values: np.ndarray) -> Tensor:
        here = torch.from_numpy(values)
        if self.device.type == "cpu":
            return here
        return self._buffer(f"{name} as stored", here.shape, here.dtype).copy_(here, non_blocking=True)

    def _units(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        units: dict[str, Tensor] = {}
        pieces: list[Callable[[], object]] = []
        for name, pictures in raw.items():
            masks = None
            if name == "bottom":
                if "face" not in raw:
                    raise UsageError("the picture bottom is a part of the picture face: ask for face too")
                pictures, masks = raw["face"], raw["bottom"].unsqueeze(-1)
            units[name] = self._buffer(name, pictures.shape, torch.float32)
            pieces += _pieces(units[name], pictures, masks)
        if self.device.type == "cpu":
            spread(pieces)
        else:
            for piece in pieces:
                piece()
        return {name: unit.permute(0, 3, 1, 2) for name, unit in units.items()}

    def _buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if not self.reuse or name not in self._buffers or len(self._buffers[name]) < shape[0]:
            self._buffers[name] = zeros(tuple(shape), self.device, dtype)
        return self._buffers[name][: shape[0]]


class Feed:
    """A loader's batches on a device.

    dropout_seed: attributes are dropped as in training, by the layout's probabilities; None: never. allow_missing,
    dtype, reuse: as of `Assembler`, reuse also for pictures. timing: how long the trainer waited for data; where it has
    to wait for its own GPU, that is not counted.
    """

    def __init__(
        self,
        loader: Loader,
        layout: Layout,
        device: str | torch.device = "cpu",
        dropout_seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        allow_missing: bool = False,
        reuse: bool = True,
    ):
        self.loader, self.layout, self.device, self.dropout_seed = loader, layout, _indexed(device), dropout_seed
        self.timing = Timing()
        self._room = partial(Room, layout, self.device, dtype, allow_missing, reuse)
        self._rooms: list[Room] = []
        self._own = self._room()
        self._module = torch.get_device_module(self.device)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else self._module.Stream()
        loader.pinned |= self.device.type == "cuda"

    def __iter__(self) -> Generator[Inputs, None, None]:
        """Batch after batch, epoch after epoch, from the place of `state_dict`."""
        with closing(self._ahead(self.loader.onward(), self.dropout_seed)) as ahead:
            for inputs in ahead:
                self.loader.go_on_behind(inputs.batch)
                yield inputs

    def batches(self, epoch: int, start: int = 0) -> Generator[Inputs, None, None]:
        """The batches of one epoch from batch number `start` on."""
        return self._ahead(self.loader.batches(epoch, start), self.dropout_seed)

    def validation(self, most: int | None = None) -> Generator[Inputs, None, None]:
        """Batches of the held-out speakers, as `Loader.validation`; nothing is dropped."""
        return self._ahead(self.loader.validation(most), None)

    def move(self, batch: Batch) -> Inputs:
        """One batch on the device, by the current stream; valid until the next."""
        inputs = self._own.take(batch, self.dropout_seed)
        self._own.arrived.synchronize()
        return inputs

    def state_dict(self) -> dict[str, Any]:
        """The loader's: where the next batch of iteration stands, whatever is read ahead."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next iteration go on there. Raises what `Order.place` raises."""
        self.loader.load_state_dict(state)

    def _ahead(self, batches: Generator[Batch, None, None], seed: int | None) -> Generator[Inputs, None, None]:
        """Each batch on the device while the next is prepared in another room."""
        here, there = (self._rooms.pop() if self._rooms else self._room() for _ in range(2))
        thread = ThreadPoolExecutor(1, "feed")
        with self.timing.stream(), closing(batches):
            try:
                coming = thread.submit(self._prepare, batches, here, seed)
                while (inputs := coming.result()) is not None:
                    self.timing.handed_over(len(inputs.batch), here.held)
                    coming = thread.submit(self._prepare, batches, there, seed)
                    self._give(inputs, here)
                    yield inputs
                    self.timing.asked()
                    here.left.record(self._trainers)
                    here, there = there, here
            finally:
                thread.shutdown()
                self._stream.wait_stream(self._trainers)
                self._rooms += here, there

    def _prepare(self, batches: Iterator[Batch], room: Room, seed: int | None) -> Inputs | None:
        """The next batch in a room, None at the end."""
        with self._module.stream(self._stream):
            if (batch := next(batches, None)) is None:
                return None
            room.wait()
            inputs = room.take(batch, seed)
            room.ready.record()
            room.arrived.synchronize()
            return inputs

    def _give(self, inputs: Inputs, room: Room) -> None:
        """Have the trainer's stream wait for a batch, and its memory wait for that stream where it is let go."""
        self._trainers.wait_event(room.ready)
        if self.device.type == "cuda":
            for tensor in (inputs.matrix, *inputs.pictures.values(), *inputs.beside.values()):
                tensor.record_stream(self._trainers)

    @property
    def _trainers(self) -> Any:
        """The stream that the caller works in."""
        return self._module.current_stream(self.device)


def _indexed(device: str | torch.device) -> torch.device:
    """The device with its number: another thread has another current one."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _event(device: torch.device) -> Any:
    return torch.cuda.Event(blocking=True) if device.type == "cuda" else torch.get_device_module(device).Event()


def _pieces(unit: Tensor, pictures: Tensor, masks: Tensor | None) -> Iterator[partial[None]]:
    """What makes pictures (B, H, W, 3) uint8 into numbers of 0..1, a few at a time on a CPU; 0 outside their masks."""
    clips = max(1, AT_ONCE // prod(unit.shape[1:]) if unit.device.type == "cpu" else len(unit))
    parted = [None] * len(unit) if masks is None else masks.split(clips)
    for to, part, mask in zip(unit.split(clips), pictures.split(clips), parted, strict=False):
        yield partial(_to_unit, to, part, mask)


def _to_unit(unit: Tensor, pictures: Tensor, masks: Tensor | None) -> None:
    unit.copy_(pictures).div_(255)
    if masks is not None:
        unit.mul_(masks)
