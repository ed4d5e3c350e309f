"""A device to test on: CUDA where there is one, else a stand-in that refuses what CUDA refuses.

The stand-in is called `meta`, but its tensors have values, which lie on the CPU: an operation runs there, unless it mixes
both devices where CUDA allows no mixing. So results can be compared with those of the CPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "cuda:0" if torch.cuda.is_available() else "meta"
aten = torch.ops.aten
# these take tensors of two devices
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
# these take indices of the CPU for a tensor of another device
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
           aten._index_put_impl_.default}  # fmt: skip
# these return a number
READS = {aten._local_scalar_dense.default, aten.equal.default}


class Elsewhere(Tensor):
    "Hold a tensor of the stand-in, with its values in `here`."

    is_meta = False  # it has values
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor):
        assert not here.is_meta, "a tensor has lost its values"
        layout = here.shape, here.stride(), here.storage_offset()
        # not in inference mode, where a view of a weight would count as another kind of tensor than the weight
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
            return Tensor._make_wrapper_subclass(cls, *layout, dtype=here.dtype, device="meta")

    def __init__(self, here: Tensor):
        self.here = here

    def __repr__(self, **_) -> str:
        return f"Elsewhere({self.here!r})"

    def tolist(self) -> list:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def each(x, do: Callable[[Tensor], Tensor]):
    "Return an argument or a result with every tensor replaced."
    if isinstance(x, Tensor):
        return do(x)
    return type(x)(each(part, do) for part in x) if isinstance(x, list | tuple) else x


def tensors(parts) -> Iterator[Tensor]:
    "Yield the tensors among some arguments."
    for x in parts:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from tensors(x)


@cache
def kind_of(func) -> tuple[bool, bool, bool]:
    "Return whether an operation consists of others, writes in place, and draws random numbers."
    parts = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return parts, func._schema.is_mutable, torch.Tag.nondeterministic_seeded in func.tags


def check(func, args: tuple, kwargs: dict) -> None:
    "Raise the error of CUDA for a call that mixes its tensors with those of the CPU; 0-dimensional ones may be of the CPU."
    if func in INDEXED and isinstance(args[0], Elsewhere):
        args = (args[0], *args[2:])
    for x in tensors((*args, *kwargs.values())):
        if func not in COPIES and x.dim() and not isinstance(x, Elsewhere):
            where = f"{func} has one of {tuple(x.shape)} {x.dtype} on the CPU"
            raise RuntimeError(f"Expected all tensors to be on the same device, but {where}")


def run(func, args: tuple, kwargs: dict):
    "Run an operation on the values, in place or with results on the device that CUDA would give them."
    consists_of_others, in_place, random = kind_of(func)
    if consists_of_others:  # torch takes it apart itself, except in inference mode
        with _Factories():
            return func.decompose(*args, **kwargs)
    given, device = list(tensors((*args, *kwargs.values()))), kwargs.get("device")
    there = mixed = any(isinstance(x, Elsewhere) for x in given)
    if mixed:
        check(func, args, kwargs)
    if device is not None:
        there = torch.device(device).type == "meta"
        kwargs = kwargs | dict(device="cpu")
    if there and kwargs.get("generator") is not None:
        raise RuntimeError("Expected a generator of the same device, but found one of the CPU")
    values = [x.here if isinstance(x, Elsewhere) else x for x in given]
    here = {id(x): value for x, value in zip(given, values)}
    args = each(args, lambda x: here[id(x)])
    kwargs = {name: each(x, lambda x: here[id(x)]) for name, x in kwargs.items()}
    with _own_numbers() if random and there else contextlib.nullcontext():
        result = func(*args, **kwargs)
    if func in READS or not there:
        return result
    written = {id(value): x for x, value in zip(given, values)} if in_place else {}
    return each(result, lambda x: written.get(id(x)) if id(x) in written else Elsewhere(x))


_state = torch.Generator().manual_seed(0).get_state()


@contextlib.contextmanager
def _own_numbers():
    "Draw from a generator of the stand-in, as CUDA has its own, and leave that of the CPU as it is."
    global _state
    before = torch.get_rng_state()
    torch.set_rng_state(_state)
    yield
    _state = torch.get_rng_state()
    torch.set_rng_state(before)


class _Factories(TorchDispatchMode):
    "Make tensors of the stand-in where an operation is asked for one on `meta`."

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here


class _Values(TorchFunctionMode):
    "Keep the values of lists, which torch drops on `meta`: those of new tensors and of indices."

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "meta":
            return func(*args, **kwargs | dict(device="cpu")).to("meta")
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(*args[1:], **dict(dtype=args[0].dtype) | kwargs).to("meta")
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(map(_index, places)), *args[2:])
        return func(*args, **kwargs)


def _index(places):
    "Return a list of places as a tensor, and any other index as it is."
    if not isinstance(places, list | range | np.ndarray):
        return places
    index = torch.as_tensor(places)
    return index if len(index) else index.long()


@contextlib.contextmanager
def device() -> Iterator[str]:
    "Yield the name of a device that is not the CPU, on which models and batches can be put meanwhile."
    if NAME != "meta":
        yield NAME
        return
    plain, swaps = torch.autocast, torch.__future__.get_swap_module_params_on_conversion()

    def autocast(kind, *args, **kwargs):
        return contextlib.nullcontext() if kind == "meta" else plain(kind, *args, **kwargs)

    fused = mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied weights stay tied, as with CUDA
    try:
        with mock.patch("torch.autocast", autocast), fused, _Values(), _Factories():
            yield NAME
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
