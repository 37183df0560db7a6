"""A CUDA device that is none: its tensors keep their values on the CPU, so that all runs for real.

What would be an error on a GPU is noted as a mismatch: a tensor of the CPU among those of the
device, `numpy()` of one, a generator of the other device. What makes the host wait for the device
(or copies memory that is not page-locked, which waits too) is noted as a wait. Both are counted by
the functions of `shoal.trainers` that they happened in and the line.
"""

import collections
import contextlib
import sys
import types
from typing import ClassVar
from unittest import mock

import numpy as np
import torch
import torch._dynamo  # before Generator is another one: it looks at its type
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda:0")
WAITS = {
    "item", "tolist", "nonzero", "masked_select", "unique", "repeat_interleave",
    "__bool__", "__float__", "__int__", "__index__", "__iter__",
}  # fmt: skip
PLAIN = {
    "requires_grad_", "register_hook", "retain_grad", "backward", "__len__", "__repr__", "__set__",
    "_has_compatible_shallow_copy_type",
}  # fmt: skip
RealGenerator = torch.Generator
mismatches: collections.Counter = collections.Counter()
waits: collections.Counter = collections.Counter()


def place():
    """Where the trainer is: its functions from the outermost to the innermost, and the line."""
    frame, functions, line = sys._getframe(1), [], 0
    while frame is not None:
        if "/shoal/trainers/" in frame.f_code.co_filename:
            line = line or frame.f_lineno
            functions.append(frame.f_code.co_name)
        frame = frame.f_back
    return tuple(reversed(functions)), line


def note(counter, what):
    counter[what, *place()] += 1


def is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class DeviceGenerator(torch.Generator):
    """A generator of the device, whose state is as short as a GPU's."""

    states: ClassVar[dict] = {}

    def get_state(self):
        state = super().get_state()
        short = torch.frombuffer(
            bytearray(hash(state.numpy().tobytes()).to_bytes(16, signed=True)), dtype=torch.uint8
        )
        self.states[short.numpy().tobytes()] = state
        return short

    def set_state(self, state):
        if len(state) != 16:
            raise RuntimeError("RNG state is wrong size")
        return super().set_state(self.states[state.numpy().tobytes()])


def new_generator(device="cpu"):
    return DeviceGenerator() if is_cuda(device) else RealGenerator()


