"""From the graph of one step of a policy to C.

Each value of the graph is one of three things: a tensor that does not depend on the observation
(`Constant`), numbers that lie in memory (`Array`), or an expression of an element's index that is
written where it is needed (`Lazy`). All shapes are known, so a view is other strides of the same
memory and costs nothing. Matrix products, convolutions and the like are calls of shoal_net.h; all
else is a loop.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shoal.errors import ExportError
from shoal.trainers.export.step import module_of

__all__ = ["Code", "generate", "literal", "pack"]

BLOCK, NARROW = 32, 8  # NET_BLOCK and NET_NARROW
ALIGNED = 16  # floats of a cache line: where each weight of the file begins
MOST_NUMBERS = 2**16  # of a table of integers within the code

CTYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "uint8_t",
}


class Constant(NamedTuple):
    """A tensor known now."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)


class Array(NamedTuple):
    """Numbers in memory: element ``i, j, ...`` is at ``offset + i * strides[0] + ...``."""

    dtype: torch.dtype
    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def pointer(self) -> str:
        return f"{self.name} + {self.offset}" if self.offset else self.name

    def element(self, index: Sequence[str]) -> str:
        parts = [
            i if stride == 1 else f"{i} * {stride}"
            for i, stride in zip(index, self.strides)
            if i != "0" and stride
        ]
        if self.offset or not parts:
            parts.append(str(self.offset))
        return f"{self.name}[{' + '.join(parts)}]"


