import pytest

from ola_jax.data.failures import NothingToLearnError, TooLargeError, errors_naming_media, failure_kind
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
    assert failure_kind(error("x")) == kind


def test_an_exception_of_a_decoder_names_the_media():
    with (
        pytest.raises(BadMediaError, match=r"'image' 'a\.png': cannot be read \(ValueError: bad\)"),
        errors_naming_media("image", ("a.png",)),
    ):
        raise ValueError("bad\nthings")
    with pytest.raises(MissingFileError, match=r"^gone$"), errors_naming_media("image", "a.png"):
        raise MissingFileError("gone")
