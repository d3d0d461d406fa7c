"""The `budget` of a study: limits after which no further trial begins."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from trainables.config import Section

# Bounds far above what is ever spent: a slip of the keyboard is refused.
MOST_BEGUN = 1_000_000
MOST_HOURS = 1e7
MOST_MONEY = 1e9
MOST_PRICES = 100
# The price of a node whose type has no price.
DEFAULT = "default"

TypeOfNode = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Price = Annotated[float, Field(ge=0, le=MOST_MONEY)]


class BudgetConfig(Section):
    """Limits of a study; one that is left out does not limit.

    A limit decides nothing about a trial but whether it begins. Budgets are no part of trial keys and protocol: a study
    goes on under another budget.
    """

    trials: int | None = Field(
        None,
        ge=1,
        le=MOST_BEGUN,
        description="Most trials to begin in the study's whole life; one that begins again counts again.",
    )
    hours: float | None = Field(
        None, gt=0, le=MOST_HOURS, description="Hours in which one run of the command begins trials."
    )
    cpu_hours: float | None = Field(
        None,
        gt=0,
        le=MOST_HOURS,
        description="CPU-hours in the study's whole life: the time of every trial, also of failed ones, times its "
        "CPU cores.",
    )
    gpu_hours: float | None = Field(
        None, gt=0, le=MOST_HOURS, description="GPU-hours in the study's whole life, likewise."
    )
    money: float | None = Field(
        None,
        gt=0,
        le=MOST_MONEY,
        description="Money in the study's whole life, in the unit of the prices: the time of every trial times its "
        "share of the node times the node's price.",
    )
    prices: dict[TypeOfNode, Price] = Field(
        default_factory=dict,
        max_length=MOST_PRICES,
        description=f"Price of an hour of each type of node; {DEFAULT!r} for every other type.",
    )
    max_failed_trials: int | None = Field(
        None, ge=0, le=MOST_BEGUN, description="Trials that may fail in one run of the command: one more stops it."
    )

    @model_validator(mode="after")
    def _money_has_prices(self) -> Self:
        if self.money is not None and not self.prices:
            raise ValueError(
                f"money needs prices: add the price of an hour of each type of node, such as prices: {{{DEFAULT}: 0.5}}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_limit(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        return {name: value for name, value in fields.items() if value not in (None, {})}

    @property
    def limits_life(self) -> bool:
        """Whether there is a limit on the study's whole life, and not only on a run of the command."""
        return any(limit is not None for limit in (self.trials, self.cpu_hours, self.gpu_hours, self.money))

    def price(self, node_type: str) -> float:
        """The price of an hour of a node of this type; the highest one if neither it nor the default has a price."""
        return self.prices.get(node_type, self.prices.get(DEFAULT, max(self.prices.values(), default=0.0)))

    def cost(self, node_hours: Mapping[str, float]) -> float:
        """The price of so many hours of nodes, by their type."""
        return sum(self.price(node_type) * hours for node_type, hours in node_hours.items())
