"""EfficientNet-Lite0 with the ImageNet weights of the package: the published features, and photographs seen for what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mpssl_fed.models import efficientnet
from mpssl_fed.models.efficientnet import LEAST_SIDE, packaged_weights
from tests.models.test_efficientnet import assert_own_gradients, assert_published_features, model

PACKAGED = packaged_weights()
if PACKAGED is None:
    pytest.skip("the extra [imagenet] is not installed: make test-extras", allow_module_level=True)


@pytest.mark.parametrize("side", [LEAST_SIDE, 113])
def test_features_are_the_published_network_s(side: int) -> None:
    assert_published_features(None, torch.load(PACKAGED, weights_only=True), side)


@pytest.mark.parametrize(("trainable", "layers"), [("head", 0), ("norm", 49)])
def test_one_image_s_gradients_are_its_own(trainable: str, layers: int) -> None:
    assert_own_gradients(None, trainable, layers)


def test_the_package_s_weights_see_what_is_on_photographs() -> None:
    """Two photographs that come with scikit-learn: a dahlia (daisy: 985) and a Chinese palace (698), ImageNet's nearest classes."""
    from sklearn.datasets import load_sample_images

    squares = []
    for photo in load_sample_images().images:
        side, left = photo.shape[0], (photo.shape[1] - photo.shape[0]) // 2
        squares.append(np.asarray(Image.fromarray(photo[:, left : left + side]).resize((224, 224), Image.Resampling.BICUBIC)))
    x = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) / 127.5 - 1
    body, state = model(None).body, torch.load(PACKAGED, weights_only=True)
    with torch.no_grad():
        logits = body(x) @ state["_fc.weight"].T + state["_fc.bias"]
        stem = body._conv_stem(((x + 1) * 127.5 - efficientnet.MEAN) / efficientnet.DEVIATION)
    china, flower = logits
    assert int(flower.argmax()) == 985
    assert 698 in china.topk(3).indices.tolist()
    known = body._bn0.variance > 1e-3  # the statistics of the training images, for which these two stand
    ratio = (stem.var((0, 2, 3)) / body._bn0.variance)[known].median()
    assert 0.5 < float(ratio) < 2
