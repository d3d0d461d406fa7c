"""The fields of NetworkConfig in networks of every architecture; a field that is added is tested with the others."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from tests.trainables.small import SMALL, contract_trial, input_spec, network_config, small_data, train_alone
from trainables import TrialConfig
from trainables.config import NetworkConfig
from trainables.errors import ConfigError
from trainables.fields import with_effect
from trainables.networks import ARCHITECTURES, Head, get_architecture, layers_of
from trainables.networks.counting import counted_size
from trainables.rlct import estimate_rlct
from trainables.tasks import InputSpec

FIELDS = tuple(name for name in NetworkConfig.model_fields if name != "architecture")
# A small network starts from these; other fields have their defaults.
SMALLER = {"stem_channels": 4}
every_architecture = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


def small_network(architecture: str) -> NetworkConfig:
    fields = get_architecture(architecture).fields
    smaller = {name: value for name, value in SMALLER.items() if name in fields}
    return network_config(architecture).model_copy(update=smaller)


def values_of(name: str, base: NetworkConfig) -> list[Any]:
    """The choices of a field, or small numbers and those around its value in `base`, as far as its bounds allow."""
    choices = get_args(NetworkConfig.model_fields[name].annotation)
    value = getattr(base, name)
    tried = choices or sorted({0, 1, 2, 3, 5, value - 1, value, value + 1, value + 2, 2 * value})
    return [value for value in tried if is_possible({name: value})]


def is_possible(fields: dict[str, Any]) -> bool:
    try:
        NetworkConfig(**fields)
    except ValidationError:
        return False
    return True


def takes_small_data(config: NetworkConfig) -> bool:
    return get_architecture(config.architecture).refusal(config, input_spec(config.architecture)) is None


def networks(architecture: str) -> st.SearchStrategy[NetworkConfig]:
    """Networks of an architecture with any values of its fields."""
    base = small_network(architecture)
    values = {name: st.sampled_from(values_of(name, base)) for name in get_architecture(architecture).fields}
    made = st.fixed_dictionaries(values).map(lambda chosen: base.model_copy(update=chosen))
    return made.filter(takes_small_data)


def has_two_weights_per_layer(config: NetworkConfig) -> bool:
    """Whether the standard deviation of each layer's weights, which training measures, is a number."""
    network = get_architecture(config.architecture).build(config, input_spec(config.architecture), Head(3), (0,))
    return all(weights.numel() > 1 for weights in network.layer_weights().values())


def computed(config: NetworkConfig) -> dict[int, Tensor]:
    """What a fresh network computes for its first samples: the logits under 0, the activations under their depths."""
    inputs = input_spec(config.architecture)
    kind = get_architecture(config.architecture)
    depths = [layer.depth for layer in kind.describe(config, inputs)]
    network = kind.build(config, inputs, Head(3), (0, 1)).eval()
    with torch.no_grad():
        activations = network(torch.from_numpy(small_data(config.architecture).train_inputs[None, :5]), depths)
    return {0: activations.logits, **activations.hidden}


def is_equal(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[depth], other[depth]) for depth in one)


def contract_trial_of(config: NetworkConfig, aux_weight: float) -> TrialConfig:
    trial = contract_trial(config.architecture, aux_weight=aux_weight)
    targets = (len(layers_of(config, input_spec(config.architecture))),) if aux_weight else ()
    nested = trial.model_dump() | {"network": config.model_dump()}
    nested["self_model"] |= {"target_depths": targets}
    return TrialConfig.model_validate(nested)


