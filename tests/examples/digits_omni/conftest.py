import json
from pathlib import Path

import pytest

from examples.digits_omni.build import build

SCALE = 0.005  # ten records of most tasks


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("demo") / "digits_omni", seed=3, scale=SCALE)


@pytest.fixture(scope="session")
def truth(dataset) -> dict[str, dict[str, dict]]:
    """Ground truth of the media files: by split, by path."""
    return {
        split: {item["file"]: item for item in json.loads((dataset / split / "media.json").read_text())}
        for split in ("train", "heldout")
    }
