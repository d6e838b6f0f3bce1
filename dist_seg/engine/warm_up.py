"""What a first pass through a model tells before training."""

from torch import nn

from dist_seg.errors import ConfigError


def check_all_used(model: nn.Module) -> None:
    """Raises ConfigError for trained parameters that a backward pass has given no gradient."""
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise ConfigError(
            f"{type(model).__name__}: the loss does not depend on {', '.join(unused[:5])}"
            f"{f' and {len(unused) - 5} more parameters' if len(unused) > 5 else ''}, so ranks would wait for its "
            "gradient for ever; leave it out of the model, or set requires_grad to False"
        )
