"""The shape of the package: what may import what, what an import costs, what is public."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import shoal

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "shoal"
MODULES = sorted(PACKAGE.rglob("*.py"))
CYTHON = sorted(PACKAGE.rglob("*.py[xd]"))

# Data flows one way, and each part may import only what stands before it. The names are those of
# the folders and top-level modules; "shoal" is the package itself with its lazy names, which only
# the command may use: within the package it would hide an import against the arrow.
STAIR = (
    "errors",
    "rows",
    "emulation",
    "ocean_c",
    "registry",
    "vectorization",
    "wrappers",
    "trainers",
)
ALLOWED = {part: set(STAIR[:i]) for i, part in enumerate(STAIR)} | {
    "ocean_c": {"errors", "rows"},
    "shoal": set(STAIR),
    "cli": {"shoal", *STAIR},
}


def part_of(module: str) -> str:
    """The part that a dotted name lies in: shoal.rows.layout -> emulation."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] in ALLOWED else "shoal"


def python_imports(source: str, package: str, for_types: bool = True) -> set[str]:
    """Return the absolute dotted names that a module lying in `package` imports from shoal.

    Args:
        for_types: include those that only type checkers see.
    """
    found = set()
    tree = ast.parse(source)
    for node in [] if for_types else list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join(parents + base.split(".") * bool(base))
            # `from shoal import emulation` imports a part, `from shoal import emulate` a name.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "shoal"}


def cython_imports(source: str) -> set[str]:
    """Return the dotted names that a Cython source imports or cimports from shoal."""
    found = set(re.findall(r"^\s*(?:c?import)\s+(shoal[\w.]*)", source, re.MULTILINE))
    pattern = r"^\s*from\s+(shoal[\w.]*)\s+c?import\s+(?:\(([^)]*)\)|(.*))"
    for module, several, line in re.findall(pattern, source, re.MULTILINE):
        names = re.sub(r"#.*", "", several or line).split(",")
        found |= {f"{module}.{name.split()[0]}" for name in names if name.strip()}
    return found


def against_the_arrow(part: str, imports: set[str]) -> list[str]:
    allowed = ALLOWED[part] | {part}
    return sorted(name for name in imports if part_of(name) not in allowed)


def imports_of(path: Path, for_types: bool = True) -> set[str]:
    """Return the dotted names that a file imports from shoal, within functions included."""
    package = ".".join(["shoal", *path.relative_to(PACKAGE).parent.parts])
    source = path.read_text()
    if path.suffix == ".py":
        return python_imports(source, package, for_types)
    return cython_imports(source)


