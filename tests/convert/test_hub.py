import pathlib

import huggingface_hub
import pytest

from ola_jax.convert import hub
from ola_jax.errors import OlaError


def test_directories_are_taken_as_they_are(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert hub.fetch("a/b") == pathlib.Path("a/b")
    for name in (str(tmp_path / "none"), "none", "../x/y", "a/b/c", "./x"):
        assert hub.fetch(name) == pathlib.Path(name)  # no hub id: its reader reports that it is missing


def test_hub_ids_are_downloaded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(name: str, **options: object) -> str:
        asked[name] = options
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.fetch("THUdyh/Ola-7b") == tmp_path
    assert set(asked["THUdyh/Ola-7b"]["allow_patterns"]) == set(hub.FILES)


def test_no_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **options: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("An error happened\nwhile trying to locate")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        OlaError, match=r"^THUdyh/Ola-7b: no such directory, and the download from the .* hub failed "
    ) as caught:
        hub.fetch("THUdyh/Ola-7b")
    assert "An error happened); download it where there is a network" in str(caught.value)
    assert "\n" not in str(caught.value)
