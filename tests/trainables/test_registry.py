import pytest

from trainables.errors import ConfigError, DataError
from trainables.registry import did_you_mean, find

TABLE = {"mlp": 1, "convnet": 2}


def test_a_name_in_the_table_is_found() -> None:
    assert find("architecture", "convnet", TABLE) == 2


def test_a_misspelt_name_is_refused_with_the_likely_one_and_all_names() -> None:
    with pytest.raises(ConfigError) as refusal:
        find("architecture", "mpl", TABLE)
    assert str(refusal.value) == (
        "architecture 'mpl' is unknown: did you mean 'mlp'? the architectures are convnet, mlp"
    )


def test_a_name_similar_to_none_is_refused_with_all_names_by_the_requested_error() -> None:
    with pytest.raises(DataError, match=r"^file 'xyz' is unknown: the files are convnet, mlp$"):
        find("file", "xyz", TABLE, DataError)


def test_the_most_similar_known_word_is_suggested() -> None:
    assert did_you_mean("mnits", ["cifar10", "mnist"]) == "did you mean 'mnist'? "
    assert did_you_mean("nothing like it", ["cifar10", "mnist"]) == ""
