import re
import shlex
from pathlib import Path

import pytest

import slm

ROOT = Path(slm.__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in path.parts)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_whatever_a_page_links_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link


def test_the_map_names_every_part_of_the_package():
    parts = {path.name for path in (ROOT / "slm").iterdir() if path.is_dir()}
    parts |= {path.name for path in (ROOT / "slm").glob("*.py")}
    small = {"__pycache__", "__init__.py", "__main__.py", "utils"}
    for part in parts - small:
        name = part if part.endswith(".py") else f"{part}/"
        assert f"`{name}`" in README, f"{name} is not on the map in README.md"


def test_the_readmes_commands_name_commands_and_options_that_exist(capsys):
    from slm.cli.main import COMMANDS, main

    commands = re.findall(r"^python -m slm (.+)$", README, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        name, *words = shlex.split(command)
        assert name in COMMANDS
        with pytest.raises(SystemExit):
            main([name, "--help"])
        shown = capsys.readouterr().out
        for word in words:
            assert not word.startswith("--") or f"{word} " in shown, word


def test_no_example_trains_and_fine_tunes_into_one_folder():
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "slm").rglob("*.py"))]
    examples = "\n".join([README, *sources])
    trained = set(re.findall(r"slm train .*--folder (\S+)", examples))
    tuned = set(re.findall(r"finetune.*(?:--folder |folder=\")([\w/]+)", examples))
    assert "runs/mine" in trained
    assert "runs/tuned" in tuned
    assert trained.isdisjoint(tuned)


def test_the_first_screen_has_the_two_commands_the_picture_and_an_example():
    screen = README[: README.index("\n## ")]
    assert len(screen.splitlines()) <= 50
    assert len(re.findall("^python3 -m venv .*$", screen, re.MULTILINE)) == 2
    assert "](.github/story.png)" in screen
    assert "slm.generate(" in screen


def test_every_test_that_the_readme_names_is_there():
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", README)
    assert len(named) >= 10
    for file, name in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {name}(" in source, f"{file} has no {name}"