def mapped(function, value):
    """The same lists, tuples and dicts with the function applied to every tensor in them."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        items = [mapped(function, each) for each in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: mapped(function, each) for key, each in value.items()}
    return value


def tensors(value):
    found: list = []
    mapped(lambda tensor: found.append(tensor) or tensor, value)
    return found


def strip(value):
    return mapped(lambda t: t.as_subclass(torch.Tensor) if isinstance(t, OnDevice) else t, value)


def wrap(value):
    return mapped(lambda t: t if isinstance(t, OnDevice) else t.as_subclass(OnDevice), value)


def target(args, kwargs):
    """The device that `to` is given, and its arguments without it."""
    places = [a for a in [*args, kwargs.get("device")] if isinstance(a, (str, torch.device))]
    rest = [a for a in args if not isinstance(a, (str, torch.device))]
    named = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
    return (torch.device(places[-1]) if places else None), rest, named


def call(func, args, kwargs):
    """Do what torch is asked to do with tensors of the device among the arguments."""
    name = getattr(func, "__name__", str(func))
    first = args[0] if args else None
    with torch._C.DisableTorchFunctionSubclass():
        if name == "__get__":
            return attribute(getattr(getattr(func, "__self__", None), "__name__", ""), func, args)
        if name in PLAIN:
            return func(*args, **kwargs)
        if name in ("to", "cpu", "cuda") and isinstance(first, OnDevice):
            device, rest, named = target(args[1:], kwargs)
            if name == "cpu" or (device is not None and device.type == "cpu"):
                note(waits, "copy to the host")
                return strip(first).clone().to(*rest, **named)
            return wrap(strip(first).to(*rest, **named)) if rest or named else first
        if name in ("__getitem__", "__setitem__"):
            note_index(args[1])
        elif name not in ("copy_", "__deepcopy__"):
            given = tensors([args, kwargs])
            other = [t for t in given if not isinstance(t, OnDevice) and t.dim() > 0]
            if other and len(other) < len(given):
                note(mismatches, f"{name} of tensors of both devices")
        generator = kwargs.get("generator")
        if generator is not None and not isinstance(generator, DeviceGenerator):
            note(mismatches, f"{name} with a generator of the CPU")
        if name == "numpy":
            note(mismatches, "numpy() of a tensor of the device")
        if name in WAITS:
            note(waits, name)
        if is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        result = func(*strip(args), **strip(kwargs))
        if name in WAITS - {"nonzero", "masked_select", "unique", "repeat_interleave", "__iter__"}:
            return result
        if name == "numpy":
            return result
        in_place = name.endswith("_") and not name.endswith("__")
        if in_place and isinstance(first, OnDevice) and isinstance(result, torch.Tensor):
            return first
        return wrap(result)


def attribute(name, func, args):
    if name == "device":
        return CUDA
    if name in ("is_cuda", "is_cpu"):
        return name == "is_cuda"
    value = func(*args)
    return wrap(value) if name in ("data", "grad", "T", "mT") else value


def note_index(index):
    for each in index if isinstance(index, tuple) else (index,):
        if isinstance(each, (np.ndarray, list)):
            note(waits, "index from the host")
        elif isinstance(each, torch.Tensor):
            if each.dtype in (torch.bool, torch.uint8) and each.dim():
                note(waits, "boolean index")
            elif not isinstance(each, OnDevice):
                note(waits, "index from the host")


class Mode(TorchFunctionMode):
    """Also the calls that have no tensor of the device among their arguments, but make one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if any(isinstance(t, OnDevice) for t in tensors([args, kwargs])):
            return call(func, args, kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.is_pretended_pinned = True
            return pinned
        if name == "to":
            device, rest, named = target(args[1:], kwargs)
            if is_cuda(device):
                pinned = hasattr(args[0], "is_pretended_pinned")
                if not (pinned and kwargs.get("non_blocking")):
                    note(waits, "copy from the host")
                with torch._C.DisableTorchFunctionSubclass():
                    return wrap(args[0].to(*rest, **named).clone())
        if is_cuda(kwargs.get("device")):
            if name in ("tensor", "as_tensor"):
                note(waits, "copy from the host")
            with torch._C.DisableTorchFunctionSubclass():
                return wrap(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def module_to(module, device):
    """Module.to: with parameters and buffers of the device."""
    if not is_cuda(device):
        return real_module_to(module, device)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = parameter.detach().clone().as_subclass(OnDevice)
                part._parameters[name] = torch.nn.Parameter(moved, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.detach().clone().as_subclass(OnDevice)
        if isinstance(part, torch.nn.RNNBase):
            part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]
    return module


real_module_to = torch.nn.Module.to


def kernel(out, *rest):
    """The advantages of the CUDA module, by the C kernel."""
    from shoal.trainers import advantage

    assert isinstance(out, OnDevice)
    with torch._C.DisableTorchFunctionSubclass():
        arrays = [advantage._array(strip(t)) if isinstance(t, torch.Tensor) else t for t in rest]
        advantage.cpu_advantages(advantage._array(strip(out)), *arrays)


def recurrence(name):
    """A function of MinGRU's CUDA module, by the loop of the CPU."""

    def run(*tensors):
        from shoal.trainers.policies import mingru

        assert all(isinstance(tensor, OnDevice) for tensor in tensors)
        with torch._C.DisableTorchFunctionSubclass():
            return wrap(getattr(mingru, name)(*strip(tensors)))

    return run


@contextlib.contextmanager
def pretended_cuda():
    """torch with the device, until the context ends; (mismatches, waits) so far."""
    mismatches.clear()
    waits.clear()
    triton = types.ModuleType("shoal.trainers.advantage_cuda")
    triton.advantages = kernel
    mingru = types.ModuleType("shoal.trainers.policies.mingru_cuda")
    mingru.forward, mingru.backward = recurrence("forward"), recurrence("backward")
    modules = {triton.__name__: triton, mingru.__name__: mingru}
    with (
        mock.patch.object(torch, "Generator", new_generator),
        mock.patch.object(torch.nn.Module, "to", module_to),
        mock.patch.object(torch.cuda, "is_available", lambda: True),
        mock.patch.object(torch.cuda, "current_device", lambda: 0),
        mock.patch.object(torch.cuda, "is_bf16_supported", lambda **how: False),
        mock.patch("shoal.trainers.ppo.peak_flops", lambda device, precision: 1e12),
        mock.patch.object(torch.cuda, "set_device", lambda device: None),
        mock.patch.dict(sys.modules, modules),
        Mode(),
    ):
        yield mismatches, waits
