"""The style of all figures."""

from typing import Any

# Okabe and Ito: colours that colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
    "figure.dpi": 110,
    # Labels come from the record: a $ in them is a dollar, not mathematics, which raises if it cannot be set.
    "text.parse_math": False,
}
