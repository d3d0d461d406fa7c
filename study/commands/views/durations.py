"""Durations in words."""


def format_seconds(seconds: float) -> str:
    """5 s, 3 min 20 s, 2 h 05 min, 1,700 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes < 10 else f"{minutes} min"
    if minutes >= 100 * 60:
        return f"{round(minutes / 60):,} h"
    return f"{minutes // 60} h {minutes % 60:02d} min"
