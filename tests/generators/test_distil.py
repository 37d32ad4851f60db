from __future__ import annotations

import dataclasses
import signal

import pytest
import torch

from mpssl_fed.generators.batch_statistics import batch_statistics
from mpssl_fed.generators.distil import distil
from mpssl_fed.generators.glyphs import load_glyphs
from mpssl_fed.generators.renders import FontEmbedding, RenderStream, truncated_normal
from mpssl_fed.generators.settings import DistilSettings

SMALL = DistilSettings(iterations=30, channel_width=4, batch=6, bake_images=240, n_stats=3)


@pytest.fixture(scope="module")
def bank(fonts):
    return load_glyphs(fonts, tuple("TLO"), min_fonts=3)


def silent(done, total, loss):
    pass


@pytest.fixture(scope="module")
def trained(bank):
    losses = []
    model, record = distil(bank, SMALL, lambda done, total, loss: losses.append(loss))
    return model.eval(), record, losses


def test_loss_falls_and_the_result_is_exact_in_float16(trained):
    model, record, losses = trained
    assert record["iterations_done"] == 30
    assert not record["interrupted"]
    assert len(losses) == 2
    assert losses[1] == record["final_loss"] < 0.8 * losses[0]
    assert all(torch.equal(value, value.half().float()) for value in model.state_dict().values())
    assert all(type(module).__name__ != "BatchStatistics" for module in model.modules())


def test_same_seed_same_bits(bank):
    short = dataclasses.replace(SMALL, iterations=3, bake_images=24, seed=5)
    first, second = (distil(bank, short, silent)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_baked_statistics_stand_for_the_batch(trained):
    model = trained[0]
    z = truncated_normal(torch.Generator().manual_seed(0), 240, SMALL.z_dim)
    labels = torch.eye(3).repeat(80, 1)
    with torch.no_grad():
        baked = model(z, labels, 1.0)
        with batch_statistics(model):
            live = model(z, labels, 1.0)
    assert (baked - live).abs().mean() < 0.15 * live.std()


def test_ctrl_c_keeps_what_was_learned(bank):
    long = dataclasses.replace(SMALL, iterations=10_000, bake_images=24)
    model, record = distil(bank, long, lambda done, total, loss: signal.raise_signal(signal.SIGINT))
    assert record["interrupted"]
    assert record["iterations_done"] == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_ctrl_c_before_the_first_step_is_not_swallowed(bank, monkeypatch):
    def interrupt(self, n):
        raise KeyboardInterrupt

    monkeypatch.setattr(RenderStream, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        distil(bank, SMALL, silent)


def test_font_embedding_is_white(bank):
    embedding = FontEmbedding(bank, 3)
    e = embedding()
    assert e.mean(0).abs().max() < 1e-5
    assert torch.allclose(e.T @ e / len(e), (1 - 0.25**2) * torch.eye(3), atol=5e-3)


def test_stream_is_balanced_and_draws_only_what_fonts_have(bank):
    x, y, fonts, nuisance = RenderStream(bank, torch.Generator().manual_seed(0)).draw(30)
    assert y.bincount().tolist() == [10, 10, 10]
    assert bank.present[fonts, y].all()
    assert nuisance.abs().max() <= 2
    assert (x.amax((1, 2, 3)) > 0).all()
