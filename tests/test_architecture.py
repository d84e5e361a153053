"""The layering, held to the import statements of the package's own source.

Each rule is a function from sources to the list of its breaches; the first half of the tests holds
the package to the rules, the second half holds the rules to a breach made for them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "raytune_glm"

LAYERS = (
    ("sweep", "train", "ctl", "merge", "predict", "chat"),
    ("trials", "report"),
    ("packing",),
    ("worker", "score", "ladder", "tuned", "prediction", "conversation", "merging"),
    ("logbook", "endings"),
    ("engine", "evaluate", "retention", "answering", "checkpoint"),
    ("config",),
    ("data", "methods", "tracking"),
    ("models", "metrics", "space", "search", "schedulers", "legacy"),
    ("errors", "log", "files", "memory", "processes", "environment", "signals", "command"),
)
"""Packages and modules of `raytune_glm`, the highest layer first: imports go down or stay level."""

HEAVY = ("torch", "transformers", "ray", "deepspeed", "peft", "datasets", "bitsandbytes")
LIGHT_PARTS = (
    *("config", "data", "methods", "tracking", "metrics", "space", "search", "legacy"),
    *("errors", "log", "files"),
)
"""What the check of a sweep file imports: no heavy library at module level."""
ORCHESTRATORS = ("ray", "deepspeed")
CORE_PARTS = (
    *("models", "methods", "data", "metrics", "evaluate", "engine.schedule", "packing"),
    *("tuned", "answering", "prediction", "conversation", "merging", "merge", "predict", "chat"),
)
"""What runs in a notebook with torch, transformers and peft alone."""

VARIANT_TABLES = {"method": "methods", "family": "models"}

Sources = Mapping[str, str]
"""Module name without the leading `raytune_glm.` -> source; a package has the package's name."""


@dataclass(frozen=True)
class Import:
    """An import statement; `target` is a full dotted name."""

    module: str
    target: str
    at_module_level: bool
    """Whether importing `module` runs it."""


def read_package() -> dict[str, str]:
    folder = ROOT / PACKAGE
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        sources[module] = path.read_text(encoding="utf-8")
    return sources


def imports(sources: Sources) -> list[Import]:
    """Every import in every function, branch and type-checking block."""
    return [
        Import(module, target, at_module_level)
        for module, source in sources.items()
        for node, at_module_level in _statements(ast.parse(source), at_module_level=True)
        for target in _targets(node, sources)
    ]


def _statements(node: ast.AST, *, at_module_level: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = at_module_level and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            inside = False
        yield child, at_module_level
        yield from _statements(child, at_module_level=inside)


def _targets(node: ast.AST, sources: Sources) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"line {node.lineno}: `ray submit` wants absolute imports"
    assert node.module is not None
    # `from package import module` reaches that module, not only the package.
    return [
        full if _own(full := f"{node.module}.{alias.name}") in sources else node.module
        for alias in node.names
    ]


def _own(name: str) -> str | None:
    """The name inside our package, or None for another's."""
    head, _, rest = name.partition(".")
    return rest if head == PACKAGE else None


def _is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def layer_of(module: str) -> int:
    """Place in `LAYERS`; the package's own `__init__` is below all of them."""
    if not module:
        return len(LAYERS)
    head = module.partition(".")[0]
    for place, names in enumerate(LAYERS):
        if head in names:
            return place
    raise LookupError(f"{module} is in no layer: enter {head} in LAYERS")


def upward_imports(sources: Sources) -> list[str]:
    return [
        f"{found.module} imports {own}"
        for found in imports(sources)
        if (own := _own(found.target)) is not None and layer_of(own) < layer_of(found.module)
    ]


def cycles(sources: Sources) -> list[str]:
    """Cycles of modules through what importing them runs, and of parts through any import."""
    modules: dict[str, set[str]] = {}
    parts: dict[str, set[str]] = {}
    for found in imports(sources):
        own = _own(found.target)
        if own is None:
            continue
        if found.at_module_level and own != found.module:
            modules.setdefault(found.module, set()).add(own)
        here, there = found.module.partition(".")[0], own.partition(".")[0]
        if here != there:
            parts.setdefault(here, set()).add(there)
    return [cycle for graph in (modules, parts) for cycle in _cycles(graph)]


def _cycles(graph: Mapping[str, set[str]]) -> list[str]:
    found: list[str] = []
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append(" > ".join([*path[path.index(node) :], node]))
        elif node not in finished:
            for target in sorted(graph.get(node, ())):
                visit(target, [*path, node])
            finished.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def forbidden_imports(
    sources: Sources, parts: tuple[str, ...], libraries: tuple[str, ...]
) -> list[str]:
    """Module-level imports of `libraries` in the modules of `parts`."""
    return [
        f"{found.module} imports {found.target}"
        for found in imports(sources)
        if found.at_module_level
        and any(_is_in(found.module, part) for part in parts)
        and found.target.partition(".")[0] in libraries
    ]


def modules_naming(sources: Sources, pattern: str) -> list[str]:
    return [module for module, source in sources.items() if re.search(pattern, source)]


def name_comparisons(sources: Sources) -> list[str]:
    """`method.name == ...` and the like outside the package whose variants have that name."""
    return [
        f"{module} line {node.lineno}: {ast.unparse(node)}"
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare | ast.Match)
        for kind, home in VARIANT_TABLES.items()
        if not _is_in(module, home) and _compares_name(node, kind)
    ]


