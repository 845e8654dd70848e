"""
The house rules that no linter knows: what files may say, that links lead somewhere,
that documents name what exists, and that the lock is exact.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Spelt in halves, so that this file does not break its own rule.
FORBIDDEN = {
    "the host of a package index": re.compile("py" + r"pi\.(org|python)|python" + "hosted", re.I),
    "a package index of one machine": re.compile(r"--(extra-)?index" + r"-url|--find" + "-links"),
    "a path of one machine": re.compile(r"(?<![\w.$}-])/(work|root|home)" + r"/|/tmp" + r"/kw\b"),
}


def _files() -> Iterator[Path]:
    """Every text file of the project; what .gitignore names is not of the project."""
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    todo = [ROOT]
    while todo:
        for path in sorted(todo.pop().iterdir()):
            if path.name in ignored or any(path.match(pattern) for pattern in ignored):
                continue
            if path.is_dir() and not path.is_symlink():
                todo.append(path)
            elif path.is_file():
                yield path


def _texts() -> Iterator[tuple[Path, str]]:
    for path in _files():
        data = path.read_bytes()
        if b"\0" not in data:
            yield path.relative_to(ROOT), data.decode()


MARKDOWN = sorted(path.relative_to(ROOT) for path in _files() if path.suffix == ".md")
MODULES = sorted(path.relative_to(ROOT) for path in _files() if path.suffix == ".py" and "src" in path.parts)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what} stands in a file"


def test_the_patterns_find_what_they_are_for() -> None:
    guilty = {
        "the host of a package index": "https://py" + "pi.org/simple",
        "a package index of one machine": "--index" + "-url x",
        "a path of one machine": "see /ro" + "ot/.cache",
    }
    assert all(FORBIDDEN[what].search(text) for what, text in guilty.items())
    assert not FORBIDDEN["a path of one machine"].search("docs/work/plan.md")


def _anchor(heading: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


@pytest.mark.parametrize("path", MARKDOWN, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    text = _without_code((ROOT / path).read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (ROOT / path.parent / file).resolve() if file else ROOT / path
        assert there.exists(), f"{path} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", _without_code(there.read_text()), flags=re.M)
            assert anchor in map(_anchor, headings), f"{path} links to {target}"


@pytest.mark.parametrize("path", MARKDOWN, ids=str)
def test_paths_in_documents_exist(path: Path) -> None:
    """A path in backquotes that begins with one of our directories is a file of ours."""
    text = _without_code((ROOT / path).read_text())
    named = re.findall(r"`((?:src|tests|docs|examples|bench|tools|deploy|\.ci)/[^`\s]*)`", text)
    gone = [name for name in named if not any(c in name for c in "<>*…") and not (ROOT / name).exists()]
    assert not gone


FLOORS = "|".join(path.name for path in (ROOT / "src" / "kubeway").iterdir() if path.is_dir())


@pytest.mark.parametrize("path", MARKDOWN, ids=str)
def test_modules_in_documents_exist(path: Path) -> None:
    """So is one that begins with a floor, with its ending or without: `shell/syncer`."""
    text = _without_code((ROOT / path).read_text())
    named = re.findall(rf"`((?:{FLOORS})/[a-z0-9_/]+)(?:\.py)?`", text)
    floors = ROOT / "src" / "kubeway"
    assert not [name for name in named if not any((floors / f"{name}{end}").exists() for end in ("", ".py"))]


@pytest.mark.parametrize("path", MARKDOWN, ids=str)
def test_make_targets_in_documents_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=`| *$| *#)", (ROOT / path).read_text(), flags=re.M))
    assert named <= targets


def _commands(path: Path) -> list[list[str]]:
    """The words of each `kubeway` command line that stands on a line of its own in a document."""
    lines = re.findall(r"^ {4}\.venv/bin/kubeway (.*)$", (ROOT / path).read_text(), flags=re.M)
    return [shlex.split(line) for line in lines]


README = (ROOT / "README.md").read_text()
COMMANDS = [(path, words) for path in MARKDOWN for words in _commands(path)]


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=[f"{p}: {w[0]}" for p, w in COMMANDS])
def test_commands_in_documents_work(path: Path, words: list[str]) -> None:
    """Those that only ask are run; of the daemon's, the flags have to be there."""
    asks = words[0] in {"compile", "trace", "version"}
    call = words if asks else [words[0], "--help"]
    done = subprocess.run(
        [sys.executable, "-m", "kubeway", *call], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    missing = [] if asks else [word for word in words if word.startswith("--") and word not in done.stdout]
    assert not missing


def test_output_in_the_readme_is_what_is_printed() -> None:
    shown = re.findall(r"^ {4}\.venv/bin/kubeway ([^\n]*)\n\n```text\n(.*?)^```", README, flags=re.M | re.S)
    assert shown
    for line, output in shown:
        done = subprocess.run(
            [sys.executable, "-m", "kubeway", *shlex.split(line)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == output


def test_the_readme_shows_the_commands() -> None:
    shown = {words[0] for path, words in COMMANDS if path == Path("README.md")}
    assert {"compile", "trace", "run"} <= shown


def _lock(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package -> (version, hashes). Raises if a line is anything else."""
    lock: dict[str, tuple[str, list[str]]] = {}
    package = ""
    for line in (ROOT / name).read_text().splitlines():
        if pin := re.fullmatch(r"([a-z0-9-]+)==([^ ;]+) \\", line):
            package = pin[1]
            lock[package] = (pin[2], [])
        elif digest := re.fullmatch(r"    --hash=(sha256:[0-9a-f]{64})( \\)?", line):
            lock[package][1].append(digest[1])
        else:
            raise AssertionError(f"{name}: {line!r} is neither a pin nor a hash")
    return lock


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_is_exact() -> None:
    runtime, everything = _lock("requirements.txt"), _lock("requirements-dev.txt")
    assert all(hashes for _, hashes in everything.values())
    assert all(hashes for _, hashes in runtime.values())
    assert {name: everything.get(name) for name in runtime} == runtime


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, everything = _lock("requirements.txt"), _lock("requirements-dev.txt")
    for lock, wanted in (
        (runtime, project["project"]["dependencies"]),
        (everything, project["project"]["optional-dependencies"]["dev"]),
        (everything, project["build-system"]["requires"]),
    ):
        pins = [pin.partition("==") for pin in wanted]
        assert {_normal(name): version for name, _, version in pins} == {
            _normal(name): lock.get(_normal(name), ("",))[0] for name, _, _ in pins
        }


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    code = [path for path in _files() if path.suffix in {".py", ".sh", ".toml"} or path.name == "Makefile"]
    assert not [path for path in code if words.search(path.read_text())]


# --- what documents say about scenarios ---------------------------------------------------------------------

SEMANTICS = ROOT / "docs" / "semantics.md"
SCENARIOS = ROOT / "tests" / "scenarios"


def test_every_rule_of_semantics_names_its_proof() -> None:
    # A rule is a list item; it may run over several lines, and ends in its proofs.
    rules = re.findall(r"^- (.*(?:\n  .*)*)", SEMANTICS.read_text(), flags=re.M)
    assert rules
    assert not [rule for rule in rules if not re.search(r"\[[a-z0-9-]+\](,? \[[a-z0-9-]+\])*$", rule)]


def test_semantics_and_scenarios_name_each_other() -> None:
    named = set(re.findall(r"\[([a-z0-9-]+)\](?!\()", SEMANTICS.read_text()))
    assert named == {path.stem for path in SCENARIOS.glob("*.yaml")}
