"""Imports go in one direction: every module may import only what the design allows."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "diception"
ALLOWED = {
    "config": set(),
    "annotations": set(),
    "colors": set(),
    "flow": set(),
    "lock": set(),
    "errors": set(),
    "sampler": {"flow"},
    "metrics": {"annotations"},
    "tables": {"evaluation"},
    "tasks": {"annotations", "colors", "metrics"},
    "datasets": {"annotations", "tasks", "config", "lock", "errors"},
    "model": {"config"},
    "inference": {"annotations", "config", "flow", "tasks", "datasets.images", "datasets.sample", "model", "sampler"},
    "jobs": {"datasets.images", "datasets.sources.coco", "inference", "tasks"},
    "evaluation": {"annotations", "config", "flow", "inference", "tasks", "datasets", "model"},
    "codec": {"datasets.sample", "model", "tasks"},
    "panel": {"codec", "config", "datasets.sample", "inference", "evaluation", "model", "tasks"},
    "card": {"model", "tables"},
    "export": {"card", "model", "tasks", "config"},
    "training": {
        "annotations", "config", "flow", "tasks", "datasets", "model", "inference", "evaluation", "panel", "tables",
        "lock",
    },
    "quickstart": {
        "annotations", "config", "datasets", "evaluation", "export", "inference", "model", "panel", "tasks", "training",
    },
}  # fmt: skip
HOMES = {
    "lightning": {"training"},
    "webdataset": {"datasets"},
    "diffusers": {"model"},
    "transformers": {"model"},
    "peft": {"model"},
    "bitsandbytes": {"model", "training"},
}


def modules() -> list[Path]:
    """Every module of the package but the command line, which may import everything."""
    found = [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.parts]
    return [path for path in found if path.name not in ("__main__.py",) and path != PACKAGE / "__init__.py"]


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names that a module imports, anywhere in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path: Path) -> None:
    own = layer(path)
    assert own in ALLOWED, f"{own} has no place in the layers"
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "diception":
            allowed = ALLOWED[own] | {own}
            assert any(rest == a or rest.startswith(f"{a}.") for a in allowed), f"{own} may not import {rest}"
        elif top in HOMES:
            assert own in HOMES[top], f"{top} may be imported only in {', '.join(HOMES[top])}, not in {own}"


def test_tasks_know_nothing_of_networks() -> None:
    for path in (PACKAGE / "tasks").glob("*.py"):
        assert not any(name.partition(".")[0] == "torch" for name in imports(path)), path


def test_no_module_asks_which_task_it_has() -> None:
    names = {path.stem for path in (PACKAGE / "tasks").glob("*.py")} - {"base", "__init__", "image"}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                values = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                assert not names & {v for v in values if isinstance(v, str)} or layer(path) == "annotations", path


def test_help_needs_no_heavy_library() -> None:
    code = "\n".join(
        [
            "import sys, diception.cli as c",
            "try: c.main(['--help'])",
            "except SystemExit: pass",
            "print('torch' in sys.modules)",
        ]
    )
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False")
    assert "quickstart" in out
    assert time.perf_counter() - start < 5
