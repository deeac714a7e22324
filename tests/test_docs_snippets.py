"""Every Python block of the pages a reader sees runs, in order, as the reader would run it.

The blocks of one page share one namespace. A block is left out only with a reason, given in an HTML
comment on a line before it: ``<!-- no-run: needs a licence -->``.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<info>[^`]*?) *$")
NO_RUN = re.compile(r"<!--\s*no-run:(?P<reason>.*?)-->")
LOOKALIKE = re.compile(r"\bi?py(thon\d*|con)?\b", re.IGNORECASE)


class PageError(Exception):
    """A page is written such that a block would silently not run, or a block failed."""


@dataclass(frozen=True)
class Block:
    """One block of a page: where it starts, its source, and why it is not run, if so."""

    page: str
    line: int
    source: str
    no_run: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return README.md, the pages of docs/ and the README of every plugin and contrib package."""
    patterns = (
        "README.md",
        "docs/*.md",
        "docs/[!g_]*/**/*.md",
        "plugins/*/README.md",
        "contrib/*/README.md",
    )
    return [page for pattern in patterns for page in sorted(ROOT.glob(pattern))]


def read_blocks(page: str, text: str) -> list[Block]:
    """Return the Python blocks of a page.

    Raises:
        PageError: For a fence that never closes, a language that looks like Python but would not
            be run, a no-run comment without a reason or without a block after it.
    """
    blocks: list[Block] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    reason: str | None = None
    for number, line in lines:
        if comment := NO_RUN.search(line):
            reason = comment["reason"].strip()
            if not reason:
                raise PageError(f"{page}:{number}: no-run needs a reason.")
            continue
        fence = FENCE.match(line)
        if fence is None:
            if reason is not None and line.strip():
                raise PageError(
                    f"{page}:{number}: no-run stands before something that is no block."
                )
            continue
        body = _body(page, number, fence, lines)
        is_python = fence["info"] == "python"
        if not is_python and LOOKALIKE.search(fence["info"]):
            raise PageError(f"{page}:{number}: write ```python, got {fence['info']!r}.")
        if is_python:
            blocks.append(Block(page, number, body, reason))
        elif reason is not None:
            raise PageError(f"{page}:{number}: no-run stands before a block that is not Python.")
        reason = None
    if reason is not None:
        raise PageError(f"{page}: the last no-run stands before no block.")
    return blocks


def _body(page: str, number: int, fence: re.Match[str], lines: Iterator[tuple[int, str]]) -> str:
    indent = len(fence["indent"])
    body: list[str] = []
    for _, line in lines:
        if re.fullmatch(rf" *{re.escape(fence['ticks'][0])}{{{len(fence['ticks'])},}} *", line):
            return "\n".join(body) + "\n"
        body.append(line[indent:] if line[:indent].isspace() else line)
    raise PageError(f"{page}:{number}: the block never closes.")


def compile_block(block: Block) -> types.CodeType:
    """Compile a block such that a traceback names the line of the page."""
    padded = "\n" * block.line + block.source
    linecache.cache[block.page] = (len(padded), None, padded.splitlines(True), block.page)
    return compile(padded, block.page, "exec", dont_inherit=True)


def run_blocks(blocks: list[Block], module: types.ModuleType) -> None:
    """Run the blocks of one page in the namespace of ``module``.

    Raises:
        PageError: If a block raises; names the page, the line and the error.
    """
    for block in blocks:
        if block.no_run is not None:
            continue
        try:
            exec(compile_block(block), module.__dict__)
        except (Exception, SystemExit) as error:
            frames = [
                f for f in traceback.extract_tb(error.__traceback__) if f.filename == block.page
            ]
            line = frames[-1].lineno if frames else block.line
            raise PageError(f"{block.page}:{line}: {type(error).__name__}: {error}") from error