@every_architecture
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_values_make_a_network_of_the_described_layers_and_the_stated_size(
    architecture: str, data: st.DataObject
) -> None:
    config, inputs = data.draw(networks(architecture)), input_spec(architecture)
    layers, kind = layers_of(config, inputs), get_architecture(architecture)
    network = kind.build(config, inputs, Head(3, 4), (0, 1))
    samples = torch.from_numpy(small_data(architecture).train_inputs[None, :5])
    activations = network(samples, [layer.depth for layer in layers])
    assert {depth: tuple(values.shape) for depth, values in activations.hidden.items()} == {
        layer.depth: (2, 5, layer.units) for layer in layers
    }
    assert [layer.name for layer in layers] == list(network.layer_weights())
    assert activations.prediction is not None
    (activations.logits.square().sum() + activations.prediction.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert kind.size(config, inputs, Head(3, 4)) == counted_size(kind, config, inputs, Head(3, 4))


@every_architecture
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_networks_of_any_values_trained_together_equal_the_same_networks_trained_one_at_a_time(
    architecture: str, data: st.DataObject
) -> None:
    config = data.draw(networks(architecture).filter(has_two_weights_per_layer))
    trial, samples = contract_trial_of(config, aux_weight=1.0), small_data(architecture)
    stack, stack_measured = train_alone(trial, samples)
    for index, seed in enumerate(trial.seeds):
        alone, alone_measured = train_alone(trial.model_copy(update={"seeds": (seed,)}), samples)
        for name, tensor in alone.state_dict().items():
            together, by_itself = stack.state_dict()[name][index], tensor[0]
            if name.endswith("queries_keys_values.bias"):
                # A softmax does not see the bias of its keys: rounding alone moves it, and Adam makes steps of that.
                units = config.width
                together, by_itself = (torch.cat([b[:units], b[2 * units :]]) for b in (together, by_itself))
            # float32 rounds at 1e-7; sums of a batch are taken in another order.
            torch.testing.assert_close(together, by_itself, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(stack_measured["train_loss"][index], alone_measured["train_loss"][0], rtol=1e-3)


@every_architecture
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_the_rlct_of_a_network_of_any_values_is_sampled(architecture: str, data: st.DataObject) -> None:
    trial, samples = contract_trial_of(data.draw(networks(architecture)), aux_weight=0.0), small_data(architecture)
    network = get_architecture(architecture).build(
        trial.network, samples.shape.inputs, Head(samples.classes), trial.seeds
    )
    estimate = estimate_rlct(network.eval(), samples.split(0.0, 0).train, trial.rlct, seed=0)
    assert np.isfinite(estimate.per_chain).all()
    assert (estimate.trace.distance > 0).all()


@every_architecture
@pytest.mark.parametrize("field", FIELDS)
def test_exactly_the_fields_with_effect_change_what_a_network_computes(architecture: str, field: str) -> None:
    small = small_network(architecture)
    for base in (small, small.model_copy(update={"hidden_layers": 0})):
        if not takes_small_data(base):
            continue
        before = computed(base)
        others = [base.model_copy(update={field: value}) for value in values_of(field, base)]
        others = [other for other in others if other != base and takes_small_data(other)]
        assert others
        changed = [other for other in others if not is_equal(before, computed(other))]
        if field in with_effect({"task": SMALL[architecture]["task"]} | base.model_dump()):
            # Not all do: two context lengths beyond the longest text are the same network.
            assert changed
        else:
            assert not changed


@every_architecture
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_an_architecture_does_not_have_is_refused_unless_it_has_its_default(
    architecture: str, field: str
) -> None:
    config = small_network(architecture)
    for value in values_of(field, config):
        nested = contract_trial(architecture).model_dump() | {"network": config.model_dump() | {field: value}}
        default = NetworkConfig.model_fields[field].default
        if field not in get_architecture(architecture).fields and value != default:
            message = f"{field}: makes no difference to architecture '{architecture}': leave it at {default!r}"
            with pytest.raises(ValidationError, match=message):
                TrialConfig.model_validate(nested)
        elif takes_small_data(config.model_copy(update={field: value})):
            nested["self_model"]["target_depths"] = (1,)
            TrialConfig.model_validate(nested)


def test_an_even_kernel_and_attention_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be odd"):
        NetworkConfig(architecture="convnet", kernel_size=4)
    config = NetworkConfig(architecture="transformer", width=32, attention_head_units=12)
    with pytest.raises(ConfigError, match="a width that is a multiple of 12, its attention_head_units"):
        layers_of(config, InputSpec((8,), 20))


@pytest.mark.parametrize(("activation", "function"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_a_convolutional_network_computes_what_torchs_own_layers_do(activation: str, function: Any) -> None:
    config = NetworkConfig.model_validate(
        {"architecture": "convnet", "hidden_layers": 2, "width": 3, "kernel_size": 5, "activation": activation}
    )
    network = get_architecture("convnet").build(config, InputSpec((1, 8, 8)), Head(10), (0,)).eval()
    convolutions = [nn.Conv2d(1, 3, 5, padding="same"), nn.Conv2d(3, 6, 5, padding="same")]
    linear = [nn.Linear(6 * 2 * 2, 8 * 3), nn.Linear(8 * 3, 10)]
    theirs = [parameter for layer in (*convolutions, *linear) for parameter in layer.parameters()]
    with torch.no_grad():
        for ours, parameter in zip(network.parameters(), theirs, strict=True):
            parameter.copy_(ours[0])
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = images
    for convolution in convolutions:
        expected = functional.max_pool2d(function(convolution(expected)), 2)
    expected = linear[1](function(linear[0](expected.flatten(1))))
    torch.testing.assert_close(network(images[None]).logits[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_a_perceptron_computes_what_torchs_own_layers_do(activation: str) -> None:
    config = NetworkConfig.model_validate({"hidden_layers": 2, "width": 5, "activation": activation})
    network = get_architecture("mlp").build(config, InputSpec((7,)), Head(3), (0,)).eval()
    function = {"relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()}[activation]
    reference = nn.Sequential(nn.Linear(7, 5), function, nn.Linear(5, 5), function, nn.Linear(5, 3))
    with torch.no_grad():
        for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            theirs.copy_(ours[0])
    inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(inputs[None]).logits[0], reference(inputs), rtol=1e-5, atol=1e-6)


def test_a_transformer_does_not_read_beyond_its_context() -> None:
    config = NetworkConfig(architecture="transformer", hidden_layers=2, width=16, context_length=4)
    network = get_architecture("transformer").build(config, InputSpec((8,), 20), Head(2), (0,)).eval()
    texts = torch.tensor([[[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9, 9, 9, -1], [1, 2, 3, 9, 5, 6, 7, 8]]])
    logits = network(texts.int()).logits[0]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    assert not torch.allclose(logits[0], logits[2])