def _compares_name(node: ast.Compare | ast.Match, kind: str) -> bool:
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.subject]
    return any(re.fullmatch(rf"(.*\.)?{kind}\.name", ast.unparse(side)) for side in sides)


SOURCES = read_package()


def test_imports_point_one_way() -> None:
    assert upward_imports(SOURCES) == []


def test_nothing_imports_in_a_circle() -> None:
    assert cycles(SOURCES) == []


def test_what_checks_a_sweep_imports_no_heavy_library() -> None:
    assert forbidden_imports(SOURCES, LIGHT_PARTS, HEAVY) == []


def test_models_methods_data_and_metrics_run_without_ray_and_deepspeed() -> None:
    assert forbidden_imports(SOURCES, CORE_PARTS, ORCHESTRATORS) == []


def test_one_file_knows_how_ray_train_reports_to_ray_tune() -> None:
    assert len(modules_naming(SOURCES, r"\bTuneReportCallback\b")) == 1


def test_one_file_knows_the_tuner() -> None:
    assert len(modules_naming(SOURCES, r"\bTuner\(")) == 1


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    names = {module.rpartition(".")[2].strip("_") for module in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_facts_of_a_variant_stay_in_its_own_package() -> None:
    assert name_comparisons(SOURCES) == []


LOAD = (
    "from pathlib import Path; from raytune_glm.config import load_sweep;"
    "sweep = load_sweep(Path('sweeps/lora.yaml'));"
)
FIND = (
    "import raytune_glm.merge, raytune_glm.predict, raytune_glm.chat, raytune_glm.merging;"
    "import raytune_glm.prediction, raytune_glm.conversation;"
    "from raytune_glm.tuned import find; find('data/tiny-glm')"
)
BEFORE_HOSTS = (
    "import raytune_glm.report.settling, raytune_glm.trials.readiness, raytune_glm.trials.encoding;"
    "from raytune_glm.trials.host_trainer import host_trainer; host_trainer()"
)
CHECK = LOAD + "from raytune_glm.config.check import check_sweep; check_sweep(sweep)"


@pytest.mark.parametrize(
    "statement",
    ["import raytune_glm", "import raytune_glm.sweep", LOAD, CHECK, FIND],
    ids=["the package", "the command", "loading a sweep", "checking a sweep", "finding a model"],
)
def test_no_heavy_library_is_loaded_by(statement: str) -> None:
    script = f"{statement}\nimport sys; print(*(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_hosts_need_not_wait_for_ray_tune() -> None:
    script = (
        f"{BEFORE_HOSTS}\nimport sys; print('ray.train' in sys.modules, 'ray.tune' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True False"), done.stderr


# The rules themselves, each on a breach.


def test_an_upward_import_is_found_at_any_depth() -> None:
    sources = {
        "errors": "def f():\n    from raytune_glm.config import load",
        "config": "",
        "config.load": "from raytune_glm import errors",
    }
    assert upward_imports(sources) == ["errors imports config.load"]


def test_a_module_of_no_layer_is_found() -> None:
    with pytest.raises(LookupError, match="enter stray in LAYERS"):
        upward_imports({"stray": "from raytune_glm import errors", "errors": ""})


def test_a_circle_of_modules_is_found_unless_a_function_breaks_it() -> None:
    closed = {
        "data": "",
        "data.a": "from raytune_glm.data import b",
        "data.b": "import raytune_glm.data.a",
    }
    assert cycles(closed) == ["data.a > data.b > data.a"]
    assert cycles(closed | {"data.b": "def f():\n    import raytune_glm.data.a"}) == []


def test_a_circle_of_packages_is_found_even_inside_functions() -> None:
    sources = {
        "data": "def f():\n    import raytune_glm.methods",
        "methods": "def f():\n    import raytune_glm.data",
    }
    assert cycles(sources) == ["data > methods > data"]


def test_a_heavy_import_is_found_in_a_class_or_a_branch_but_not_where_it_is_used() -> None:
    sources = {
        "data.a": "try:\n    import torch.nn\nexcept ImportError:\n    pass",
        "data.b": "def f():\n    import torch",
        "data.c": "if TYPE_CHECKING:\n    import torch",
        "data.d": "class A:\n    from ray import tune",
        "engine": "import torch",
    }
    assert forbidden_imports(sources, ("data",), ("torch", "ray")) == [
        "data.a imports torch.nn",
        "data.d imports ray",
    ]


def test_a_comparison_with_a_variants_name_is_found_outside_its_package() -> None:
    sources = {
        "worker": "if run.method.name == 'lora': pass",
        "evaluate": "if model.family.name in ('llama',): pass",
        "engine": "match method.name:\n    case 'lora': pass",
        "methods.lora": "self.method.name == 'lora'",
        "trials": "if scheduler.name == 'asha': pass",
    }
    found = [breach.partition(" ")[0] for breach in name_comparisons(sources)]
    assert found == ["worker", "evaluate", "engine"]