def missing_packages() -> list[str]:
    """Return the packages of this repository that are not installed here."""
    folders = sorted(
        p.parent for g in ("plugins", "contrib") for p in ROOT.glob(f"{g}/*/pyproject.toml")
    )
    installed = {d.metadata["Name"] for d in metadata.distributions()}
    names = [
        re.search(r'^name = "(.+)"', (f / "pyproject.toml").read_text(), re.M) for f in folders
    ]
    return [name[1] for name in names if name is not None and name[1] not in installed]


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


ALL_BLOCKS = {relative(page): read_blocks(relative(page), page.read_text()) for page in pages()}


@pytest.fixture
def module(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[types.ModuleType]:
    """A fresh module that pickling and dataclasses can find, in a folder of its own."""
    fresh = types.ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, fresh.__name__, fresh)
    monkeypatch.chdir(tmp_path)
    dtype = torch.get_default_dtype()
    yield fresh
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("page", [page for page, blocks in ALL_BLOCKS.items() if blocks])
def test_page_runs(page: str, module: types.ModuleType) -> None:
    if missing := missing_packages():
        pytest.skip(
            f"the pages use every package of this repository; missing: {', '.join(missing)}"
        )
    torch.manual_seed(0)
    run_blocks(ALL_BLOCKS[page], module)


@pytest.mark.parametrize("block", [b for blocks in ALL_BLOCKS.values() for b in blocks], ids=str)
def test_block_compiles_even_if_left_out(block: Block) -> None:
    compile_block(block)
    if block.no_run is not None:
        pytest.skip(f"no-run: {block.no_run}")


def test_readme_and_contract_are_among_the_pages() -> None:
    assert {"README.md", "docs/index.md", "docs/contract.md"} <= set(ALL_BLOCKS)


PLANTED = """# A page

```python
x = 20
```

```text
this is not Python
```

1. In a list:

   ```python
   from dataclasses import dataclass

   @dataclass
   class Point:
       x: int

   y = Point(x + 1)
   ```

<!-- no-run: needs a licence -->
```python
raise RuntimeError("must not run")
```

```python
z = y.x * 2
```
"""


def test_blocks_of_a_page_share_one_namespace_in_order(module: types.ModuleType) -> None:
    blocks = read_blocks("planted.md", PLANTED)
    run_blocks(blocks, module)
    assert module.__dict__["z"] == 42
    assert [(block.line, block.no_run) for block in blocks] == [
        (3, None), (13, None), (24, "needs a licence"), (28, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("assert x == 21", r"planted\.md:9: AssertionError"),
        ("z = undefined", r"planted\.md:9: NameError: name 'undefined' is not defined"),
        ("z = (", r"planted\.md:\d+: SyntaxError"),
        ("raise SystemExit(0)", r"planted\.md:9: SystemExit"),
    ],
)
def test_a_failing_block_fails_its_page(
    module: types.ModuleType, broken: str, message: str
) -> None:
    page = f"# A page\n\n```python\nx = 20\n```\n\n```python\ny = 1\n{broken}\n```\n"
    with pytest.raises(PageError, match=message):
        run_blocks(read_blocks("planted.md", page), module)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("text\n```python\nx = 1\n", r"planted\.md:2: the block never closes"),
        ("```py\nx = 1\n```\n", r"planted\.md:1: write ```python, got 'py'"),
        ("```Python\nx = 1\n```\n", r"planted\.md:1: write ```python, got 'Python'"),
        ("```{code-block} python\nx = 1\n```\n", r"planted\.md:1: write ```python"),
        ("<!-- no-run: -->\n```python\nx = 1\n```\n", r"planted\.md:1: no-run needs a reason"),
        ("<!-- no-run: why -->\ntext\n```python\nx = 1\n```\n", r"planted\.md:2: .*no block"),
        ("<!-- no-run: why -->\n```bash\nls\n```\n", r"planted\.md:2: .*not Python"),
        ("<!-- no-run: why -->\n", r"planted\.md: the last no-run"),
    ],
)
def test_a_page_cannot_hide_a_block(page: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        read_blocks("planted.md", page)
