"""Each stub (.pyi) says exactly what its compiled module offers: names, methods and parameters."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "shoal"
STUBS = sorted(PACKAGE.rglob("*.pyi"))
SOURCES = sorted(PACKAGE.rglob("*.pyx"))


def function_parameters(node: ast.FunctionDef) -> list[str]:
    """Return the parameters of a stub's function without `self`; "=" marks an optional one."""
    arguments = node.args
    assert not arguments.vararg and not arguments.kwarg and not arguments.posonlyargs
    plain = [argument.arg for argument in arguments.args]
    first_default = len(plain) - len(arguments.defaults)
    found = [name + "=" * (i >= first_default) for i, name in enumerate(plain)]
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(argument.arg + "=" * (default is not None))
    return [name for name in found if name != "self"]


def stub_names(body: list[ast.stmt], prefix: str = "") -> dict[str, list[str] | None]:
    """Return what a stub declares: dotted name -> parameters, or None for a value or class."""
    found: dict[str, list[str] | None] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            is_property = any("property" in ast.dump(each) for each in node.decorator_list)
            found[prefix + node.name] = None if is_property else function_parameters(node)
        elif isinstance(node, ast.ClassDef):
            found[prefix + node.name] = None
            found |= stub_names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[prefix + node.target.id] = None
    return found


def parameters(function: object) -> list[str]:
    """Return the parameters of a compiled function, as `function_parameters` does."""
    empty = inspect.Parameter.empty
    return [
        each.name + "=" * (each.default is not empty)
        for each in inspect.signature(function).parameters.values()
        if each.name != "self"
    ]


def constructor_parameters(source: str, name: str) -> list[str] | None:
    """Return the parameters of a class's ``__cinit__`` or ``__init__``, or None without either.

    Only the source has them: the compiled class has no signature.
    """
    body = re.search(rf"^cdef class {name}\b[^\n]*:\n(.*?)(?=^\S|\Z)", source, re.DOTALL | re.M)
    assert body, name
    found = re.search(r"def __c?init__\((.*?)\):", body[1], re.DOTALL)
    if not found:
        return None
    # Types of arguments, such as object[:, :], have commas that separate nothing.
    arguments = [each.strip() for each in re.sub(r"\[.*?\]", "", found[1]).split(",")]
    each = [
        (re.findall(r"\w+", argument.split("=")[0].split(":")[0])[-1], "=" in argument)
        for argument in arguments
        if argument and argument != "*"
    ]
    return [name + "=" * optional for name, optional in each if name != "self"]


def module_names(module: object, source: str) -> dict[str, list[str] | None]:
    """Return what a compiled module offers, as `stub_names` does."""
    found: dict[str, list[str] | None] = {}
    for name in module.__all__:
        value = getattr(module, name)
        if not isinstance(value, type):
            found[name] = parameters(value) if callable(value) else None
            continue
        found[name] = None
        constructor = constructor_parameters(source, name)
        if constructor is not None:
            found[f"{name}.__init__"] = constructor
        for member in vars(value):
            if not member.startswith("_") or member in ("__enter__", "__exit__"):
                method = getattr(value, member)
                found[f"{name}.{member}"] = parameters(method) if callable(method) else None
    return found


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_stub_declares_exactly_what_its_module_offers(stub):
    dotted = ".".join(stub.relative_to(PACKAGE.parent).with_suffix("").parts)
    module = importlib.import_module(dotted)
    assert not module.__file__.endswith(".py"), "a stub beside Python source hides its types"
    tree = ast.parse(stub.read_text())
    offered = module_names(module, stub.with_suffix(".pyx").read_text())
    declared = stub_names(tree.body)
    (listed,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    assert sorted(listed) == sorted(module.__all__)
    assert declared == offered


def test_every_compiled_module_has_a_stub():
    assert [path.name for path in SOURCES if not path.with_suffix(".pyi").exists()] == []