@pytest.mark.parametrize("path", MODULES + CYTHON, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrow(path):
    package = ".".join(["shoal", *path.relative_to(PACKAGE).parent.parts])
    part = part_of(f"{package}.{path.stem}" if package == "shoal" else package)
    assert against_the_arrow(part, imports_of(path)) == []


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others.

    Args:
        imports: for each module, the dotted names that it imports: modules, or names in them.
    """
    uses: dict[str, set[str]] = {}
    for module, names in imports.items():
        uses[module] = set()
        for name in names:
            while name and name not in imports:
                name = name.rpartition(".")[0]
            uses[module] |= {name} - {"", module}
    for middle in uses:  # all that is reached through one module more
        for module in uses:
            if middle in uses[module]:
                uses[module] |= uses[middle]
    groups = {
        tuple(sorted(other for other in uses[module] if module in uses[other]))
        for module in uses
        if module in uses[module]
    }
    return sorted(map(list, groups))


def test_no_two_files_import_each_other():
    """Cython counts, and so do imports within functions; what only type checkers see does not."""
    imports: dict[str, set[str]] = {}
    for path in MODULES + CYTHON:  # a .pxd and its .pyx are one module
        imports.setdefault(dotted(path), set()).update(imports_of(path, for_types=False))
    del imports["shoal"]  # the package itself, which imports its lazy names only when asked
    assert circles(imports) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"shoal.a": "from shoal import b", "shoal.b": "import shoal.c", "shoal.c": ""}, []),
        ({"shoal.a": "from shoal.b import x", "shoal.b": "import shoal.a"}, [["a", "b"]]),
        (
            {
                "shoal.a": "def late():\n    from shoal import b",
                "shoal.b": "from .c import x",
                "shoal.c": "from shoal.a import y",
            },
            [["a", "b", "c"]],
        ),
        (
            {"shoal.p": "from shoal.p.q import x", "shoal.p.q": "from shoal.p import y"},
            [["p", "p.q"]],
        ),
        ({"shoal.p": "", "shoal.p.q": "from shoal.p import r", "shoal.p.r": ""}, []),
    ],
)
def test_a_circle_is_found(sources, found):
    imports = {name: python_imports(source, "shoal") for name, source in sources.items()}
    assert circles(imports) == [[f"shoal.{name}" for name in group] for group in found]


def test_cython_imports_are_read():
    source = """
from shoal.rows.pack cimport Packer
from shoal.rows.rows cimport (
    STEP,  # one
    Rows,
)
from shoal.emulation import agent_spaces as common
cimport numpy
"""
    assert cython_imports(source) == {
        "shoal.rows.pack.Packer",
        "shoal.rows.rows.STEP",
        "shoal.rows.rows.Rows",
        "shoal.emulation.agent_spaces",
    }


@pytest.mark.parametrize(
    "source",
    [
        "from shoal.vectorization.arena import Arena",
        "import shoal.trainers.ppo",
        "from ..vectorization import arena",
        "from .. import vectorization",
        "from shoal import wrappers",
        "from shoal import vectorize",
        "import shoal",
        "def late():\n    from shoal.vectorization import arena",
    ],
)
def test_an_import_against_the_arrow_is_found(source):
    assert against_the_arrow("emulation", python_imports(source, "shoal.emulation"))


@pytest.mark.parametrize(
    "source", ["from .layout import Layout", "from ..errors import LayoutError"]
)
def test_an_import_along_the_arrow_is_let_through(source):
    assert not against_the_arrow("emulation", python_imports(source, "shoal.emulation"))


def run_python(code: str) -> dict:
    """Run code in an interpreter of its own, where nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy():
    """A loaded module is either ours or the standard library's: neither torch nor even NumPy."""
    loaded = run_python(
        "import sys, json; before = set(sys.modules); import shoal;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    foreign = {name.split(".")[0] for name in loaded} - {"shoal"} - sys.stdlib_module_names
    assert foreign == set()


def test_public_names_load_neither_torch_nor_environments():
    loaded = run_python(
        "import sys, json; import shoal; [getattr(shoal, name) for name in shoal.__all__];"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert not {"torch", "nle", "ale_py", "mujoco", "pygame"} & {m.split(".")[0] for m in loaded}


def test_import_has_no_side_effects(tmp_path):
    """Environment, warnings, signals, threads, streams and files stay as they were."""
    changed = run_python(
        f"""
import json, os, random, signal, sys, threading, warnings
os.chdir({str(tmp_path)!r})
def state():
    return {{
        "environ": dict(os.environ),
        "filters": list(warnings.filters),
        "signals": [str(signal.getsignal(s)) for s in signal.valid_signals()],
        "threads": len(threading.enumerate()),
        "random": random.getstate(),
        "path": list(sys.path),
        "streams": [id(sys.stdout), id(sys.stderr), id(sys.excepthook), id(sys.displayhook)],
        "files": os.listdir("."),
    }}
before = state()
import shoal
after = state()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""
    )
    assert changed == []


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_is_public(path):
    assigned = [
        name.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for name in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(name, ast.Name)
    ]
    assert "__all__" in assigned
    # Not every system has these.
    needs = {
        "ray": "ray",
        "advantage_cuda": "triton",
        "torchrl": "torchrl",
        "tianshou": "tianshou",
        "functional": "jax",
        "batched_gymnax": "jax",
        "batched_brax": "brax",
        "batched_jumanji": "jumanji",
    }
    if path.stem in needs:
        pytest.importorskip(needs[path.stem])
    module = importlib.import_module(dotted(path))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_public_names_are_listed_once_and_an_unknown_one_is_an_attribute_error():
    assert sorted(set(shoal.__all__)) == sorted(shoal.__all__)
    assert set(shoal.__all__) <= set(dir(shoal))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = shoal.no_such_name


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == shoal.__version__
    assert f"## {shoal.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {shoal.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_cython_source_is_built():
    """One left out of meson.build would go unseen: a slower fallback may serve in its place."""
    listed = (PACKAGE / "meson.build").read_text()
    assert [p.name for p in CYTHON if p.suffix == ".pyx" and f"'{p.name}'" not in listed] == []


# Words with which a docstring names a thing instead of an action.
NO_VERB = re.compile(
    "A|All|An|Any|As|At|Each|Everything|First|For|How|In|Its?|No|Nothing|Of|One|Our|Several|Some|"
    "That|The|Their|These|They|This|Those|Two|What|When|Where|Whether|Which|Who|Whose|Why"
)


def is_action(docstring: str) -> bool:
    """Return whether a docstring opens with a verb, as far as its form shows."""
    first = (docstring or "Do").split()[0].rstrip(".,:;")
    return not NO_VERB.fullmatch(first) and first.isalpha() and first.istitle()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings_of_functions_open_with_a_verb(path):
    """As "Return the layouts of every agent."; those of properties and classes name the thing."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node) or ""
        is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
        if not is_property and not is_action(docstring):
            wrong.append(f"{node.name}: {docstring}")
    assert wrong == []


@pytest.mark.parametrize("path", CYTHON, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings_of_functions_in_cython_open_with_a_verb(path):
    head = (
        r"(@property)?\n *(?:def|cdef|cpdef) [^\n(=]*?(\w+)\([^()]*(?:\([^()]*\)[^()]*)*\)[^:=\n]*:"
    )
    found = re.findall(head + r'\s+"""([^"\n]+)', path.read_text())
    assert [name for prop, name, docstring in found if not prop and not is_action(docstring)] == []
