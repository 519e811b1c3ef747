"""Every wrong use of the command line is one sentence and exit code 2; whole messages."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sigprop
from sigprop.cli import app as program
from sigprop.cli.app import main
from sigprop.cli.console import CheckedOutput, OutputError
from sigprop.cli.failures import failure_of

MODELS = """
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(x[{"first": 0}["second"]])


def good():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def needs(width, depth=3):
    return nn.Linear(width, 2)


def raises():
    raise ValueError("no [weights] here\\nsecond line")


def own():
    return Own()


def number():
    return 3


constant = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "cli_models.py").write_text(MODELS)
    (tmp_path / "cli_broken.py").write_text("def make(:\n    pass\n")
    (tmp_path / "cli_raising.py").write_text("import torch\n\nraise KeyError('at home')\n")
    (tmp_path / "cli_missing.py").write_text("import no_such_package_here\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("cli_models", "cli_broken", "cli_raising", "cli_missing"):
        sys.modules.pop(name, None)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    seen = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, seen.out, seen.err


SMALL = ["--depth", "2", "--width", "8", "--seeds", "1"]
INPUTS = ["--inputs", "4,6"]

#: Command line -> the whole sentence after "error: ".
SENTENCES: dict[str, tuple[list[str], str]] = {
    "missing argument": (
        ["measure"],
        "missing argument 'names'; see 'sigprop measure --help'",
    ),
    "missing option": (
        ["compare", "plain"],
        "missing option '--output'; see 'sigprop compare --help'",
    ),
    "unknown option": (
        ["measure", "plain", "--dept", "3"],
        "no such option: --dept (Possible options: --data, --depth, --help); "
        "see 'sigprop measure --help'",
    ),
    "unknown command": (["mesure", "plain"], "no such command 'mesure'; did you mean 'measure'?"),
    "unknown network": (
        ["measure", "plian"],
        "no network is called 'plian'; did you mean 'plain'?",
    ),
    "no factory": (
        ["measure", "cli_models:goood", *INPUTS],
        "module 'cli_models' has no factory 'goood'; did you mean 'good'?",
    ),
    "not callable": (
        ["measure", "cli_models:constant", *INPUTS],
        "module 'cli_models' has no factory 'constant'; known: Own, good, needs, number, own, "
        "raises",
    ),
    "no module": (
        ["measure", "no_such_module_here:make"],
        "cannot import 'no_such_module_here' of 'no_such_module_here:make': "
        "No module named 'no_such_module_here'",
    ),
    "half a path": (
        ["measure", "cli_models:"],
        "an import path is 'package.module:factory', not 'cli_models:'",
    ),
    "syntax error": (
        ["measure", "cli_broken:make"],
        "module 'cli_broken' has a syntax error in cli_broken.py, line 1: invalid syntax",
    ),
    "needs arguments": (
        ["measure", "cli_models:needs", *INPUTS],
        "the factory 'cli_models:needs' needs arguments ('width'); a factory is called without "
        "any: give them defaults, or wrap it in a function that fills them in",
    ),
    "makes no module": (
        ["measure", "cli_models:number", *INPUTS],
        "the factory returned int, not an nn.Module",
    ),
    "wrong inputs": (
        ["measure", "cli_models:good", "--inputs", "4,7"],
        "the model does not take inputs of (4, 7) torch.float32: mat1 and mat2 shapes cannot be "
        "multiplied (4x7 and 6x5)",
    ),
    "no shape": (
        ["measure", "plain", "--inputs", "8,x"],
        "--inputs is a shape such as 16,3,32,32, not '8,x'",
    ),
    "one axis": (
        ["measure", "plain", "--inputs", "8"],
        "--inputs is (samples, ...) of positive sizes, not '8'",
    ),
    "option form": (["measure", "plain", "-o", "c"], "--option is name=value, not 'c'"),
    "device": (
        ["measure", "plain", "--device", "cude"],
        "no device is called 'cude'; did you mean 'cuda'?",
    ),
    "no seed": (["measure", "plain", "--seeds", "0"], "measure needs at least one seed"),
    "law": (
        ["verify", "plain", *SMALL, "--law", "preservd"],
        "no law is called 'preservd'; did you mean 'preserved' or 'jacobian-preserved' or "
        "'gradient-preserved'?",
    ),
    "one seed": (["verify", "plain", *SMALL], "an interval needs at least 2 seeds, got 1"),
    "tolerance": (
        ["verify", "plain", "--tolerance", "5"],
        "tolerance is a relative deviation between 0 and 1, got 5.0",
    ),
    "theory": (
        ["verify", "cli_models:good", *INPUTS, "--law", "predicted"],
        "theory has no recursion for a network that is not of the zoo; state the law as a callable "
        "'block -> ratio', or choose 'preserved' or 'doubling'",
    ),
    "the same network twice": (
        ["compare", "plain", "plain", "--output", "x"],
        "'plain' is given twice; give each network a label of its own: "
        "{'first': 'plain', 'second': 'plain'}",
    ),
    "an empty label": (
        ["compare", "", "--output", "x"],
        "a label names a folder and the lines of a figure; '' cannot",
    ),
    "a label of dots": (
        ["compare", "..", "--output", "x"],
        "a label names a folder and the lines of a figure; '..' cannot",
    ),
    "an empty folder": (
        ["compare", "plain", "--output", ""],
        "invalid value for '--output': the name is empty, give one, or '.' for the current folder; "
        "see 'sigprop compare --help'",
    ),
    "an empty run": (
        ["report", "", "--output", "x"],
        "invalid value for 'RUNS...': the name is empty, give one, or '.' for the current folder; "
        "see 'sigprop report --help'",
    ),
    "a batch of one": (
        ["compare", "batchnorm", *SMALL, "--batch-size", "1", "--steps", "1", "--output", "x"],
        "'batchnorm' normalizes over the batch, and a batch of one sample has no variance; choose "
        "batch_size=2 or more",
    ),
    "no batch": (
        ["measure", "plain", "--batch", "0"],
        "batch_size must be at least 1 and start at least 0, got 0 and 0",
    ),
    "no steps": (
        ["compare", "plain", "--steps", "0", "--output", "x"],
        "steps must be a whole number of at least 1, got 0",
    ),
    "no run": (["report", "absent", "--output", "x"], "there is no directory absent"),
    "claim": (
        ["claims", "rescale-algebr"],
        "no claim or tag is called 'rescale-algebr'; did you mean 'rescale-algebra'?",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_wrong_use_is_one_whole_sentence_and_exit_code_two(
    arguments: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(arguments, capsys)
    said = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (code, out, said) == (2, "", [f"error: {sentence}"])
    assert not (folder / "x").exists()


@pytest.mark.parametrize("number", ["x", "1.5", ""])
def test_a_bad_number_is_one_sentence(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The middle of it is click's, which words it by version."""
    code, _, err = run(["measure", "plain", "--depth", number], capsys)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("error: invalid value for '--depth': ")
    assert err.endswith("; see 'sigprop measure --help'\n")


NOTES = {
    "more than there are": (
        ["measure", "plain", *SMALL, "--batch", "5000"],
        "note: digits has 1437 samples for training: a batch has these, not 5000\n",
    ),
    "one": (
        ["measure", "plain", *SMALL, "--batch", "1"],
        "note: over a batch of one sample, channel variance is that of positions, or 0 without "
        "any\n",
    ),
    "as usual": (["measure", "plain", *SMALL, "--batch", "8"], ""),
}


@pytest.mark.parametrize(("arguments", "note"), NOTES.values(), ids=NOTES)
def test_an_unusual_batch_is_said_in_one_sentence(
    arguments: list[str], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(arguments, capsys)
    assert (code, err) == (0, note)


# --- the user's own exceptions -------------------------------------------------------------------


OWN = {
    "in the factory": (
        "raises",
        "error: your code raised ValueError: no [weights] here, in cli_models.py, line 23",
        'raise ValueError("no [weights] here\\nsecond line")',
    ),
    "in the forward pass": (
        "own",
        "error: your code raised KeyError: 'second', in cli_models.py, line 11",
        'return self.fc(x[{"first": 0}["second"]])',
    ),
}


@pytest.mark.parametrize(("factory", "sentence", "line"), OWN.values(), ids=OWN)
def test_an_exception_of_the_users_keeps_its_lines_behind_a_sentence(
    factory: str, sentence: str, line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["measure", f"cli_models:{factory}", *INPUTS], capsys)
    said = err.splitlines()
    assert (code, out, said[0]) == (2, "", sentence)
    assert said[1].startswith(f'  File "{folder / "cli_models.py"}", line ')
    assert line in err
    assert "Traceback" not in err
    assert "sigprop/" not in err.replace(str(folder), "")  # none of our frames


def test_an_exception_while_importing_is_the_users(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["check", "cli_raising:make"], capsys)
    assert code == 2
    assert err.splitlines()[0] == (
        "error: your code raised KeyError: 'at home', in cli_raising.py, line 3"
    )
    assert err.splitlines()[1] == f'  File "{folder / "cli_raising.py"}", line 3, in <module>'


def test_a_module_that_misses_another_shows_the_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["check", "cli_missing:make"], capsys)
    assert code == 2
    assert err.splitlines()[:2] == [
        "error: cannot import 'cli_missing' of 'cli_missing:make': "
        "No module named 'no_such_package_here'",
        f'  File "{folder / "cli_missing.py"}", line 1, in <module>',
    ]


def test_a_fault_of_ours_is_said_to_be_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Raised inside the library; nothing of the user's runs."""
    monkeypatch.setattr("sigprop.networks.names", lambda: [3])
    code, _, err = run(["networks"], capsys)
    assert code == 70
    assert err.startswith("error: a fault of sigprop itself, please report it: ")
    assert "Traceback (most recent call last):" in err


def test_too_little_memory_and_an_interruption_are_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: BaseException) -> Any:
        def run_it(*_: object, **__: object) -> None:
            raise error

        return run_it

    monkeypatch.setattr("sigprop.cli.measure.measure_network", fail(MemoryError("17 TB")))
    code, _, err = run(["measure", "plain"], capsys)
    assert (code, err) == (2, "error: there is not enough memory: 17 TB\n")
    monkeypatch.setattr("sigprop.cli.measure.measure_network", fail(KeyboardInterrupt()))
    assert run(["measure", "plain"], capsys)[::2] == (130, "error: interrupted\n")


# --- standard output -----------------------------------------------------------------------------


class Full(io.StringIO):
    """A standard output that takes nothing."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "as the system says it")


REASONS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EPIPE: "the program that reads it has ended",
    errno.EIO: "as the system says it",
}


@pytest.mark.parametrize(("number", "reason"), REASONS.items())
@pytest.mark.parametrize("arguments", [["networks"], ["--help"], ["--version"]], ids=" ".join)
def test_output_that_cannot_be_written_is_one_sentence(
    number: int,
    reason: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = Full(number)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: standard output cannot be written: {reason}\n"
    assert sys.stdout is stream


def test_what_only_fails_at_the_end_is_noticed() -> None:
    class Late(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "full")

    checked = CheckedOutput(Late())
    assert checked.write("text") == 4
    with pytest.raises(OutputError, match="no space is left on the device"):
        checked.flush()
    assert checked.getvalue() == "text"


COMMAND = [sys.executable, "-c", "from sigprop.cli import main; main()"]
#: With the buffer that a shell gives: what could not be written waits in it until Python ends.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["networks"], ["--version"]], ids=" ".join)
def test_a_full_device_in_a_process_of_its_own(arguments: list[str]) -> None:
    """Python flushes once more when it ends; that must not be heard either."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=BUFFERED,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output cannot be written: no space is left on the device\n"
    )


def test_a_reader_that_has_ended_in_a_process_of_its_own() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=BUFFERED,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 2
    assert said == (
        "error: standard output cannot be written: the program that reads it has ended\n"
    )


def test_a_terminal_without_greek_shows_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with pytest.raises(SystemExit) as stop:
        main(["check", "plain", "--depth", "1", "--width", "4"])
    sys.stdout.flush()
    assert stop.value.code == 0
    assert b"? 1 blocks" in raw.getvalue() or b"blocks" in raw.getvalue()


# --- version and help ----------------------------------------------------------------------------


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    expected = f"sigprop {sigprop.__version__} (torch {torch.__version__}, Python {python})\n"
    assert run(["--version"], capsys) == (0, expected, "")


COMMANDS = [
    "networks",
    "measure",
    "compare",
    "verify",
    "check",
    "diagnose",
    "landscape",
    "stability",
    "spectra",
    "sweep",
    "claims",
    "report",
]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_an_example_that_is_a_command(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run([*command.split(), flag], capsys)
    assert (code, err) == (0, "")
    assert f"Example: sigprop {command or 'measure'}" in " ".join(out.split())


def test_no_command_shows_the_help_and_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([], capsys)
    assert (code, err) == (2, "")
    assert "Usage: sigprop [OPTIONS] COMMAND" in out


def test_every_command_has_its_examples() -> None:
    given = {command.__name__: examples for command, examples in program._COMMANDS.items()}
    assert list(given) == COMMANDS
    for name, examples in given.items():
        assert all(example.startswith(f"sigprop {name}") for example in examples)


def test_a_failure_of_our_own_family_has_no_lines() -> None:
    failure = failure_of(sigprop.BadInput("one sentence"))
    assert (failure.sentence, failure.frames, failure.code) == ("one sentence", "", 2)
