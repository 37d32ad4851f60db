"""Release (a) as one site's part of a sum over sites."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.models import Params
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.noise import Integers


def shared_gradient(private: DPPrivateData, theta: Params, beside: Params) -> Integers:
    """Return the clipped gradient sum at ``theta`` with the public gradient ``beside`` in it: integers [d], by sorted names.

    ``beside`` counts q x public_size times, as the mean of the sum's units does. Each is rounded to the plan's grid for itself, and
    the site's part of the noise comes last. The plan prices the sum over sites alone, so this vector has to be masked. RuntimeError
    where it shares no noise.
    """
    plan, mechanism = private.settings.plan, private.settings.mechanism("gradient")
    sharing = plan.sharing(mechanism)
    if sharing is None:
        raise RuntimeError("the plan of this run shares no noise")
    drawn = private.drawn("gradient", lambda batch: private.gradient_sum(theta, batch))
    total, public = _flat(dict(zip(theta, drawn, strict=True))), _flat({name: beside[name] for name in theta})
    return sharing.part(total, private.noise, mechanism.denominator * public)


def _flat(parts: Params) -> NDArray[np.float64]:
    vector: NDArray[np.float64] = np.concatenate([parts[key].detach().cpu().double().numpy().ravel() for key in sorted(parts)])
    return vector
