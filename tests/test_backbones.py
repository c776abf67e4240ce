"""Every backbone at 80 px: one channel as three, forward and backward, the maps that Grad-CAM reads, features, a file."""

import pytest
import torch

from cxr_companion.networks.backbones import backbone, cam_layer, entry, facts, features, load_weights, save_weights
from cxr_companion.networks.registry import BACKBONES
from cxr_companion.networks.stems import as_photo

NAMES = (*BACKBONES, "timm:test_resnet", "timm:test_efficientnet")
SIZE, FILMS, N_OUT = 80, 4, 3


def settle(model: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """Let the batch norms know what they normalise: in random networks no signal reaches the end otherwise."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", NAMES)
def test_backbone(name, tmp_path):
    known = entry(name)
    film = torch.rand(FILMS, 1, SIZE, SIZE) * 2 - 1
    photo = as_photo(film, known.mean, known.std)

    # one channel: the logits of the colour network on the grey film, in the padding too
    colour = settle(backbone(name, N_OUT, in_channels=3), photo)
    model = load_weights(backbone(name, N_OUT), colour.state_dict()).eval()
    with torch.inference_mode():
        three, one = colour(photo), model(film)
        unnormalised = colour(film.expand(-1, 3, -1, -1))
    assert three.shape == one.shape == (FILMS, N_OUT) and facts(model) == (name, N_OUT, 1)
    scale = three.std(0).max()  # between films
    assert (one - three).abs().max() < 2e-3 * scale
    if known.mean != (0.5, 0.5, 0.5):  # else the grey film is normalised as it comes
        assert (unnormalised - three).abs().max() > 2e-2 * scale, "a conversion without the normalisation passes too"
    del colour

    # a file gives the same network back
    path = save_weights(tmp_path / "weights.safetensors", model)
    again = backbone(name, N_OUT, weights=path).eval()
    with torch.inference_mode():
        assert torch.equal(again(film), one)
    path.unlink()
    del again

    # features go into the last layer; the last map has places and channels
    maps = []
    hook = cam_layer(model).register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.inference_mode():
        vectors = features(model, film)
        torch.testing.assert_close(model.get_submodule(known.classifier)(vectors), one)
    assert vectors.shape[0] == FILMS and vectors.ndim == 2 and vectors.isfinite().all()

    # forward and backward in the layout that training in bf16 uses; gradients reach every weight and the map
    model = model.to(memory_format=torch.channels_last).train()
    maps.clear()
    logits = model(film.contiguous(memory_format=torch.channels_last))
    assert maps[0].ndim == 4 and maps[0].shape[0] == FILMS and min(maps[0].shape[2:]) >= 1
    (towards_map,) = torch.autograd.grad(logits[:, 0].sum(), maps[0], retain_graph=True)
    assert towards_map.shape == maps[0].shape and towards_map.abs().sum() > 0
    hook.remove()
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert sum(p.grad.abs().sum() > 0 for p in model.parameters()) > 0.5 * len(list(model.parameters()))
