"""`python -m study layers` with the fields of the network."""

import pytest

from study.commands.main import main as command
from trainables.config import NetworkConfig


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["digits", "convnet", "--width", "4", "--dense_units_per_channel", "3"], ["2", "dense", "12", "12"]),
        (["digits", "convnet", "--width", "4", "--kernel_size", "5"], ["1", "conv1", "64", "4×4×4"]),
        (["cifar10", "--stem_channels", "16"], ["9", "block8", "2,048", "128×4×4"]),
        (["imdb", "--embedding_units", "32"], ["1", "embedding", "32", "32"]),
        (["imdb", "transformer", "--width", "24", "--attention_head_units", "12"], ["1", "block1", "24", "24"]),
    ],
    ids=str,
)
def test_the_layers_follow_the_fields_of_the_network(
    arguments: list[str], line: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(["layers", *arguments]) == 0
    assert line in [printed.split() for printed in capfd.readouterr().out.splitlines()]


def test_every_field_of_the_network_is_an_option_with_its_description(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["layers", "--help"])
    printed = " ".join(capfd.readouterr().out.split())
    for name, field in NetworkConfig.model_fields.items():
        if name != "architecture":
            assert f"--{name} VALUE {field.description}" in printed
