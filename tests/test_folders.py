"""A command removes and overwrites only files that a run has written, and leaves nothing behind if it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import OUT, run_in_process
from mlflow import MlflowClient
from PIL import Image

import nst_exp.commands.compare
from nst_exp.errors import InputError
from nst_exp.records.folder import Record, RunFolder

SQLITE = ("tracking=sqlite", "tracking.store=store")
RECORD = Record("identity", "name", [], {}, {}, None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- a user's own files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "result.json", "pastiche.png", "pastiche.mp4", "side_by_side.webm", "trace.csv", "run.log"),
        *("progress/000001.png", "frames/1.png", ".hydra/config.yaml", "failure.json", "mlflow.json"),
    ],
)
def test_a_run_in_a_folder_of_the_users_own(name: str, tmp_path: Path) -> None:
    """Kind: files of the user are overwritten because they have the names of files that a run writes."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    outcome = run_in_process("hydra.run.dir=.", folder=tmp_path)
    assert outcome.code == 1
    assert outcome.stderr.startswith("nst_exp: ")
    assert len(outcome.stderr.splitlines()) == 1
    assert f"{Path(name).parts[0]}, which no run has written" in outcome.stderr
    assert contents(tmp_path) == before


def test_a_run_in_a_folder_with_other_files(tmp_path: Path) -> None:
    """A folder with files of other names may be used, and they are left alone, also when the run is repeated."""
    mine = {"notes.txt": b"mine", "pastiche.xcf": b"mine", ".keep.tmp": b"mine"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    assert run_in_process("hydra.run.dir=.", folder=tmp_path).code == 0
    (tmp_path / "result.json").unlink()  # as if the run had been killed, so that the same command starts again
    assert run_in_process("hydra.run.dir=.", folder=tmp_path).code == 0
    assert contents(tmp_path).items() >= mine.items()


@pytest.mark.parametrize("name", ["report.html", "table.csv", "contact_sheet.png", "multirun.yaml"])
def test_a_sweep_in_a_folder_of_the_users_own(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    outcome = run_in_process("-m", "seed=0,1", "hydra.sweep.dir=.", folder=tmp_path)
    assert outcome.code == 1
    assert f"{name}, which no sweep has written" in outcome.stderr
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "sweep.json").exists()


def test_a_point_whose_folder_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / OUT / "1").mkdir(parents=True)
    (tmp_path / OUT / "1" / "trace.csv").write_text("mine")
    outcome = run_in_process("-m", "seed=0,1", folder=tmp_path)
    assert outcome.code == 1
    assert "1 of 2 points done" in outcome.stdout
    assert "trace.csv, which no run has written" in outcome.stderr
    assert (tmp_path / OUT / "1" / "trace.csv").read_text() == "mine"


def test_a_finished_run_is_not_replaced_by_another(tmp_path: Path) -> None:
    run_in_process(folder=tmp_path)
    before = contents(tmp_path / OUT)
    outcome = run_in_process("init=noise", folder=tmp_path)
    assert outcome.code == 0
    assert contents(tmp_path / OUT) == before
    assert RunFolder(tmp_path / f"{OUT}-2").sound


def test_only_what_a_run_wrote_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, RECORD)
    for name in ("pastiche.xcf", "notes.tmp"):
        (tmp_path / name).write_text("mine")
    (tmp_path / f".{'0' * 32}.tmp").write_text("half a file")
    folder.begin({}, RECORD)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml",
        "notes.tmp",
        "pastiche.xcf",
        "record.json",
    ]
    (tmp_path / "record.json").unlink()
    with pytest.raises(InputError, match=r"config\.yaml, which no run has written"):
        folder.begin({}, RECORD)


def test_a_report_in_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kind: `compare` overwrites files that are not its own, in the given folder or in a folder with runs."""
    run_in_process("-m", "seed=0,1", folder=tmp_path)
    monkeypatch.chdir(tmp_path)

    def compare(*arguments: str) -> object:
        monkeypatch.setattr("sys.argv", ["compare", OUT, *arguments])
        with pytest.raises(SystemExit) as end:
            nst_exp.commands.compare.main()
        return end.value.code

    Path("mine").mkdir()
    assert compare("--output", "mine/new") == 0
    assert compare("--output", "mine/new", "--sort", "-seed") == 0
    Path("mine", "table.csv").write_text("mine")
    Path("mine", "report.html").write_text("<p>On nst_exp</p>")
    before = contents(Path("mine"))
    assert compare("--output", "mine") == 1
    assert "report.html, table.csv, which no report has written" in capsys.readouterr().err
    assert contents(Path("mine")) == before
    assert compare() == 0
    Path(OUT, "sweep.json").unlink()
    Path(OUT, "report.html").unlink()
    assert compare() == 1


# --- what is refused leaves nothing ------------------------------------------------------------------------------

REFUSED = ("sytle_weight=1", "size=3", "content=absent.jpg", "content_layer=conv9", "params=keras", "network=absent")


@pytest.mark.parametrize("arguments", [*REFUSED, *(f"-m seed=0,1 {refused}" for refused in REFUSED)])
def test_a_refused_command_leaves_nothing(arguments: str, tmp_path: Path) -> None:
    """Kind: files remain after a refusal by the parser, the schema, a range, a file, a layer or params."""
    outcome = run_in_process(
        *arguments.split(), "hydra.run.dir=outputs/a/b", "hydra.sweep.dir=outputs/a/b", *SQLITE, folder=tmp_path
    )
    assert outcome.code == 1
    left = [
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.relative_to(tmp_path).parts[0] != "store"
    ]
    assert left == []
    if (tmp_path / "store" / "mlflow.db").exists():
        client = MlflowClient(f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        assert list(client.search_runs(ids)) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert run_in_process("content=absent.jpg", "hydra.run.dir=mine", folder=tmp_path).code == 1
    assert (tmp_path / "mine").is_dir()
    assert run_in_process("-m", "seed=0,1", "content=absent.jpg", "registry=mine", folder=tmp_path).code == 1
    assert not list((tmp_path / "mine").iterdir())


# --- done ----------------------------------------------------------------------------------------------------------


def test_done_means_that_the_files_are_there_as_they_were_written(tmp_path: Path) -> None:
    """Kind: a result.json makes a run count as finished although its picture was deleted, damaged or replaced."""
    run_in_process("-m", "seed=0,1,2", folder=tmp_path)
    (tmp_path / OUT / "0" / "pastiche.png").unlink()
    Image.new("RGB", (3, 3)).save(tmp_path / OUT / "1" / "pastiche.png")
    outcome = run_in_process("-m", "seed=0,1,2", folder=tmp_path)
    assert "3 of 3 points done" in outcome.stdout
    assert outcome.stdout.count("done already") == 1
    assert all(RunFolder(tmp_path / OUT / str(number)).sound for number in range(3))


@pytest.mark.parametrize(
    "option",
    [
        "max_batch_size=1.5",
        "max_batch_size=0",
        "max_batch_size=true",
        "max_batch_size=two",
        "memory_share=a",
        "memory_share=2",
    ],
)
def test_options_of_the_launcher(option: str, tmp_path: Path) -> None:
    key, _, value = option.partition("=")
    outcome = run_in_process("-m", "seed=0,1", f"hydra.launcher.{option}", folder=tmp_path)
    assert outcome.code == 1
    assert f"hydra.launcher.{key}={value.capitalize() if value == 'true' else value}: must be" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
