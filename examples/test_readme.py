"""The README's code runs, and prints what the README says."""

import multiprocessing
import pathlib
import re
import textwrap

import pytest
from test_examples import run

README = pathlib.Path(__file__).parent.parent / "README.rst"
BLOCK = re.compile(r"^\.\. code-block:: (python|text)\n\n((?:    .*\n|\n)+)", re.MULTILINE)
MAIN = 'if __name__ == "__main__":\n'


def programs():
    """Yield each Python block with the text block after it, which is its output."""
    blocks = [
        (kind, textwrap.dedent(text).strip() + "\n")
        for kind, text in BLOCK.findall(README.read_text(encoding="utf-8"))
    ]
    for (kind, program), (next_kind, output) in zip(blocks, blocks[1:]):
        if kind == "python":
            assert next_kind == "text", program
            yield program, output


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("program, output", list(programs()))
def test_block(tmp_path, program, output, start_method):
    chosen = f'    __import__("multiprocessing").set_start_method("{start_method}")\n'
    (tmp_path / "program.py").write_text(program.replace(MAIN, MAIN + chosen))
    assert run(tmp_path / "program.py") == output


def test_blocks_are_found():
    assert len(list(programs())) >= 5
