"""Write the tables of docs/migration.md: what each flag of a replaced tool becomes.

python scripts/make_migration.py          write it
python scripts/make_migration.py --check  exit 1 where it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from raytune_glm.legacy import TOOLS
from raytune_glm.legacy.launchers import LAUNCHER_FLAGS
from raytune_glm.legacy.scripts import OTHER_SCRIPTS
from raytune_glm.legacy.table import Flag, Setting

TARGET = Path(__file__).resolve().parents[1] / "docs/migration.md"

MARK = (
    "<!-- From here on made by `python scripts/make_migration.py` from `raytune_glm/legacy`. -->\n"
)
"""What stands above it in the page is written by hand."""

SCRIPTS = """## Their other scripts

| script | what does its work now |
|---|---|
"""


def main() -> int:
    """Write the page, or compare it; give the exit status."""
    before = TARGET.read_text(encoding="utf-8")
    page = before.partition(MARK)[0] + MARK + "\n" + tables()
    if "--check" in sys.argv[1:]:
        return int(before != page)
    TARGET.write_text(page, encoding="utf-8")
    return 0


def tables() -> str:
    """All flags of all tools, and their other scripts."""
    parts = []
    for tool in TOOLS:
        parts.append(f"## {tool.name}: `{tool.script}`\n\n{_flags(tool.flags)}")
        parts.append(f"Beside its flags, from its code:\n\n{_fixed(tool.fixed)}")
    parts.append(f"## Launchers: `deepspeed`, `torchrun`\n\n{_flags(LAUNCHER_FLAGS)}")
    rows = "".join(f"| `{other.script}` | {_cell(other.now)} |\n" for other in OTHER_SCRIPTS)
    parts.append(SCRIPTS + rows)
    return "\n".join(parts)


def _flags(flags: Mapping[str, Flag]) -> str:
    rows = ["| flag | default | becomes | |", "|---|---|---|---|"]
    for name, flag in flags.items():
        settings = ", ".join(f"`{path}`" for path in (flag.to or flag.combined).split(", ") if path)
        becomes = settings or ("left aside" if flag.aside else "refused")
        remark = flag.note or flag.aside or flag.refused
        if flag.when is not None:
            remark = "; ".join(filter(None, [f"with `--{flag.when[0]} {flag.when[1]}`", remark]))
        if flag.harmless:
            values = ", ".join(f"`{value}`" for value in flag.harmless if value != "")
            remark += f" ({values} is fine)" if values else ""
        default = "" if flag.default is None else f"`{flag.default}`"
        rows.append(f"| `--{name}` | {default} | {becomes} | {_cell(remark)} |")
    return "\n".join(rows) + "\n"


def _fixed(settings: tuple[Setting, ...]) -> str:
    rows = ["| setting | value | |", "|---|---|---|"]
    rows += [f"| `{s.path}` | `{s.value}` | {_cell(s.source)} |" for s in settings]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
