"""Write docs/sweep_file.md: every setting of a sweep file, from the classes that define them.

python scripts/make_reference.py          write it
python scripts/make_reference.py --check  exit 1 where it is not up to date
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raytune_glm.config.tree import (
    DeepSpeedSettings,
    ModelSettings,
    RunSettings,
    TrainSettings,
)
from raytune_glm.data import DataConfig
from raytune_glm.methods import METHODS
from raytune_glm.search import SearchSettings, samplers, schedulers
from raytune_glm.search.confirm import ConfirmSettings
from raytune_glm.search.settings import Budget, Quota
from raytune_glm.space import DIMENSIONS

TARGET = Path(__file__).resolve().parents[1] / "docs/sweep_file.md"

HEAD = """# The sweep file

Made by `python scripts/make_reference.py` from the classes in the code.

A sweep file is YAML with the sections below. Any setting can be changed on the command line as
`section.setting=value`, the value in YAML. Relative paths start at the folder in which the command
runs. A setting that does not exist is refused with the nearest one that does.
"""

SPACE = """\
Under `search.space` stand dotted paths of settings, each with the values it may take. Whatever a
trial can have of its own can be searched: all of `data`, `method`, `train` and `deepspeed`, and of
`model` what is not its path or family.

```yaml
search:
  space:
    method.rank: {choice: [4, 8, 16]}
    train.learning_rate: {log_range: [1e-4, 1e-2]}
```
"""


def main() -> int:
    """Write the page, or compare it; give the exit status."""
    page = reference()
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text(encoding="utf-8") != page)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(page, encoding="utf-8")
    return 0


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, kind in {
        "model": ModelSettings,
        "data": DataConfig,
        "train": TrainSettings,
        "deepspeed": DeepSpeedSettings,
        "search": SearchSettings,
        "search.budget": Budget,
        "search.quota": Quota,
        "search.confirm": ConfirmSettings,
        "run": RunSettings,
    }.items():
        parts.append(_section(name, kind))
    parts.append("## The search space\n\n" + SPACE)
    parts += [_section(name, kind, level=3) for name, kind in DIMENSIONS.items()]
    parts.append("## Fine-tuning methods: `method`\n\n`method.name` is one of these.\n")
    parts += [_section(name, kind, level=3) for name, kind in METHODS.items()]
    for title, module, union in (
        ("Samplers: `search.sampler`", samplers, samplers.Sampler),
        ("Schedulers: `search.scheduler`", schedulers, schedulers.Scheduler),
    ):
        parts.append(f"## {title}\n\n{textwrap.dedent(module.__doc__ or '').strip()}\n")
        kinds = typing.get_args(typing.get_args(union)[0])
        parts += [_section(kind.model_fields["name"].default, kind, level=3) for kind in kinds]
    return "\n".join(parts)


def _section(name: str, kind: type[BaseModel], *, level: int = 2) -> str:
    says = field_docstrings(kind)
    lines = [f"{'#' * level} `{name}`", "", inspect.cleandoc(kind.__doc__ or ""), ""]
    lines += ["| setting | values | default | |", "|---|---|---|---|"]
    for field, info in kind.model_fields.items():
        if field == "name" and level == 3:
            continue
        text = " ".join(says.get(field, "").split())
        cells = (f"`{field}`", _type(info.annotation), _default(info), text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if lines[-1].startswith("|---"):
        del lines[-2:]
    return "\n".join(lines) + "\n"


def field_docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """The text under each field of a class and of the classes that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[field.target.id] = str(below.value.value)
    return found


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if origin in (tuple, list):
        return "a list"
    if origin is dict:
        return "a mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    names = {int: "integer", float: "number", str: "text", bool: "true, false", Path: "path"}
    return names.get(annotation, "any")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "must be given"
    value = (
        info.get_default(call_default_factory=True)
        if info.default is PydanticUndefined
        else info.default
    )
    if isinstance(value, BaseModel):
        return f"`{getattr(value, 'name', 'all its defaults')}`"
    if value is None:
        return "none"
    if value == () or value == {}:
        return "empty"
    shown = list(value) if isinstance(value, tuple) else value
    return f"`{str(shown).lower() if isinstance(value, bool) else shown}`"


if __name__ == "__main__":
    sys.exit(main())