class Lazy(NamedTuple):
    """An expression of the index of an element.

    `flat`: the same as a function of the element's place, if all that it reads is contiguous.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    element: Callable[[Sequence[str]], str]
    flat: Callable[[str], str] | None = None


Value = Constant | Array | Lazy


class Code(NamedTuple):
    """What a policy's step is in C.

    Attributes:
        body: of ``policy_forward``.
        weights: float32, in the order of the file.
        scratch: floats that the body needs.
    """

    body: str
    weights: np.ndarray
    scratch: int


def generate(program: torch.export.ExportedProgram) -> Code:
    """Return the body of a function of C that does what the graph does.

    Args:
        program: of `shoal.trainers.export.step.trace`.

    Raises:
        ExportError: an operation has no counterpart in C; the message names its module.
    """
    return Generator(program).run()


class Generator:
    """Writes the code of one graph, node after node."""

    def __init__(self, program: torch.export.ExportedProgram):
        self.program = program
        self.lines: list[str] = []
        self.weights: list[np.ndarray] = []
        self.num_weights = 0
        self.places: dict[Any, int] = {}  # where a weight is: of the tensor's key
        self.kept: list[Tensor] = []  # so that no other tensor gets the address in a key
        self.scratch = 0
        self.count = 0  # of names
        self.values: dict[torch.fx.Node, Any] = {}
        self.node: Any = None
        self.module = ""
        self.seen: dict[torch.dtype, str] = {}  # pointers to the observation

    def run(self) -> Code:
        signature = self.program.graph_signature
        tensors = {**self.program.state_dict, **self.program.constants}
        known = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        users = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        users = [n for n in users if n.name not in known]
        observations = users[0]
        for node in self.program.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                if node.name in known:
                    self.values[node] = Constant(tensors[known[node.name]].detach())
                    continue
                given = node.meta["val"]
                dtype, shape = given.dtype, tuple(given.shape)
                name = "state"
                if node is observations:
                    name = self.observation(dtype)
                self.values[node] = Array(dtype, name, shape, contiguous(shape))
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "output":
                self.finish(*(self.values[each] for each in node.args[0][-3:]))
        weights = np.concatenate(self.weights) if self.weights else np.zeros(0, np.float32)
        return Code("\n".join(self.lines), weights, self.scratch)

    # -- writing ---------------------------------------------------------------------------------

    def write(self, line: str) -> None:
        module = module_of(self.node)
        if module != self.module and self.node.op == "call_function":
            self.lines.append(f"    /* {module} */")
            self.module = module
        self.lines.append(f"    {line}")

    def name(self, letter: str = "t") -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def fail(self, why: str) -> ExportError:
        return ExportError(f"{module_of(self.node)}: {why}; it can't be exported to C")

    def observation(self, dtype: torch.dtype) -> str:
        """Return the name of the observation's memory as numbers of a dtype."""
        if dtype not in self.seen:
            self.seen[dtype] = f"seen_{str(dtype).removeprefix('torch.')}"
            self.lines.insert(
                0,
                f"    const {self.ctype(dtype)} *{self.seen[dtype]} = "
                f"(const {self.ctype(dtype)} *)observation;",
            )
        return self.seen[dtype]

    def ctype(self, dtype: torch.dtype) -> str:
        if dtype not in CTYPES:
            raise self.fail(f"numbers of {dtype}")
        return CTYPES[dtype]

    def new(self, dtype: torch.dtype, shape: Sequence[int]) -> Array:
        """Return fresh memory: a part of the scratch, or for integers a variable."""
        shape, size, name = tuple(shape), max(1, math.prod(shape)), self.name()
        if dtype == torch.float32:
            self.write(f"float *{name} = scratch + {self.scratch};")
            self.scratch += -(-size // ALIGNED) * ALIGNED
        else:
            self.write(f"{self.ctype(dtype)} {name}[{size}];")
        return Array(dtype, name, shape, contiguous(shape))

    def weight(self, key: Any, numbers: Callable[[], np.ndarray]) -> str:
        """Return where a weight is, which is put into the file when first asked for."""
        if key not in self.places:
            self.places[key] = self.num_weights
            flat = np.ascontiguousarray(numbers(), np.float32).reshape(-1)
            flat = np.pad(flat, (0, -flat.size % ALIGNED))
            self.weights.append(flat)
            self.num_weights += flat.size
        return f"weights + {self.places[key]}"

    # -- values ----------------------------------------------------------------------------------

    def stored(self, value: Value) -> Array:
        """Return a value as contiguous numbers in memory."""
        if isinstance(value, Array) and is_contiguous(value):
            return value
        if isinstance(value, Constant):
            return self.table(value)
        to = self.new(value.dtype, value.shape)
        self.store(value, to)
        return to

    def table(self, value: Constant) -> Array:
        """Return a constant as numbers in memory: a weight, or for integers a table in the code."""
        tensor = value.tensor.contiguous()
        if tensor.dtype == torch.float32:
            key = (tensor.data_ptr(), value.shape, tuple(tensor.stride()))
            self.kept.append(tensor)
            self.weight(key, tensor.numpy)
            return Array(
                tensor.dtype, "weights", value.shape, contiguous(value.shape), self.places[key]
            )
        if tensor.numel() > MOST_NUMBERS:
            raise self.fail(f"a table of {tensor.numel():,} numbers of {tensor.dtype}")
        name = self.name("k")
        numbers = ", ".join(literal(each, tensor.dtype) for each in tensor.flatten().tolist())
        ctype = self.ctype(tensor.dtype)
        self.write(f"static const {ctype} {name}[] = {{{numbers or 0}}};")
        return Array(tensor.dtype, name, value.shape, contiguous(value.shape))

    def store(self, value: Value, to: Array) -> None:
        """Write the loops that put a value into memory."""
        if math.prod(to.shape) == 0:
            return
        read, flat = self.reader(value, to.shape, to.dtype)
        if flat and is_contiguous(to):
            size = math.prod(to.shape)
            target = Array(to.dtype, to.name, (size,), (1,), to.offset)
            self.loops((size,), lambda i: f"{target.element(i)} = {flat(i[0])};")
        else:
            self.loops(to.shape, lambda i: f"{to.element(i)} = {read(i)};")

    def loops(self, shape: Sequence[int], body: Callable[[Sequence[str]], str]) -> None:
        """Write loops over all dimensions that have more than one element."""
        index, begins = self.indices(shape)
        for depth, begin in enumerate(begins):
            self.write("    " * depth + begin)
        self.write("    " * len(begins) + body(index))

    def indices(self, shape: Sequence[int]) -> tuple[list[str], list[str]]:
        """Return names of the indices of a shape, and the heads of the loops over them."""
        self.count += 1
        names = [f"i{self.count}_{d}" if n > 1 else "0" for d, n in enumerate(shape)]
        heads = [f"for (int {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, shape) if i != "0"]
        return names, heads

    def reader(
        self, value: Any, shape: Sequence[int], dtype: torch.dtype
    ) -> tuple[Callable[[Sequence[str]], str], Callable[[str], str] | None]:
        """Return functions to read a value that is broadcast to a shape, as numbers of a dtype.

        The first takes the index of an element, the second its place; it is None if the value is
        not contiguous.
        """
        if isinstance(value, Constant) and value.tensor.numel() == 1:
            value = value.tensor.item()
        if isinstance(value, (bool, int, float)):
            text = literal(value, dtype)
            return (lambda i: text), (lambda i: text)
        if isinstance(value, Constant):
            if dtype.is_floating_point and value.dtype != dtype:
                value = Constant(value.tensor.to(dtype))
            value = self.table(value)
        missing = len(shape) - len(value.shape)

        def cast(text: str) -> str:
            return text if value.dtype == dtype else convert(text, value.dtype, dtype)

        def read(index: Sequence[str]) -> str:
            own = [i if n > 1 else "0" for i, n in zip(index[missing:], value.shape)]
            return cast(value.element(own))

        if math.prod(value.shape) != math.prod(shape):
            return read, None
        if isinstance(value, Array):
            if not is_contiguous(value):
                return read, None
            line = Array(value.dtype, value.name, (0,), (1,), value.offset)
            return read, lambda i: cast(line.element([i]))
        flat = value.flat
        return read, None if flat is None else lambda i: cast(flat(i))

    def lazy(self, form: Callable[..., str], *values: Any, dtype: Any = None) -> Value:
        """Return the elementwise function of some values that makes the node.

        Args:
            form: makes an expression of the values' expressions.
            dtype: of the values as `form` gets them; default: that of the node.
        """
        made = self.node.meta["val"]
        shape = tuple(made.shape)
        readers = [self.reader(value, shape, dtype or made.dtype) for value in values]
        flats = [flat for _, flat in readers]
        flat = None
        if all(each is not None for each in flats):

            def flat(i: str) -> str:
                return form(*(each(i) for each in flats if each))

        return self.once(
            Lazy(made.dtype, shape, lambda i: form(*(read(i) for read, _ in readers)), flat)
        )

    def once(self, value: Lazy) -> Value:
        """Return a value that is computed once: in memory, if several nodes use it."""
        return value if len(self.node.users) == 1 else self.stored(value)

    # -- nodes -----------------------------------------------------------------------------------

    def call(self, node: torch.fx.Node) -> Any:
        """Return the value of a node, after its code has been written."""
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            raise self.fail(f"{node.target}")
        name = node.target._schema.name.removeprefix("aten::")
        if name in IGNORED or not node.users:
            return None
        args = torch.fx.map_arg(node.args, self.values.__getitem__)
        kwargs = torch.fx.map_arg(node.kwargs, self.values.__getitem__)
        inputs = [v for v in flattened([args, kwargs]) if isinstance(v, (Constant, Array, Lazy))]
        if all(isinstance(value, Constant) for value in inputs):
            return computed(node.target, args, kwargs)
        given = {a.name: v for a, v in zip(node.target._schema.arguments, args)} | kwargs
        for argument in node.target._schema.arguments:
            if argument.has_default_value():
                given.setdefault(argument.name, argument.default_value)
        if name in VIEWS:
            return self.view(node.target, args, kwargs)
        for table, method in ((UNARY, self.unary), (BINARY, self.binary), (COMPARE, self.compare)):
            if name in table:
                return method(table[name], given)
        handler = getattr(self, f"op_{name}", None)
        if handler is None:
            raise self.fail(f"operation {node.target}")
        return handler(given)

    def finish(self, parameters: Value, value: Value, state: Value) -> None:
        """Write the outputs; the state comes last, because others may be made of the old one."""
        self.store(
            parameters,
            Array(torch.float32, "logits", parameters.shape, contiguous(parameters.shape)),
        )
        self.store(value, Array(torch.float32, "value", value.shape, contiguous(value.shape)))
        if isinstance(state, Array) and state.name == "state":
            return
        if math.prod(state.shape):
            state = self.stored(state)
            self.store(state, Array(torch.float32, "state", state.shape, contiguous(state.shape)))

    def view(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return other strides of the same memory, as torch computes them."""
        value, *rest = args
        if isinstance(value, Lazy):
            value = self.stored(value)
        array: Array = value
        made, same = viewed(target, array, rest, kwargs)
        if not same:  # a reshape that needs other memory
            array = self.new(value.dtype, value.shape)
            self.store(value, array)
            made, _ = viewed(target, array, rest, kwargs)
        pieces = made if isinstance(made, (list, tuple)) else [made]
        name = array.name
        if pieces[0].dtype != array.dtype:
            if name not in self.seen.values():
                raise self.fail("the bytes of a number as another dtype")
            name = self.observation(pieces[0].dtype)
        arrays = [
            Array(each.dtype, name, tuple(each.shape), each.stride(), each.storage_offset())
            for each in pieces
        ]
        return arrays if isinstance(made, (list, tuple)) else arrays[0]

    def unary(self, form: str, given: dict[str, Any]) -> Value:
        options = {k: literal(v, torch.float32) for k, v in given.items() if is_number(v)}
        value, made = given["self"], self.node.meta["val"]
        if isinstance(value, Lazy) and form.count("{0}") > 1:
            value = self.stored(value)
        return self.lazy(lambda x: form.format(x, **options), value, dtype=made.dtype)

    def binary(self, form: str, given: dict[str, Any]) -> Value:
        dtype = self.node.meta["val"].dtype
        other = given["other"]
        if given.get("alpha", 1) != 1:
            scale = literal(given["alpha"], dtype)
            return self.lazy(
                lambda x, y: convert(form.format(x, f"({scale} * {y})"), None, dtype),
                given["self"],
                other,
            )
        return self.lazy(lambda x, y: convert(form.format(x, y), None, dtype), given["self"], other)

    def compare(self, sign: str, given: dict[str, Any]) -> Value:
        values = given["self"], given["other"]
        dtype = torch.result_type(*(self.like(value) for value in values))
        return self.lazy(lambda x, y: f"({x} {sign} {y})", *values, dtype=dtype)

    def like(self, value: Any) -> Any:
        """Return a tensor of a value's dtype and number of dimensions, or the number itself."""
        if is_number(value):
            return value
        return torch.empty([1] * len(value.shape), dtype=value.dtype, device="meta")

    # -- numbers ---------------------------------------------------------------------------------

    def cast(self, given: dict[str, Any]) -> Value:
        value = given["self"]
        if value.dtype == self.node.meta["val"].dtype:
            return value
        return self.lazy(lambda x: x, value)

    def filled(self, given: dict[str, Any]) -> Value:
        made, name = self.node.meta["val"], self.node.target._schema.name
        number = given.get("fill_value", 1 if "ones" in name else 0)
        return Constant(torch.full(made.shape, number, dtype=made.dtype))

    op_new_zeros = op_new_ones = op_new_full = filled
    op_zeros_like = op_ones_like = op_full_like = filled

    op_to = op__to_copy = op_type_as = op_float = cast

    def op_clamp(self, given: dict[str, Any]) -> Value:
        value, low, high = given["self"], given.get("min"), given.get("max")
        given_ends = [end for end in (low, high) if end is not None]

        def form(x: str, *ends: str) -> str:
            at = list(ends)
            if low is not None:
                end = at.pop(0)
                x = f"({x} < {end} ? {end} : {x})"
            if high is not None:
                end = at.pop(0)
                x = f"({x} > {end} ? {end} : {x})"
            return x

        if not isinstance(value, Array):  # the expression is written more than once
            value = self.stored(value)
        return self.lazy(form, value, *given_ends)

    op_clamp_min = op_clamp_max = op_hardtanh = op_clamp

    def op_div(self, given: dict[str, Any]) -> Value:
        dtype, mode = self.node.meta["val"].dtype, given.get("rounding_mode")
        if mode is not None and dtype.is_floating_point:
            raise self.fail(f"division with rounding_mode={mode!r}")
        if mode == "floor":
            return self.lazy(
                lambda x, y: f"({x} / {y} - ({x} % {y} != 0 && ({x} < 0) != ({y} < 0)))",
                given["self"],
                given["other"],
            )
        return self.lazy(lambda x, y: f"({x} / {y})", given["self"], given["other"])

    def op_pow(self, given: dict[str, Any]) -> Value:
        exponent = given["exponent"]
        value = given["self"]
        if exponent == 2:
            value = self.stored(value)
            return self.lazy(lambda x: f"({x} * {x})", value)
        if exponent == 0.5:
            return self.lazy(lambda x: f"sqrtf({x})", value)
        return self.lazy(lambda x, y: f"powf({x}, {y})", value, exponent)

    def op_lerp(self, given: dict[str, Any]) -> Value:
        share: Any = self.node.args[2]
        gate = getattr(share, "args", [None])[0]
        if share.target is torch.ops.aten.sigmoid.default and isinstance(given["weight"], Lazy):
            hidden, gate, fresh = (
                self.stored(each) for each in (given["self"], self.values[gate], given["end"])
            )
            to = self.new(torch.float32, hidden.shape)
            if gate.shape == fresh.shape == hidden.shape:
                self.write(
                    f"net_mingru_cell({to.pointer}, {hidden.pointer}, {gate.pointer}, "
                    f"{fresh.pointer}, {math.prod(hidden.shape)});"
                )
                return to
        start = self.stored(given["self"]) if isinstance(given["self"], Lazy) else given["self"]
        return self.lazy(
            lambda x, y, w: f"({x} + {w} * ({y} - {x}))", start, given["end"], given["weight"]
        )

    def op_where(self, given: dict[str, Any]) -> Value:
        condition, made = given["condition"], self.node.meta["val"]
        shape = tuple(made.shape)
        asked, _ = self.reader(condition, shape, torch.bool)
        yes, _ = self.reader(given["self"], shape, made.dtype)
        no, _ = self.reader(given["other"], shape, made.dtype)
        return self.once(Lazy(made.dtype, shape, lambda i: f"({asked(i)} ? {yes(i)} : {no(i)})"))

    def op_masked_fill(self, given: dict[str, Any]) -> Value:
        return self.op_where(
            {"condition": given["mask"], "self": given["value"], "other": given["self"]}
        )

    # -- layers ----------------------------------------------------------------------------------

    def linear(self, x: Value, weight: Any, bias: Any, into: Array | None = None) -> Array:
        """Write a linear layer of all rows of `x`; into other numbers, it is added to them."""
        if not isinstance(weight, Constant) or not isinstance(bias, (Constant, type(None))):
            raise self.fail("a layer whose weights depend on the observation")
        size_out, size_in = weight.shape
        x = self.stored(x)
        y = into or self.new(torch.float32, (*x.shape[:-1], size_out))
        packed = self.packed(weight)
        added = y.pointer if into else "NULL" if bias is None else self.table(bias).pointer
        rows = math.prod(x.shape[:-1])
        if rows == 1:
            self.write(
                f"net_linear({y.pointer}, {x.pointer}, {packed}, {added}, {size_in}, {size_out});"
            )
        else:
            i = self.name("i")
            self.write(f"for (int {i} = 0; {i} < {rows}; {i}++)")
            self.write(
                f"    net_linear({y.pointer} + {i} * {size_out}, {x.pointer} + {i} * {size_in}, "
                f"{packed}, {added}{f' + {i} * {size_out}' if into else ''}, {size_in}, "
                f"{size_out});"
            )
        return y

    def packed(self, weight: Constant, groups: int = 1) -> str:
        """Return where the packed weights of a layer are, ``(out, in)``."""
        tensor = weight.tensor
        key = "packed", tensor.data_ptr(), weight.shape, tuple(tensor.stride()), groups
        self.kept.append(tensor)
        return self.weight(
            key, lambda: np.concatenate([pack(part) for part in np.split(tensor.numpy(), groups)])
        )

    def op_linear(self, given: dict[str, Any]) -> Value:
        return self.linear(given["input"], given["weight"], given["bias"])

    def op_lstm_cell(self, given: dict[str, Any]) -> list[Value]:
        hidden, cell = (self.stored(each) for each in given["hx"])
        bias = added_bias(given["b_ih"], given["b_hh"])
        gates = self.linear(given["input"], given["w_ih"], bias)
        self.linear(hidden, given["w_hh"], None, into=gates)
        to_hidden, to_cell = (self.new(torch.float32, hidden.shape) for _ in range(2))
        self.write(
            f"net_lstm_cell({to_hidden.pointer}, {to_cell.pointer}, {cell.pointer}, "
            f"{gates.pointer}, {hidden.shape[-1]});"
        )
        return [to_hidden, to_cell]

    def op_gru_cell(self, given: dict[str, Any]) -> Value:
        hidden = self.stored(given["hx"])
        x = self.linear(given["input"], given["w_ih"], given["b_ih"])
        h = self.linear(hidden, given["w_hh"], given["b_hh"])
        to = self.new(torch.float32, hidden.shape)
        self.write(
            f"net_gru_cell({to.pointer}, {hidden.pointer}, {x.pointer}, {h.pointer}, "
            f"{hidden.shape[-1]});"
        )
        return to

    def op_conv2d(self, given: dict[str, Any]) -> Value:
        x, weight, bias = self.stored(given["input"]), given["weight"], given["bias"]
        if not isinstance(weight, Constant) or isinstance(given["padding"], str):
            raise self.fail("a convolution whose weights depend on the observation, or padding=str")
        groups, made = given["groups"], tuple(self.node.meta["val"].shape)
        out, size = weight.shape[0], math.prod(weight.shape[1:])
        flat = Constant(weight.tensor.reshape(out, size))
        y = self.new(torch.float32, made)
        patch = self.new(torch.float32, (size + out // groups,))
        packed = self.packed(flat, groups)
        added = "NULL" if bias is None else self.table(bias).pointer
        conv = self.window(x, out, weight.shape[2:], given, groups)
        self.write(
            f"net_conv2d({y.pointer}, {x.pointer}, {packed}, {added}, &{conv}, {patch.pointer});"
        )
        return y

    def window(self, x: Array, out: int, kernel: Any, given: dict[str, Any], groups: int) -> str:
        """Write the sizes of a convolution or a pool; return the name of their struct."""
        name = self.name("c")
        pairs = [kernel, given["stride"] or kernel, given["padding"], given["dilation"]]
        sizes = [n for pair in pairs for n in (list(pair) * 2)[:2]]
        numbers = [*x.shape[-3:], out, *sizes, groups]
        self.write(f"const net_conv {name} = {{{', '.join(map(str, numbers))}}};")
        return name

    def op_max_pool2d(self, given: dict[str, Any]) -> Value:
        x = self.stored(given["self"])
        y = self.new(torch.float32, self.node.meta["val"].shape)
        conv = self.window(x, x.shape[-3], given["kernel_size"], given, 1)
        self.write(f"net_max_pool2d({y.pointer}, {x.pointer}, &{conv});")
        return y

    def op_layer_norm(self, given: dict[str, Any]) -> Value:
        x, size = self.stored(given["input"]), math.prod(given["normalized_shape"])
        y, i = self.new(torch.float32, x.shape), self.name("i")
        ends = [
            "NULL" if given[name] is None else self.table(given[name]).pointer
            for name in ("weight", "bias")
        ]
        self.write(f"for (int {i} = 0; {i} < {math.prod(x.shape) // size}; {i}++)")
        self.write(
            f"    net_layer_norm({y.pointer} + {i} * {size}, {x.pointer} + {i} * {size}, "
            f"{ends[0]}, {ends[1]}, {literal(given['eps'], torch.float32)}, {size});"
        )
        return y

    def op_softmax(self, given: dict[str, Any]) -> Value:
        x, size = self.stored(given["self"]), given["self"].shape[-1]
        if given["dim"] % len(x.shape) != len(x.shape) - 1:
            raise self.fail("softmax along another dimension than the last")
        y, i = self.new(torch.float32, x.shape), self.name("i")
        self.write(f"for (int {i} = 0; {i} < {math.prod(x.shape) // size}; {i}++)")
        self.write(
            f"    net_softmax({y.pointer} + {i} * {size}, {x.pointer} + {i} * {size}, {size});"
        )
        return y

    def op_embedding(self, given: dict[str, Any]) -> Value:
        rows, table = self.stored(given["indices"]), self.stored(given["weight"])
        width, y = table.shape[1], self.new(torch.float32, self.node.meta["val"].shape)
        i = self.name("i")
        self.write(f"for (int {i} = 0; {i} < {math.prod(rows.shape)}; {i}++)")
        at = Array(rows.dtype, rows.name, (0,), (1,), rows.offset).element([i])
        self.write(
            f"    net_embedding({y.pointer} + {i} * {width}, {table.pointer}, {at}, {width});"
        )
        return y

    def op_one_hot(self, given: dict[str, Any]) -> Value:
        made = self.node.meta["val"]
        read, _ = self.reader(given["self"], made.shape[:-1], torch.int64)
        return self.once(
            Lazy(made.dtype, tuple(made.shape), lambda i: f"({read(i[:-1])} == {i[-1]})")
        )

    # -- reductions ------------------------------------------------------------------------------

    def reduce(self, given: dict[str, Any], first: str, form: str, end: str = "{0}") -> Value:
        """Write a loop over some dimensions that gathers their elements.

        Args:
            first: what the loop begins with; empty: the first element.
            form: of what was gathered so far ({0}) and an element ({1}).
            end: of what was gathered ({0}); {n} is how many there were.
        """
        value, made = self.stored(given["self"]), self.node.meta["val"]
        dims = given.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(len(value.shape)))
        dims = [dim % len(value.shape) for dim in dims]
        kept = [1 if d in dims else n for d, n in enumerate(value.shape)]
        to = self.new(made.dtype, kept)
        self.loops(
            kept,
            lambda i: f"{to.element(i)} = {first or convert(value.element(i), None, to.dtype)};",
        )
        ctype = CTYPES[made.dtype]

        def body(index: Sequence[str]) -> str:
            target = to.element(["0" if d in dims else i for d, i in enumerate(index)])
            return f"{target} = {form.format(target, f'({ctype}){value.element(index)}')};"

        self.loops(value.shape, body)
        if end != "{0}":
            count = math.prod(value.shape) // max(1, math.prod(kept))
            self.loops(kept, lambda i: f"{to.element(i)} = {end.format(to.element(i), n=count)};")
        return Array(to.dtype, to.name, tuple(made.shape), contiguous(made.shape), to.offset)

    def op_sum(self, given: dict[str, Any]) -> Value:
        return self.reduce(given, "0", "{0} + {1}")

    def op_mean(self, given: dict[str, Any]) -> Value:
        return self.reduce(given, "0", "{0} + {1}", "{0} / {n}.0f")

    def op_any(self, given: dict[str, Any]) -> Value:
        value = self.lazy_bool(given["self"])
        return self.reduce({**given, "self": value}, "0", "{0} | {1}")

    def lazy_bool(self, value: Value) -> Value:
        """Return numbers as 0 and 1."""
        read, _ = self.reader(value, value.shape, torch.bool)
        return Lazy(torch.bool, value.shape, read)

    def op_amax(self, given: dict[str, Any]) -> Value:
        x, made = self.stored(given["self"]), self.node.meta["val"]
        dims, last = [d % len(x.shape) for d in given["dim"]], len(x.shape) - 2
        if dims == [last] and math.prod(x.shape[:last]) == 1 and x.dtype == torch.float32:
            y = self.new(made.dtype, made.shape)
            self.write(f"net_max_rows({y.pointer}, {x.pointer}, {x.shape[-2]}, {x.shape[-1]});")
            return y
        return self.reduce({**given, "self": x}, "", "{1} > {0} ? {1} : {0}")

    def op_amin(self, given: dict[str, Any]) -> Value:
        return self.reduce(given, "", "{1} < {0} ? {1} : {0}")

    def op_remainder(self, given: dict[str, Any]) -> Value:
        """Return the rest of a division, which has the sign of the divisor."""
        if self.node.meta["val"].dtype.is_floating_point:
            raise self.fail("remainder of floats")
        value = self.stored(given["self"])
        return self.lazy(lambda x, y: f"(({x} % {y} + {y}) % {y})", value, given["other"])

    def op_gelu(self, given: dict[str, Any]) -> Value:
        name = "net_gelu_tanh" if given["approximate"] == "tanh" else "net_gelu"
        return self.lazy(lambda x: f"{name}({x})", given["self"])

    # -- joining and picking ---------------------------------------------------------------------

    def op_cat(self, given: dict[str, Any]) -> Value:
        made = self.node.meta["val"]
        parts = [part for part in given["tensors"] if math.prod(part.shape)]
        if len(parts) == 1:
            return parts[0]
        to = self.new(made.dtype, made.shape)
        dim, at = given["dim"] % made.ndim, 0
        for part in parts:
            offset = at * to.strides[dim]
            self.store(part, Array(to.dtype, to.name, part.shape, to.strides, offset))
            at += part.shape[dim]
        return to

    def op_stack(self, given: dict[str, Any]) -> Value:
        made = self.node.meta["val"]
        to = self.new(made.dtype, made.shape)
        dim = given["dim"] % made.ndim
        rest = to.strides[:dim] + to.strides[dim + 1 :]
        for at, part in enumerate(given["tensors"]):
            self.store(part, Array(to.dtype, to.name, part.shape, rest, at * to.strides[dim]))
        return to


# -- the tables ------------------------------------------------------------------------------------

IGNORED = {"_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range"}

VIEWS = set(
    """
    alias chunk clone contiguous detach diagonal dropout expand expand_as feature_dropout flatten
    lift_fresh_copy movedim narrow numpy_T permute reshape reshape_as select slice split
    split_with_sizes squeeze t transpose unbind unflatten unsqueeze view view_as _unsafe_view
    """.split()  # noqa: SIM905
)

# Functions of one number; names in braces are further arguments.
UNARY = {
    "tanh": "net_tanh({0})",
    "sigmoid": "net_sigmoid({0})",
    "relu": "net_relu({0})",
    "relu6": "(net_relu({0}) > 6.0f ? 6.0f : net_relu({0}))",
    "silu": "net_silu({0})",
    "elu": "net_elu({0}, {alpha})",
    "softplus": "net_softplus({0})",
    "leaky_relu": "({0} < 0.0f ? {0} * {negative_slope} : {0})",
    "erf": "net_erf({0})",
    "exp": "net_exp({0})",
    "expm1": "net_expm1({0})",
    "log": "logf({0})",
    "log1p": "net_log1p({0})",
    "sqrt": "sqrtf({0})",
    "rsqrt": "(1.0f / sqrtf({0}))",
    "reciprocal": "(1.0f / {0})",
    "sin": "sinf({0})",
    "cos": "cosf({0})",
    "floor": "floorf({0})",
    "ceil": "ceilf({0})",
    "round": "net_round({0})",
    "abs": "({0} < 0 ? -{0} : {0})",
    "neg": "(-{0})",
    "sign": "(({0} > 0) - ({0} < 0))",
    "square": "({0} * {0})",
    "logical_not": "(!{0})",
    "bitwise_not": "(!{0})",
}

BINARY = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "rsub": "({1} - {0})",
    "mul": "({0} * {1})",
    "maximum": "({0} > {1} ? {0} : {1})",
    "minimum": "({0} < {1} ? {0} : {1})",
    "logical_and": "({0} && {1})",
    "logical_or": "({0} || {1})",
    "bitwise_and": "({0} & {1})",
    "bitwise_or": "({0} | {1})",
    "bitwise_xor": "({0} ^ {1})",
}

COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


# -- small functions -------------------------------------------------------------------------------


def viewed(target: Any, array: Array, rest: Any, kwargs: Any) -> tuple[Any, bool]:
    """Return what a view makes of a tensor with an array's strides, and if it is in its memory."""
    memory = torch.empty(
        array.offset + extent(array.shape, array.strides), dtype=array.dtype, device="meta"
    )
    made = target(memory.as_strided(array.shape, array.strides, array.offset), *rest, **kwargs)
    pieces = made if isinstance(made, (list, tuple)) else [made]
    storage = memory.untyped_storage()._cdata
    return made, all(each.untyped_storage()._cdata == storage for each in pieces)


def computed(target: Any, args: Any, kwargs: Any) -> Any:
    """Return what an operation makes of constants."""
    args, kwargs = torch.utils._pytree.tree_map_only(
        Constant, lambda value: value.tensor, (args, kwargs), is_leaf=lambda v: type(v) is Constant
    )
    with torch.no_grad():
        made = target(*args, **kwargs)
    return [Constant(each) for each in made] if isinstance(made, (tuple, list)) else Constant(made)


def flattened(values: Any) -> list[Any]:
    """Return the items of nested lists and dicts; values of the graph stay whole."""
    if isinstance(values, (Constant, Array, Lazy)):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [item for each in values for item in flattened(each)]
    return [values]


def added_bias(one: Any, other: Any) -> Constant | None:
    """Return the sum of two biases, either of which may be missing."""
    if one is None or other is None:
        return one if other is None else other
    return Constant((one.tensor + other.tensor).detach())


def is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of numbers that lie one after the other."""
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    return tuple(strides)


def is_contiguous(array: Array) -> bool:
    found = zip(array.shape, array.strides, contiguous(array.shape))
    return all(stride == wanted for n, stride, wanted in found if n > 1)


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many numbers an array spans."""
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides) if n)


def convert(text: str, given: torch.dtype | None, wanted: torch.dtype) -> str:
    """Return an expression as a dtype; sums of small integers wrap around as torch's do."""
    if wanted == torch.bool:
        return f"({text} != 0)"
    if given is None and wanted in (torch.float32, torch.float64, torch.int64, torch.int32):
        return text
    return f"(({CTYPES[wanted]}){text})"


def literal(value: Any, dtype: torch.dtype) -> str:
    """Return a number of C."""
    if not dtype.is_floating_point:
        number = int(value)
        return f"({number})" if number < 0 else str(number)
    if math.isnan(value) or math.isinf(value):
        text = '__builtin_nanf("")' if math.isnan(value) else "__builtin_inff()"
        return f"(-{text})" if value < 0 else text
    text = f"{float(value):.9g}" if dtype == torch.float32 else repr(float(value))
    text = text if "." in text or "e" in text else text + ".0"
    text += "f" * (dtype == torch.float32)
    return f"({text})" if value < 0 else text


def pack(weight: np.ndarray) -> np.ndarray:
    """Return the weights of a linear layer ``(out, in)`` as `net_linear` reads them."""
    size_out = len(weight)
    whole = size_out // BLOCK * BLOCK
    padded = np.pad(weight[whole:], ((0, -(size_out - whole) % NARROW), (0, 0)))
    parts = [weight[at : at + BLOCK].T for at in range(0, whole, BLOCK)]
    parts += [padded[at : at + NARROW].T for at in range(0, len(padded), NARROW)]
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)
