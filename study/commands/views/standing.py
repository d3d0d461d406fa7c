"""How a study stands before it runs, in a few words."""

from study.engine.plan import Plan


def standing(plan: Plan) -> str:
    """'7 of 8 trials are finished, 7 of them get 5 more replicates; 1 to run, 10 replicates each'."""
    parts = [f"{plan.done} of {plan.trials} trials are finished"] if plan.done else []
    if plan.growing:
        parts.append(f"{growing(plan)}; {plan.remaining} to run" if plan.remaining else growing(plan))
    elif plan.remaining:
        parts.append(f"{plan.remaining} to run")
    return ", ".join(parts) + (f", {replicates_each(plan.spec.replicates)}" if plan.remaining else "")


def growing(plan: Plan) -> str:
    """'7 of them get 5 more replicates': the finished trials that lack replicates, of which there is one at least."""
    counts = sorted({growth.config.replicates for growth in plan.growing})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    replicates = "replicate" if counts == [1] else "replicates"
    verb = "gets" if len(plan.growing) == 1 else "get"
    return f"{len(plan.growing)} of them {verb} {number} more {replicates}"


def replicates_each(number: int) -> str:
    """'5 replicates each'."""
    return f"{number} replicate{'' if number == 1 else 's'} each"
