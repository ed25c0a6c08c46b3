import json

import pytest

from ola_jax.cli import data, main
from tests.data.made_up import tiny_processor, write_records
from tests.data.mixed_set import write_mixed_set


@pytest.fixture
def ola(monkeypatch, capsys):
    """Exit status and output of `ola data` with a tiny processor."""
    monkeypatch.setattr(data, "load_data_processor", lambda options: tiny_processor())

    def run(*arguments):
        status = 0
        try:
            main.main(["data", *map(str, arguments), "--config=none.py", "--processes=1"])
        except SystemExit as ended:
            status = ended.code or 0
        return status, "".join(capsys.readouterr())

    return run


def test_a_check_reports_and_fails_on_bad_records(tmp_path, ola):
    mixed, good = write_mixed_set(tmp_path), write_records(tmp_path, 4, "good.json")
    histograms = tmp_path / "h.png"
    status, output = ola("check", mixed, good, "--root", tmp_path, "--histograms", histograms)
    assert status == 1
    assert f"{mixed}\n15 records, 12 good, 3 bad\n" in output
    assert "all 2 files\n19 records, 16 good, 3 bad\n" in output
    assert f"bad records: {mixed}.bad.jsonl; the first: record 'bad0'" in output
    assert histograms.stat().st_size > 1000
    assert len((tmp_path / "mixed.json.bad.jsonl").read_text().splitlines()) == 3
    status, output = ola("check", good, "--root", tmp_path)
    assert (status, "bad records" in output) == (0, False)


def test_what_is_prepared_is_reported_and_can_be_checked(tmp_path, ola):
    mixed, folder = write_mixed_set(tmp_path), tmp_path / "set"
    status, output = ola("prepare", mixed, "--root", tmp_path, "--output", folder)
    assert status == 0
    for line in (
        "3 videos: frames as JPEG of quality 90, lossy",
        "2 audio files: rounded to 16 bits",
        "3 bad records left out",
        f"wrote {folder}",
    ):
        assert line in output
    assert ola("check", folder)[0] == 0
    assert json.loads((folder / "features.json").read_text())
    assert ola("prepare", mixed, "--output", folder)[0] == 2


def test_paths_are_rewritten(tmp_path, ola):
    records = write_records(tmp_path, 4)
    text = (tmp_path / "records.json").read_text().replace('"image": "', '"image": "/mnt/their/')
    (tmp_path / "records.json").write_text(text)
    assert ola("check", records)[0] == 1
    assert ola("check", records, "--rewrite", "/mnt/their", tmp_path)[0] == 0


def test_the_model_must_be_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(["data", "check", "a.json"])
    assert "--config --checkpoint is required" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main.main(["data", "check", "a.json", "--config", "none.py"])
    assert "none.py" in capsys.readouterr().err


def test_budgets_are_compared_for_files_that_were_checked(tmp_path, ola):
    records = write_records(tmp_path, 30)
    status, output = ola("plan", records, "--devices", 2)
    assert (status, "no such index; write it with `ola data check" in output) == (2, True)
    ola("check", records, "--root", tmp_path)
    status, output = ola("plan", records, "--devices", 2, "--batch_tokens", 2000, "--row_tokens", 200)
    assert status == 0
    assert "cheapest: budget=Budget(tokens=" in output
    assert ola("plan", records, "--devices", 0)[0] == 2
    assert ola("plan", records, "--devices", 1, "--row_tokens", 8)[0] == 2
