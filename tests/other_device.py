"""A device that is not there: tensors that say they are on it and are on the host, and what is copied to and from it.

Like a real one, it refuses operations on tensors of both places. Its name is ``lazy``, which torch knows, and for which
it starts nothing.
"""

from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

DEVICE = torch.device("lazy", 0)
ATEN = torch.ops.aten


@dataclass(frozen=True)
class Crossing:
    """A copy between host and device; ``aside`` is one that nobody waits for, which takes pinned memory."""

    to_host: bool
    dtype: torch.dtype
    size: int
    aside: bool = False


class OnDevice(torch.Tensor):
    """A tensor on the device; ``held`` is where its values are."""

    @staticmethod
    def __new__(cls, held, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )

    def __init__(self, held, requires_grad=False):  # noqa: ARG002
        self.held = held

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        torch.Tensor.data.__set__(self, other)
        self.held = other.held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: outside of OtherDevice")


class OtherDevice(TorchDispatchMode):
    """While it is entered, there is the device; ``crossings`` are the copies so far."""

    def __init__(self):
        super().__init__()
        self.crossings = []
        self.pinned = {}  # where that memory is, and what is there

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = []
        tree_map(lambda value: tensors.append(value) if isinstance(value, torch.Tensor) else None, (args, kwargs))
        there = [isinstance(tensor, OnDevice) for tensor in tensors]
        wanted = kwargs.get("device")
        result_there = any(there) if wanted is None else torch.device(wanted).type == DEVICE.type
        if func is ATEN._to_copy.default and tensors:  # or of a plain number
            self._note(tensors[0], there[0], result_there)
        elif func is ATEN.copy_.default:
            result_there = there[0]
            if len(there) > 1:
                aside = bool([*args, False][2]) and self._is_pinned(tensors[0 if there[1] else 1])
                self._note(tensors[1], there[1], there[0], aside)
        elif func is ATEN._local_scalar_dense.default:
            self._note(tensors[0], there[0], False)
        elif any(there) and not all(
            is_there or not tensor.dim() for is_there, tensor in zip(there, tensors, strict=True)
        ):
            raise RuntimeError(f"{func}: tensors on the host and on the device")
        given = kwargs if wanted is None else kwargs | {"device": "cpu"}
        if kwargs.get("pin_memory"):  # which takes a driver
            given = given | {"pin_memory": False}
        result = func(*tree_map(held, args), **tree_map(held, given))
        if kwargs.get("pin_memory"):
            assert not result_there
            self.pinned[result.untyped_storage().data_ptr()] = result
        if not result_there or func is ATEN._local_scalar_dense.default:
            return result
        wrapped = tree_map(lambda value: OnDevice(value) if isinstance(value, torch.Tensor) else value, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _note(self, tensor, from_device, to_device, aside=False):
        if from_device != to_device:
            self.crossings.append(Crossing(from_device, tensor.dtype, tensor.numel(), aside))

    def _is_pinned(self, tensor):
        return not isinstance(tensor, OnDevice) and tensor.untyped_storage().data_ptr() in self.pinned

    def take(self):
        """Return the copies since the last call."""
        taken, self.crossings = self.crossings, []
        return taken


def held(value):
    """Return a tensor's values, on the host."""
    return value.held if isinstance(value, OnDevice) else value
