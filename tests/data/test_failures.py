import pytest

from ola_jax.data.failures import NothingToLearnError, TooLargeError, kind_of, reading
from ola_jax.data.media import BadMediaError, MissingFileError
from ola_jax.errors import OlaError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MissingFileError, "missing file"),
        (BadMediaError, "unreadable media"),
        (TooLargeError, "too large"),
        (NothingToLearnError, "nothing to learn"),
        (OlaError, "malformed record"),
    ],
)
def test_each_failure_has_its_kind(error, kind):
    assert kind_of(error("x")) == kind


def test_what_a_decoder_raises_names_the_media():
    with (
        pytest.raises(BadMediaError, match=r"'image' 'a\.png': cannot be read \(ValueError: bad\)"),
        reading("image", ("a.png",)),
    ):
        raise ValueError("bad\nthings")
    with pytest.raises(MissingFileError, match=r"^gone$"), reading("image", "a.png"):
        raise MissingFileError("gone")
