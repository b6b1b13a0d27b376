"""How messages write numbers of things."""


def number_of(number: float, noun: str) -> str:
    """A number with its noun, whose plural ends in -s or -es: 1 image, 2,000 epochs, 0 classes, 0.5 CPUs."""
    if number == 1:
        return f"1 {noun}"
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{shown} {noun}{'es' if noun.endswith(('s', 'search')) else 's'}"


def resources(cpus: float, gpus: float) -> str:
    """What workers need, or a cluster has: 1 CPU and 0 GPUs."""
    return f"{number_of(cpus, 'CPU')} and {number_of(gpus, 'GPU')}"
