"""What a person sees who mistypes: one clear line and the right exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from featurestore.store import Store
from voxportrait import app, main

Run = Callable[..., subprocess.CompletedProcess[str]]


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a person starts it."""
    command = [sys.executable, "-m", "voxportrait", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def run(capsys, monkeypatch) -> Run:
    """The command in this process, which has imported already what a new one would import."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["voxportrait", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(command, int(end.value.code or 0), said.out, said.err)

    return run


def commands() -> list[list[str]]:
    """Every command and group as the words that call it."""

    def walk(command: Any, words: list[str]) -> list[list[str]]:
        below = getattr(command, "commands", {})
        return [words, *(path for name, sub in below.items() for path in walk(sub, [*words, name]))]

    return walk(typer.main.get_command(app), [])


def test_alone_it_shows_its_commands():
    done = start()
    assert done.returncode == 0
    for word in ("extract", "store", "train", "demo"):
        assert word in done.stdout


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_is_everywhere(words):
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output
    group: Any = typer.main.get_command(app)
    for word in words:
        group = group.commands[word]
    assert group.help, f"{' '.join(words)} says nothing about itself"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("extract", "voxceleb2", "/not/there", "--store", "{store}"), "/not/there"),
        (("extract", "voxceleb3", "/tmp", "--store", "{store}"), "voxceleb2"),
        (("extract", "voxceleb2", "{empty}", "--store", "{store}"), "mp4/id"),
        (("fill", "--store", "{store}", "--constituents", "ecappa"), "ecapa"),
        (("fill", "--store", "{store}", "--constituents", "titanett"), "titanet"),
        (("store", "info", "--store", "{empty}"), "there is no store at"),
        (("store", "sql", "selec 1", "--store", "{store}"), "syntax error"),
        (("train", "--store", "{store}", "--system", "full-inputs"), "full-input"),
        (("train", "--store", "{store}", "--preset", "huge"), "tiny"),
        (("corpus", "synth", "{empty}", "--speakers", "5", "--clips", "3"), "5"),
        (("store", "info"), "--store"),
        (("fill", "--store", "{store}", "--device", "tpu"), "cuda"),
        (("extract", "folder", "{heads}", "--store", "{heads}"), "a folder of its own"),
        (("extract", "folder", "{heads}", "--store", "{heads}/talk.mp4"), "is a file"),
    ],
)
def test_misuse_is_one_clear_line_and_exit_code_2(run: Run, arguments, said, tmp_path):
    places = {"store": str(tmp_path / "store"), "empty": str(tmp_path / "empty"), "heads": str(tmp_path / "heads")}
    (tmp_path / "empty").mkdir()
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "talk.mp4").touch()
    Store.open_or_create(places["store"])
    done = run(*(a.format(**places) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_misuse_ends_a_process_with_the_same_line_and_code(run: Run, tmp_path):
    Store.open_or_create(str(tmp_path / "store"))
    mistyped = ("fill", "--store", tmp_path / "store", "--constituents", "ecappa")
    here, there = run(*mistyped), start(*mistyped)
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)


def test_a_store_answers_on_the_command_line(tmp_path):
    store = str(tmp_path / "store")
    Store.open_or_create(store)
    info = start("store", "info", "--store", store, "--json")
    assert json.loads(info.stdout.splitlines()[-1])["clips"] == 0
    rows = start("store", "sql", "select count(*) n from clips", "--store", store, "--format", "json")
    assert json.loads(rows.stdout) == [{"n": 0}]
