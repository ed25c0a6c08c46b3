import ola_jax
import ola_jax.data


def test_all_public_names_are_there() -> None:
    for package in (ola_jax, ola_jax.data):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        assert not hasattr(package, "no_such_name")
